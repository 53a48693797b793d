//! A server of its own, a client for it, and something to publish.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::admission::Admission;
use super::super::{Server, listen};
use crate::clock::monotonic;
use crate::publish::shared::Shared;
use crate::tcp::{Counts, State};
use crate::track::stuck::Severity;
use crate::track::{
    Change, Incident, NamespaceSummary, Notice, Outlets, OwnerName, Sample, Stuck, Summary,
    TopOwners,
};

/// A server on a port of its own.
pub(super) struct Running {
    server: Server,
    pub(super) shared: Arc<Shared>,
    address: SocketAddr,
}

pub(super) struct Answer {
    pub(super) status: u16,
    /// In lower case.
    pub(super) head: String,
    pub(super) body: String,
}

impl Running {
    pub(super) fn new() -> Self {
        let shared = Arc::new(Shared::new());
        let listener = listen::open("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let admission = Admission::new(None, None, Instant::now()).unwrap();
        let server = Server::serve(
            vec![(listener, address)],
            admission,
            None,
            &shared,
            Vec::new(),
        );
        Self {
            server: server.unwrap(),
            shared,
            address,
        }
    }

    pub(super) fn with_sample() -> Self {
        let running = Self::new();
        running.shared.publish(sample());
        running
    }

    pub(super) fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        // Shorter than the silence of an event stream.
        let patience = Some(Duration::from_secs(12));
        client.set_read_timeout(patience).unwrap();
        client
    }

    /// An event stream, of which something has come.
    pub(super) fn events(&self) -> TcpStream {
        let mut client = self.connect();
        let request = local("GET", "/api/v1/events", "");
        client.write_all(request.as_bytes()).unwrap();
        assert!(client.read(&mut [0; 8 << 10]).unwrap() > 0);
        client
    }

    /// Sends a request as it is; its answer, up to the end of the connection.
    pub(super) fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect();
        client.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole answer");
        Answer {
            status: head.get(9..12).unwrap().parse().unwrap(),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    pub(super) fn get(&self, path: &str) -> Answer {
        self.ask(&local("GET", path, ""))
    }

    pub(super) fn outlets(&self) -> Outlets {
        self.shared.tallies.outlets()
    }

    pub(super) fn wait_until(&self, is_so: impl Fn(&Outlets) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(15);
        while !is_so(&self.outlets()) {
            assert!(Instant::now() < deadline, "{:?}", self.outlets());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the server.
    pub(super) fn end(self) -> Arc<Shared> {
        drop(self.server);
        self.shared
    }
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The first of this name; empty without one.
    pub(super) fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines();
        let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.unwrap_or_default()
    }
}

/// A request of a client on this host, for one answer.
pub(super) fn local(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
}

fn counts(of: &[(State, u64)]) -> Counts {
    let mut counts = Counts::default();
    for (state, sockets) in of {
        counts.set(*state, *sockets);
    }
    counts
}

/// Sockets of a process with a hostile name.
pub(super) fn incident(severity: &str, oldest_seconds: f64) -> Incident {
    let form = json!({
        "kind": "sockets", "cause": "not_closed", "mptcp": false, "severity": severity,
        "rule": "default", "state": "close_wait", "netns": 7, "netns_name": null,
        "whose": {"process": 9}, "sockets": 3, "oldest_seconds": oldest_seconds,
        "age_is_lower_bound": false, "rate_per_second": null, "exhausted_in_seconds": null,
        "local": "*:80", "remote": "*", "recv_queue_bytes": 1, "send_queue_bytes": 0,
        "retransmits": 0, "is_orphaned": false,
        "owners": [{"pid": 9, "comm": HOSTILE, "fd": 3, "uid": 0, "open_files": 1, "file_limit": 2}],
        "reason": "it waits", "advice": "close it", "examples": []
    });
    serde_json::from_value(form).unwrap()
}

/// A name that ends a script, a line, an event, and colours a terminal.
pub(super) const HOSTILE: &str = "</script>\n\ndata: \u{1b}[31m\u{2028}\u{202e}";

pub(super) fn notice(event: Change) -> Notice {
    Notice {
        event,
        ktime_ns: 1_000_000_000,
        incident: incident("warning", 61.0),
    }
}

pub(super) fn sample() -> Sample {
    let taken = monotonic();
    let looked_at = taken.checked_sub(Duration::from_secs(2)).unwrap();
    let closed_at = taken.checked_sub(Duration::from_millis(61_500)).unwrap();
    let stuck = [
        (State::CloseWait, Severity::Warning, 3),
        (State::FinWait1, Severity::Critical, 1),
    ];
    let stuck = stuck.map(|(state, severity, sockets)| ((7, state, severity), sockets));
    Sample {
        taken,
        realtime_minus_monotonic_ns: 1_767_323_045_000_000_000,
        summary: Summary {
            namespaces: vec![NamespaceSummary {
                netns: 7,
                name: Some("host".to_owned()),
                ipv4: counts(&[(State::Established, 2), (State::CloseWait, 3)]),
                ipv6: counts(&[(State::FinWait1, 1)]),
                ..NamespaceSummary::default()
            }],
            ..Summary::default()
        },
        oldest_since: BTreeMap::from([(State::CloseWait, closed_at)]),
        stuck: Stuck {
            sockets: BTreeMap::from(stuck),
            raised: vec![
                (incident("critical", 5.0), taken),
                (incident("warning", 61.0), looked_at),
            ]
            .into(),
            ..Stuck::default()
        },
        owners: Arc::new(TopOwners {
            taken: Some(taken),
            leaders: vec![
                (
                    OwnerName::Unit("nginx.service".to_owned()),
                    counts(&[(State::Established, 5)]),
                ),
                (
                    OwnerName::Process(HOSTILE.to_owned()),
                    counts(&[(State::CloseWait, 4)]),
                ),
            ],
            other: counts(&[(State::Listen, 2)]),
            nobody: counts(&[(State::TimeWait, 9)]),
        }),
        ..Sample::default()
    }
}
