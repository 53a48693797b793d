//! Every metric in one table: name, kind, unit, labels, and how many series it can have at most. The
//! exposition, the push and the documentation all come from it. What is watched is here, the
//! daemon's own in `own.rs`.

use super::Kind::{Counter, Gauge, Histogram};
use super::own::{ONE, OWN};
use super::values::{self, put};
use super::{Family, leaders};
use crate::track::TOP;

/// Series that a host may cost: what a fleet's metrics engine is sized by.
const MOST: usize = 500;
const _: () = assert!(most(&WATCHED) + most(&OWN) <= MOST, "a host costs too much");

const NETNS: &[&str] = &["netns", "namespace"];
/// The leaders, and the rest under `other`.
const LED: usize = TOP + 1;

/// Every metric, in the order of the exposition.
pub(super) fn families() -> impl Iterator<Item = &'static Family> {
    WATCHED.iter().chain(&OWN)
}

/// Series of all these at most.
const fn most(families: &[Family]) -> usize {
    match families {
        [] => 0,
        [first, rest @ ..] => first.most + most(rest),
    }
}

/// What is watched.
static WATCHED: [Family; 22] = [
    Family {
        name: "tcplinger_sockets",
        kind: Gauge,
        unit: "",
        help: "TCP sockets by state and address family, all network namespaces together.",
        labels: &["state", "family"],
        most: 24,
        otel: ("system.network.connection.count", "{connection}"),
        points: values::sockets,
    },
    Family {
        name: "tcplinger_mptcp_sockets",
        kind: Gauge,
        unit: "",
        help: "MPTCP connections and listeners by state; their TCP subflows count as TCP sockets.",
        labels: &["state"],
        most: 12,
        otel: ("tcplinger.mptcp.sockets", "{connection}"),
        points: values::mptcp,
    },
    Family {
        name: "tcplinger_transitions",
        kind: Counter,
        unit: "",
        help: "State transitions that the program in the kernel counted, including lost records.",
        labels: &["from", "to"],
        most: 27,
        otel: ("tcplinger.transitions", "{transition}"),
        points: values::transitions,
    },
    Family {
        name: "tcplinger_state_duration_seconds",
        kind: Histogram,
        unit: "seconds",
        help: "Time that sockets spent in a state, recorded when they leave it.",
        labels: &["state"],
        most: 99,
        otel: ("tcplinger.state.duration", "s"),
        points: values::durations,
    },
    Family {
        name: "tcplinger_connections_opened",
        kind: Counter,
        unit: "",
        help: "Connections that reached ESTABLISHED, by the side that opened them.",
        labels: &["side"],
        most: 2,
        otel: ("tcplinger.connections.opened", "{connection}"),
        points: values::opened,
    },
    Family {
        name: "tcplinger_connections_closed",
        kind: Counter,
        unit: "",
        help: "Connections that ended after the handshake, by reason.",
        labels: &["reason"],
        most: 9,
        otel: ("tcplinger.connections.closed", "{connection}"),
        points: values::closed,
    },
    Family {
        name: "tcplinger_connections_failed",
        kind: Counter,
        unit: "",
        help: "Connections that ended before the handshake was complete, by the side that opened \
               them and reason.",
        labels: &["side", "reason"],
        most: 14,
        otel: ("tcplinger.connections.failed", "{connection}"),
        points: values::failed,
    },
    Family {
        name: "tcplinger_lingering_sockets",
        kind: Gauge,
        unit: "",
        help: "Sockets in states that they should soon leave, by verdict.",
        labels: &["state", "severity"],
        most: 21,
        otel: ("tcplinger.lingering.sockets", "{socket}"),
        points: values::lingering,
    },
    Family {
        name: "tcplinger_lingering_oldest_age_seconds",
        kind: Gauge,
        unit: "seconds",
        help: "Age of the oldest socket in the state, or a lower bound; 0 if there is none.",
        labels: &["state"],
        most: 7,
        otel: ("tcplinger.lingering.oldest_age", "s"),
        points: values::oldest,
    },
    Family {
        name: "tcplinger_findings",
        kind: Gauge,
        unit: "",
        help: "Active incidents: lingering sockets, leaks, counts, ports and buckets.",
        labels: &["kind", "severity"],
        most: 10,
        otel: ("tcplinger.findings", "{finding}"),
        points: values::findings,
    },
    Family {
        name: "tcplinger_findings_raised",
        kind: Counter,
        unit: "",
        help: "Incidents raised so far.",
        labels: &["kind"],
        most: 5,
        otel: ("tcplinger.findings.raised", "{finding}"),
        points: values::findings_raised,
    },
    Family {
        name: "tcplinger_owner_sockets",
        kind: Gauge,
        unit: "",
        help: "Sockets of the units, containers and processes that hold the most, every 30 s; the \
               rest under other, sockets without a process under nobody.",
        labels: &["kind", "owner", "state"],
        most: (LED + 1) * 4,
        otel: ("tcplinger.owner.sockets", "{socket}"),
        points: leaders::owners,
    },
    Family {
        name: "tcplinger_namespace_sockets",
        kind: Gauge,
        unit: "",
        help: "Sockets of the network namespaces that have the most.",
        labels: &["netns", "namespace", "state"],
        most: LED * 4,
        otel: ("tcplinger.namespace.sockets", "{socket}"),
        points: leaders::namespace_sockets,
    },
    Family {
        name: "tcplinger_namespace_stuck_sockets",
        kind: Gauge,
        unit: "",
        help: "Stuck sockets of the network namespaces that have the most sockets.",
        labels: &["netns", "namespace", "severity"],
        most: LED * 2,
        otel: ("tcplinger.namespace.stuck_sockets", "{socket}"),
        points: leaders::namespace_stuck,
    },
    Family {
        name: "tcplinger_namespaces",
        kind: Gauge,
        help: "Network namespaces watched.",
        otel: ("tcplinger.namespaces", "{namespace}"),
        points: |of, points| put(points, [], of.sample.summary.namespaces.len() as u64),
        ..ONE
    },
    Family {
        name: "tcplinger_time_wait_buckets_used",
        kind: Gauge,
        unit: "",
        help: "Upper bound of the TIME_WAIT buckets in use: sockets in TIME_WAIT and FIN_WAIT2.",
        labels: NETNS,
        most: LED,
        otel: ("tcplinger.time_wait_buckets.used", "{bucket}"),
        points: leaders::buckets_used,
    },
    Family {
        name: "tcplinger_time_wait_buckets_limit",
        kind: Gauge,
        unit: "",
        help: "The sysctl tcp_max_tw_buckets.",
        labels: NETNS,
        most: TOP,
        otel: ("tcplinger.time_wait_buckets.limit", "{bucket}"),
        points: leaders::buckets_limit,
    },
    Family {
        name: "tcplinger_time_wait_overflows",
        kind: Counter,
        unit: "",
        help: "Closes that skipped TIME_WAIT since this daemon started (TCPTimeWaitOverflow).",
        labels: NETNS,
        most: LED,
        otel: ("tcplinger.time_wait.overflows", "{connection}"),
        points: leaders::overflows,
    },
    Family {
        name: "tcplinger_ephemeral_ports_used",
        kind: Gauge,
        unit: "",
        help: "Ephemeral ports in use towards the destination that has the fewest left.",
        labels: NETNS,
        most: TOP,
        otel: ("tcplinger.ephemeral_ports.used", "{port}"),
        points: leaders::ports_used,
    },
    Family {
        name: "tcplinger_ephemeral_ports_capacity",
        kind: Gauge,
        unit: "",
        help: "Ephemeral ports available for one destination, without the reserved ones.",
        labels: NETNS,
        most: TOP,
        otel: ("tcplinger.ephemeral_ports.capacity", "{port}"),
        points: leaders::ports_capacity,
    },
    Family {
        name: "tcplinger_ephemeral_ports_exhausted_in_seconds",
        kind: Gauge,
        unit: "seconds",
        help: "Time until the ephemeral ports run out at the current rate; +Inf if they do not.",
        labels: NETNS,
        most: TOP,
        otel: ("tcplinger.ephemeral_ports.exhausted_in", "s"),
        points: leaders::ports_exhausted_in,
    },
    Family {
        name: "tcplinger_ephemeral_ports_max_used_ratio",
        kind: Gauge,
        unit: "ratio",
        help: "Share of the ephemeral ports in use towards the worst destination of the host.",
        otel: ("tcplinger.ephemeral_ports.max_used", "1"),
        points: values::ports_max_ratio,
        ..ONE
    },
];
