use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::output::fixture::CLOCK;
use crate::tcp::{Process, State};
use crate::track::{Cause, Kind};

fn notice(event: Change, severity: Severity) -> Notice {
    let process = Process {
        pid: 42,
        comm: "sh\x1bop".to_owned(),
        exe: Some("/usr/bin/python3.11".to_owned()),
        uid: Some(33),
        unit: Some("shop.service".to_owned()),
        container: Some("c0ffee".to_owned()),
        pod: Some("2b1f-77".to_owned()),
        ..Process::default()
    };
    let owner = |fd| Owner {
        process: Arc::new(process.clone()),
        fd,
    };
    Notice {
        event,
        ktime_ns: 678_901_234,
        incident: Incident {
            rule: "default".to_owned(),
            local: Endpoint::Socket("192.0.2.1:8080".parse().unwrap()),
            remote: Endpoint::Socket("198.51.100.7:51234".parse().unwrap()),
            oldest_seconds: Some(61.5),
            netns_name: Some("sh\x1bop".to_owned()),
            owners: vec![owner(Some(17)), owner(None)],
            reason: "sh\x1bop has not called close()".to_owned(),
            ..Incident::new(
                Kind::Sockets {
                    cause: Cause::HalfClosed,
                    mptcp: false,
                },
                severity,
                State::FinWait2,
                7,
            )
        },
    }
}

fn record_of(notice: &Notice) -> LogRecord {
    record(notice, CLOCK, 5)
}

fn attributes_of(notice: &Notice) -> BTreeMap<String, Value> {
    let record = record_of(notice);
    let (length, all) = (record.attributes.len(), record.attributes.into_iter());
    let all: BTreeMap<_, _> = all
        .map(|it| (it.key, it.value.unwrap().value.unwrap()))
        .collect();
    assert_eq!(all.len(), length, "a key comes twice");
    all
}

fn text(value: &str) -> Value {
    Value::StringValue(value.to_owned())
}

#[test]
fn a_change_has_a_severity_a_name_and_a_time() {
    let (warning, critical) = (Severity::Warning, Severity::Critical);
    for (event, severity, number, words, name) in [
        (Change::Raised, warning, 13, "WARN", "raised"),
        (Change::Raised, critical, 17, "ERROR", "raised"),
        (Change::Worsened, critical, 17, "ERROR", "worsened"),
        (Change::Eased, warning, 9, "INFO", "eased"),
        (Change::Cleared, critical, 9, "INFO", "cleared"),
    ] {
        let record = record_of(&notice(event, severity));
        assert_eq!(record.severity_number, number);
        assert_eq!(record.severity_text, words);
        assert_eq!(record.event_name, format!("tcplinger.finding.{name}"));
        // 2026-01-02T03:04:05.678901234Z
        assert_eq!(record.time_unix_nano, 1_767_323_045_678_901_234);
        assert_eq!(record.observed_time_unix_nano, 5);
        let body = record.body.unwrap().value;
        assert_eq!(body, Some(text(r"sh\x1bop has not called close()")));
    }
}

#[test]
fn a_socket_has_conventional_names() {
    let all = attributes_of(&notice(Change::Raised, Severity::Warning));
    for (key, value) in [
        ("network.transport", text("tcp")),
        ("network.type", text("ipv4")),
        ("network.connection.state", text("fin_wait_2")),
        ("network.local.address", text("192.0.2.1")),
        ("network.local.port", Value::IntValue(8080)),
        ("network.peer.address", text("198.51.100.7")),
        ("network.peer.port", Value::IntValue(51234)),
        ("process.pid", Value::IntValue(42)),
        ("process.executable.name", text("python3.11")),
        ("process.user.id", Value::IntValue(33)),
        ("container.id", text("c0ffee")),
        ("k8s.pod.uid", text("2b1f-77")),
        ("tcplinger.comm", text(r"sh\x1bop")),
        ("tcplinger.unit", text("shop.service")),
        ("tcplinger.fd", Value::IntValue(17)),
        ("tcplinger.severity", text("warning")),
        ("tcplinger.state", text("fin_wait2")),
        ("tcplinger.kind", text("sockets")),
        ("tcplinger.oldest_seconds", Value::DoubleValue(61.5)),
        ("tcplinger.netns_name", text(r"sh\x1bop")),
        ("tcplinger.owners", Value::IntValue(2)),
    ] {
        assert_eq!(all.get(key), Some(&value), "{key}");
    }
}

#[test]
fn a_group_has_no_ends_and_no_owner() {
    let all = attributes_of(&Notice {
        incident: Incident {
            rule: "default".to_owned(),
            local: Endpoint::Port(8080),
            ..Incident::new(Kind::Leak, Severity::Warning, State::CloseWait, 7)
        },
        ..notice(Change::Raised, Severity::Warning)
    });
    assert_eq!(all["network.local.port"], Value::IntValue(8080));
    for absent in [
        "network.type",
        "network.local.address",
        "network.peer.port",
        "process.pid",
        "tcplinger.netns_name",
    ] {
        assert_eq!(all.get(absent), None, "{absent}");
    }
}

/// Those of the conventions' own list.
#[test]
fn every_state_has_a_conventional_name() {
    const LISTED: [&str; 11] = [
        "closed",
        "close_wait",
        "closing",
        "established",
        "fin_wait_1",
        "fin_wait_2",
        "last_ack",
        "listen",
        "syn_received",
        "syn_sent",
        "time_wait",
    ];
    for state in State::ALL {
        assert!(LISTED.contains(&conventional(state)), "{state}");
    }
}
