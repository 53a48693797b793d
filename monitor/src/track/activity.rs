//! What connections have done since the daemon started: opened, closed and why, and for how long
//! their sockets were in each state.

use std::time::Duration;

use super::Histogram;
use crate::tcp::errno::{
    EACCES, ECONNABORTED, ECONNREFUSED, ECONNRESET, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH,
    ENONET, ENOPROTOOPT, EPIPE, ETIMEDOUT,
};
use crate::tcp::{Handover, State, Transition};

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// This host, by `connect()`.
    Active,
    /// The peer.
    Passive,
}

/// Why a connection ended. The errno values are those of `include/uapi/asm-generic/errno.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// FINs both ways, this side's first; or at once. Inferred where the kernel told no error: a few
    /// resets look the same (`TCP_LINGER2` below zero, or data that came with the ACK of this side's
    /// FIN after `close()`: `tcp_rcv_state_process()` in `net/ipv4/tcp_input.c`).
    ActiveClose,
    /// FINs both ways, the peer's first.
    PassiveClose,
    /// The peer sent RST, or data after this side's `close()`: the kernel calls `tcp_reset()` for both.
    ResetReceived,
    /// This side sent RST: unread data at `close()`, `SO_LINGER` with zero, or an orphan given up.
    ResetSent,
    /// Retransmissions, keepalives or `TCP_USER_TIMEOUT` ran out.
    Timeout,
    /// A router or the routing table said no.
    Unreachable,
    /// Killed by the administrator (`SOCK_DESTROY`, `ss -K`).
    Aborted,
    /// Any other error.
    Other,
    /// The kernel does not tell the program.
    Unknown,
}

/// Why a connection never was established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The peer answered with RST, or by ICMP that there is no such port.
    Refused,
    Timeout,
    Unreachable,
    /// RST during the handshake of a connection that came in.
    Reset,
    Aborted,
    /// Closed by this side before it was done.
    Cancelled,
    /// Any other error, no port left for it, or nothing that the kernel tells the program.
    Other,
}

/// Counters since the daemon started.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Activity {
    opened: [u64; 2],
    closed: [u64; 9],
    failed: [[u64; 7]; 2],
    /// By [`State::index`]; those of [`Self::TIMED`] are used.
    durations: [Histogram; State::ALL.len()],
}

impl Side {
    pub(crate) const ALL: [Self; 2] = [Self::Active, Self::Passive];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
        }
    }
}

impl Reason {
    pub(crate) const ALL: [Self; 9] = [
        Self::ActiveClose,
        Self::PassiveClose,
        Self::ResetReceived,
        Self::ResetSent,
        Self::Timeout,
        Self::Unreachable,
        Self::Aborted,
        Self::Other,
        Self::Unknown,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ActiveClose => "active_close",
            Self::PassiveClose => "passive_close",
            Self::ResetReceived => "reset_received",
            Self::ResetSent => "reset_sent",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Aborted => "aborted",
            Self::Other => "other",
            Self::Unknown => "unknown",
        }
    }

    /// Of a transition to CLOSE after the handshake.
    fn of(end: &Transition) -> Self {
        let Some(error) = end.error else {
            return Self::Unknown;
        };
        match error {
            // With SO_LINGER at zero even FIN_WAIT2 ends in a reset, and leaves no minisocket.
            0 if end.continues_as().is_some() => Self::ActiveClose,
            0 if end.from.is(State::LastAck) => Self::PassiveClose,
            0 => Self::ResetSent,
            // `tcp_reset()` sets EPIPE in CLOSE_WAIT and ECONNRESET elsewhere.
            EPIPE | ECONNRESET => Self::ResetReceived,
            ETIMEDOUT => Self::Timeout,
            // Of a connection only ICMP leaves it, found when retransmissions run out.
            ECONNREFUSED => Self::Unreachable,
            error if is_unreachable(error) => Self::Unreachable,
            ECONNABORTED => Self::Aborted,
            _ => Self::Other,
        }
    }
}

impl Failure {
    pub(crate) const ALL: [Self; 7] = [
        Self::Refused,
        Self::Timeout,
        Self::Unreachable,
        Self::Reset,
        Self::Aborted,
        Self::Cancelled,
        Self::Other,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Aborted => "aborted",
            Self::Cancelled => "cancelled",
            Self::Other => "other",
        }
    }

    /// Of a transition to CLOSE before the handshake was done.
    fn of(end: &Transition) -> Self {
        match end.error {
            // `connect()` found no port (`inet_hash_connect()` in `net/ipv4/inet_hashtables.c`).
            Some(0) if end.local.port() == 0 => Self::Other,
            Some(0) => Self::Cancelled,
            // `tcp_reset()` sets ECONNREFUSED in SYN_SENT.
            Some(ECONNREFUSED) => Self::Refused,
            Some(EPIPE | ECONNRESET) => Self::Reset,
            Some(ETIMEDOUT) => Self::Timeout,
            Some(error) if is_unreachable(error) => Self::Unreachable,
            Some(ECONNABORTED) => Self::Aborted,
            Some(_) | None => Self::Other,
        }
    }
}

/// What the kernel makes of ICMP's messages (`icmp_err_convert[]` in `net/ipv4/icmp.c`, `tab_unreach[]`
/// and `icmpv6_err_convert()` in `net/ipv6/icmp.c`), and of a route or a device that is gone.
const fn is_unreachable(error: u32) -> bool {
    matches!(
        error,
        EACCES | ENONET | ENOPROTOOPT | ENETDOWN | ENETUNREACH | EHOSTDOWN | EHOSTUNREACH
    )
}

impl Activity {
    /// States whose durations are observed: those that are left by a transition.
    pub(crate) const TIMED: [State; 9] = [
        State::Established,
        State::SynSent,
        State::SynRecv,
        State::FinWait1,
        State::FinWait2,
        State::CloseWait,
        State::LastAck,
        State::Listen,
        State::Closing,
    ];

    /// Takes note of a transition; `after` is the time spent in the state it leaves, where known.
    pub(crate) fn apply(&mut self, transition: &Transition, after: Option<Duration>) {
        let (Some(from), Some(to)) = (transition.from.known(), transition.to.known()) else {
            return;
        };
        // `close()` after `shutdown()` sets the state that the socket is in (`tcp_close_state()` in
        // `net/ipv4/tcp.c`).
        if from == to {
            return;
        }
        // An orphan is in FIN_WAIT2 for as long as its minisocket is.
        if let Some(time) = after.filter(|_| transition.continues_as() != Some(Handover::FinWait2))
        {
            self.observe(from, time);
        }
        match (from, to) {
            (State::SynSent, State::Established) => add(&mut self.opened, Side::Active as usize),
            // A FIN, of either side, may be the first thing that happens to it.
            (State::SynRecv, State::Established | State::FinWait1 | State::CloseWait) => {
                add(&mut self.opened, Side::Passive as usize);
            }
            (State::SynSent | State::SynRecv, State::Close) => {
                let side = match from {
                    State::SynSent => Side::Active,
                    _ => Side::Passive,
                };
                if let Some(failed) = self.failed.get_mut(side as usize) {
                    add(failed, Failure::of(transition) as usize);
                }
            }
            (State::Listen | State::Close, _) => {}
            (_, State::Close) => {
                add(&mut self.closed, Reason::of(transition) as usize);
            }
            _ => {}
        }
    }

    /// Takes note of how long a socket was in a state.
    pub(crate) fn observe(&mut self, state: State, time: Duration) {
        if let Some(durations) = self.durations.get_mut(state.index()) {
            durations.observe(time);
        }
    }

    pub(crate) fn opened(&self, side: Side) -> u64 {
        self.opened.get(side as usize).copied().unwrap_or_default()
    }

    pub(crate) fn closed(&self, reason: Reason) -> u64 {
        let closed = self.closed.get(reason as usize);
        closed.copied().unwrap_or_default()
    }

    pub(crate) fn failed(&self, side: Side, failure: Failure) -> u64 {
        let failed = self.failed.get(side as usize);
        let failed = failed.and_then(|failed| failed.get(failure as usize));
        failed.copied().unwrap_or_default()
    }

    /// Each of [`Self::TIMED`] with its durations.
    pub(crate) fn durations(&self) -> impl Iterator<Item = (State, &Histogram)> {
        let timed = Self::TIMED.into_iter();
        timed.filter_map(|state| Some((state, self.durations.get(state.index())?)))
    }
}

fn add(counters: &mut [u64], at: usize) {
    if let Some(counter) = counters.get_mut(at) {
        *counter += 1;
    }
}

#[cfg(test)]
mod tests;
