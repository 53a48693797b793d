//! The states in plain words, after RFC 9293 section 3.3.2 and Linux 6.18.

use crate::tcp::State;

pub(super) struct StateText {
    pub(super) meaning: &'static str,
    pub(super) kept_by: &'static str,
    pub(super) ended_by: &'static str,
    pub(super) normal: &'static str,
    pub(super) advice: &'static str,
}

pub(super) const fn state_text(state: State) -> StateText {
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

const SYN_SENT: StateText = StateText {
    meaning: "This side called connect() and waits for the answer to its connection request (SYN).",
    kept_by: "Nothing answers: the host is down, the address is wrong, or a firewall drops the SYN \
              or the SYN-ACK. A closed port on a running host answers at once with a reset.",
    ended_by: "The SYN-ACK (then ESTABLISHED), a reset, an ICMP error, close() by the application, \
               or the last retry: connect() then fails with ETIMEDOUT.",
    normal: "One round trip: at most a few hundred milliseconds.",
    advice: "Check the address, and the routes and firewalls to the peer; tcpdump shows whether \
             anything comes back. Set a connect timeout in the application.",
};

const SYN_RECV: StateText = StateText {
    meaning: "A connection request (SYN) arrived and this side sent the SYN-ACK. It waits for the ACK.",
    kept_by: "The ACK is lost or never sent. On Linux an ordinary half-open connection is not a \
              full socket but a request (new_syn_recv here, SYN-RECV in ss). A full socket is in \
              this state only with TCP Fast Open, or if both sides connect at the same time.",
    ended_by: "The ACK (then ESTABLISHED), a reset, or the last SYN-ACK retry.",
    normal: "One round trip.",
    advice: "Check the path back to the client: routes, asymmetric paths, firewalls.",
};

const NEW_SYN_RECV: StateText = StateText {
    meaning: "A half-open connection of a listener: the SYN-ACK was sent, and the ACK has not \
              arrived. The kernel keeps it as a small request, not as a socket, and announces no \
              transition.",
    kept_by: "The client's ACK is lost or never sent, as in a SYN flood; or the listener's accept \
              queue is full and the kernel drops the ACK.",
    ended_by: "The ACK, a reset, or the last SYN-ACK retry (earlier, if more than half of the \
               listener's queue is half-open).",
    normal: "One round trip.",
    advice: "Many from changing addresses are a SYN flood: keep tcp_syncookies on. If the accept \
             queue is full (ss -ltn: Recv-Q above Send-Q), the process must call accept() faster.",
};

const ESTABLISHED: StateText = StateText {
    meaning: "The connection is open in both directions.",
    kept_by: "Neither side has closed it. An idle connection stays open forever, even after the \
              peer is gone, unless data is sent or SO_KEEPALIVE is on.",
    ended_by: "close() or shutdown() here (then FIN_WAIT1), the peer's FIN (then CLOSE_WAIT), a \
               reset, data that is never acknowledged, or keepalive.",
    normal: "As long as the application needs it.",
    advice: "Against peers that vanish: SO_KEEPALIVE, TCP_USER_TIMEOUT, or timeouts in the \
             application.",
};

const FIN_WAIT1: StateText = StateText {
    meaning: "This side called close() or shutdown() and sent its FIN. It waits for the ACK of the \
              FIN, or for the peer's FIN.",
    kept_by: "The peer acknowledges neither the FIN nor the data before it: it is gone, a firewall \
              dropped the connection, or its application does not read and its window is 0. Or a \
              slow reader still drains the data before the FIN: then the queue shrinks.",
    ended_by: "The ACK (then FIN_WAIT2), the peer's FIN (then CLOSING, or TIME_WAIT if it carries \
               the ACK), a reset, or the last retry. While a process holds the socket, a peer \
               that answers with a window of 0 can keep it forever.",
    normal: "One round trip, longer only while data drains.",
    advice: "If the window is 0, check the peer's application; else check the peer's host and the \
             firewalls in between. The kernel ends the socket once no process holds it; \
             TCP_USER_TIMEOUT limits it before that.",
};

const FIN_WAIT2: StateText = StateText {
    meaning: "This side has closed, and the peer has acknowledged the FIN. It waits for the peer \
              to close.",
    kept_by: "The peer keeps its side open: it still sends, or it is in CLOSE_WAIT and does not \
              call close(). A process here may hold the socket after shutdown() without close().",
    ended_by: "The peer's FIN (then TIME_WAIT) or a reset. Once no process holds the socket, the \
               kernel ends it after tcp_fin_timeout, usually as a minisocket. Such orphans are \
               never flagged by age.",
    normal: "One round trip after close(); after shutdown(), as long as the peer sends.",
    advice: "If a process holds it: find the shutdown() without close(), or limit the wait. \
             If many orphans come and go: the peers are slow to close.",
};

const TIME_WAIT: StateText = StateText {
    meaning: "Both sides have closed. The side that closed first keeps a record of the connection, \
              to acknowledge a repeated FIN and to keep late segments out of a new connection with \
              the same addresses and ports.",
    kept_by: "Only time: 60 s, a constant of the kernel (TCP_TIMEWAIT_LEN). The record is a \
              minisocket of about 250 bytes, without process or descriptor.",
    ended_by: "The end of the 60 s. Earlier: a new SYN from the peer on the same ports, a \
               connect() that may reuse the port, or a reset (unless tcp_rfc1337 is set).",
    normal: "60 s. A large number means many short connections; it is not an error.",
    advice: "Nothing, unless ports run out (see `tcplinger ports`). Then keep connections open \
             (keep-alive, pools), let the other side close first, use more addresses or a wider \
             port range, or tcp_tw_reuse for outgoing connections.",
};

const CLOSE: StateText = StateText {
    meaning: "There is no connection: the socket is new, or only bound, or its connection has ended.",
    kept_by: "A process holds a socket that it never connected, or whose connection has ended.",
    ended_by: "connect(), listen() or close().",
    normal: "Moments before connect(); after the end, until the process calls close().",
    advice: "Many in one process may be a descriptor leak: `tcplinger owners --sort close` names \
             the process, /proc/PID/fd lists its descriptors.",
};

const CLOSE_WAIT: StateText = StateText {
    meaning: "The peer has closed. The kernel has acknowledged the FIN and waits for the local \
              application to close.",
    kept_by: "The application has not called close(): it lost track of the descriptor (a leak), it \
              hangs, or a forked child still holds the socket. Or it still sends, which is fine: \
              then the data moves. Or no process has accepted the connection yet.",
    ended_by: "close() or shutdown() by the application, its exit, or a reset. If the peer is \
               gone: keepalive, or data that is never acknowledged. The kernel has no timeout for \
               this state.",
    normal: "The time the application needs to read the end of the stream: milliseconds.",
    advice: "Find the process with `tcplinger stuck` and fix the missing close(). A restart frees \
             the sockets for now. No sysctl limits this state.",
};

const LAST_ACK: StateText = StateText {
    meaning: "The peer closed first, then this side. It waits for the ACK of its FIN.",
    kept_by: "The ACK does not arrive: the peer is gone, a firewall dropped the connection, or the \
              peer's window is 0 while data before the FIN is unsent. Or that data drains slowly.",
    ended_by: "The ACK, a reset, or the last retry.",
    normal: "One round trip, longer only while data drains.",
    advice: "Check the peer's host and the firewalls in between. The kernel ends the socket once \
             no process holds it.",
};

const LISTEN: StateText = StateText {
    meaning: "The socket waits for connection requests.",
    kept_by: "A server called listen().",
    ended_by: "close(), or the exit of the process.",
    normal: "As long as the server runs.",
    advice: "Nothing. Recv-Q in ss counts connections that wait for accept(): if it approaches \
             Send-Q, the server does not keep up.",
};

const CLOSING: StateText = StateText {
    meaning: "Both sides closed at the same time: the peer's FIN arrived before its ACK of this \
              side's FIN.",
    kept_by: "The ACK is lost, or the peer is gone.",
    ended_by: "The ACK (then TIME_WAIT), a reset, or the last retry.",
    normal: "One round trip; the state is rare.",
    advice: "Check the peer's host and the firewalls in between. The kernel ends the socket once \
             no process holds it.",
};
