//! The second half of the table: what watching takes, and how far its figures can be trusted.

use super::Kind::{Counter, Gauge, Info};
use super::{Family, leaders, values};

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
        help: "Transitions of which the record reached the daemon.",
        otel: ("tcplinger.events.received", "{transition}"),
        points: values::events_received,
        ..ONE
    },
    Family {
        name: "tcplinger_events_lost",
        kind: Counter,
        help: "Transitions of which no record reached the daemon; it counts anew after each.",
        otel: ("tcplinger.events.lost", "{transition}"),
        points: values::events_lost,
        ..ONE
    },
    Family {
        name: "tcplinger_events_ignored",
        kind: Counter,
        help: "Transitions of other protocols (MPTCP's own sockets, SCTP, DCCP).",
        otel: ("tcplinger.events.ignored", "{transition}"),
        points: values::events_ignored,
        ..ONE
    },
    Family {
        name: "tcplinger_drift_sockets",
        kind: Counter,
        help: "Full sockets by which snapshots have corrected the event-driven counts.",
        otel: ("tcplinger.drift.sockets", "{socket}"),
        points: values::drift,
        ..ONE
    },
    Family {
        name: "tcplinger_uncovered_transitions",
        kind: Counter,
        help: "Transitions in network namespaces that were not found yet, or cannot be: no count has \
               their sockets.",
        otel: ("tcplinger.uncovered_transitions", "{transition}"),
        points: values::uncovered,
        ..ONE
    },
    Family {
        name: "tcplinger_contradicting_transitions",
        kind: Counter,
        help: "Transitions that started in another state than their socket was known to be in; the \
               kernel was asked about each.",
        otel: ("tcplinger.contradicting_transitions", "{transition}"),
        points: values::contradicting,
        ..ONE
    },
    Family {
        name: "tcplinger_repeated_transitions",
        kind: Counter,
        help: "Transitions that said what a snapshot had told already, or that came twice; none is \
               counted twice.",
        otel: ("tcplinger.repeated_transitions", "{transition}"),
        points: values::repeated,
        ..ONE
    },
    Family {
        name: "tcplinger_asked_sockets",
        kind: Counter,
        help: "Sockets that the kernel was asked about one by one.",
        otel: ("tcplinger.asked_sockets", "{socket}"),
        points: values::asked,
        ..ONE
    },
    Family {
        name: "tcplinger_sockets_uncertain",
        kind: Gauge,
        unit: "",
        help: "Sockets by which the count of a state may be off though nothing contradicts it, all \
               network namespaces together.",
        labels: &["state"],
        most: 3,
        otel: ("tcplinger.sockets.uncertain", "{socket}"),
        points: values::uncertain,
    },
    Family {
        name: "tcplinger_namespaces_in_doubt",
        kind: Gauge,
        help: "Network namespaces any of whose counts may be wrong.",
        otel: ("tcplinger.namespaces_in_doubt", "{namespace}"),
        points: values::namespaces_in_doubt,
        ..ONE
    },
    Family {
        name: "tcplinger_namespace_walk_age_seconds",
        kind: Gauge,
        unit: "seconds",
        help: "Time since all sockets of the namespace were last walked; of the namespaces that have most sockets.",
        labels: &["netns", "namespace"],
        most: crate::track::TOP,
        otel: ("tcplinger.namespace.walk_age", "s"),
        points: leaders::walk_age,
    },
    Family {
        name: "tcplinger_audit_difference_sockets",
        kind: Gauge,
        unit: "",
        help: "Published minus asked counts, as the last audit of each namespace found them; corrected since.",
        labels: &["state"],
        most: 12,
        otel: ("tcplinger.audit.difference", "{socket}"),
        points: values::audit_differences,
    },
    Family {
        name: "tcplinger_untracked_sockets",
        kind: Counter,
        unit: "",
        help: "Times that a socket found no room in a table of the daemon, which then tells less of it.",
        labels: &["table"],
        most: 1,
        otel: ("tcplinger.untracked.sockets", "{socket}"),
        points: values::untracked,
    },
    Family {
        name: "tcplinger_counts_in_doubt",
        kind: Gauge,
        help: "1 while some count of a namespace may be wrong, as far as anything tells.",
        otel: ("tcplinger.counts_in_doubt", "1"),
        points: values::doubt,
        ..ONE
    },
    Family {
        name: "tcplinger_sample_timestamp_seconds",
        kind: Gauge,
        unit: "seconds",
        help: "When these figures were taken, since the epoch.",
        otel: ("tcplinger.sample.timestamp", "s"),
        points: values::taken,
        ..ONE
    },
    Family {
        name: "tcplinger_walk_cpu_seconds",
        kind: Counter,
        unit: "seconds",
        help: "CPU time spent on walks of the kernel's tables, by what they were for.",
        labels: &["purpose"],
        most: 3,
        otel: ("tcplinger.walk.cpu", "s"),
        points: values::walk_cpu,
    },
    Family {
        name: "tcplinger_process_cpu_seconds",
        kind: Counter,
        unit: "seconds",
        help: "CPU time of the daemon, user and system, walks included.",
        otel: ("process.cpu.time", "s"),
        points: values::process_cpu,
        ..ONE
    },
    Family {
        name: "tcplinger_process_resident_memory_bytes",
        kind: Gauge,
        unit: "bytes",
        help: "Resident memory of the daemon, the ring buffer included.",
        otel: ("process.memory.usage", "By"),
        points: values::process_memory,
        ..ONE
    },
    Family {
        name: "tcplinger_process_open_fds",
        kind: Gauge,
        help: "Open descriptors of the daemon.",
        otel: ("process.unix.file_descriptor.count", "{file_descriptor}"),
        points: values::process_open_fds,
        ..ONE
    },
    Family {
        name: "tcplinger_process_max_fds",
        kind: Gauge,
        help: "Most descriptors that the daemon may open; +Inf without a limit.",
        otel: ("tcplinger.process.max_fds", "{file_descriptor}"),
        points: values::process_max_fds,
        ..ONE
    },
    Family {
        name: "tcplinger_process_threads",
        kind: Gauge,
        help: "Threads of the daemon.",
        otel: ("process.thread.count", "{thread}"),
        points: values::process_threads,
        ..ONE
    },
    Family {
        name: "tcplinger_process_start_time_seconds",
        kind: Gauge,
        unit: "seconds",
        help: "When the daemon started, since the epoch.",
        otel: ("tcplinger.process.start_time", "s"),
        points: values::process_start,
        ..ONE
    },
    Family {
        name: "tcplinger_program_run_seconds",
        kind: Counter,
        unit: "seconds",
        help: "Time spent in the program in the kernel; only while kernel.bpf_stats_enabled.",
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
        points: values::ring_bytes,
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
        help: "Requests answered, by the class of the status code.",
        labels: &["code"],
        most: 3,
        otel: ("tcplinger.http.requests", "{request}"),
        points: values::http_requests,
    },
    Family {
        name: "tcplinger_http_connections",
        kind: Gauge,
        help: "Connections of clients that are open now.",
        otel: ("tcplinger.http.connections", "{connection}"),
        points: values::http_connections,
        ..ONE
    },
    Family {
        name: "tcplinger_http_dropped_connections",
        kind: Counter,
        unit: "",
        help: "Connections ended by the daemon, by reason: too slow, no HTTP, no TLS, crowded (it made room for another); those that were silent for long aside.",
        labels: &["reason"],
        most: 4,
        otel: ("tcplinger.http.dropped_connections", "{connection}"),
        points: values::http_dropped,
    },
    Family {
        name: "tcplinger_log_lines_dropped",
        kind: Counter,
        help: "Lines of the log that were dropped: who reads the daemon's stderr is too slow, or gone.",
        otel: ("tcplinger.log_lines_dropped", "{line}"),
        points: values::log_dropped,
        ..ONE
    },
    Family {
        name: "tcplinger_exported",
        kind: Counter,
        unit: "",
        help: "What was pushed: metrics in exports, findings in notices.",
        labels: &["sink"],
        most: 4,
        otel: ("tcplinger.exported", "{item}"),
        points: values::exported,
    },
    Family {
        name: "tcplinger_export_dropped",
        kind: Counter,
        unit: "",
        help: "What could not be pushed and was dropped, likewise.",
        labels: &["sink"],
        most: 4,
        otel: ("tcplinger.export.dropped", "{item}"),
        points: values::export_dropped,
    },
    Family {
        name: "tcplinger_exposition_seconds",
        kind: Gauge,
        unit: "seconds",
        help: "Time that it took to write the last exposition.",
        otel: ("tcplinger.exposition.duration", "s"),
        points: values::exposition_time,
        ..ONE
    },
    Family {
        name: "tcplinger_exposition_bytes",
        kind: Gauge,
        unit: "bytes",
        help: "Size of the last exposition.",
        otel: ("tcplinger.exposition.size", "By"),
        points: values::exposition_size,
        ..ONE
    },
];
