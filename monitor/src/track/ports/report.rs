//! The pressure table of `tcplinger ports`; its JSON form is the documented one.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::pressure::{BucketUse, Forecast};
use super::tally::PortUse;
use crate::track::incident::{Names, name};
use crate::track::stuck::Severity;

/// What every namespace uses, and how long that can go on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PortReport {
    /// The fewest ports left first.
    pub(crate) ports: Vec<PortRow>,
    /// In ascending order of the namespace.
    pub(crate) buckets: Vec<BucketRow>,
    /// When the oldest of the rows was taken, `CLOCK_MONOTONIC`; None without any.
    #[serde(skip)]
    pub(crate) looked: Option<Duration>,
}

/// Ephemeral ports towards one destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PortRow {
    /// Inode number.
    pub(crate) netns: u32,
    /// Where it has one.
    pub(crate) netns_name: Option<String>,
    pub(crate) local: IpAddr,
    pub(crate) remote: SocketAddr,
    /// Ports of the range that are not reserved.
    pub(crate) capacity: u32,
    pub(crate) used: u32,
    /// Those of `used` in `TIME_WAIT`.
    pub(crate) time_wait: u32,
    /// In `TIME_WAIT`, but `tcp_tw_reuse` lets `connect()` take them; none of `used`.
    pub(crate) reusable: u32,
    /// 0 to 1.
    pub(crate) used_ratio: f64,
    /// Net growth of `used` over the last 30 s; null before the second look.
    pub(crate) rate_per_second: Option<f64>,
    /// At that rate; 0 where none is left, null where it does not grow, or levels off before.
    pub(crate) exhausted_in_seconds: Option<f64>,
    /// By the configured rule.
    pub(crate) severity: Severity,
}

/// `TIME_WAIT` buckets of one namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BucketRow {
    /// Inode number.
    pub(crate) netns: u32,
    /// Where it has one.
    pub(crate) netns_name: Option<String>,
    /// Minisockets, those in `FIN_WAIT2` too: they share the limit.
    pub(crate) time_wait: u64,
    /// `tcp_max_tw_buckets`.
    pub(crate) limit: u64,
    /// 0 to 1.
    pub(crate) ratio: f64,
    /// Closes that skipped `TIME_WAIT` since the namespace exists.
    pub(crate) overflows: u64,
    /// Over the last 30 s; null before the second look.
    pub(crate) overflow_rate_per_second: Option<f64>,
    /// Sockets on ephemeral ports that no port row counts: they are towards more destinations than
    /// are counted apart (57,344).
    pub(crate) uncounted: u64,
    /// By the configured rule.
    pub(crate) severity: Severity,
}

impl PortReport {
    /// With the names of the namespaces.
    pub(crate) fn named(mut self, names: &Names) -> Self {
        for row in &mut self.ports {
            row.netns_name = name(names, row.netns);
        }
        for row in &mut self.buckets {
            row.netns_name = name(names, row.netns);
        }
        self
    }
}

impl PortRow {
    pub(super) fn new(port: &PortUse, forecast: Forecast, severity: Severity) -> Self {
        Self {
            netns: port.netns,
            netns_name: None,
            local: port.local,
            remote: port.remote,
            capacity: port.capacity,
            used: port.used,
            time_wait: port.time_wait,
            reusable: port.reusable,
            used_ratio: port.ratio(),
            rate_per_second: forecast.rate,
            exhausted_in_seconds: forecast.exhausted_in.map(|left| left.as_secs_f64()),
            severity,
        }
    }
}

impl BucketRow {
    pub(super) fn new(bucket: &BucketUse, severity: Severity) -> Self {
        Self {
            netns: bucket.netns,
            netns_name: None,
            time_wait: bucket.minisockets,
            limit: bucket.limit,
            ratio: bucket.ratio(),
            overflows: bucket.overflows,
            overflow_rate_per_second: bucket.overflow_rate,
            uncounted: bucket.uncounted,
            severity,
        }
    }
}
