//! The counts at one moment, as every output shows them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::phrase::real;
use super::stuck::Severity;
use super::{Sample, Tally};
use crate::tcp::{Counts, State};

/// Where the counts come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Source {
    /// A running daemon's census.
    #[default]
    Daemon,
    /// The kernel's tables, walked once for this answer.
    Kernel,
}

/// Transitions that reached userspace, and those that did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventTotals {
    /// Transitions that the program in the kernel counted.
    pub(crate) counted: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    /// Calls of the tracepoint for other protocols (MPTCP, SCTP, DCCP).
    pub(crate) ignored: u64,
}

/// Sockets of one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NamespaceSummary {
    /// Inode number of the namespace.
    pub(crate) netns: u32,
    /// Its name (a bind mount's file name, or `host` for the initial one), where it has one.
    pub(crate) name: Option<String>,
    /// Nothing but sockets keeps it.
    pub(crate) is_deleted: bool,
    pub(crate) ipv4: Counts,
    pub(crate) ipv6: Counts,
    /// MPTCP connections and listeners. The TCP sockets below them are among the others.
    pub(crate) mptcp: Counts,
    pub(crate) doubt: Doubt,
}

/// How far the counts of a namespace can be trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// Any of them may be wrong.
    pub(crate) is_in_doubt: bool,
    /// In doubt for these states alone: the count of each may be off by at most N sockets. Empty where any
    /// count may be off.
    pub(crate) uncertain: BTreeMap<State, u64>,
}

impl NamespaceSummary {
    /// Its name as it is shown: another's choice of text, to be escaped.
    pub(crate) fn shown_name(&self) -> Option<Cow<'_, str>> {
        match (&self.name, self.is_deleted) {
            (Some(name), false) => Some(name.into()),
            (Some(name), true) => Some(format!("{name} (deleted)").into()),
            (None, true) => Some("(deleted)".into()),
            (None, false) => None,
        }
    }

    /// Both families together.
    pub(crate) fn sockets(&self) -> Counts {
        let mut sockets = self.ipv4;
        sockets += self.ipv6;
        sockets
    }
}

/// What a daemon knows beside the counts; all namespaces together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recent {
    pub(crate) stuck: StuckCounts,
    /// Age of the oldest socket by lingering state; None in an empty one.
    pub(crate) oldest_seconds: BTreeMap<String, Option<f64>>,
    /// Change of the count by state; None before there are counts of 10 s ago.
    pub(crate) change_per_minute: BTreeMap<String, Option<f64>>,
}

/// Stuck sockets by severity, and the incidents that they and others are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StuckCounts {
    pub(crate) warning: u64,
    pub(crate) critical: u64,
    pub(crate) incidents: u64,
    pub(crate) critical_incidents: u64,
}

impl Recent {
    /// `before` are counts of that long ago.
    pub(crate) fn new(sample: &Sample, before: Option<(Duration, Counts)>) -> Self {
        let sockets = |wanted: Severity| {
            let of = sample.stuck.sockets.iter();
            let of = of.filter(|((_, _, severity), _)| *severity == wanted);
            of.map(|(_, sockets)| sockets).sum()
        };
        let raised = sample.stuck.raised.iter();
        let critical = raised.filter(|(one, _)| one.severity == Severity::Critical);
        let now = sample.summary.sockets();
        let change = |state: State| {
            let (ago, before) = before.as_ref()?;
            let change = real(now.known(state)?) - real(before.known(state)?);
            Some(change * 60.0 / ago.as_secs_f64())
        };
        let oldest = |state: State| {
            let age = sample.oldest(state).map(|age| age.as_secs_f64());
            (state.name().to_owned(), age)
        };
        Self {
            stuck: StuckCounts {
                warning: sockets(Severity::Warning),
                critical: sockets(Severity::Critical),
                incidents: sample.stuck.raised.len() as u64,
                critical_incidents: critical.count() as u64,
            },
            oldest_seconds: State::LINGERING.into_iter().map(oldest).collect(),
            change_per_minute: State::ALL
                .into_iter()
                .map(|state| (state.name().to_owned(), change(state)))
                .collect(),
        }
    }
}

/// The counts of the whole host.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Summary {
    pub(crate) source: Source,
    /// Ordered by inode number.
    pub(crate) namespaces: Vec<NamespaceSummary>,
    pub(crate) events: EventTotals,
    pub(crate) tally: Tally,
    /// Lines of the daemon's log that were dropped: who reads them is too slow.
    pub(crate) log_dropped: u64,
    /// Of a daemon that was asked.
    pub(crate) recent: Option<Recent>,
}

impl Summary {
    /// Namespaces whose counts may be wrong.
    pub(crate) fn in_doubt(&self) -> usize {
        let doubted = |namespace: &&NamespaceSummary| namespace.doubt.is_in_doubt;
        self.namespaces.iter().filter(doubted).count()
    }

    /// By how many sockets the count of a state may be off, all namespaces together.
    pub(crate) fn uncertain(&self, state: State) -> u64 {
        let uncertain = self.namespaces.iter();
        uncertain
            .filter_map(|namespace| namespace.doubt.uncertain.get(&state))
            .sum()
    }

    /// MPTCP connections of all namespaces together.
    pub(crate) fn mptcp(&self) -> Counts {
        let mut all = Counts::default();
        for namespace in &self.namespaces {
            all += namespace.mptcp;
        }
        all
    }

    /// All namespaces together.
    pub(crate) fn sockets(&self) -> Counts {
        self.namespaces
            .iter()
            .fold(Counts::default(), |mut all, namespace| {
                all += namespace.sockets();
                all
            })
    }
}
