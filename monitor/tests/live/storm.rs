//! Clients of the HTTP server at their worst, and the stream at its fullest: nothing is lost, and
//! who asks in good order is answered.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, listen, shutdown};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use crate::harness::http::{connect, get};
use crate::harness::socket::reset;
use crate::harness::{Alone, Daemon, Netns, PATIENCE, eventually};

const STORM: Duration = Duration::from_secs(8);
const SCRAPES: usize = 1_000;
const SLOW: usize = 200;
/// Transitions a second, as many as a machine with two cores may have, and the default ring for them.
/// An unoptimized daemon takes in fewer, and gets more room.
const RATE: u32 = if cfg!(debug_assertions) {
    50_000
} else {
    400_000
};
const RING: &str = if cfg!(debug_assertions) {
    "64MiB"
} else {
    "8MiB"
};

/// Listens and stops listening on one socket: two transitions a turn, and hardly any work beside
/// them. At a steady rate, by the clock: what a busy machine delays is made up for.
fn toggle(is_over: &AtomicBool, per_second: u32) {
    const TURNS: u32 = 100;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let start = Instant::now();
    let mut made = 0;
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..TURNS {
            shutdown(&socket, Shutdown::Read).unwrap();
            listen(&socket, 1).unwrap();
        }
        made += 2 * TURNS;
        let due = Duration::from_secs(1) * made / per_second;
        thread::sleep(due.saturating_sub(start.elapsed()));
    }
}

/// Connections that are opened, accepted and reset, one after the other.
fn churn(is_over: &AtomicBool) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    while !is_over.load(Ordering::Relaxed) {
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        reset(client);
        drop(server);
        thread::sleep(Duration::from_micros(200));
    }
}

/// Clients that send a header of which there is no end, a byte a second; who is dropped comes again.
fn crawl(is_over: &AtomicBool, daemon: &Daemon) {
    let begin = || {
        let mut client = connect(daemon);
        let _ = client.write_all(b"GET /metrics HTTP/1.1\r\nX: ");
        client
    };
    let mut clients: Vec<TcpStream> = (0..SLOW).map(|_| begin()).collect();
    while !is_over.load(Ordering::Relaxed) {
        for client in &mut clients {
            if client.write_all(b"x").is_err() {
                *client = begin();
            }
        }
        thread::sleep(Duration::from_secs(1));
    }
}

/// Clients that speak no HTTP.
fn babble(is_over: &AtomicBool, daemon: &Daemon) {
    let garbage: Vec<u8> = (0..5_000_u32)
        .flat_map(|at| (at * at).to_be_bytes())
        .collect();
    while !is_over.load(Ordering::Relaxed) {
        let mut client = connect(daemon);
        let _ = client.write_all(&garbage);
        let _ = client.read(&mut [0; 512]);
        thread::sleep(Duration::from_millis(10));
    }
}

/// Ends the storm, also where a test fails: its threads would go on for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// So many at once; how long each took to be answered.
fn scrape(daemon: &Daemon) -> Vec<Duration> {
    let start = Instant::now();
    // Each asks at once: of those that only connect, the oldest give way to those who come.
    let ask = |_| {
        let mut client = connect(daemon);
        client
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        client
    };
    let mut clients: Vec<TcpStream> = (0..SCRAPES).map(ask).collect();
    let took = clients.iter_mut().map(|client| {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("tcplinger_sockets{"), "{answer}");
        start.elapsed()
    });
    took.collect()
}

fn events(daemon: &Daemon) -> (u64, u64) {
    let status: Value = get(daemon, "/api/v1/status").json();
    let figure = |name: &str| status["events"][name].as_u64().unwrap();
    (figure("received"), figure("lost"))
}

#[test]
fn the_stream_outlasts_a_storm_of_clients() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, most).unwrap();
    let alone = Alone::wait();
    let netns = Netns::apart(&alone);
    let daemon = Daemon::with(&format!("--listen 127.0.0.1:0 --ring-size {RING}"));
    let is_ready = || (get(&daemon, "/readyz").status == 200).then_some(());
    eventually(PATIENCE, is_ready).expect("a sample");

    let is_over = AtomicBool::new(false);
    let start = Instant::now();
    let (before, _) = events(&daemon);
    let mut took = thread::scope(|scope| {
        let _over = Over(&is_over);
        for _ in 0..2 {
            scope.spawn(|| netns.enter(|| toggle(&is_over, RATE / 2)));
        }
        scope.spawn(|| netns.enter(|| churn(&is_over)));
        scope.spawn(|| crawl(&is_over, &daemon));
        scope.spawn(|| babble(&is_over, &daemon));
        let mut took = Vec::new();
        while start.elapsed() < STORM {
            took.extend(scrape(&daemon));
        }
        took
    });
    let storm = start.elapsed();
    // What is still on its way counts, too.
    thread::sleep(Duration::from_secs(2));
    let (after, lost) = events(&daemon);
    let seen = u32::try_from(after - before).unwrap();
    let rate = f64::from(seen) / storm.as_secs_f64();
    took.sort_unstable();
    eprintln!(
        "{rate:.0} transitions a second, {lost} lost; {} scrapes, {SCRAPES} at a time: p50 {:?}, \
         p99 {:?}",
        took.len(),
        took[took.len() / 2],
        took[took.len() * 99 / 100],
    );
    assert_eq!(lost, 0);
    assert!(
        rate > f64::from(RATE) / 2.0,
        "that was no storm: {rate} a second"
    );
    assert_eq!(get(&daemon, "/healthz").status, 200);
}
