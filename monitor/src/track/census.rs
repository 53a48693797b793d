//! The census: how many sockets are in which state, per network namespace and family.
//!
//! Transitions move it, snapshots and the kernel's own O(1) figures correct it. Full sockets
//! announce every change, so their counts are exact between snapshots. Minisockets (TIME_WAIT and
//! orphaned FIN_WAIT2) appear by inference and vanish in silence, and half-open requests say
//! nothing at all: those are held to the kernel's figures, and walked for when that is not enough.

mod tables;

use std::collections::BTreeMap;

use crate::tcp::{Counts, Family, State, Transition};
use tables::{Tables, Trust, Window};

/// A socket in a snapshot of the kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) cookie: u64,
    pub(crate) family: Family,
    pub(crate) state: State,
    pub(crate) is_minisocket: bool,
}

/// What the kernel counts by itself, for one namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Full sockets by family (`sockstat`, `sockstat6`: `inuse`).
    pub(crate) full: [u64; 2],
    /// Minisockets of both families (`sockstat`: `tw`).
    pub(crate) minisockets: u64,
    /// ESTABLISHED and CLOSE_WAIT of both families (`snmp`: `CurrEstab`).
    pub(crate) established_or_close_wait: u64,
    /// Segments received so far (`snmp`: `InSegs`): without one, no request can be born.
    pub(crate) segments_received: u64,
    /// Segments sent so far (`snmp`: `OutSegs`).
    pub(crate) segments_sent: u64,
    /// They were read between these two times (`CLOCK_MONOTONIC`).
    pub(crate) read_from_ns: u64,
    pub(crate) read_until_ns: u64,
}

/// Which sockets a snapshot is to cover; false everywhere means that none is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Full sockets.
    pub(crate) full: bool,
    pub(crate) minisockets: bool,
    pub(crate) requests: bool,
}

impl Scope {
    pub(crate) const ALL: Self = Self {
        full: true,
        minisockets: true,
        requests: true,
    };

    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// What a snapshot covers, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) scope: Scope,
    /// Its sockets carry cookies.
    pub(crate) has_cookies: bool,
}

/// What the kernel's figures say about a namespace's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// What has to be walked to be sure again.
    pub(crate) walk: Scope,
    /// The counts are known to be wrong or unknown: do not wait for the budget.
    pub(crate) is_urgent: bool,
}

/// The counts of every namespace.
#[derive(Debug, Default)]
pub(crate) struct Census {
    namespaces: BTreeMap<u32, Tables>,
    drift: u64,
}

impl Census {
    /// Sockets by which snapshots have corrected the event-driven counts of full sockets so far.
    pub(crate) const fn drift(&self) -> u64 {
        self.drift
    }

    /// Counts of one namespace and family, every state.
    pub(crate) fn counts(&self, netns: u32, family: Family) -> Counts {
        self.namespaces
            .get(&netns)
            .map(|tables| tables.counts(family))
            .unwrap_or_default()
    }

    /// Sockets of one namespace in lingering states, minisockets in `FIN_WAIT2` included.
    pub(crate) fn lingering(&self, netns: u32) -> u64 {
        let counts = Family::ALL.map(|family| self.counts(netns, family));
        let states = State::LINGERING.into_iter();
        states
            .flat_map(|state| counts.map(|counts| counts.get(state)))
            .sum()
    }

    /// Sockets of one namespace in any state.
    pub(crate) fn total(&self, netns: u32) -> u64 {
        let counts = Family::ALL.map(|family| self.counts(netns, family));
        counts.iter().map(Counts::total).sum()
    }

    /// Namespaces that spoke or were declared, and are still there.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = u32> + '_ {
        self.namespaces.keys().copied()
    }

    /// Makes the census cover exactly these namespaces: others are forgotten, new ones unwalked.
    pub(crate) fn cover(&mut self, found: &[u32]) {
        self.namespaces.retain(|netns, _| found.contains(netns));
        for netns in found {
            self.namespaces.entry(*netns).or_default();
        }
    }

    /// Applies a transition. One whose namespace is new makes that namespace known as unwalked;
    /// one that names no namespace or no socket (old kernels) only asks for a snapshot.
    pub(crate) fn apply(&mut self, transition: &Transition) {
        match transition.netns {
            Some(netns) => self.namespaces.entry(netns).or_default().apply(transition),
            None => self.disturb(None),
        }
    }

    /// Transitions were lost: no count is to be trusted until its next snapshot.
    pub(crate) fn suspect_all(&mut self) {
        for tables in self.namespaces.values_mut() {
            tables.distrust(Trust::Suspect);
        }
    }

    /// The kernel's figures are about to be read, and every transition so far was applied: what is
    /// applied from here on may or may not be in them.
    pub(crate) fn mark(&mut self, netns: u32) {
        if let Some(tables) = self.namespaces.get_mut(&netns) {
            tables.applied = 0;
            tables.handed_over = 0;
        }
    }

    /// Holds the counts to figures read since [`Self::mark`], after every transition up to their
    /// reading was applied.
    pub(crate) fn check(&mut self, netns: u32, figures: &Figures) -> Verdict {
        self.namespaces
            .get_mut(&netns)
            .map(|tables| tables.check(figures))
            .unwrap_or_default()
    }

    /// A snapshot starts: from here to [`Self::finish`] the last word of every socket is kept.
    pub(crate) fn begin(&mut self, netns: u32) {
        if let Some(tables) = self.namespaces.get_mut(&netns) {
            tables.window = Some(Window::default());
        }
    }

    /// The snapshot failed; the counts stay as the transitions left them, and suspect.
    pub(crate) fn abandon(&mut self, netns: u32) {
        if let Some(tables) = self.namespaces.get_mut(&netns) {
            tables.window = None;
            tables.distrust(Trust::Suspect);
        }
    }

    /// Takes a snapshot over. Every transition that fired before the snapshot ended must have
    /// been applied; those that fired since may have been. A snapshot without cookies cannot be
    /// joined with them: what moved meanwhile then asks for the next one.
    ///
    /// Returns by how many full sockets the counts had been off.
    pub(crate) fn finish(
        &mut self,
        netns: u32,
        snapshot: Snapshot,
        seen: impl Iterator<Item = Seen>,
    ) -> u64 {
        let tables = self.namespaces.get_mut(&netns);
        let correction = tables.map_or(0, |tables| tables.finish(snapshot, seen));
        self.drift += correction;
        correction
    }

    /// Whether the counts of any namespace are known to be wrong, or not known.
    pub(crate) fn is_in_doubt(&self) -> bool {
        let mut all = self.namespaces.values();
        all.any(|tables| tables.trust >= Trust::Suspect)
    }

    /// Transitions that cannot be applied, as they do not name their sockets: they ask for a
    /// snapshot of their namespace, or of all.
    pub(crate) fn disturb(&mut self, netns: Option<u32>) {
        match netns {
            Some(netns) => self.namespaces.entry(netns).or_default().note_movement(),
            None => self.namespaces.values_mut().for_each(Tables::note_movement),
        }
    }

    /// Whether anything in this namespace may have changed since its last check.
    pub(crate) fn is_active(&self, netns: u32) -> bool {
        self.namespaces.get(&netns).is_none_or(Tables::is_active)
    }
}

#[cfg(test)]
mod tests;
