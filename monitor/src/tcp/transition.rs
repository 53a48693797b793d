//! One socket going from one TCP state to another.

use std::net::SocketAddr;

use super::{Family, RawState, State};

/// The process in whose context a transition ran, where that process owns the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TransitionOwner {
    /// Process id in the initial pid namespace.
    pub(crate) pid: u32,
    /// Command name, NUL-padded, any bytes: escape it before it is shown.
    pub(crate) comm: [u8; 16],
}

impl TransitionOwner {
    /// The command name without its padding; bytes that are not UTF-8 are replaced.
    pub(crate) fn comm(&self) -> String {
        let end = self.comm.iter().position(|byte| *byte == 0);
        let bytes = self.comm.get(..end.unwrap_or(self.comm.len()));
        String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
    }
}

/// What a full socket is swapped for when it closes (`tcp_time_wait()` in
/// `net/ipv4/tcp_minisocks.c`, Linux 6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Handover {
    /// The peer's FIN had arrived.
    TimeWait,
    /// The peer's FIN is still to come.
    FinWait2,
}

impl Handover {
    pub(crate) const fn state(self) -> State {
        match self {
            Self::TimeWait => State::TimeWait,
            Self::FinWait2 => State::FinWait2,
        }
    }
}

/// Which of the kernel's structures a transition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// A full socket, as the tracepoint announces it.
    Socket,
    /// A minisocket that left `FIN_WAIT2`; told only where the kernel lets a program see it.
    Minisocket,
    /// A half-open request whose SYN-ACK was retransmitted: both states are `NEW_SYN_RECV`.
    Request,
}

/// A state transition as the kernel announced it, before it took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub(crate) ktime_ns: u64,
    /// Inode number of the network namespace, where known.
    pub(crate) netns: Option<u32>,
    /// Socket cookie, where known and the socket's own.
    pub(crate) cookie: Option<u64>,
    /// Id of the socket's cgroup (v2 hierarchy), where known.
    pub(crate) cgroup_id: Option<u64>,
    pub(crate) family: Family,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) from: RawState,
    pub(crate) to: RawState,
    /// `sk_err` (errno, 0 for none), where the socket could be read.
    pub(crate) error: Option<u32>,
    /// Whether the peer's FIN had arrived, where the socket could be read.
    pub(crate) has_peer_fin: Option<bool>,
    /// Whether no process held it any more, likewise.
    pub(crate) is_orphan: Option<bool>,
    pub(crate) owner: Option<TransitionOwner>,
    pub(crate) subject: Subject,
    /// The socket is bound to a device, so its addresses alone do not find it.
    pub(crate) is_bound_to_device: bool,
    /// It interrupted another transition on its CPU, and the second program took it.
    pub(crate) is_nested: bool,
}

#[cfg(test)]
impl Transition {
    /// Of a full IPv4 socket without a cookie, `ESTABLISHED` to `CLOSE`; nothing else is known.
    pub(crate) fn example() -> Self {
        let endpoint = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            ktime_ns: 0,
            netns: None,
            cookie: None,
            cgroup_id: None,
            family: Family::Ipv4,
            local: endpoint(80),
            remote: endpoint(4_000),
            from: RawState::Known(State::Established),
            to: RawState::Known(State::Close),
            error: None,
            has_peer_fin: None,
            is_orphan: None,
            owner: None,
            subject: Subject::Socket,
            is_bound_to_device: false,
            is_nested: false,
        }
    }
}

impl Transition {
    /// The minisocket that this socket most likely lives on as. It is an inference: at the
    /// namespace's `tcp_max_tw_buckets` limit the kernel closes the same way and keeps nothing.
    ///
    /// `tcp_fin()` hands over once the peer's FIN has come, the others (`__tcp_close()`,
    /// `tcp_rcv_state_process()`, the keepalive timer) only what is orphaned. A reset or a timeout
    /// sets `sk_err` first.
    pub(crate) fn continues_as(&self) -> Option<Handover> {
        let is_handover = (self.from.is(State::FinWait2) || self.from.is(State::Closing))
            && self.to.is(State::Close)
            && self.error == Some(0);
        match (self.has_peer_fin, self.is_orphan) {
            (Some(true), _) if is_handover => Some(Handover::TimeWait),
            (Some(false), Some(true)) if is_handover => Some(Handover::FinWait2),
            _ => None,
        }
    }

    /// A child of a listener is born: `from` was never this socket's own state.
    pub(crate) fn is_birth(&self) -> bool {
        self.from.is(State::Close) || (self.from.is(State::Listen) && self.to.is(State::SynRecv))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn ending(from: State, error: u32, has_peer_fin: bool, is_orphan: bool) -> Option<Handover> {
        let endpoint = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let transition = Transition {
            local: endpoint,
            remote: endpoint,
            from: RawState::Known(from),
            to: RawState::Known(State::Close),
            error: Some(error),
            has_peer_fin: Some(has_peer_fin),
            is_orphan: Some(is_orphan),
            ..Transition::example()
        };
        transition.continues_as()
    }

    #[test]
    fn only_a_quiet_end_leaves_a_minisocket() {
        let time_wait = Some(Handover::TimeWait);
        assert_eq!(ending(State::FinWait2, 0, true, true), time_wait);
        assert_eq!(ending(State::FinWait2, 0, true, false), time_wait);
        assert_eq!(ending(State::Closing, 0, true, true), time_wait);
        let fin_wait2 = Some(Handover::FinWait2);
        assert_eq!(ending(State::FinWait2, 0, false, true), fin_wait2);
        // A close with SO_LINGER at zero: the reset is sent by a socket that is still held.
        assert_eq!(ending(State::FinWait2, 0, false, false), None);
        assert_eq!(ending(State::FinWait2, 104, true, true), None);
        assert_eq!(ending(State::LastAck, 0, true, true), None);
    }
}
