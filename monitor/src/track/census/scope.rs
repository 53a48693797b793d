//! What is walked: which sockets a snapshot lists, how it was taken, and how much it matters.

use crate::tcp::State;

/// Which sockets a walk is to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scope(u8);

impl Scope {
    pub(crate) const ALL: Self = Self(0b1_1111);
    /// Listeners, and full sockets in the states of [`State::LINGERING`].
    pub(crate) const LINGERING: Self = Self(0b0_0010);
    /// Minisockets in FIN_WAIT2.
    pub(crate) const ORPHANS: Self = Self(0b0_0100);
    /// Half-open requests.
    pub(crate) const REQUESTS: Self = Self(0b1_0000);
    pub(super) const FULL: Self = Self(0b0_0001);
    pub(crate) const TIME_WAIT: Self = Self(0b0_1000);

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[must_use]
    pub(crate) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether full sockets in this state are listed.
    pub(super) fn covers(self, state: State) -> bool {
        let is_part = state.is_lingering() || state == State::Listen;
        self.has(Self::FULL) || (self.has(Self::LINGERING) && is_part)
    }
}

/// How a snapshot was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) scope: Scope,
    /// Its sockets carry cookies.
    pub(crate) has_cookies: bool,
    /// No transition tells what becomes of its sockets: what it does not list is gone.
    pub(crate) is_alone: bool,
    /// When it began, `CLOCK_MONOTONIC`, nanoseconds; every earlier transition was applied.
    pub(crate) began_ns: u64,
}

/// How much it matters that something is walked, least first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// Nothing says that the counts are wrong.
    #[default]
    Audit,
    /// They may be off by more than a few.
    Uncertain,
    /// They are known to be wrong, or not known.
    Wrong,
}

/// What a namespace needs to have walked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) scope: Scope,
    pub(crate) urgency: Urgency,
}

impl Need {
    pub(crate) fn add(&mut self, scope: Scope, urgency: Urgency) {
        self.scope = self.scope.with(scope);
        self.urgency = self.urgency.max(urgency);
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            has_cookies: true,
            is_alone: false,
            began_ns: 0,
        }
    }
}
