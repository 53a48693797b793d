//! One pass over the lingering table, for all that a round has to know of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::clock::nanoseconds;
use crate::tcp::{Limits, State};
use crate::track::stuck::{Rules, levels};
use crate::track::{Service, Sockets};

/// Most sockets pass through their lingering states in less than this; who stays longer is asked about.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// As many as this at a time: what a third of a walk costs beside 100,000 sockets.
const MOST_SETTLED: usize = 1_000;

/// What the table has now.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// When it was made, `CLOCK_MONOTONIC`.
    at: Duration,
    /// Sockets, by cookie, that have been in their state for a second since the last scan.
    pub(super) settled: Vec<u64>,
    /// With a socket in it.
    pub(super) namespaces: BTreeSet<u32>,
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
    reached_ns: Option<u64>,
}

impl Scan {
    pub(super) fn new(
        sockets: &Sockets,
        rules: &Rules,
        limits: &BTreeMap<u32, (Limits, Duration)>,
        last: &Self,
        now: Duration,
    ) -> Self {
        let now_ns = nanoseconds(now);
        let mut scan = Self {
            at: now,
            ..Self::default()
        };
        let settled_ns = nanoseconds(last.at.saturating_sub(SETTLED_AFTER))
            ..nanoseconds(now.saturating_sub(SETTLED_AFTER));
        let mut classes: HashMap<(u32, State), Class<'_>> = HashMap::new();
        let lingering = sockets.iter();
        for (cookie, socket) in lingering.filter(|(_, socket)| socket.state.is_lingering()) {
            if settled_ns.contains(&socket.since_ns) && scan.settled.len() < MOST_SETTLED {
                scan.settled.push(cookie);
            }
            let (netns, state, since_ns) = (socket.netns, socket.state, socket.since_ns);
            let class = classes.entry((netns, state)).or_insert_with(|| {
                let limits = limits.get(&netns).map(|(limits, _)| limits);
                let levels = limits.map(|limits| levels(rules, state, limits));
                let levels = levels.into_iter().flatten();
                Class {
                    limits,
                    levels_ns: levels.map(nanoseconds).collect(),
                    reached_ns: None,
                }
            });
            let reached = class.levels_ns.iter();
            let reached = reached.map(|level| since_ns.saturating_add(*level));
            let latest_ns = reached.take_while(|at| *at <= now_ns).last();
            class.reached_ns = class.reached_ns.max(latest_ns);
            if state == State::CloseWait {
                for service in Service::of(class.limits, netns, socket.ends.ports()) {
                    *scan.services.entry(service).or_default() += 1;
                }
            }
        }
        for ((netns, _), class) in classes {
            scan.namespaces.insert(netns);
            if let Some(latest_ns) = class.reached_ns {
                let reached_ns = scan.reached_ns.entry(netns).or_default();
                *reached_ns = latest_ns.max(*reached_ns);
            }
        }
        scan
    }
}
