//! What a sample has for each family. What has no leaders is always there, zero included.

use std::collections::BTreeMap;
use std::time::Duration;

use super::label::label;
use super::{Exposed, Point, Points, Value};
use crate::output::Clock;
use crate::tcp::{Counts, State};
use crate::track::phrase::real;
use crate::track::stuck::Severity;
use crate::track::{Activity, Failure, Incident, Kind, Reason, Side, Sink};

/// Those of what is stuck.
pub(super) const SEVERITIES: [Severity; 2] = [Severity::Warning, Severity::Critical];

/// Transitions that Linux 6.18 knows: the callers of `tcp_set_state()`, `inet_sk_set_state()` and
/// `inet_sk_state_store()` in `net/ipv4`, all of which announce them. A `close()` after a
/// `shutdown()` announces the state that the socket is in already (`tcp_close_state()` in `tcp.c`).
const TRANSITIONS: [(State, State); 26] = [
    // tcp_v4_connect(), tcp_v6_connect()
    (State::Close, State::SynSent),
    // inet_csk_listen_start()
    (State::Close, State::Listen),
    // tcp_finish_connect()
    (State::SynSent, State::Established),
    // tcp_rcv_synsent_state_process(): both sides connect at once
    (State::SynSent, State::SynRecv),
    (State::SynSent, State::Close),
    // inet_csk_clone_lock()
    (State::Listen, State::SynRecv),
    (State::Listen, State::Close),
    // tcp_rcv_state_process()
    (State::SynRecv, State::Established),
    (State::SynRecv, State::FinWait1),
    // tcp_fin(): data came with the handshake (Fast Open)
    (State::SynRecv, State::CloseWait),
    (State::SynRecv, State::Close),
    // tcp_close_state(), also from shutdown()
    (State::Established, State::FinWait1),
    // tcp_fin()
    (State::Established, State::CloseWait),
    (State::Established, State::Close),
    (State::FinWait1, State::FinWait1),
    // tcp_rcv_state_process()
    (State::FinWait1, State::FinWait2),
    // tcp_fin()
    (State::FinWait1, State::Closing),
    (State::FinWait1, State::Close),
    (State::FinWait2, State::FinWait2),
    // tcp_time_wait(), and what ends a connection at once
    (State::FinWait2, State::Close),
    (State::CloseWait, State::LastAck),
    (State::CloseWait, State::Close),
    (State::LastAck, State::LastAck),
    (State::LastAck, State::Close),
    (State::Closing, State::Closing),
    (State::Closing, State::Close),
];

/// What is not told apart.
pub(super) const OTHER: &str = "other";

pub(super) fn put<const N: usize>(points: &mut Points, labels: [&str; N], value: impl Into<Value>) {
    points.push(Point {
        labels: labels.into_iter().map(label).collect(),
        value: value.into(),
    });
}

pub(in crate::output) const fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::None => "none",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

pub(super) fn sockets(of: &Exposed<'_>, points: &mut Points) {
    let (mut ipv4, mut ipv6) = (Counts::default(), Counts::default());
    for namespace in &of.sample.summary.namespaces {
        ipv4 += namespace.ipv4;
        ipv6 += namespace.ipv6;
    }
    for (family, counts) in [("ipv4", ipv4), ("ipv6", ipv6)] {
        for (state, sockets) in counts.iter() {
            // What nobody can tell has no series, and no zero.
            if let Some(sockets) = sockets {
                put(points, [state.name(), family], sockets);
            }
        }
    }
}

pub(super) fn mptcp(of: &Exposed<'_>, points: &mut Points) {
    for (state, sockets) in of.sample.summary.mptcp().iter() {
        if let Some(sockets) = sockets {
            put(points, [state.name()], sockets);
        }
    }
}

pub(super) fn transitions(of: &Exposed<'_>, points: &mut Points) {
    let mut rest = of.sample.transitions;
    for (from, to) in TRANSITIONS {
        let row = rest.get_mut(from as usize);
        let count = row.and_then(|row| row.get_mut(to as usize));
        let count = count.map(std::mem::take).unwrap_or_default();
        put(points, [from.name(), to.name()], count);
    }
    let rest: u64 = rest.iter().flatten().sum();
    put(points, [OTHER, OTHER], rest);
}

pub(super) fn durations(of: &Exposed<'_>, points: &mut Points) {
    for (state, histogram) in of.sample.activity.durations() {
        put(points, [state.name()], histogram);
    }
}

pub(super) fn opened(of: &Exposed<'_>, points: &mut Points) {
    for side in Side::ALL {
        put(points, [side.name()], of.sample.activity.opened(side));
    }
}

pub(super) fn closed(of: &Exposed<'_>, points: &mut Points) {
    for reason in Reason::ALL {
        put(points, [reason.name()], of.sample.activity.closed(reason));
    }
}

pub(super) fn failed(of: &Exposed<'_>, points: &mut Points) {
    let activity: &Activity = &of.sample.activity;
    for side in Side::ALL {
        for failure in Failure::ALL {
            let failed = activity.failed(side, failure);
            put(points, [side.name(), failure.name()], failed);
        }
    }
}

/// Those without a verdict are the others of the state, so that all of them add up.
pub(super) fn lingering(of: &Exposed<'_>, points: &mut Points) {
    let counts = of.sample.summary.sockets();
    let mut stuck = BTreeMap::<(State, Severity), u64>::new();
    for ((_, state, severity), sockets) in &of.sample.stuck.sockets {
        *stuck.entry((*state, *severity)).or_default() += sockets;
    }
    for state in State::LINGERING {
        let [warning, critical] = SEVERITIES.map(|severity| {
            let sockets = stuck.get(&(state, severity));
            sockets.copied().unwrap_or_default()
        });
        let rest = counts.get(state).saturating_sub(warning + critical);
        for (severity, sockets) in [("none", rest), ("warning", warning), ("critical", critical)] {
            put(points, [state.name(), severity], sockets);
        }
    }
}

pub(super) fn oldest(of: &Exposed<'_>, points: &mut Points) {
    for state in State::LINGERING {
        let age = of.sample.oldest(state).unwrap_or_default();
        put(points, [state.name()], age);
    }
}

pub(super) fn findings(of: &Exposed<'_>, points: &mut Points) {
    for kind in Kind::NAMES {
        for severity in SEVERITIES {
            let is_its = |(incident, _): &&(Incident, Duration)| {
                incident.kind.name() == kind && incident.severity == severity
            };
            let count = of.sample.stuck.raised.iter().filter(is_its).count();
            put(points, [kind, severity_name(severity)], count as u64);
        }
    }
}

pub(super) fn findings_raised(of: &Exposed<'_>, points: &mut Points) {
    for kind in Kind::NAMES {
        let raised = of.sample.stuck.raised_so_far.get(kind);
        put(points, [kind], raised.copied().unwrap_or_default());
    }
}

pub(super) fn ports_max_ratio(of: &Exposed<'_>, points: &mut Points) {
    let shares = of.sample.ports.ports.iter().map(|port| port.used_ratio);
    put(points, [], shares.fold(0.0, f64::max));
}

/// None before the first audit: zeros would be untrue.
pub(super) fn audit_differences(of: &Exposed<'_>, points: &mut Points) {
    let Some(differences) = of.sample.checked.differences() else {
        return;
    };
    for (state, difference) in State::ALL.into_iter().zip(differences) {
        let size = real(difference.unsigned_abs());
        let signed = if difference < 0 { -size } else { size };
        put(points, [state.name()], signed);
    }
}

pub(super) fn uncertain(of: &Exposed<'_>, points: &mut Points) {
    for state in [State::FinWait2, State::TimeWait, State::NewSynRecv] {
        put(points, [state.name()], of.sample.summary.uncertain(state));
    }
}

pub(super) fn namespaces_in_doubt(of: &Exposed<'_>, points: &mut Points) {
    let namespaces = u64::try_from(of.sample.summary.in_doubt()).unwrap_or(u64::MAX);
    put(points, [], namespaces);
}

pub(super) fn untracked(of: &Exposed<'_>, points: &mut Points) {
    put(points, ["sockets"], of.sample.cost.untracked);
}

pub(super) fn doubt(of: &Exposed<'_>, points: &mut Points) {
    put(points, [], u64::from(of.sample.is_in_doubt));
}

pub(super) fn taken(of: &Exposed<'_>, points: &mut Points) {
    let taken = Clock::wall_of(of.sample, of.sample.taken);
    put(points, [], taken.as_duration().as_secs_f64());
}

pub(super) fn walk_cpu(of: &Exposed<'_>, points: &mut Points) {
    for (purpose, time) in ["counts", "verdicts", "owners"]
        .iter()
        .zip(of.sample.cost.walks)
    {
        put(points, [purpose], time);
    }
}

pub(super) fn process_max_fds(of: &Exposed<'_>, points: &mut Points) {
    put(
        points,
        [],
        of.sample.cost.max_fds.map_or(f64::INFINITY, real),
    );
}

pub(super) fn program_time(of: &Exposed<'_>, points: &mut Points) {
    if let Some((time, _)) = of.sample.cost.program {
        put(points, [], time);
    }
}

pub(super) fn program_runs(of: &Exposed<'_>, points: &mut Points) {
    if let Some((_, runs)) = of.sample.cost.program {
        put(points, [], runs);
    }
}

pub(super) fn build(of: &Exposed<'_>, points: &mut Points) {
    let host = rustix::system::uname();
    let kernel = host.release().to_string_lossy();
    let version = env!("CARGO_PKG_VERSION");
    put(points, [version, of.sample.cost.attached, &kernel], 1);
}

pub(super) fn http_requests(of: &Exposed<'_>, points: &mut Points) {
    for (code, requests) in ["2xx", "4xx", "5xx"].iter().zip(of.outlets.http_requests) {
        put(points, [code], requests);
    }
}

pub(super) fn http_dropped(of: &Exposed<'_>, points: &mut Points) {
    let reasons = ["too_slow", "no_http", "no_tls", "crowded"];
    for (reason, connections) in reasons.iter().zip(of.outlets.http_dropped) {
        put(points, [reason], connections);
    }
}

pub(super) fn exported(of: &Exposed<'_>, points: &mut Points) {
    for (sink, count) in Sink::ALL.into_iter().zip(of.outlets.exported) {
        put(points, [sink.name()], count);
    }
}

pub(super) fn export_dropped(of: &Exposed<'_>, points: &mut Points) {
    for (sink, count) in Sink::ALL.into_iter().zip(of.outlets.export_dropped) {
        put(points, [sink.name()], count);
    }
}
