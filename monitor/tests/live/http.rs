//! What the daemon serves over HTTP, asked as its clients ask.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::http::{self, get};
use crate::harness::server::{config, stuck};
use crate::harness::socket::{Pair, listen_in};
use crate::harness::{Daemon, Netns, PATIENCE, Scratch, V4, eventually, output, run, tcplinger};

const LISTEN: &str = "--listen 127.0.0.1:0";

/// The row of a namespace.
fn row<'a>(status: &'a Value, netns: &Netns) -> Option<&'a Value> {
    let rows = status["namespaces"].as_array()?;
    rows.iter().find(|row| row["netns"] == netns.inode())
}

#[test]
fn status_says_what_the_verb_says() {
    let (netns, daemon) = (Netns::new(), Daemon::with(LISTEN));
    let listener = listen_in(&netns, "127.0.0.1:0");
    let _pairs = [(); 3].map(|()| Pair::new(&netns, &listener));
    netns.settle(&[(V4, "LISTEN", 1), (V4, "ESTAB", 6)]);
    let mut verb = tcplinger("status --format json --source daemon");
    let told = run(verb.arg("--control").arg(daemon.control()));
    let told: Value = serde_json::from_str(&told).unwrap();
    let served = eventually(PATIENCE, || {
        let served = get(&daemon, "/api/v1/status").json();
        (row(&served, &netns) == row(&told, &netns)).then_some(served)
    });
    let served = served.expect("both say the same");
    for key in told.as_object().unwrap().keys() {
        assert!(!served[key].is_null(), "{key} is missing: {served}");
    }
    assert_eq!(served["source"], "daemon");
    assert_eq!(row(&served, &netns).unwrap()["sockets"]["established"], 6);
}

/// With looks an hour apart, too: the age beside a finding, and the one within its reason.
#[test]
fn ages_are_as_of_the_answer() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let rules = "[daemon]\ninterval = \"1h\"\n\
         [ages.close_wait]\nwarning = \"1s\"\ncritical = \"1h\"\n";
    let config = config(&scratch.path("config.toml"), rules);
    let daemon = Daemon::with(&format!("{config} {LISTEN}"));
    let listener = listen_in(&netns, "127.0.0.1:0");
    let Pair { client, server } = Pair::new(&netns, &listener);
    drop(client);
    let closed = Instant::now();
    let told = || -> Vec<Value> {
        let answer = get(&daemon, "/api/v1/stuck").json();
        let mut findings = answer["incidents"].as_array().unwrap().clone();
        findings.retain(|finding| finding["netns"] == netns.inode());
        findings
    };
    thread::sleep(Duration::from_secs(2));
    // A question is a look.
    assert_eq!(stuck(&daemon, &netns).len(), 1);
    let mut looked = Vec::new();
    for _ in 0..3 {
        thread::sleep(Duration::from_secs(2));
        let [finding] = &told()[..] else {
            panic!("{:#?}", told())
        };
        let (age, truth) = (&finding["oldest_seconds"], closed.elapsed().as_secs_f64());
        let age = age.as_f64().unwrap();
        assert!(age <= truth && age >= truth - 1.5, "{age} of {truth}");
        let reason = finding["reason"].as_str().unwrap();
        let (_, rest) = reason.split_once("closed ").unwrap();
        let within: f64 = rest.split_once(" s ago").unwrap().0.parse().unwrap();
        assert!((age - within).abs() < 0.11, "{age}: {reason}");
        // To the millisecond: the wall clock is read beside the kernel's.
        let at = finding["looked"].as_str().unwrap();
        looked.push(at[..at.len() - "123456Z".len()].to_owned());
    }
    // Nobody has looked again; the reading may fall on either side of a millisecond.
    looked.dedup();
    assert!(looked.len() <= 2, "{looked:?}");
    drop(server);
    let is_over = eventually(Duration::from_secs(4), || told().is_empty().then_some(()));
    assert!(is_over.is_some(), "{:#?}", told());
}

/// The figures of a second ago, every second: not those of the last look at what lingers.
#[test]
fn what_is_served_is_never_old() {
    let (netns, daemon) = (Netns::new(), Daemon::with(LISTEN));
    let listener = listen_in(&netns, "127.0.0.1:0");
    let Pair { client, server } = Pair::new(&netns, &listener);
    drop(client);
    let closed = Instant::now();
    for _ in 0..8 {
        thread::sleep(Duration::from_secs(1));
        let least = closed.elapsed().as_secs_f64() - 3.0;
        let oldest = &get(&daemon, "/api/v1/status").json()["oldest_seconds"]["close_wait"];
        // Other tests' sockets may be older.
        assert!(
            oldest.as_f64().unwrap_or(0.0) >= least,
            "{oldest} of {least}"
        );
    }
    drop(server);
}

#[test]
fn every_path_answers_and_every_error_is_told() {
    let daemon = Daemon::with(LISTEN);
    let is_ready = eventually(PATIENCE, || {
        (get(&daemon, "/readyz").status == 200).then_some(())
    });
    assert!(is_ready.is_some());
    for (path, content_type) in [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/metrics", "text/plain"),
        ("/healthz", "text/plain"),
        ("/api/v1/status", "application/json"),
        ("/api/v1/stuck", "application/json"),
        ("/api/v1/ports", "application/json"),
        ("/api/v1/owners", "application/json"),
        ("/api/v1/history", "application/json"),
    ] {
        let answer = get(&daemon, path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert!(
            answer.head.contains(content_type),
            "{path}: {}",
            answer.head
        );
    }
    assert!(get(&daemon, "/metrics").body.contains("tcplinger_sockets{"));
    assert_eq!(get(&daemon, "/nothing").status, 404);
    let foreign = http::ask(&daemon, "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert_eq!(foreign.status, 403);
}

#[test]
fn events_arrive_and_do_not_keep_the_daemon_from_ending() {
    let mut daemon = Daemon::with(LISTEN);
    let is_ready = || (get(&daemon, "/readyz").status == 200).then_some(());
    eventually(PATIENCE, is_ready).expect("a sample");
    let mut client = http::connect(&daemon);
    client
        .write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut lines = BufReader::new(client).lines();
    let mut taken = Vec::new();
    while taken.len() < 3 {
        let line = lines.next().unwrap().unwrap();
        if let Some(data) = line.strip_prefix("data: ") {
            let status: Value = serde_json::from_str(data).unwrap();
            taken.push(status["taken"].to_string());
        }
    }
    assert!(taken[0] < taken[1] && taken[1] < taken[2], "{taken:?}");
    let start = Instant::now();
    assert!(daemon.end(Signal::TERM).success());
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    // The stream ends in order.
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(rest.contains(&"0".to_owned()), "{rest:?}");
}

#[test]
fn without_the_token_there_is_only_the_page() {
    let scratch = Scratch::new();
    let token = scratch.path("token");
    std::fs::write(&token, "correct-horse-battery\n").unwrap();
    let config = scratch.write(&format!(
        "[http]\nlisten = \"127.0.0.1:0\"\nbearer_token_file = {token:?}\n"
    ));
    let daemon = Daemon::with(&format!("--config {config} --listen 127.0.0.1:0"));
    for open in ["/", "/page.js"] {
        assert_eq!(get(&daemon, open).status, 200, "{open}");
    }
    for closed in ["/metrics", "/api/v1/status", "/api/v1/events", "/nothing"] {
        let refused = get(&daemon, closed);
        assert_eq!(refused.status, 401, "{closed}");
        assert!(refused.head.contains("www-authenticate: bearer"));
    }
    let shown = |token| {
        let headers = format!("Host: node\r\nConnection: close\r\nAuthorization: Bearer {token}");
        let request = format!("GET /metrics HTTP/1.1\r\n{headers}\r\n\r\n");
        http::ask(&daemon, &request).status
    };
    assert_eq!(shown("correct-horse-batterz"), 401);
    let let_in = eventually(PATIENCE, || {
        (shown("correct-horse-battery") == 200).then_some(())
    });
    assert!(let_in.is_some());
    // Everybody may read that file.
    assert!(daemon.log().contains("chmod o-r"), "{}", daemon.log());
}

/// A certificate of its own for 127.0.0.1.
fn certificate(scratch: &Scratch, name: &str) -> (String, String) {
    let path = |end| {
        let path = scratch.path(&format!("{name}.{end}"));
        path.into_os_string().into_string().unwrap()
    };
    let (certificate, key) = (path("crt"), path("key"));
    let request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2 \
                   -subj /CN=tcplinger -addext subjectAltName=IP:127.0.0.1 \
                   -addext basicConstraints=critical,CA:FALSE";
    let mut openssl = Command::new("openssl");
    openssl.args(request.split_whitespace());
    run(openssl.args(["-out", &certificate, "-keyout", &key]));
    (certificate, key)
}

#[test]
fn tls_is_served_with_the_certificate_that_is_there_now() {
    let scratch = Scratch::new();
    let (certificate_file, key) = certificate(&scratch, "server");
    let (other_certificate, other_key) = certificate(&scratch, "other");
    let config = scratch.write(&format!(
        "[http]\ntls_certificate = {certificate_file:?}\ntls_key = {key:?}\n"
    ));
    let daemon = Daemon::with(&format!("--config {config} {LISTEN}"));
    let url = daemon.http_address();
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let trusts = |authority: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "5", "--cacert", authority]);
        output(curl.arg(format!("{url}/healthz")))
    };
    let answer = trusts(&certificate_file);
    let message = String::from_utf8_lossy(&answer.stderr);
    assert!(answer.status.success(), "{message}");
    assert_eq!(answer.stdout, b"ok\n");
    assert!(!trusts(&other_certificate).status.success());
    // Plain HTTP gets no answer, and does no harm.
    let mut plain = http::connect(&daemon);
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    // A certificate without its key is not taken over; with it, it is.
    std::fs::copy(&other_certificate, &certificate_file).unwrap();
    thread::sleep(Duration::from_secs(11));
    assert!(!trusts(&other_certificate).status.success());
    assert!(daemon.log().contains("stays in use"), "{}", daemon.log());
    std::fs::copy(&other_key, &key).unwrap();
    let is_renewed = eventually(PATIENCE, || {
        trusts(&other_certificate).status.success().then_some(())
    });
    assert!(is_renewed.is_some(), "{}", daemon.log());
}

/// The daemon's word where it cannot start, with what it was told.
fn refused(arguments: &str) -> String {
    let scratch = Scratch::new();
    let mut command = tcplinger(&format!("run --duration 5s {arguments}"));
    let refused = output(command.arg("--control").arg(scratch.path("control")));
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{arguments}: {message}");
    message
}

#[test]
fn an_address_that_was_asked_for_must_be_had() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let message = refused(&format!("--listen 127.0.0.1:{port}"));
    assert!(
        message.contains("it is in use by another process"),
        "{message}"
    );
    assert!(message.contains(&format!("sport = {port}")), "{message}");
    let message = refused("--listen 192.0.2.1:9817");
    assert!(message.contains("no such address"), "{message}");
}

#[test]
fn files_that_are_no_good_are_refused() {
    let scratch = Scratch::new();
    let (certificate_file, _) = certificate(&scratch, "one");
    let (_, key) = certificate(&scratch, "two");
    let token = scratch.path("short");
    std::fs::write(&token, "secret\n").unwrap();
    let tls = |certificate: &str, key: &str| {
        format!("tls_certificate = {certificate:?}\ntls_key = {key:?}")
    };
    for (text, words) in [
        (
            "bearer_token_file = \"/nonexistent\"".to_owned(),
            "cannot read /nonexistent",
        ),
        (
            format!("bearer_token_file = {token:?}"),
            "openssl rand -hex 32",
        ),
        (
            "bearer_token_file = \"/dev/null\"".to_owned(),
            "not a regular file",
        ),
        (tls(&key, &key), "no certificate in"),
        (
            tls(&certificate_file, &certificate_file),
            "no private key in",
        ),
        (tls(&certificate_file, &key), "belongs together"),
    ] {
        let config = scratch.write(&format!("[http]\n{text}\n"));
        let message = refused(&format!("--config {config} {LISTEN}"));
        assert!(message.contains(words), "{text}: {message}");
    }
}

#[test]
fn the_default_address_may_be_taken() {
    // By this, or by somebody else.
    let _taken = TcpListener::bind("127.0.0.1:9817");
    let scratch = Scratch::new();
    let config = scratch.write("[http]\nlisten = \"127.0.0.1:9817\"\n");
    let mut command = tcplinger(&format!("run --duration 1s --config {config}"));
    let ended = output(command.arg("--control").arg(scratch.path("control")));
    let log = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{log}");
    assert_eq!(log.matches("running without").count(), 1, "{log}");
}

#[test]
fn who_opens_it_to_others_is_warned() {
    let daemon = Daemon::with("--listen 127.0.0.1:0 --listen 0.0.0.0:0 --listen [::]:0");
    let log = daemon.log();
    assert_eq!(log.matches("listening on http").count(), 3, "{log}");
    assert_eq!(log.matches("other hosts can read").count(), 2, "{log}");
    // A foreign page's own name may lead here, through loopback too.
    let port = log.split("http://0.0.0.0:").nth(1).unwrap();
    let (port, _) = port.split_once('/').unwrap();
    for (host, status) in [
        ("node.example", b"HTTP/1.1 403"),
        ("192.0.2.7:9817", b"HTTP/1.1 200"),
    ] {
        let mut client = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        let request = format!("GET /page.js HTTP/1.1\r\nHost: {host}\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 12];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, status, "{host}");
    }
}
