//! The server as its clients see it, over real sockets.

mod fixture;
mod forms;
mod streams;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use fixture::{Running, local, sample};

#[test]
fn before_the_first_sample_nothing_is_made_up() {
    let running = Running::new();
    for path in [
        "/metrics",
        "/readyz",
        "/healthz",
        "/api/v1/status",
        "/api/v1/events",
    ] {
        let answer = running.get(path);
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.json()["error"].is_string(), "{path}");
    }
    assert_eq!(running.get("/").status, 200);
}

#[test]
fn healthy_is_who_drains() {
    let running = Running::new();
    running.shared.note_drained(crate::clock::monotonic());
    assert_eq!(running.get("/healthz").body, "ok\n");
    assert_eq!(running.get("/readyz").status, 503);
    running.shared.publish(sample());
    assert_eq!(running.get("/readyz").body, "ok\n");
    let long_ago = crate::clock::monotonic()
        .checked_sub(Duration::from_secs(7))
        .unwrap();
    running.shared.note_drained(long_ago);
    let ill = running.get("/healthz");
    assert_eq!(ill.status, 503);
    assert!(ill.body.contains("drained 7 s ago"), "{}", ill.body);
}

#[test]
fn what_is_not_there_is_told() {
    let running = Running::with_sample();
    let missing = running.get("/api/v2/status");
    assert_eq!(missing.status, 404);
    assert!(
        missing.json()["error"]
            .as_str()
            .unwrap()
            .contains("/api/v1")
    );
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
        let refused = running.ask(&local(method, "/metrics", ""));
        assert_eq!(refused.status, 405, "{method}");
        assert_eq!(refused.header("allow"), "get,head");
        assert!(refused.json()["error"].is_string());
    }
    let (full, head) = (
        running.get("/api/v1/ports"),
        running.ask(&local("HEAD", "/api/v1/ports", "")),
    );
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), full.header("content-length"));
}

#[test]
fn browsers_are_told_to_load_nothing_else() {
    let running = Running::with_sample();
    for path in ["/", "/page.js", "/metrics", "/nothing"] {
        let answer = running.get(path);
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert!(!answer.head.contains("access-control"), "{}", answer.head);
    }
    assert_eq!(
        running.get("/api/v1/stuck").header("cache-control"),
        "no-store"
    );
    let foreign = running.ask("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert_eq!(foreign.status, 403);
}

#[test]
fn a_body_is_refused_and_ends_the_connection() {
    let running = Running::with_sample();
    for body in [
        "Content-Length: 5\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let request = format!("POST /metrics HTTP/1.1\r\nHost: localhost\r\n{body}");
        let answer = running.ask(&request);
        assert_eq!(answer.status, 413, "{body}");
        assert_eq!(answer.header("connection"), "close");
    }
}

#[test]
fn garbage_ends_and_is_counted() {
    let running = Running::with_sample();
    let long = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(64 << 10)
    );
    let many = local("GET", "/", &"X: y\r\n".repeat(100));
    let garbage = [
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        &long,
        &many,
    ];
    for (number, request) in garbage.iter().enumerate() {
        let mut client = running.connect();
        // Some of it may meet a connection that is closed already.
        let _ = client.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        let status = answer.get(9..10).unwrap_or(b"4");
        assert_eq!(status, b"4", "{}", String::from_utf8_lossy(&answer));
        running.wait_until(|outlets| outlets.http_dropped[1] == number as u64 + 1);
    }
    assert_eq!(running.get("/metrics").status, 200);
    running.wait_until(|outlets| outlets.http_connections == 0);
}

#[test]
fn requests_in_a_row_share_a_connection() {
    let running = Running::with_sample();
    let mut client = running.connect();
    let requests = [
        local("GET", "/healthz", ""),
        local("GET", "/readyz", "Connection: close\r\n"),
    ];
    // Both at once, and slowly: the second begins with the first.
    let (first, second) = requests.split_at(1);
    let text = [
        first[0].replace("Connection: close\r\n", ""),
        second[0].clone(),
    ]
    .concat();
    for piece in text.as_bytes().chunks(40) {
        client.write_all(piece).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    let mut answers = String::new();
    client.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 2, "{answers}");
    assert_eq!(running.outlets().http_requests, [1, 0, 1]);
}

/// Those who ask slowly are dropped after 5 s, whether they say nothing or a byte at a time; those
/// who have been answered may be silent for longer.
#[test]
fn slow_askers_are_dropped() {
    let running = Running::with_sample();
    let start = Instant::now();
    let silent: Vec<TcpStream> = (0..20).map(|_| running.connect()).collect();
    let mut trickling = running.connect();
    let mut idle = running.connect();
    let request = local("GET", "/healthz", "").replace("Connection: close\r\n", "");
    idle.write_all(request.as_bytes()).unwrap();
    assert!(idle.read(&mut [0; 4096]).unwrap() > 100);
    while start.elapsed() < Duration::from_secs(4) {
        trickling.write_all(b"G").unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(running.outlets().http_connections, 22);
    for mut client in silent.into_iter().chain([trickling]) {
        let left = Duration::from_secs(27).saturating_sub(start.elapsed());
        let patience = left.max(Duration::from_millis(1));
        client.set_read_timeout(Some(patience)).unwrap();
        // Ended, or reset with bytes unread.
        assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
    let took = start.elapsed();
    assert!((4..27).contains(&took.as_secs()), "{took:?}");
    running.wait_until(|outlets| outlets.http_dropped == [21, 0, 0, 0]);
    running.wait_until(|outlets| outlets.http_connections == 1);
    thread::sleep(Duration::from_secs(2));
    idle.write_all(request.as_bytes()).unwrap();
    assert!(idle.read(&mut [0; 4096]).unwrap() > 100);
}

/// Ten thousand requests on a connection, and not one answer is read.
#[test]
fn who_does_not_read_is_dropped() {
    let running = Running::with_sample();
    let start = Instant::now();
    let mut client = running.connect();
    client
        .set_write_timeout(Some(Duration::from_mins(1)))
        .unwrap();
    let request = local("GET", "/api/v1/status", "").replace("Connection: close\r\n", "");
    let requests = request.repeat(100);
    let sent = (0..1_000).take_while(|_| client.write_all(requests.as_bytes()).is_ok());
    assert!(sent.count() < 1_000, "all of it was taken");
    let took = start.elapsed();
    assert!((5..48).contains(&took.as_secs()), "{took:?}");
    running.wait_until(|outlets| outlets.http_connections == 0);
}

#[test]
fn a_crowd_of_idle_clients_makes_room() {
    let running = Running::with_sample();
    let request = local("GET", "/metrics", "").replace("Connection: close\r\n", "");
    let mut scraper = running.connect();
    let scrape = |scraper: &mut TcpStream| {
        scraper.write_all(request.as_bytes()).unwrap();
        assert!(scraper.read(&mut [0; 8 << 10]).unwrap() > 100);
    };
    scrape(&mut scraper);
    let events = running.events();
    // Some say nothing, some do not end what they say.
    let crowd = (0..1_000).map(|number| {
        let mut client = running.connect();
        if number % 2 == 0 {
            client.write_all(b"GET / HT").unwrap();
        }
        client
    });
    let crowd: Vec<TcpStream> = crowd.collect();
    running.wait_until(|outlets| outlets.http_dropped[3] >= 1_000 - 256);
    assert!(running.outlets().http_connections <= 256);
    let start = Instant::now();
    for path in ["/metrics", "/healthz", "/readyz", "/", "/api/v1/status"] {
        assert!([200, 503].contains(&running.get(path).status), "{path}");
    }
    assert!(start.elapsed() < Duration::from_secs(2));
    // Who keeps a connection for the metrics has it still, and so has who gets events.
    scrape(&mut scraper);
    running.shared.publish(sample());
    let mut events = events;
    assert!(events.read(&mut [0; 64]).unwrap() > 0);
    drop(crowd);
}

#[test]
fn places_are_a_networks() {
    let places = |address: &str| super::accept::client(address.parse().unwrap()).to_string();
    assert_eq!(places("10.1.2.3"), "10.1.2.3");
    assert_eq!(places("::ffff:10.1.2.3"), "10.1.2.3");
    assert_eq!(places("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    for own in ["127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.2"] {
        assert_eq!(places(own), "127.0.0.1", "{own}");
    }
}

/// The end of what it sends comes while its answer is not written yet: newer figures are waited for.
#[test]
fn a_half_closed_client_gets_its_answer() {
    let running = Running::with_sample();
    thread::sleep(Duration::from_millis(200));
    for path in ["/readyz", "/metrics", "/api/v1/status", "/page.js"].repeat(2) {
        let mut client = running.connect();
        let request = local("GET", path, "").replace("Connection: close\r\n", "");
        client.write_all(request.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let length = format!("content-length: {}", body.len());
        assert!(head.contains(&length), "{head}");
    }
    running.wait_until(|outlets| outlets.http_connections == 0);
}

#[test]
fn who_wants_events_and_has_gone_is_noticed_at_once() {
    let running = Running::with_sample();
    let events = running.events();
    assert_eq!(running.outlets().http_connections, 1);
    drop(events);
    let start = Instant::now();
    running.wait_until(|outlets| outlets.http_connections == 0);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_end_waits_for_nobody() {
    let running = Running::with_sample();
    let clients: Vec<TcpStream> = (0..50).map(|_| running.connect()).collect();
    let mut events = running.connect();
    events
        .write_all(local("GET", "/api/v1/events", "").as_bytes())
        .unwrap();
    assert!(events.read(&mut [0; 64]).unwrap() > 0);
    let start = Instant::now();
    let shared = running.end();
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    let mut rest = String::new();
    events.read_to_string(&mut rest).unwrap();
    assert!(
        rest.ends_with("0\r\n\r\n"),
        "the stream was cut off: {rest}"
    );
    assert_eq!(shared.tallies.outlets().http_dropped, [0; 4]);
    drop(clients);
}
