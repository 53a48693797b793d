//! Crowds of clients, idle, slow and greedy, and few descriptors: who scrapes is answered all the same.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::harness::http::{self, get};
use crate::harness::socket::listen_in;
use crate::harness::{Alone, Daemon, Netns, PATIENCE, V4, assert_agrees, eventually, run};

const LISTEN: &str = "--listen 127.0.0.1:0";
/// For a scrape, however many other clients there are. It takes up to 0.25 s of this to read figures.
const SOON: Duration = Duration::from_millis(1_500);

/// As many descriptors for this process as it may have.
fn raise_own_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

fn idle(daemon: &Daemon, number: usize) -> Vec<TcpStream> {
    let url = daemon.http_address();
    let (_, address) = url.split_once("://").unwrap();
    let connect = |_| TcpStream::connect(address).unwrap();
    (0..number).map(connect).collect()
}

fn ready(arguments: &str, wrapper: &[&str]) -> Daemon {
    let daemon = Daemon::wrapped(wrapper, arguments);
    let is_ready = || (get(&daemon, "/readyz").status == 200).then_some(());
    eventually(PATIENCE, is_ready).expect("a sample");
    daemon
}

fn assert_scraped_soon(daemon: &Daemon) {
    for path in ["/metrics", "/healthz", "/api/v1/status"] {
        let start = Instant::now();
        assert_eq!(get(daemon, path).status, 200, "{path}");
        assert!(start.elapsed() < SOON, "{path}: {:?}", start.elapsed());
    }
}

/// A counter of the daemon's, added up.
fn counter(daemon: &Daemon, name: &str) -> f64 {
    let metrics = get(daemon, "/metrics").body;
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

#[test]
fn ten_thousand_idle_connections_do_not_blind_the_scrapes() {
    let _alone = Alone::wait();
    raise_own_limit();
    let daemon = ready(LISTEN, &[]);
    let mut kept = http::connect(&daemon);
    let mut scrape = || {
        let start = Instant::now();
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        kept.write_all(request).unwrap();
        let mut answer = [0; 8 << 10];
        let length = kept.read(&mut answer).unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
        // What is left of the answer.
        kept.set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        while kept.read(&mut answer).is_ok_and(|length| length > 0) {}
        kept.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    };
    scrape();
    let crowd = idle(&daemon, 10_000);
    assert_scraped_soon(&daemon);
    scrape();
    let ended = counter(
        &daemon,
        "tcplinger_http_dropped_connections_total{reason=\"crowded\"",
    );
    assert!(ended >= 9_500.0, "{ended}");
    drop(crowd);
}

/// They send a byte now and then, or ask for much and read nothing; who is ended comes again.
#[test]
fn slow_clients_do_not_blind_the_scrapes() {
    const SLOW: usize = 2_000;
    let _alone = Alone::wait();
    raise_own_limit();
    let daemon = ready(LISTEN, &[]);
    let url = daemon.http_address();
    let (_, address) = url.split_once("://").unwrap();
    let is_over = AtomicBool::new(false);
    let begin = |number: usize| {
        let mut client = TcpStream::connect(address).ok()?;
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
        let sent = if number.is_multiple_of(2) {
            "GET /me"
        } else {
            &request
        };
        client.write_all(sent.as_bytes()).ok()?;
        Some(client)
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut slow: Vec<Option<TcpStream>> = (0..SLOW).map(begin).collect();
            while !is_over.load(Ordering::Relaxed) {
                for (number, client) in slow.iter_mut().enumerate() {
                    let sent = client.as_mut().map(|client| client.write_all(b"x"));
                    if !matches!(sent, Some(Ok(()))) {
                        *client = begin(number);
                    }
                    thread::sleep(Duration::from_micros(200));
                }
            }
        });
        thread::sleep(Duration::from_secs(2));
        let answered = thread::scope(|asking| {
            asking
                .spawn(|| {
                    for _ in 0..5 {
                        assert_scraped_soon(&daemon);
                    }
                })
                .join()
        });
        is_over.store(true, Ordering::Relaxed);
        answered.unwrap();
    });
}

#[test]
fn who_asks_the_control_socket_and_says_nothing_keeps_nobody_out() {
    raise_own_limit();
    let daemon = Daemon::start();
    let connect = |_| UnixStream::connect(daemon.control()).unwrap();
    let silent: Vec<UnixStream> = (0..2_000).map(connect).collect();
    let start = Instant::now();
    daemon.status("daemon");
    // Rounds at the kernel's figures come before an answer.
    assert!(start.elapsed() < 2 * SOON, "{:?}", start.elapsed());
    drop(silent);
}

#[test]
fn the_soft_limit_is_raised() {
    let daemon = Daemon::wrapped(&["prlimit", "--nofile=100:4000"], LISTEN);
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<&str> = line.unwrap().split_whitespace().collect();
    assert_eq!(words[3..5], ["4000", "4000"]);
}

#[test]
fn few_descriptors_are_enough() {
    raise_own_limit();
    for limit in [96, 128, 256, 280] {
        let nofile = format!("--nofile={limit}:{limit}");
        let daemon = ready(LISTEN, &["prlimit", &nofile]);
        let crowd = idle(&daemon, 600);
        let mut streams = idle(&daemon, 100);
        for stream in &mut streams {
            // It may have been ended already.
            let _ = stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
        }
        let connect = |_| UnixStream::connect(daemon.control()).unwrap();
        let silent: Vec<UnixStream> = (0..100).map(connect).collect();
        // Namespaces are looked for every five seconds, and when one is new.
        let netns = Netns::new();
        let _listener = listen_in(&netns, "127.0.0.1:0");
        netns.settle(&[(V4, "LISTEN", 1)]);
        for _ in 0..7 {
            assert_scraped_soon(&daemon);
            thread::sleep(Duration::from_secs(1));
        }
        assert_agrees(&daemon, &netns);
        let log = daemon.log();
        assert!(!log.contains("Too many open files"), "{limit}: {log}");
        drop((crowd, streams, silent));
    }
}

#[test]
fn without_descriptors_namespaces_are_in_doubt_and_come_back() {
    let daemon = ready(LISTEN, &[]);
    let set = |limit: &str| {
        let mut prlimit = Command::new("prlimit");
        prlimit.arg(format!("--pid={}", daemon.pid()));
        run(prlimit.arg(format!("--nofile={limit}:20000")));
    };
    let mut client = http::connect(&daemon);
    let mut ask = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = vec![0; 1 << 20];
        let mut length = 0;
        client
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        while let Ok(read @ 1..) = client.read(&mut answer[length..]) {
            length += read;
        }
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    assert!(ask("/api/v1/status").contains("\"in_doubt\""));
    // Fewer than it has open.
    set("10");
    let doubted = eventually(PATIENCE, || {
        let status = ask("/api/v1/status");
        status.contains("\"in_doubt\":true").then_some(status)
    });
    assert!(doubted.is_some(), "{}", ask("/api/v1/status"));
    eventually(PATIENCE, || {
        let is_told = daemon.log().contains("cannot find network namespaces");
        is_told.then_some(())
    })
    .expect("a warning");
    set("20000");
    // What only descriptors tell is not known again at once.
    let is_known = eventually(PATIENCE, || {
        (!ask("/api/v1/status").contains("\"close\":null")).then_some(())
    });
    assert!(is_known.is_some(), "{}", ask("/api/v1/status"));
    let netns = Netns::new();
    let _listener = listen_in(&netns, "127.0.0.1:0");
    assert_agrees(&daemon, &netns);
    let log = daemon.log();
    let warnings = log.matches("cannot find network namespaces").count();
    assert_eq!(warnings, 1, "{log}");
}
