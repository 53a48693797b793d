//! Sockets counted by state.

use std::ops::AddAssign;

use super::State;

/// Stands for a number that nobody knows; sums with it are as unknown.
const UNKNOWN: u64 = u64::MAX;

/// A number of sockets for each of the twelve states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts([u64; 12]);

impl Counts {
    /// Of which nothing is known.
    pub(crate) const fn unknown() -> Self {
        Self([UNKNOWN; 12])
    }

    /// 0 where it is not known.
    pub(crate) fn get(&self, state: State) -> u64 {
        self.known(state).unwrap_or_default()
    }

    /// None where nobody could count them: what is shown says so, and never 0.
    pub(crate) fn known(&self, state: State) -> Option<u64> {
        let sockets = self.0.get(state.index()).copied();
        sockets.filter(|sockets| *sockets != UNKNOWN)
    }

    pub(crate) fn set_unknown(&mut self, state: State) {
        self.set(state, UNKNOWN);
    }

    pub(crate) fn set(&mut self, state: State, sockets: u64) {
        if let Some(slot) = self.0.get_mut(state.index()) {
            *slot = sockets;
        }
    }

    /// Takes over what another has of a state, known or not.
    pub(crate) fn copy(&mut self, state: State, from: &Self) {
        let sockets = from.0.get(state.index()).copied();
        self.set(state, sockets.unwrap_or_default());
    }

    pub(crate) fn add(&mut self, state: State, sockets: u64) {
        if let Some(slot) = self.0.get_mut(state.index()) {
            *slot = slot.saturating_add(sockets);
        }
    }

    /// Takes one socket away; false, and no change, where there was none.
    #[must_use]
    pub(crate) fn take(&mut self, state: State) -> bool {
        let sockets = self.get(state);
        self.set(state, sockets.saturating_sub(1));
        sockets > 0
    }

    /// Every state with its number, zero included, in the kernel's order; None where it is not known.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (State, Option<u64>)> + '_ {
        let states = State::ALL.into_iter();
        states.map(|state| (state, self.known(state)))
    }

    /// Sockets in any state.
    pub(crate) fn total(&self) -> u64 {
        self.iter().filter_map(|(_, sockets)| sockets).sum()
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        for (slot, sockets) in self.0.iter_mut().zip(other.0) {
            *slot = slot.saturating_add(sockets);
        }
    }
}

impl FromIterator<State> for Counts {
    fn from_iter<I: IntoIterator<Item = State>>(states: I) -> Self {
        let mut counts = Self::default();
        for state in states {
            counts.add(state, 1);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_with_an_unknown_is_unknown() {
        let mut some: Counts = [State::Close, State::Listen].into_iter().collect();
        let mut unknown = Counts::default();
        unknown.set_unknown(State::Close);
        unknown.add(State::Close, 2);
        unknown += some;
        some += unknown;
        for counts in [some, unknown] {
            assert_eq!(counts.known(State::Close), None);
            assert_eq!(
                (counts.get(State::Close), counts.known(State::TimeWait)),
                (0, Some(0))
            );
        }
        assert_eq!((some.total(), unknown.total()), (2, 1));
    }
}
