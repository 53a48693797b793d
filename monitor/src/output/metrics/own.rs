//! The second half of the table: what watching takes, and how far its figures can be trusted.

use super::Kind::{Counter, Gauge, Info};
use super::values::{self, put};
use super::{Family, leaders};

/// A plain number without labels.
pub(super) const ONE: Family = Family {
    name: "",
    kind: Gauge,
    unit: "",
    help: "",
    labels: &[],
    most: 1,
    otel: ("", ""),
    points: |_, _| {},
};

/// Metrics of the daemon itself.
pub(super) static OWN: [Family; 34] = [
    Family {
        name: "tcplinger_events_received",
        kind: Counter,
        help: "Transitions whose record reached the daemon.",
        otel: ("tcplinger.events.received", "{transition}"),
        points: |of, points| put(points, [], of.sample.summary.events.received),
        ..ONE
    },
    Family {
        name: "tcplinger_events_lost",
        kind: Counter,
        help: "Transitions whose record did not reach the daemon; it recounts after each loss.",
        otel: ("tcplinger.events.lost", "{transition}"),
        points: |of, points| put(points, [], of.sample.summary.events.lost),
        ..ONE
    },
    Family {
        name: "tcplinger_events_ignored",
        kind: Counter,
        help: "Transitions of other protocols (MPTCP's own sockets, SCTP, DCCP).",
        otel: ("tcplinger.events.ignored", "{transition}"),
        points: |of, points| put(points, [], of.sample.summary.events.ignored),
        ..ONE
    },
    Family {
        name: "tcplinger_drift_sockets",
        kind: Counter,
        help: "Full sockets by which snapshots corrected the event-driven counts.",
        otel: ("tcplinger.drift.sockets", "{socket}"),
        points: |of, points| put(points, [], of.sample.summary.tally.corrected),
        ..ONE
    },
    Family {
        name: "tcplinger_uncovered_transitions",
        kind: Counter,
        help: "Transitions in network namespaces that are not found yet or cannot be found; their \
               sockets are in no count.",
        otel: ("tcplinger.uncovered_transitions", "{transition}"),
        points: |of, points| put(points, [], of.sample.summary.tally.uncovered),
        ..ONE
    },
    Family {
        name: "tcplinger_contradicting_transitions",
        kind: Counter,
        help: "Transitions from another state than the one known of the socket; the kernel was \
               asked about each.",
        otel: ("tcplinger.contradicting_transitions", "{transition}"),
        points: |of, points| put(points, [], of.sample.summary.tally.contradicting),
        ..ONE
    },
    Family {
        name: "tcplinger_repeated_transitions",
        kind: Counter,
        help: "Transitions that a snapshot had already shown, or that arrived twice; none counts \
               twice.",
        otel: ("tcplinger.repeated_transitions", "{transition}"),
        points: |of, points| put(points, [], of.sample.summary.tally.repeated),
        ..ONE
    },
    Family {
        name: "tcplinger_asked_sockets",
        kind: Counter,
        help: "Sockets that the kernel was asked about one by one.",
        otel: ("tcplinger.asked_sockets", "{socket}"),
        points: |of, points| put(points, [], of.sample.summary.tally.asked),
        ..ONE
    },
    Family {
        name: "tcplinger_sockets_uncertain",
        kind: Gauge,
        unit: "",
        help: "Number of sockets by which the count of a state may be off without any \
               contradiction, all network namespaces together.",
        labels: &["state"],
        most: 3,
        otel: ("tcplinger.sockets.uncertain", "{socket}"),
        points: values::uncertain,
    },
    Family {
        name: "tcplinger_namespaces_in_doubt",
        kind: Gauge,
        help: "Network namespaces with a count that may be wrong.",
        otel: ("tcplinger.namespaces_in_doubt", "{namespace}"),
        points: values::namespaces_in_doubt,
        ..ONE
    },
    Family {
        name: "tcplinger_namespace_walk_age_seconds",
        kind: Gauge,
        unit: "seconds",
        help: "Time since the last walk of all sockets of the namespace, for the namespaces that \
               have the most sockets.",
        labels: &["netns", "namespace"],
        most: crate::track::TOP,
        otel: ("tcplinger.namespace.walk_age", "s"),
        points: leaders::walk_age,
    },
    Family {
        name: "tcplinger_audit_difference_sockets",
        kind: Gauge,
        unit: "",
        help: "Published minus actual counts at the last audit of each namespace; corrected since.",
        labels: &["state"],
        most: 12,
        otel: ("tcplinger.audit.difference", "{socket}"),
        points: values::audit_differences,
    },
    Family {
        name: "tcplinger_untracked_sockets",
        kind: Counter,
        unit: "",
        help: "Times that a table of the daemon was full and a socket was not tracked in it.",
        labels: &["table"],
        most: 1,
        otel: ("tcplinger.untracked.sockets", "{socket}"),
        points: values::untracked,
    },
    Family {
        name: "tcplinger_counts_in_doubt",
        kind: Gauge,
        help: "1 while a count of any namespace may be wrong, as far as known.",
        otel: ("tcplinger.counts_in_doubt", "1"),
        points: values::doubt,
        ..ONE
    },
    Family {
        name: "tcplinger_sample_timestamp_seconds",
        kind: Gauge,
        unit: "seconds",
        help: "Time of these figures, since the epoch.",
        otel: ("tcplinger.sample.timestamp", "s"),
        points: values::taken,
        ..ONE
    },
    Family {
        name: "tcplinger_walk_cpu_seconds",
        kind: Counter,
        unit: "seconds",
        help: "CPU time of walks of the kernel's tables, by purpose.",
        labels: &["purpose"],
        most: 3,
        otel: ("tcplinger.walk.cpu", "s"),
        points: values::walk_cpu,
    },
    Family {
        name: "tcplinger_process_cpu_seconds",
        kind: Counter,
        unit: "seconds",
        help: "CPU time of the daemon, user and system, including walks.",
        otel: ("process.cpu.time", "s"),
        points: |of, points| put(points, [], of.sample.cost.cpu),
        ..ONE
    },
    Family {
        name: "tcplinger_process_resident_memory_bytes",
        kind: Gauge,
        unit: "bytes",
        help: "Resident memory of the daemon, including the ring buffer.",
        otel: ("process.memory.usage", "By"),
        points: |of, points| put(points, [], of.sample.cost.resident_bytes),
        ..ONE
    },
    Family {
        name: "tcplinger_process_open_fds",
        kind: Gauge,
        help: "Open descriptors of the daemon.",
        otel: ("process.unix.file_descriptor.count", "{file_descriptor}"),
        points: |of, points| put(points, [], of.sample.cost.open_fds),
        ..ONE
    },
    Family {
        name: "tcplinger_process_max_fds",
        kind: Gauge,
        help: "Limit on open descriptors of the daemon; +Inf without a limit.",
        otel: ("tcplinger.process.max_fds", "{file_descriptor}"),
        points: values::process_max_fds,
        ..ONE
    },
    Family {
        name: "tcplinger_process_threads",
        kind: Gauge,
        help: "Threads of the daemon.",
        otel: ("process.thread.count", "{thread}"),
        points: |of, points| put(points, [], of.sample.cost.threads),
        ..ONE
    },
    Family {
        name: "tcplinger_process_start_time_seconds",
        kind: Gauge,
        unit: "seconds",
        help: "Start time of the daemon, since the epoch.",
        otel: ("tcplinger.process.start_time", "s"),
        points: |of, points| put(points, [], of.sample.cost.started),
        ..ONE
    },
    Family {
        name: "tcplinger_program_run_seconds",
        kind: Counter,
        unit: "seconds",
        help: "Run time of the program in the kernel; only while kernel.bpf_stats_enabled.",
        otel: ("tcplinger.program.run", "s"),
        points: values::program_time,
        ..ONE
    },
    Family {
        name: "tcplinger_program_runs",
        kind: Counter,
        help: "Runs of the program in the kernel; only while kernel.bpf_stats_enabled.",
        otel: ("tcplinger.program.runs", "{run}"),
        points: values::program_runs,
        ..ONE
    },
    Family {
        name: "tcplinger_ring_bytes",
        kind: Gauge,
        unit: "bytes",
        help: "Size of the ring buffer.",
        otel: ("tcplinger.ring", "By"),
        points: |of, points| put(points, [], of.sample.cost.ring_bytes),
        ..ONE
    },
    Family {
        name: "tcplinger_build",
        kind: Info,
        unit: "",
        help: "Version of the daemon, how its program is attached, and the kernel's release.",
        labels: &["version", "program", "kernel"],
        most: 1,
        otel: ("tcplinger.build", "1"),
        points: values::build,
    },
    Family {
        name: "tcplinger_http_requests",
        kind: Counter,
        unit: "",
        help: "HTTP requests answered, by class of the status code.",
        labels: &["code"],
        most: 3,
        otel: ("tcplinger.http.requests", "{request}"),
        points: values::http_requests,
    },
    Family {
        name: "tcplinger_http_connections",
        kind: Gauge,
        help: "Open connections of HTTP clients.",
        otel: ("tcplinger.http.connections", "{connection}"),
        points: |of, points| put(points, [], of.outlets.http_connections),
        ..ONE
    },
    Family {
        name: "tcplinger_http_dropped_connections",
        kind: Counter,
        unit: "",
        help: "HTTP connections that the daemon closed, by reason: too slow, not HTTP, not TLS, \
               crowded (to make room for another); idle timeouts excluded.",
        labels: &["reason"],
        most: 4,
        otel: ("tcplinger.http.dropped_connections", "{connection}"),
        points: values::http_dropped,
    },
    Family {
        name: "tcplinger_log_lines_dropped",
        kind: Counter,
        help: "Log lines dropped because the reader of stderr was too slow or gone.",
        otel: ("tcplinger.log_lines_dropped", "{line}"),
        points: |of, points| put(points, [], of.sample.summary.log_dropped),
        ..ONE
    },
    Family {
        name: "tcplinger_exported",
        kind: Counter,
        unit: "",
        help: "Data delivered to each sink: exports of metrics, changes of incidents.",
        labels: &["sink"],
        most: 4,
        otel: ("tcplinger.exported", "{item}"),
        points: values::exported,
    },
    Family {
        name: "tcplinger_export_dropped",
        kind: Counter,
        unit: "",
        help: "Data dropped for each sink: exports of metrics, changes of incidents.",
        labels: &["sink"],
        most: 4,
        otel: ("tcplinger.export.dropped", "{item}"),
        points: values::export_dropped,
    },
    Family {
        name: "tcplinger_exposition_seconds",
        kind: Gauge,
        unit: "seconds",
        help: "Time to write the last exposition.",
        otel: ("tcplinger.exposition.duration", "s"),
        points: |of, points| put(points, [], of.outlets.exposition_time),
        ..ONE
    },
    Family {
        name: "tcplinger_exposition_bytes",
        kind: Gauge,
        unit: "bytes",
        help: "Size of the last exposition.",
        otel: ("tcplinger.exposition.size", "By"),
        points: |of, points| put(points, [], of.outlets.exposition_bytes),
        ..ONE
    },
];
