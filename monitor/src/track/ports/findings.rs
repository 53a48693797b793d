//! Port and bucket pressure in words.

use std::fmt::Write as _;
use std::time::Duration;

use super::pressure::{BucketUse, Forecast};
use super::tally::PortUse;
use crate::tcp::State;
use crate::track::incident::{Incident, Kind, Names, enter};
use crate::track::phrase::{Span, grouped, rate, signed_rate};
use crate::track::stuck::{Endpoint, Severity};

pub(super) fn port_incident(
    severity: Severity,
    port: &PortUse,
    forecast: Forecast,
    names: &Names,
) -> Incident {
    let enter = enter(names, port.netns);
    Incident {
        local: Endpoint::Address(port.local),
        remote: Endpoint::Socket(port.remote),
        sockets: u64::from(port.time_wait) + u64::from(port.reusable),
        rate_per_second: forecast.rate,
        exhausted_in_seconds: forecast.exhausted_in.map(|left| left.as_secs_f64()),
        reason: port_reason(port, forecast),
        advice: port_advice(port, enter),
        ..Incident::new(Kind::EphemeralPorts, severity, State::TimeWait, port.netns)
    }
}

fn port_reason(port: &PortUse, forecast: Forecast) -> String {
    let PortUse { local, remote, .. } = port;
    let [capacity, used, time_wait, reusable] =
        [port.capacity, port.used, port.time_wait, port.reusable].map(|n| grouped(n.into()));
    let mut reason = format!(
        "{used} of {capacity} ephemeral ports from {local} to {remote} are in use, {time_wait} of \
         them in TIME_WAIT"
    );
    if port.reusable > 0 {
        let _ = write!(reason, ", and {reusable} more may be reused");
    }
    let _ = match (forecast.exhausted_in, forecast.rate) {
        (Some(Duration::ZERO), _) => {
            write!(reason, "; connect() fails with EADDRNOTAVAIL")
        }
        (Some(left), Some(growth)) => {
            let (growth, left) = (signed_rate(growth), Span(left));
            write!(reason, "; at {growth}/s the rest lasts {left}")
        }
        _ => Ok(()),
    };
    reason
}

fn port_advice(port: &PortUse, enter: &str) -> String {
    let mut steps =
        vec!["keep connections open and reuse them (keep-alive, a connection pool)".to_owned()];
    if port.time_wait.saturating_mul(2) >= port.used {
        let sysctls = match (port.has_reuse, port.has_timestamps) {
            (true, true) => "",
            (true, false) => "net.ipv4.tcp_timestamps=1",
            (false, true) => "net.ipv4.tcp_tw_reuse=1",
            (false, false) => "net.ipv4.tcp_tw_reuse=1 net.ipv4.tcp_timestamps=1",
        };
        if !sysctls.is_empty() {
            steps.push(format!(
                "let connect() reuse TIME_WAIT: `{enter}sysctl -w {sysctls}` (both are needed, \
                 and timestamps at the peer)"
            ));
        }
    }
    steps.push(
        "widen net.ipv4.ip_local_port_range, or use more destinations or source addresses"
            .to_owned(),
    );
    steps.join("; ")
}

/// `sockets` in `TIME_WAIT` belong to no other incident.
pub(super) fn bucket_incident(
    severity: Severity,
    bucket: &BucketUse,
    sockets: u64,
    names: &Names,
) -> Incident {
    let enter = enter(names, bucket.netns);
    let wider = bucket.limit.max(bucket.minisockets).saturating_mul(2);
    Incident {
        sockets,
        reason: bucket_reason(bucket),
        advice: format!(
            "raise the limit (about 0.3 KB of kernel memory each): `{enter}sysctl -w \
             net.ipv4.tcp_max_tw_buckets={wider}`; or let the peer close first: the side that \
             closes first keeps the TIME_WAIT"
        ),
        ..Incident::new(
            Kind::TimeWaitBuckets,
            severity,
            State::TimeWait,
            bucket.netns,
        )
    }
}

fn bucket_reason(bucket: &BucketUse) -> String {
    let [minisockets, limit, overflows] =
        [bucket.minisockets, bucket.limit, bucket.overflows].map(grouped);
    let used = if bucket.minisockets > bucket.limit {
        format!(
            "all {limit} TIME_WAIT buckets are in use, by {minisockets} minisockets: the limit \
             was lowered"
        )
    } else {
        format!("{minisockets} of {limit} TIME_WAIT buckets are in use")
    };
    match bucket.overflow_rate {
        Some(growth) if growth > 0.0 => {
            let growth = rate(growth);
            format!("{used}, and {growth} closes/s skip TIME_WAIT ({overflows} so far)")
        }
        _ => format!("{used}; at the limit, closes skip TIME_WAIT"),
    }
}
