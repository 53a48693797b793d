//! The states in plain words, after RFC 9293 section 3.3.2 and Linux 6.18.

use crate::tcp::State;

pub(super) struct Words {
    pub(super) meaning: &'static str,
    pub(super) kept_by: &'static str,
    pub(super) ended_by: &'static str,
    pub(super) normal: &'static str,
    pub(super) advice: &'static str,
}

pub(super) const fn words(state: State) -> Words {
    match state {
        State::SynSent => SYN_SENT,
        State::SynRecv => SYN_RECV,
        State::NewSynRecv => NEW_SYN_RECV,
        State::Established => ESTABLISHED,
        State::FinWait1 => FIN_WAIT1,
        State::FinWait2 => FIN_WAIT2,
        State::TimeWait => TIME_WAIT,
        State::Close => CLOSE,
        State::CloseWait => CLOSE_WAIT,
        State::LastAck => LAST_ACK,
        State::Listen => LISTEN,
        State::Closing => CLOSING,
    }
}

const SYN_SENT: Words = Words {
    meaning: "This side called connect() and waits for the answer to its connection request (SYN).",
    kept_by: "Nothing answers: the host is down, the address is wrong, or a firewall drops the SYN \
              or the SYN+ACK. A closed port on a host that is up answers at once with a reset.",
    ended_by: "The SYN+ACK (then ESTABLISHED), a reset, an ICMP error, the application's close(), \
               or the end of the retries: connect() then fails with ETIMEDOUT.",
    normal: "One round trip: milliseconds, at most some hundred.",
    advice: "Check address, routes and firewalls to the peer; tcpdump shows whether anything comes \
             back. Give the application a connect timeout of its own.",
};

const SYN_RECV: Words = Words {
    meaning: "A connection request came and was answered with SYN+ACK; the acknowledgement that \
              confirms it is still to come.",
    kept_by: "That acknowledgement is lost or never sent. On Linux an ordinary half-open \
              connection is no full socket but a request (new_syn_recv here, SYN-RECV in ss); a \
              full socket is in this state with TCP Fast Open, or when both sides connect at the \
              same time.",
    ended_by: "The acknowledgement (then ESTABLISHED), a reset, or the end of the SYN+ACK retries.",
    normal: "One round trip.",
    advice: "Check the way back to the client: routes, asymmetric paths, firewalls.",
};

const NEW_SYN_RECV: Words = Words {
    meaning: "A half-open connection of a listener, kept as a small request: the SYN was answered \
              with SYN+ACK, and the acknowledgement that confirms it is still to come. No socket \
              of its own exists yet, and no transition is announced.",
    kept_by: "The client's acknowledgement is lost or never sent, as in a SYN flood; or the accept \
              queue of the listener is full, and the acknowledgement is dropped for it.",
    ended_by: "The acknowledgement, a reset, or the end of the SYN+ACK retries (earlier, when more \
               than half of the listener's queue is half-open).",
    normal: "One round trip.",
    advice: "Many from changing addresses are a SYN flood: keep tcp_syncookies on. With a full \
             accept queue (ss -ltn: Recv-Q above Send-Q) the process must call accept() faster.",
};

const ESTABLISHED: Words = Words {
    meaning: "The connection is open and carries data both ways.",
    kept_by: "Neither side has closed it. An idle connection stays so for ever, even when the peer \
              is gone, unless something is sent or SO_KEEPALIVE is on.",
    ended_by: "close() or shutdown() here (then FIN_WAIT1), the peer's FIN (then CLOSE_WAIT), a \
               reset, data that is never acknowledged, or keepalive.",
    normal: "As long as the application likes.",
    advice: "For peers that vanish: SO_KEEPALIVE, TCP_USER_TIMEOUT, or timeouts of the \
             application.",
};

const FIN_WAIT1: Words = Words {
    meaning: "This side has closed, or shut down its sending side. It waits for the \
              acknowledgement of its FIN, or for the peer's FIN.",
    kept_by: "The peer acknowledges neither the FIN nor the data before it: it is gone, a firewall \
              forgot the connection, or its application does not read and its window is 0. Or \
              data before the FIN is still on its way to a peer that reads slowly: then it moves.",
    ended_by: "The acknowledgement (then FIN_WAIT2), the peer's FIN (CLOSING, or TIME_WAIT with \
               the acknowledgement in it), a reset, or the end of the retries. While a process \
               holds the socket, a peer that answers with a window of 0 can keep it for ever.",
    normal: "One round trip, longer only while data is still on its way.",
    advice: "With a window of 0 look at the peer's application, else at the peer's host and the \
             firewalls between. The kernel ends it by itself once no process holds it; \
             TCP_USER_TIMEOUT bounds it before.",
};

const FIN_WAIT2: Words = Words {
    meaning: "This side has closed and the peer has acknowledged that. It waits for the peer to \
              close, too.",
    kept_by: "The peer keeps its side open: it is still sending, or it is in CLOSE_WAIT and does \
              not call close(). Here a process may keep the socket by shutdown() without close().",
    ended_by: "The peer's FIN (then TIME_WAIT) or a reset. Once no process holds the socket the \
               kernel ends it after tcp_fin_timeout, mostly as a minisocket: such an orphan is \
               never flagged by its age.",
    normal: "One round trip after close(); after shutdown() as long as the peer is still sending.",
    advice: "Where a process holds it: find the shutdown() without close(), or bound the wait. \
             Where many orphans come and go: the peers are slow to close.",
};

const TIME_WAIT: Words = Words {
    meaning: "The connection is over on both sides. The side that closed first remembers it for a \
              while, to acknowledge a repeated FIN of the peer and to keep late segments out of a \
              new connection with the same addresses and ports.",
    kept_by: "Time alone: the constant 60 s of the kernel (TCP_TIMEWAIT_LEN). It is a minisocket \
              of some 250 bytes without a process and without a descriptor.",
    ended_by: "The end of the 60 s; earlier a new SYN of the peer on the same ports, a connect() \
               that may take the port again, or a reset of the peer (unless tcp_rfc1337 is set).",
    normal: "60 s. Many of them are the mark of many short connections and no error.",
    advice: "Nothing, unless ports run out: `tcplinger ports` tells. Then keep connections open \
             (keep-alive, pools), let the other side close first, use more addresses or a wider \
             port range, or tcp_tw_reuse for outgoing connections.",
};

const CLOSE: Words = Words {
    meaning: "There is no connection: the socket is new, bound at most, or its connection is over.",
    kept_by: "A process holds a socket that it never connected, or whose connection has ended.",
    ended_by: "connect(), listen() or close().",
    normal: "Moments before connect(); after the end, until the process calls close().",
    advice: "Many of them in one process may be descriptors that it never closes: \
             `tcplinger owners --sort close` tells which, /proc/PID/fd shows them.",
};

const CLOSE_WAIT: Words = Words {
    meaning: "The peer has closed its side. The kernel has acknowledged that and waits for the \
              local application to close, too.",
    kept_by: "The application has not called close(): it forgot the descriptor (a leak), it hangs, \
              or a forked child still holds the socket. Or it rightly goes on sending: then its \
              data moves. Or nobody has accepted the connection yet.",
    ended_by: "close() or shutdown() of the application, its end, or a reset; keepalive, or data \
               that nobody acknowledges, where the peer is gone. The kernel has no timeout for \
               the state.",
    normal: "The time the application needs to see the end of the stream: milliseconds.",
    advice: "Find the process with `tcplinger stuck` and mend the missing close(). Restarting it \
             frees the sockets for the moment. No sysctl bounds it.",
};

const LAST_ACK: Words = Words {
    meaning: "The peer closed first, then this side. It waits for the acknowledgement of its FIN.",
    kept_by: "The acknowledgement does not come: the peer is gone, a firewall forgot the \
              connection, or data before the FIN meets a window of 0. Or that data still moves, \
              slowly.",
    ended_by: "The acknowledgement, a reset, or the end of the retries.",
    normal: "One round trip, longer only while data is still on its way.",
    advice: "Look at the peer's host and the firewalls between. The kernel ends it by itself once \
             no process holds it.",
};

const LISTEN: Words = Words {
    meaning: "The socket waits for connection requests from any peer.",
    kept_by: "A server called listen().",
    ended_by: "close(), or the end of the process.",
    normal: "As long as the server runs.",
    advice: "Nothing. Its Recv-Q counts connections that wait for accept(): when that nears its \
             Send-Q, the server does not keep up.",
};

const CLOSING: Words = Words {
    meaning: "Both sides closed at the same time: the peer's FIN came before the acknowledgement \
              of this side's FIN, which is still to come.",
    kept_by: "The acknowledgement is lost, or the peer is gone.",
    ended_by: "The acknowledgement (then TIME_WAIT), a reset, or the end of the retries.",
    normal: "One round trip; the state is rare.",
    advice: "Look at the peer's host and the firewalls between. The kernel ends it by itself once \
             no process holds it.",
};
