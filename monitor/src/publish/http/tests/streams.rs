//! Server-sent events.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use super::fixture::{HOSTILE, Running, local, notice, sample};
use crate::track::Change;
use crate::track::Sink;

/// An open stream.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(running: &Running) -> Self {
        let mut client = running.connect();
        let request = local("GET", "/api/v1/events", "Accept: text/event-stream\r\n");
        client.write_all(request.as_bytes()).unwrap();
        let mut stream = Self(BufReader::new(client));
        assert_eq!(stream.line(), "HTTP/1.1 200 OK");
        while !stream.line().is_empty() {}
        stream
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The next event of any name, between the sizes of chunks.
    fn next(&mut self) -> (String, Value) {
        let mut name = None;
        loop {
            let line = self.line();
            if let Some(event) = line.strip_prefix("event: ") {
                name = Some(event.to_owned());
            } else if let Some(data) = line.strip_prefix("data: ") {
                let data = serde_json::from_str(data).unwrap();
                return (name.expect("the name comes first"), data);
            }
        }
    }

    fn next_of(&mut self, wanted: &str) -> Value {
        loop {
            let (name, data) = self.next();
            if name == wanted {
                return data;
            }
        }
    }
}

#[test]
fn status_comes_at_once_and_with_every_sample() {
    let running = Running::with_sample();
    let mut stream = Stream::open(&running);
    let (name, first) = stream.next();
    assert_eq!(name, "status");
    assert_eq!(first, running.get("/api/v1/status").json());
    running.shared.publish(sample());
    let second = stream.next_of("status");
    assert_ne!(first["taken"], second["taken"]);
    assert_eq!(first["sockets"], second["sockets"]);
}

#[test]
fn findings_come_as_they_change() {
    let running = Running::with_sample();
    let mut stream = Stream::open(&running);
    stream.next();
    running
        .shared
        .announce([notice(Change::Raised), notice(Change::Cleared)].iter());
    for event in ["raised", "cleared"] {
        let told = stream.next_of("finding");
        assert_eq!(told["event"], event);
        assert_eq!(told["rule"], "default");
        assert_eq!(told["owners"][0]["comm"], HOSTILE);
        assert!(told["time"].as_str().unwrap().starts_with("2026-"));
    }
    assert_eq!(running.outlets().exported[Sink::Events as usize], 2);
}

/// A client is told of each finding, or that it missed it.
#[test]
fn who_is_slow_is_told_what_it_missed() {
    const NOTICES: usize = 20_000;
    let running = Running::with_sample();
    let mut stream = Stream::open(&running);
    stream.next();
    let notices = vec![notice(Change::Raised); NOTICES];
    running.shared.announce(notices.iter());
    let (mut told, mut missed) = (0, 0);
    while told + missed < NOTICES as u64 {
        match stream.next() {
            (name, _) if name == "finding" => told += 1,
            (name, data) if name == "missed" => missed += data["missed"].as_u64().unwrap(),
            _ => {}
        }
    }
    assert!(missed > 0);
    let outlets = running.outlets();
    assert_eq!(outlets.exported[Sink::Events as usize], told);
    assert_eq!(outlets.export_dropped[Sink::Events as usize], missed);
}

#[test]
fn streams_are_limited_and_places_are_given_back() {
    let running = Running::with_sample();
    let mut streams: Vec<Stream> = (0..32).map(|_| Stream::open(&running)).collect();
    let refused = running.get("/api/v1/events");
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), "1");
    // Others are answered all the same.
    assert_eq!(running.get("/metrics").status, 200);
    drop(streams.pop());
    running.wait_until(|outlets| outlets.http_connections <= 31);
    Stream::open(&running).next();
}
