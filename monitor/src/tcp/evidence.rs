//! What the kernel tells of one socket: where it stands, what waits in it, when it last moved.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Family, State};

/// One socket as a snapshot of the kernel's tables shows it, with what explains it.
///
/// Field meanings from `inet_diag_msg_common_fill()`, `inet_sk_diag_fill()` and
/// `tcp_diag_get_info()` (`net/ipv4/inet_diag.c`, `net/ipv4/tcp_diag.c`, Linux 6.18).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Evidence {
    /// Inode number of the network namespace.
    pub(crate) netns: u32,
    /// 0 where only /proc/net could be asked. Not always unique: see [`Self::is_minisocket`].
    pub(crate) cookie: u64,
    pub(crate) family: Family,
    pub(crate) state: State,
    /// An `inet_timewait_sock`; it keeps the cookie of the full socket it stands for.
    pub(crate) is_minisocket: bool,
    /// An MPTCP connection, and not one of the TCP sockets below it. Its queues are bytes, without FINs.
    pub(crate) is_mptcp: bool,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// Index of the interface it is bound to; 0 for any, and where only /proc/net could be asked.
    pub(crate) interface: u32,
    /// Inode number of the socket as a file; 0 where it is none: orphaned by `close()`, or not yet
    /// accepted.
    pub(crate) inode: u32,
    /// Owner of that file; 0 also where there is none.
    pub(crate) uid: u32,
    /// Id of its cgroup (v2 hierarchy), where the kernel tells (Linux 5.7+).
    pub(crate) cgroup_id: Option<u64>,
    /// `idiag_rqueue`: sequence numbers received and not read, bytes and the peer's FIN; of a
    /// listener, connections that wait for `accept()`.
    pub(crate) recv_queue: u32,
    /// `idiag_wqueue`: sequence numbers written and not acknowledged, bytes and the own FIN; of a
    /// listener, its backlog limit.
    pub(crate) send_queue: u32,
    pub(crate) timer: Timer,
    /// Retransmissions (or probes) in a row without an answer (`idiag_retrans`).
    pub(crate) retransmits: u8,
    /// None for minisockets, and where only /proc/net could be asked.
    pub(crate) info: Option<TcpInfo>,
}

/// The timer that runs on a socket, and when it expires (`idiag_timer`, `idiag_expires`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Timer {
    #[default]
    Off,
    /// Retransmission, loss probe or reordering timer.
    Retransmit(Duration),
    /// Keepalive of a full socket; also what ends an orphan in `FIN_WAIT2` with a long timeout.
    Keepalive(Duration),
    /// Of a minisocket.
    TimeWait(Duration),
    /// Zero-window probe.
    Probe(Duration),
}

/// What `struct tcp_info` adds (`tcp_get_info()` in `net/ipv4/tcp.c`). Times of what never happened
/// are without meaning: in `SYN_SENT` all three are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// Since the last segment with data was sent, for the first time or again
    /// (`tcpi_last_data_sent`; `tcp_event_data_sent()` in `net/ipv4/tcp_output.c`). Neither a bare FIN
    /// nor the probe of a zero window counts. See [`Evidence::last_progress`].
    pub(crate) last_data_sent: Duration,
    /// Since the last data arrived (`tcpi_last_data_recv`). A bare FIN does not count.
    pub(crate) last_data_received: Duration,
    /// Since the last acceptable acknowledgement arrived (`tcpi_last_ack_recv`); a FIN carries one,
    /// and so does the answer to a probe.
    pub(crate) last_ack_received: Duration,
    /// Retransmission timeout now, after backing off (`tcpi_rto`).
    pub(crate) rto: Duration,
    /// Doublings of it so far (`tcpi_backoff`).
    pub(crate) backoff: u8,
    /// `tcpi_unacked`: segments in flight; of a listener, those waiting for `accept()`.
    pub(crate) unacked: u32,
    /// Over the whole life (`tcpi_total_retrans`).
    pub(crate) total_retransmits: u32,
    /// Window that the peer last offered, bytes (`tcpi_snd_wnd`, Linux 5.4+).
    pub(crate) peer_window: Option<u32>,
}

impl Evidence {
    /// Bytes that the application has not read; the peer's FIN is none.
    pub(crate) fn unread_bytes(&self) -> u32 {
        let has_fin = self.has_peer_fin() && !self.is_mptcp;
        self.recv_queue.saturating_sub(u32::from(has_fin))
    }

    /// Bytes that the peer has not acknowledged; the own SYN or FIN is none.
    pub(crate) fn unacked_bytes(&self) -> u32 {
        let has_sent_syn = matches!(self.state, State::SynSent | State::SynRecv);
        let flags = (has_sent_syn || self.has_sent_fin()) && !self.is_mptcp;
        self.send_queue.saturating_sub(u32::from(flags))
    }

    /// The application has read all there was, the end of the stream included.
    pub(crate) fn has_read_end(&self) -> bool {
        self.has_peer_fin() && self.recv_queue == 0 && !self.is_mptcp
    }

    /// What was sent last was sent already, in vain so far.
    pub(crate) const fn is_retransmitting(&self) -> bool {
        matches!(self.timer, Timer::Retransmit(_)) && self.retransmits > 0
    }

    /// Since data last moved on its way to the peer; None where the kernel does not tell. Of a
    /// retransmission only the answer counts: without one it is sent again and again.
    pub(crate) fn last_progress(&self) -> Option<Duration> {
        let info = self.info.as_ref()?;
        Some(if self.is_retransmitting() {
            info.last_ack_received
        } else {
            info.last_data_sent
        })
    }

    /// The peer's FIN has arrived.
    pub(crate) const fn has_peer_fin(&self) -> bool {
        matches!(
            self.state,
            State::CloseWait | State::LastAck | State::Closing
        )
    }

    /// A FIN of its own is on the way, or waits behind the data.
    pub(crate) const fn has_sent_fin(&self) -> bool {
        matches!(
            self.state,
            State::FinWait1 | State::LastAck | State::Closing
        )
    }
}
