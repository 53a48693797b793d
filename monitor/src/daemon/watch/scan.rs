//! One pass over the lingering table, for all that a round has to know of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::super::live::nanoseconds;
use super::services;
use crate::tcp::{Limits, State};
use crate::track::stuck::{Rules, levels};
use crate::track::{Lingering, Service};

/// What the table has now.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// With a socket in it.
    pub(super) namespaces: BTreeSet<u32>,
    /// When the oldest socket in each state entered it, `CLOCK_MONOTONIC`.
    pub(super) oldest_since: BTreeMap<State, Duration>,
    /// When a socket of a namespace last reached an age that a rule names, `CLOCK_MONOTONIC`,
    /// nanoseconds.
    pub(super) reached_ns: BTreeMap<u32, u64>,
    /// Sockets in `CLOSE_WAIT`.
    pub(super) services: HashMap<Service, u64>,
}

/// The sockets of one namespace in one state.
struct Class<'a> {
    limits: Option<&'a Limits>,
    levels_ns: Vec<u64>,
    oldest_ns: u64,
    reached_ns: Option<u64>,
}

impl Scan {
    pub(super) fn new(
        table: &Lingering,
        rules: &Rules,
        limits: &BTreeMap<u32, (Limits, Duration)>,
        now: Duration,
    ) -> Self {
        let now_ns = nanoseconds(now);
        let mut scan = Self::default();
        let mut classes: HashMap<(u32, State), Class<'_>> = HashMap::new();
        for entered in table.iter() {
            let (netns, state, since_ns) = (entered.netns, entered.state, entered.since_ns);
            let class = classes.entry((netns, state)).or_insert_with(|| {
                let limits = limits.get(&netns).map(|(limits, _)| limits);
                let levels = limits.map(|limits| levels(rules, state, limits));
                let levels = levels.into_iter().flatten();
                Class {
                    limits,
                    levels_ns: levels.map(nanoseconds).collect(),
                    oldest_ns: u64::MAX,
                    reached_ns: None,
                }
            });
            class.oldest_ns = class.oldest_ns.min(since_ns);
            let reached = class.levels_ns.iter();
            let reached = reached.map(|level| since_ns.saturating_add(*level));
            let latest_ns = reached.take_while(|at| *at <= now_ns).last();
            class.reached_ns = class.reached_ns.max(latest_ns);
            if state == State::CloseWait {
                let ports = (entered.local_port, entered.remote_port);
                for service in services(class.limits, netns, ports) {
                    *scan.services.entry(service).or_default() += 1;
                }
            }
        }
        for ((netns, state), class) in classes {
            scan.namespaces.insert(netns);
            let since = Duration::from_nanos(class.oldest_ns);
            let oldest = scan.oldest_since.entry(state).or_insert(since);
            *oldest = since.min(*oldest);
            if let Some(latest_ns) = class.reached_ns {
                let reached_ns = scan.reached_ns.entry(netns).or_default();
                *reached_ns = latest_ns.max(*reached_ns);
            }
        }
        scan
    }
}
