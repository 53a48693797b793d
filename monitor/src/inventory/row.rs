//! One socket of a snapshot, and which states a snapshot asks for.

use super::wire::Extensions;
use crate::tcp::{Ends, State};

/// One TCP socket as the kernel's tables show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Socket cookie; 0 where only /proc/net could be asked. Not unique: a socket that is
    /// disconnected and connected anew keeps it, and so does each minisocket it leaves behind.
    pub(crate) cookie: u64,
    /// With the cookie they tell sockets apart.
    pub(crate) ends: Ends,
    /// Index of the interface it is bound to; 0 for any, and where only /proc/net could be asked.
    pub(crate) interface: u32,
    /// Of a minisocket: seconds until it ends, rounded down; 0 where that is not known.
    pub(crate) seconds_left: u16,
    /// A minisocket's substate is `TimeWait` or `FinWait2`.
    pub(crate) state: State,
    /// What is left is an `inet_timewait_sock`, not a full socket.
    pub(crate) is_minisocket: bool,
}

const _: () = assert!(size_of::<Row>() == 32);

/// How a snapshot went, beside its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dump {
    /// Sockets left out because their state or family has a number unknown to this build.
    pub(crate) unknown_states: u64,
}

/// A set of states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateSet(u32);

impl StateSet {
    /// Every state but CLOSE, whose sockets are in no table.
    pub(crate) const ALL: Self = Self(Self::of(&State::ALL).request_mask());
    /// The states that a socket can linger in.
    pub(crate) const LINGERING: Self = Self::of(&State::LINGERING);

    pub(crate) const fn of(mut states: &[State]) -> Self {
        let mut bits = 0;
        while let [state, rest @ ..] = states {
            bits |= 1 << (*state as u8);
            states = rest;
        }
        Self(bits)
    }

    /// The set, and one state more.
    pub(crate) const fn with(self, state: State) -> Self {
        Self(self.0 | 1 << (state as u8))
    }

    /// Asks for what the tables hold.
    pub(crate) const fn plain(self) -> Query {
        Query {
            states: self,
            extensions: Extensions::None,
        }
    }

    /// Asks for [`crate::tcp::TcpInfo`], too. The kernel locks each socket for it, which delays that
    /// socket's own traffic by a microsecond (`tcp_get_info()` in `net/ipv4/tcp.c`, Linux 6.18).
    pub(crate) const fn explained(self) -> Query {
        Query {
            states: self,
            extensions: Extensions::Info,
        }
    }

    pub(crate) const fn contains(self, state: State) -> bool {
        self.0 & (1 << (state as u8)) != 0
    }

    /// As `idiag_states`: bit n is the state numbered n. Never CLOSE, which asks for sockets that
    /// are merely bound, too (`inet_diag_dump_icsk()` in `net/ipv4/inet_diag.c`, Linux 6.18).
    pub(super) const fn request_mask(self) -> u32 {
        self.0 & !(1 << (State::Close as u8))
    }
}

/// What a survey asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    pub(super) states: StateSet,
    pub(super) extensions: Extensions,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_the_kernels_numbers() {
        let set = StateSet::of(&[State::Established, State::NewSynRecv, State::Close]);
        assert_eq!(set.request_mask(), 1 << 1 | 1 << 12);
        assert!(set.contains(State::Close) && !set.contains(State::TimeWait));
        assert_eq!(StateSet::ALL.request_mask(), 0b1_1111_0111_1110 & !(1 << 7));
    }
}
