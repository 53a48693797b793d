//! TCP states as the kernel numbers them, under their contract names, and address families.
//!
//! A number this build does not know stays a value that can be printed; it never becomes an index.

use std::fmt;
use std::str::FromStr;

/// A TCP state (RFC 9293 section 3.3.2), plus the kernel's half-open request, `new_syn_recv`.
///
/// Numbered as in `include/net/tcp_states.h` (Linux 6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum State {
    Established = 1,
    SynSent = 2,
    SynRecv = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    Close = 7,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
    Closing = 11,
    NewSynRecv = 12,
}

impl State {
    /// Every state, in the kernel's order.
    pub(crate) const ALL: [Self; 12] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
        Self::NewSynRecv,
    ];

    /// The states that a socket passes through on its way, and in which it can linger.
    pub(crate) const LINGERING: [Self; 7] = [
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::CloseWait,
        Self::LastAck,
        Self::Closing,
    ];

    /// Whether it is one of [`Self::LINGERING`].
    pub(crate) const fn is_lingering(self) -> bool {
        matches!(
            self,
            Self::SynSent
                | Self::SynRecv
                | Self::FinWait1
                | Self::FinWait2
                | Self::CloseWait
                | Self::LastAck
                | Self::Closing
        )
    }

    /// The name used in flags, JSON and labels.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "syn_sent",
            Self::SynRecv => "syn_recv",
            Self::FinWait1 => "fin_wait1",
            Self::FinWait2 => "fin_wait2",
            Self::TimeWait => "time_wait",
            Self::Close => "close",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::Listen => "listen",
            Self::Closing => "closing",
            Self::NewSynRecv => "new_syn_recv",
        }
    }

    /// Position in [`Self::ALL`], 0 to 11.
    pub(crate) const fn index(self) -> usize {
        self as usize - 1
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is none of the twelve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnknownName(pub(crate) String);

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown TCP state {:?}", self.0)
    }
}

impl std::error::Error for UnknownName {}

impl FromStr for State {
    type Err = UnknownName;

    /// Takes the contract's spelling and `ss`'s (`TIME-WAIT`, `fin-wait-1`), whatever the case.
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let fold = |name: &str| -> String {
            name.chars()
                .filter(char::is_ascii_alphanumeric)
                .map(|c| c.to_ascii_lowercase())
                .collect()
        };
        let wanted = match fold(text).as_str() {
            "estab" => "established".to_owned(),
            "closed" | "unconn" => "close".to_owned(),
            other => other.to_owned(),
        };
        Self::ALL
            .into_iter()
            .find(|state| fold(state.name()) == wanted)
            .ok_or_else(|| UnknownName(text.to_owned()))
    }
}

/// A state number from the kernel, known to this build or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RawState {
    Known(State),
    Unknown(u8),
}

impl RawState {
    pub(crate) const fn known(self) -> Option<State> {
        match self {
            Self::Known(state) => Some(state),
            Self::Unknown(_) => None,
        }
    }

    pub(crate) fn is(self, state: State) -> bool {
        self == Self::Known(state)
    }
}

impl From<u8> for RawState {
    fn from(number: u8) -> Self {
        let state = usize::from(number)
            .checked_sub(1)
            .and_then(|index| State::ALL.get(index));
        state.map_or(Self::Unknown(number), |state| Self::Known(*state))
    }
}

impl fmt::Display for RawState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(state) => state.fmt(f),
            Self::Unknown(number) => f.pad(&format!("unknown_{number}")),
        }
    }
}

/// The socket's address family; a v4-mapped socket is IPv6, as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// From `AF_INET` (2) or `AF_INET6` (10).
    pub(crate) const fn from_number(number: u16) -> Option<Self> {
        match number {
            2 => Some(Self::Ipv4),
            10 => Some(Self::Ipv6),
            _ => None,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back_in_both_spellings() {
        for state in State::ALL {
            assert_eq!(state.name().parse(), Ok(state));
            let as_ss = state.name().replace('_', "-").to_uppercase();
            assert_eq!(as_ss.parse(), Ok(state));
            assert_eq!(State::ALL[state.index()], state);
        }
        assert_eq!("ESTAB".parse(), Ok(State::Established));
        assert!("time_wiat".parse::<State>().is_err());
    }

    #[test]
    fn unknown_numbers_survive() {
        for number in 0..=u8::MAX {
            match RawState::from(number) {
                RawState::Known(state) => assert_eq!(state as u8, number),
                RawState::Unknown(kept) => {
                    assert_eq!(kept, number);
                    assert!(number == 0 || number > 12);
                }
            }
        }
        assert_eq!(RawState::from(13).to_string(), "unknown_13");
    }
}
