//! What `events` tells of a connection.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::socket::{Pair, listen_in, read_end, reset};
use crate::harness::{
    Daemon, EventStream, Netns, PATIENCE, V4, V6, Veth, eventually, output, tcplinger,
};

/// Each socket's transitions in order, as `from>to`, with the events themselves.
fn by_socket(events: Vec<Value>) -> BTreeMap<String, Vec<Value>> {
    let mut sockets = BTreeMap::<u64, Vec<Value>>::new();
    for event in events {
        sockets
            .entry(event["cookie"].as_u64().unwrap())
            .or_default()
            .push(event);
    }
    let name = |events: &[Value]| events[0]["to"].as_str().unwrap().to_owned();
    sockets
        .into_values()
        .map(|events| (name(&events), events))
        .collect()
}

fn path(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["to"].as_str().unwrap())
        .collect()
}

fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

#[test]
fn both_ends_of_a_connection() {
    for (family, address, host) in [(V4, "127.0.0.1:0", "127.0.0.1"), (V6, "[::1]:0", "[::1]")] {
        let netns = Netns::new();
        let stream = EventStream::of(&netns, "--format json");
        let listener = listen_in(&netns, address);
        let port = port_of(&listener);
        let start = Instant::now();
        let Pair { client, mut server } = Pair::new(&netns, &listener);
        let client_port = client.local_addr().unwrap().port();
        thread::sleep(Duration::from_millis(60));
        let lasted = start.elapsed();
        drop(client);
        read_end(&mut server);
        drop((server, listener));

        let events = stream.of_port(port, 12);
        for event in &events {
            assert_ne!(
                event["to"], "time_wait",
                "the kernel never says so: {event}"
            );
            assert_eq!(event["netns"], netns.inode());
            assert_eq!(event["family"], family);
            assert!(
                is_rfc3339_with_nanoseconds(event["time"].as_str().unwrap()),
                "{event}"
            );
        }
        let sockets = by_socket(events);
        let (client, server) = (&sockets["syn_sent"], &sockets["syn_recv"]);
        assert_eq!(path(&sockets["listen"]), ["listen", "close"]);
        assert_eq!(
            path(client),
            ["syn_sent", "established", "fin_wait1", "fin_wait2", "close"]
        );
        assert_eq!(
            path(server),
            ["syn_recv", "established", "close_wait", "last_ack", "close"]
        );
        for events in sockets.values() {
            assert_consistent(events);
        }

        let closed = client.last().unwrap();
        assert_eq!(closed["local"], format!("{host}:{client_port}"));
        assert_eq!(closed["remote"], format!("{host}:{port}"));
        assert_eq!(closed["continues_as"], "time_wait");
        assert_eq!(closed["inferred"], true);
        for event in client[..4].iter().chain(server).chain(&sockets["listen"]) {
            assert!(event["continues_as"].is_null(), "{event}");
        }
        let established = client[2]["after_seconds"].as_f64().unwrap();
        assert!(
            (0.06..lasted.as_secs_f64() + 0.05).contains(&established),
            "{established}"
        );
    }
}

/// A socket's events follow each other, with durations wherever its earlier state is known and the
/// owner only where the owner was at work.
fn assert_consistent(events: &[Value]) {
    let owner = u64::from(process::id());
    assert!(
        events[0]["after_seconds"].is_null(),
        "nobody saw it before: {}",
        events[0]
    );
    for pair in events.windows(2) {
        assert_eq!(pair[0]["to"], pair[1]["from"]);
        assert!(pair[0]["time"].as_str() <= pair[1]["time"].as_str());
        assert!(
            pair[1]["after_seconds"]
                .as_f64()
                .is_some_and(|age| age >= 0.0),
            "{}",
            pair[1]
        );
    }
    for event in events {
        match event["to"].as_str().unwrap() {
            "syn_sent" | "listen" | "fin_wait1" | "last_ack" => {
                assert_eq!(event["pid"], owner, "{event}");
                assert!(event["comm"].is_string(), "{event}");
            }
            "syn_recv" | "established" | "close_wait" | "fin_wait2" => {
                assert!(event["pid"].is_null() && event["comm"].is_null(), "{event}");
            }
            _ => {}
        }
    }
}

fn is_rfc3339_with_nanoseconds(time: &str) -> bool {
    let shape: String = time
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    shape == "0000-00-00T00:00:00.000000000Z"
}

#[test]
fn a_reset_continues_as_nothing() {
    let netns = Netns::new();
    let stream = EventStream::of(&netns, "--format json");
    let listener = listen_in(&netns, "127.0.0.1:0");
    let Pair { client, server } = Pair::new(&netns, &listener);
    reset(client);
    let events = stream.of_port(port_of(&listener), 7);
    for (_, events) in by_socket(events) {
        let last = events.last().unwrap();
        assert!(last["continues_as"].is_null(), "{last}");
        assert!(
            matches!(last["to"].as_str(), Some("listen" | "close")),
            "{last}"
        );
    }
    drop(server);
}

#[test]
fn the_age_of_an_older_socket_is_not_made_up() {
    let netns = Netns::new();
    let listener = listen_in(&netns, "127.0.0.1:0");
    let Pair { client, server } = Pair::new(&netns, &listener);
    let stream = EventStream::of(&netns, "--format json");
    drop(client);
    let events = stream.of_port(port_of(&listener), 3);
    for (_, events) in by_socket(events) {
        assert_eq!(events[0]["from"], "established");
        assert!(events[0]["after_seconds"].is_null(), "{}", events[0]);
    }
    drop(server);
}

#[test]
fn an_orphan_continues_as_fin_wait2() {
    // Over a wire the acknowledgement may come after close(), or during it: both count.
    let wire = Veth::new();
    let stream = EventStream::of(&wire.left, "--format json");
    let listener = listen_in(&wire.right, Veth::RIGHT[0]);
    let Pair { client, server } = Pair::new(&wire.left, &listener);
    drop(client);
    wire.left.settle(&[(V4, "FIN-WAIT-2", 1)]);
    let events = stream.of_port(port_of(&listener), 5);
    let closed = events.last().unwrap();
    assert_eq!(
        path(&events),
        ["syn_sent", "established", "fin_wait1", "fin_wait2", "close"]
    );
    assert_eq!(closed["continues_as"], "fin_wait2");
    assert_eq!(closed["inferred"], true);
    drop(server);
}

#[test]
fn count_duration_and_state_end_and_narrow_the_stream() {
    let netns = Netns::new();
    let inode = netns.inode();
    let quiet = output(&mut tcplinger(&format!(
        "events --netns {inode} --duration 300ms --format json"
    )));
    assert!(quiet.status.success() && quiet.stdout.is_empty());

    let mut events = tcplinger(&format!(
        "events --netns {inode} --format json --state close_wait --count 2"
    ))
    .stdout(process::Stdio::piped())
    .spawn()
    .unwrap();
    let listener = listen_in(&netns, "127.0.0.1:0");
    let ended = eventually(PATIENCE, || {
        drop(Pair::new(&netns, &listener));
        events.try_wait().unwrap()
    });
    let _ = events.kill();
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
    let stdout = events.wait_with_output().unwrap().stdout;
    let lines = String::from_utf8(stdout).unwrap();
    assert_eq!(lines.lines().count(), 2, "{lines}");
    for line in lines.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert!(
            event["from"] == "close_wait" || event["to"] == "close_wait",
            "{event}"
        );
    }
}

/// A command name may hold anything but a NUL: colours, bells, line breaks.
#[test]
fn hostile_command_names_stay_harmless() {
    const NAME: &str = "\x1b[31mXX\n\r\x07YY";
    let netns = Netns::new();
    let daemon = Daemon::with("--transitions");
    let json = EventStream::of(&netns, "--format json");
    let text = EventStream::of(&netns, "--format text");
    let listener = netns.enter(|| {
        let name = std::ffi::CString::new(NAME).unwrap();
        rustix::thread::set_name(&name).unwrap();
        TcpListener::bind("127.0.0.1:0").unwrap()
    });

    let events = json.of_port(port_of(&listener), 1);
    assert_eq!(events[0]["comm"], NAME);
    let told = eventually(PATIENCE, || {
        let lines = [
            json.lines(),
            text.lines(),
            daemon.log().lines().map(str::to_owned).collect(),
        ];
        let is_whole = |line: &&String| line.contains("XX") && line.contains("YY");
        let has_it = lines
            .iter()
            .all(|lines| lines.iter().find(is_whole).is_some());
        has_it.then(|| lines.concat())
    });
    let told = told.unwrap_or_else(|| panic!("text: {:#?}\n{}", text.lines(), daemon.log()));
    for line in told {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}
