//! The forms of the API.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::fixture::{HOSTILE, Running, sample};
use crate::output::json::write_status;
use crate::track::TopOwners;

fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().expect("an object");
    object.keys().map(String::as_str).collect()
}

#[test]
fn status_is_that_of_the_verb_and_more() {
    let running = Running::with_sample();
    let answer = running.get("/api/v1/status");
    assert_eq!(answer.header("content-type"), "application/json");
    let status = answer.json();
    let mut verb = Vec::new();
    write_status(&mut verb, &running.shared.latest().unwrap().summary).unwrap();
    let verb: Value = serde_json::from_slice(&verb).unwrap();
    for key in keys(&verb) {
        assert_eq!(status[key], verb[key], "{key}");
    }
    let taken = status["taken"].as_str().unwrap();
    assert!(
        taken.starts_with("2026-") && taken.ends_with('Z'),
        "{taken}"
    );
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["in_doubt"], false);
    assert!(!status["host"].as_str().unwrap().is_empty());
    assert_eq!(
        status["stuck"],
        json!({"warning": 3, "critical": 1, "incidents": 2, "critical_incidents": 1})
    );
    let oldest = &status["oldest_seconds"];
    assert_eq!(oldest["close_wait"], 61.5);
    assert_eq!(keys(oldest).len(), 7);
    assert!(oldest["fin_wait2"].is_null());
}

#[test]
fn stuck_has_the_order_of_the_incidents_and_ages_of_now() {
    let stuck = Running::with_sample().get("/api/v1/stuck").json();
    let incidents = stuck["incidents"].as_array().unwrap();
    let told = incidents.iter().map(|incident| {
        let oldest = incident["oldest_seconds"].as_f64().unwrap();
        (incident["severity"].as_str().unwrap(), oldest)
    });
    let expected = [("critical", 5.0), ("warning", 63.0)];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    assert_eq!(incidents[0]["owners"][0]["comm"], HOSTILE);
    assert_eq!(incidents[0]["kind"], "sockets");
    assert!(incidents[0]["owners"][0]["unit"].is_null());
}

#[test]
fn owners_are_the_leaders_and_the_rest() {
    let answer = Running::with_sample().get("/api/v1/owners");
    for raw in ["\u{1b}", "\u{2028}", "\u{202e}"] {
        assert!(!answer.body.contains(raw), "{}", answer.body);
    }
    let owners = answer.json();
    let rows = owners["owners"].as_array().unwrap().iter();
    let rows: Vec<Value> = rows
        .map(|row| json!([row["kind"], row["owner"], row["total"]]))
        .collect();
    let expected = json!([
        ["unit", "nginx.service", 5],
        ["process", HOSTILE, 4],
        ["other", null, 2],
        ["nobody", null, 9]
    ]);
    assert_eq!(json!(rows), expected);
    assert_eq!(owners["owners"][0]["sockets"]["established"], 5);
    assert_eq!(keys(&owners["owners"][0]["sockets"]).len(), 12);
}

#[test]
fn owners_are_as_old_as_the_look_at_them() {
    let running = Running::with_sample();
    let with = |taken| {
        let mut sample = sample();
        let owners = TopOwners {
            taken,
            ..TopOwners::default()
        };
        sample.owners = Arc::new(owners);
        running.shared.publish(sample);
        running.get("/api/v1/owners").json()
    };
    let nothing = with(None);
    assert_eq!(
        (&nothing["taken"], &nothing["owners"]),
        (&Value::Null, &json!([]))
    );
    // 25 s after the wall clock of the sample begins.
    let looked_at = with(Some(Duration::from_secs(25)));
    assert_eq!(looked_at["taken"], "2026-01-02T03:04:30.000000000Z");
    assert_eq!(looked_at["owners"].as_array().unwrap().len(), 2);
}

#[test]
fn ports_are_those_of_the_verb() {
    let ports = Running::with_sample().get("/api/v1/ports").json();
    assert_eq!(keys(&ports), ["buckets", "ports", "taken"]);
}

#[test]
fn history_has_times_and_as_many_counts() {
    let running = Running::with_sample();
    let mut history = Value::Null;
    for _ in 0..100 {
        // The server takes it in its own time, and keeps what it has said of a sample.
        running.shared.publish(sample());
        thread::sleep(Duration::from_millis(20));
        history = running.get("/api/v1/history").json();
        if history["times"] != json!([]) {
            break;
        }
    }
    assert_eq!(history["step_seconds"], 5);
    let times = history["times"].as_array().unwrap();
    assert_eq!(times[0].as_u64().unwrap() % 5, 0);
    assert_eq!(keys(&history["states"]).len(), 12);
    assert_eq!(history["states"]["close_wait"], json!(vec![3; times.len()]));
}

/// A thousand scrapes of one sample cost one exposition.
#[test]
fn an_exposition_is_written_once_a_sample() {
    let running = Running::with_sample();
    let first = running.get("/metrics");
    assert!(
        first
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    assert_eq!(first.header("vary"), "accept");
    let written = running.outlets().exposition_time;
    assert!(written > Duration::ZERO);
    assert_eq!(running.outlets().exposition_bytes, first.body.len() as u64);
    for _ in 0..20 {
        assert_eq!(running.get("/metrics").body, first.body);
    }
    assert_eq!(running.outlets().exposition_time, written, "written anew");
    let mut next = sample();
    next.summary.namespaces[0]
        .ipv4
        .add(crate::tcp::State::Listen, 77);
    running.shared.publish(next);
    assert_ne!(running.get("/metrics").body, first.body);
    assert_eq!(Arc::strong_count(&running.shared.latest().unwrap()), 3);
}
