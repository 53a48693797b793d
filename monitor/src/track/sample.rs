//! Everything that is published, as it was at one moment: what metrics, page and pushes show, so
//! that they cannot disagree.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::stuck::Severity;
use super::{Activity, Checked, Incident, PortReport, Summary, TopOwners};
use crate::tcp::State;

/// Leaders told by name; the rest is added up. The bound on what a host costs a metrics engine.
pub(crate) const TOP: usize = 10;

/// The published figures of one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// `CLOCK_MONOTONIC`.
    pub(crate) taken: Duration,
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds.
    pub(crate) realtime_minus_monotonic_ns: i64,
    pub(crate) summary: Summary,
    /// Some namespace's counts are known to be wrong, or not known.
    pub(crate) is_in_doubt: bool,
    /// Transitions `[from][to]` by state number, from the kernel's own counters.
    pub(crate) transitions: [[u64; 16]; 16],
    pub(crate) activity: Arc<Activity>,
    /// When the oldest socket in each lingering state entered it, at the latest (`CLOCK_MONOTONIC`).
    pub(crate) oldest_since: BTreeMap<State, Duration>,
    pub(crate) stuck: Stuck,
    /// Of each namespace with a `TIME_WAIT` limit that was read, by inode number.
    pub(crate) buckets: BTreeMap<u32, Buckets>,
    /// Closes that skipped `TIME_WAIT` in namespaces that are not told apart.
    pub(crate) other_overflows: u64,
    /// When namespaces were last walked, and what audits found.
    pub(crate) checked: Checked,
    pub(crate) ports: Arc<PortReport>,
    pub(crate) owners: Arc<TopOwners>,
    pub(crate) cost: Cost,
}

impl Sample {
    /// Makes what was looked at a while ago agree with the counts, which are newer: no more stuck sockets
    /// than there are, and no age of a state that is empty.
    pub(crate) fn settle(&mut self) {
        let all = self.summary.sockets();
        self.oldest_since.retain(|state, _| all.get(*state) > 0);
        let mut room = BTreeMap::new();
        for namespace in &self.summary.namespaces {
            let sockets = namespace.sockets();
            let mptcp = &namespace.mptcp;
            for state in State::LINGERING {
                let there = sockets.get(state) + mptcp.get(state);
                room.insert((namespace.netns, state), there);
            }
        }
        // The critical ones first.
        for ((netns, state, _), stuck) in self.stuck.sockets.iter_mut().rev() {
            let room = room.entry((*netns, *state)).or_default();
            *stuck = (*stuck).min(*room);
            *room -= *stuck;
        }
    }

    /// Age of the oldest socket in a lingering state, at least; None without one.
    pub(crate) fn oldest(&self, state: State) -> Option<Duration> {
        let since = self.oldest_since.get(&state)?;
        Some(self.taken.saturating_sub(*since))
    }
}

/// What is raised, and how much more is stuck.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stuck {
    /// Sockets by namespace, state and severity.
    pub(crate) sockets: BTreeMap<(u32, State, Severity), u64>,
    /// Incidents that are raised, what matters most first, and when each was last looked at
    /// (`CLOCK_MONOTONIC`).
    pub(crate) raised: Arc<[(Incident, Duration)]>,
    /// Incidents raised so far, by kind.
    pub(crate) raised_so_far: BTreeMap<&'static str, u64>,
}

/// `TIME_WAIT` buckets of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Buckets {
    /// `tcp_max_tw_buckets`.
    pub(crate) limit: u64,
    /// Closes that skipped `TIME_WAIT` since this namespace is told apart; None where it is not.
    pub(crate) overflows: Option<u64>,
}

/// What the daemon and its program cost so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cost {
    /// User and system.
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
    pub(crate) open_fds: u64,
    /// None without a limit.
    pub(crate) max_fds: Option<u64>,
    pub(crate) threads: u64,
    /// When the process started, since the epoch.
    pub(crate) started: Duration,
    /// CPU time of walks for the counts, for verdicts and ports, and for owners.
    pub(crate) walks: [Duration; 3],
    /// Time in the program, and its runs; None while the kernel does not measure it.
    pub(crate) program: Option<(Duration, u64)>,
    pub(crate) ring_bytes: u64,
    /// How the program is attached.
    pub(crate) attached: &'static str,
    /// Sockets without room in the table.
    pub(crate) untracked: u64,
}

/// What the outlets themselves have done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outlets {
    /// Requests answered with 2xx, 4xx and 5xx.
    pub(crate) http_requests: [u64; 3],
    /// Open now.
    pub(crate) http_connections: u64,
    /// Ended by the daemon: too slow, no HTTP, no TLS.
    pub(crate) http_dropped: [u64; 4],
    /// By [`Sink`].
    pub(crate) exported: [u64; 4],
    /// By [`Sink`].
    pub(crate) export_dropped: [u64; 4],
    /// Of the last exposition.
    pub(crate) exposition_time: Duration,
    pub(crate) exposition_bytes: u64,
}

/// Where something is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sink {
    OtlpMetrics,
    OtlpLogs,
    /// Findings as JSON lines.
    Findings,
    /// Server-sent events.
    Events,
}

impl Sink {
    pub(crate) const ALL: [Self; 4] = [
        Self::OtlpMetrics,
        Self::OtlpLogs,
        Self::Findings,
        Self::Events,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::OtlpMetrics => "otlp_metrics",
            Self::OtlpLogs => "otlp_logs",
            Self::Findings => "findings",
            Self::Events => "events",
        }
    }
}
