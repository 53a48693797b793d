//! Sockets counted by state.

use std::ops::AddAssign;

use super::State;

/// A number of sockets for each of the twelve states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts([u64; 12]);

impl Counts {
    pub(crate) fn get(&self, state: State) -> u64 {
        self.0.get(state.index()).copied().unwrap_or_default()
    }

    pub(crate) fn set(&mut self, state: State, sockets: u64) {
        if let Some(slot) = self.0.get_mut(state.index()) {
            *slot = sockets;
        }
    }

    pub(crate) fn add(&mut self, state: State, sockets: u64) {
        self.set(state, self.get(state).saturating_add(sockets));
    }

    /// Takes one socket away; false, and no change, where there was none.
    #[must_use]
    pub(crate) fn take(&mut self, state: State) -> bool {
        let sockets = self.get(state);
        self.set(state, sockets.saturating_sub(1));
        sockets > 0
    }

    /// Every state with its number, zero included, in the kernel's order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (State, u64)> + '_ {
        State::ALL.into_iter().map(|state| (state, self.get(state)))
    }

    /// Sockets in any state.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        for (state, sockets) in other.iter() {
            self.add(state, sockets);
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
