//! Port and bucket use over time: how fast it grows, and when there is nothing left.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::findings::{bucket_incident, port_incident};
use super::report::{BucketRow, PortReport, PortRow};
use super::series::Series;
use super::tally::{PortTally, PortUsage, PortUse};
use crate::tcp::Limits;
use crate::track::incident::{Incident, Names, name};
use crate::track::phrase::real;
use crate::track::stuck::{PortRule, Severity};

/// Destinations watched at once, over all namespaces, 1.5 KB each.
const MOST_WATCHED: usize = 256;

/// What was not looked at for so long is no longer shown: it may be far from what holds now.
const SHOWN_FOR: Duration = Duration::from_mins(2);

/// Growth per second without which there is no forecast: three ports in 30 s.
const LEAST_GROWTH: f64 = 0.1;
/// How far a forecast reaches.
const FORETOLD: Duration = Duration::from_hours(24);
/// Share in use from which a forecast alone is worth a finding: before, growth is nothing but a start.
pub(crate) const FORECAST_FLOOR: f64 = 0.5;

/// A raised finding is cleared below this part of its threshold.
const CLEARED_BELOW: f64 = 0.9;

/// What the namespaces use now, did a while ago, and which findings were raised for it.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    ports: BTreeMap<Way, Watched<PortUse>>,
    buckets: BTreeMap<u32, Watched<BucketUse>>,
}

/// Namespace, local address, destination.
type Way = (u32, IpAddr, SocketAddr);

#[derive(Debug)]
struct Watched<T> {
    latest: T,
    /// When that was.
    looked: Duration,
    /// Ports in use; of buckets, the overflows.
    series: Series,
    /// Ports in use that are not in `TIME_WAIT`; of buckets, nothing.
    held: Series,
    /// What has not been cleared.
    raised: Severity,
}

/// Use of the `TIME_WAIT` buckets of one namespace.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BucketUse {
    /// Inode number.
    pub(crate) netns: u32,
    /// In `TIME_WAIT` and `FIN_WAIT2`.
    pub(crate) minisockets: u64,
    /// Those in `TIME_WAIT`.
    pub(crate) time_wait: u64,
    /// `tcp_max_tw_buckets`.
    pub(crate) limit: u64,
    /// Closes that skipped `TIME_WAIT` since the namespace exists, for this or for lack of memory.
    pub(crate) overflows: u64,
    /// Per second; None before the second look.
    pub(crate) overflow_rate: Option<f64>,
    /// Sockets on ephemeral ports towards more destinations than are counted apart.
    pub(crate) uncounted: u64,
}

/// Where the use of ports is going.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Forecast {
    /// Net growth per second.
    pub(super) rate: Option<f64>,
    /// At that rate; zero where no port is left. None where growth ends below the capacity, as it
    /// does when as many leave `TIME_WAIT` as enter it.
    pub(super) exhausted_in: Option<Duration>,
}

impl PortUse {
    /// Share in use, 0 to 1; 1 where there are no ports at all.
    pub(super) fn ratio(&self) -> f64 {
        match self.capacity {
            0 => 1.0,
            capacity => f64::from(self.used) / f64::from(capacity),
        }
    }
}

impl BucketUse {
    /// Share in use, 0 to 1: where the limit was lowered there may be more minisockets than buckets.
    pub(super) fn ratio(&self) -> f64 {
        (real(self.minisockets) / real(self.limit.max(1))).min(1.0)
    }

    /// Closes are skipping `TIME_WAIT`.
    pub(super) fn is_overflowing(&self) -> bool {
        self.overflow_rate.is_some_and(|rate| rate > 0.0)
    }
}

impl Forecast {
    /// `held` is the growth of those in use that are not in `TIME_WAIT`: it has no end of its own.
    fn new(port: &PortUse, rate: Option<f64>, held: Option<f64>) -> Self {
        let left = port.capacity.saturating_sub(port.used);
        let room = port.capacity.saturating_sub(port.settles_at);
        let exhausted_in = match (left, room) {
            (0, _) => Some(Duration::ZERO),
            (_, 0) => lasts(left, rate),
            _ => lasts(left, rate).and_then(|soonest| Some(soonest.max(lasts(room, held)?))),
        };
        Self { rate, exhausted_in }
    }

    fn is_within(self, time: Duration) -> bool {
        self.exhausted_in.is_some_and(|left| left < time)
    }
}

/// How long so many ports last. Growth by a port or two says nothing of what comes, nor does any of the
/// day after.
fn lasts(ports: u32, rate: Option<f64>) -> Option<Duration> {
    let rate = rate.filter(|rate| *rate >= LEAST_GROWTH)?;
    let lasts = Duration::try_from_secs_f64(f64::from(ports) / rate).ok()?;
    (lasts <= FORETOLD).then_some(lasts)
}

impl Watched<PortUse> {
    fn forecast(&self) -> Forecast {
        Forecast::new(&self.latest, self.series.rate(), self.held.rate())
    }

    fn severity(&self, rule: &PortRule) -> Severity {
        let share = self.latest.ratio();
        let raised = self.raised;
        let by_share = by_share(share, rule, raised);
        let (floor, within) = if raised == Severity::None {
            (FORECAST_FLOOR, rule.within)
        } else {
            (
                FORECAST_FLOOR * CLEARED_BELOW,
                rule.within.div_f64(CLEARED_BELOW),
            )
        };
        if share >= floor && self.forecast().is_within(within) {
            by_share.max(Severity::Warning)
        } else {
            by_share
        }
    }
}

impl Watched<BucketUse> {
    fn severity(&self, rule: &PortRule) -> Severity {
        if self.latest.is_overflowing() {
            return Severity::Critical;
        }
        let raised = self.raised;
        by_share(self.latest.ratio(), rule, raised)
    }
}

impl<T> Watched<T> {
    fn is_shown(&self, now: Duration) -> bool {
        self.raised > Severity::None || now.saturating_sub(self.looked) < SHOWN_FOR
    }
}

impl Pressure {
    /// Takes note of one walk of a namespace: its ports and its buckets.
    pub(crate) fn take(&mut self, now: Duration, tally: PortTally, limits: &Limits) {
        let usage = tally.finish(limits);
        self.observe_buckets(now, &usage, limits);
        self.observe(now, usage);
    }

    /// Whether a finding about this namespace is raised.
    pub(crate) fn is_raised(&self, netns: u32) -> bool {
        let mut ports = self.ports.iter().filter(|(way, _)| way.0 == netns);
        let buckets = self.buckets.get(&netns);
        ports.any(|(_, watched)| watched.raised > Severity::None)
            || buckets.is_some_and(|watched| watched.raised > Severity::None)
    }

    /// Takes note of a namespace's ports; destinations that are no longer among its top are
    /// forgotten.
    pub(crate) fn observe(&mut self, now: Duration, usage: PortUsage) {
        let netns = usage.netns;
        let mut before = std::mem::take(&mut self.ports);
        for port in usage.top {
            let way = (netns, port.local, port.remote);
            let old = before.remove(&way);
            let (mut series, mut held, raised) =
                old.map_or_else(Default::default, |old| (old.series, old.held, old.raised));
            series.push(now, port.used.into());
            held.push(now, port.used.saturating_sub(port.time_wait).into());
            let watched = Watched {
                latest: port,
                looked: now,
                series,
                held,
                raised,
            };
            self.ports.insert(way, watched);
        }
        before.retain(|way, _| way.0 != netns);
        self.ports.append(&mut before);
        self.limit();
    }

    /// Takes note of a namespace's minisockets, and of what its ports are counted without.
    pub(crate) fn observe_buckets(&mut self, now: Duration, usage: &PortUsage, limits: &Limits) {
        let netns = usage.netns;
        let old = self.buckets.remove(&netns);
        let (mut series, raised) =
            old.map_or_else(Default::default, |old| (old.series, old.raised));
        series.push_counter(now, limits.time_wait_overflows);
        let latest = BucketUse {
            netns,
            minisockets: usage.minisockets,
            time_wait: usage.time_wait,
            limit: limits.max_tw_buckets,
            overflows: limits.time_wait_overflows,
            overflow_rate: series.rate(),
            uncounted: usage.uncounted,
        };
        let watched = Watched {
            latest,
            looked: now,
            series,
            held: Series::default(),
            raised,
        };
        self.buckets.insert(netns, watched);
    }

    /// When a namespace was last looked at.
    pub(crate) fn looked(&self, netns: u32) -> Option<Duration> {
        self.buckets.get(&netns).map(|watched| watched.looked)
    }

    /// Forgets every namespace that is gone, and what was not looked at for long, unless it is raised;
    /// true where there was any.
    pub(crate) fn retain(&mut self, now: Duration, mut is_there: impl FnMut(u32) -> bool) -> bool {
        let before = (self.ports.len(), self.buckets.len());
        self.ports
            .retain(|way, watched| is_there(way.0) && watched.is_shown(now));
        self.buckets
            .retain(|netns, watched| is_there(*netns) && watched.is_shown(now));
        (self.ports.len(), self.buckets.len()) != before
    }

    /// What is an incident now. Remembers it: until its use falls below 9/10 of the threshold, it stays.
    pub(crate) fn incidents(&mut self, rule: &PortRule, names: &Names) -> Vec<Incident> {
        let mut incidents = Vec::<Incident>::new();
        for watched in self.ports.values_mut() {
            let severity = watched.severity(rule);
            watched.raised = severity;
            if severity > Severity::None {
                let forecast = watched.forecast();
                incidents.push(port_incident(severity, &watched.latest, forecast, names));
            }
        }
        for watched in self.buckets.values_mut() {
            let severity = watched.severity(rule);
            watched.raised = severity;
            if severity > Severity::None {
                let bucket = &watched.latest;
                let of_namespace = incidents.iter().filter(|port| port.netns == bucket.netns);
                let of_ports: u64 = of_namespace.map(|port| port.sockets).sum();
                // A socket belongs to one incident.
                let sockets = bucket.time_wait.saturating_sub(of_ports);
                incidents.push(bucket_incident(severity, bucket, sockets, names));
            }
        }
        for incident in &mut incidents {
            incident.netns_name = name(names, incident.netns);
        }
        incidents
    }

    pub(crate) fn report(&self, rule: &PortRule) -> PortReport {
        let mut ports: Vec<PortRow> = self
            .ports
            .values()
            .map(|watched| {
                let severity = watched.severity(rule);
                PortRow::new(&watched.latest, watched.forecast(), severity)
            })
            .collect();
        ports.sort_by(|a, b| b.used_ratio.total_cmp(&a.used_ratio));
        let of_ports = self.ports.values().map(|watched| watched.looked);
        let of_buckets = self.buckets.values().map(|watched| watched.looked);
        let buckets = self
            .buckets
            .values()
            .map(|watched| BucketRow::new(&watched.latest, watched.severity(rule)));
        PortReport {
            ports,
            buckets: buckets.collect(),
            looked: of_ports.chain(of_buckets).min(),
        }
    }

    /// Keeps those with the largest share in use.
    fn limit(&mut self) {
        if self.ports.len() <= MOST_WATCHED {
            return;
        }
        let mut ways: Vec<(f64, Way)> = self
            .ports
            .iter()
            .map(|(way, port)| (port.latest.ratio(), *way))
            .collect();
        ways.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (_, way) in ways.iter().skip(MOST_WATCHED) {
            self.ports.remove(way);
        }
    }
}

/// Severity by the share in use; one that was raised stays until below 9/10 of its threshold.
fn by_share(share: f64, rule: &PortRule, raised: Severity) -> Severity {
    let is_over = |threshold: f64, severity: Severity| {
        let eased = if raised >= severity {
            CLEARED_BELOW
        } else {
            1.0
        };
        share >= threshold * eased
    };
    if is_over(rule.critical, Severity::Critical) {
        Severity::Critical
    } else if is_over(rule.warning, Severity::Warning) {
        Severity::Warning
    } else {
        Severity::None
    }
}

#[cfg(test)]
mod tests;
