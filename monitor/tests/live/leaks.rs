//! An application that forgets to close: found while it grows, with its rate and what it will meet;
//! no other growth is taken for it.

use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::server::{
    Load, Notices, Script, about, close_waits, config, finding, leaky_server, list, stuck, stuck_by,
};
use crate::harness::socket::listen_in;
use crate::harness::{Daemon, Netns, PATIENCE, Scratch, eventually, output};

/// A port that `connect()` does not choose: its connections are known by it on either side.
const PORT: &str = "127.0.0.1:8080";
const WINDOW: Duration = Duration::from_secs(5);
const RATE: u32 = 50;

fn quick(scratch: &Scratch) -> Daemon {
    let rule = "[leak]\nwindow = \"5s\"\ngrowth = 20\n";
    Daemon::with(&config(&scratch.path("config.toml"), rule))
}

/// Clients that come and go, [`RATE`] a second.
fn visitors(netns: &Netns) -> Load {
    Load::start(netns, RATE, || {
        drop(TcpStream::connect(PORT).unwrap());
        true
    })
}

fn number(finding: &Value, key: &str) -> f64 {
    let number = finding[key].as_f64();
    number.unwrap_or_else(|| panic!("no {key}: {finding:#}"))
}

/// Closer to `truth` than `part` of it.
fn assert_near(what: &str, told: f64, truth: f64, part: f64) {
    eprintln!("{what}: told {told:.2}, true {truth:.2}");
    assert!(
        (told - truth).abs() <= part * truth,
        "{what}: told {told}, true {truth}"
    );
}

#[test]
fn a_leak_is_told_with_its_rate_its_process_and_the_time_left() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let daemon = quick(&scratch);
    let mut server = leaky_server(&netns, "leaky", PORT, 500);
    let start = Instant::now();
    let load = visitors(&netns);

    let leak = finding(&daemon, &netns, "leak");
    let told = Instant::now();
    // The window begins with the last look that saw nothing, a little before the load.
    assert!(
        told - start >= WINDOW * 4 / 5,
        "too early to know: {leak:#}"
    );
    assert_eq!(leak["state"], "close_wait");
    assert_eq!(leak["severity"], "critical");
    assert_eq!(
        (&leak["local"], &leak["remote"]),
        (&"*:8080".into(), &"*".into())
    );
    assert!(leak["cookie"].is_null());
    assert_near("rate", number(&leak, "rate_per_second"), RATE.into(), 0.2);
    let owner = &leak["owners"][0];
    assert_eq!(leak["owners"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&owner["pid"], &owner["comm"]),
        (&server.pid().into(), &"leaky".into())
    );
    assert_eq!(owner["file_limit"], 500);
    let left = number(owner, "file_limit") - number(owner, "open_files");
    let predicted = number(&leak, "exhausted_in_seconds");
    assert_near(
        "arithmetic",
        predicted * number(&leak, "rate_per_second"),
        left,
        0.01,
    );

    let since_filled = eventually(PATIENCE, || server.tell("filled").parse::<f64>().ok());
    let since_filled = since_filled.expect("it runs out of descriptors");
    let truth = (told.elapsed()).as_secs_f64() - since_filled;
    assert_near("time to the file limit", predicted, truth, 0.2);
    load.end();
}

/// However many rules a socket is under: a leak, a count that only grows, and an age.
#[test]
fn a_socket_is_in_one_finding_and_check_counts_as_ss_does() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let rules = "[leak]\nwindow = \"5s\"\ngrowth = 20\n\
         [ages.close_wait]\nwarning = \"1s\"\ncritical = \"3s\"\n\
         [[count]]\nname = \"many\"\nper = \"local_port\"\nwarning = 20\ncritical = 30\n\
         [[count]]\nname = \"too many\"\nper = \"process\"\nwarning = 20\ncritical = 30\n";
    let daemon = Daemon::with(&config(&scratch.path("config.toml"), rules));
    let _server = leaky_server(&netns, "leaky", PORT, 4096);
    let load = visitors(&netns);
    finding(&daemon, &netns, "leak");
    load.end();
    let counted: u64 = netns
        .rest()
        .into_iter()
        .flatten()
        .filter(|((_, state), _)| state == "CLOSE-WAIT")
        .map(|(_, sockets)| sockets)
        .sum();
    assert!(counted > 100, "{counted}");
    let sum = |findings: &[Value]| -> u64 {
        let of_state = findings
            .iter()
            .filter(|finding| finding["state"] == "close_wait");
        of_state
            .map(|finding| finding["sockets"].as_u64().unwrap())
            .sum()
    };
    let found = eventually(PATIENCE, || {
        let found = stuck(&daemon, &netns);
        let has = |rule: &str| found.iter().any(|finding| finding["rule"] == rule);
        (has("leak") && has("many") && has("too many") && sum(&found) == counted).then_some(found)
    });
    let found = found.unwrap_or_else(|| {
        let found = stuck(&daemon, &netns);
        panic!("{} of {counted}: {found:#?}", sum(&found))
    });
    let worst = found
        .iter()
        .filter(|finding| finding["severity"] == "critical");
    assert!(worst.count() > 0, "as bad as its sockets: {found:#?}");
    let all = list(&mut about(&daemon, &netns, "stuck --all --format json"));
    assert_eq!(sum(&all), counted, "{all:#?}");
    for source in ["daemon", "kernel"] {
        let asked = format!("check --netns {} --source {source}", netns.inode());
        let line = output(&mut daemon.command(&asked)).stdout;
        let line = String::from_utf8(line).unwrap();
        let figures = line.split_once(" | ").expect("performance data").1;
        assert!(
            figures.contains(&format!(" close_wait={counted};")),
            "{line}"
        );
    }
}

#[test]
fn a_leak_that_is_mended_is_over_and_stays_so() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let daemon = quick(&scratch);
    let mut server = leaky_server(&netns, "leaky", PORT, 4096);
    let notices = Notices::of(&daemon, &netns);
    let load = visitors(&netns);
    notices.wait_for("leak", "raised");
    server.tell("mend");
    notices.wait_for("leak", "cleared");
    assert_eq!(stuck_by(&daemon, &netns, "leak"), [] as [Value; 0]);
    thread::sleep(WINDOW + Duration::from_secs(1));
    assert_eq!(
        notices.changes("leak"),
        ["raised", "cleared"],
        "{:#?}",
        notices.all()
    );
    load.end();
}

/// Nobody comes any more, so nothing lingers that would make it look again.
#[test]
fn a_leak_ends_with_its_process() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let daemon = quick(&scratch);
    let server = leaky_server(&netns, "leaky", PORT, 4096);
    let load = visitors(&netns);
    finding(&daemon, &netns, "leak");
    load.end();
    drop(server);
    let is_over = eventually(PATIENCE, || stuck(&daemon, &netns).is_empty().then_some(()));
    assert!(is_over.is_some(), "{:#?}", stuck(&daemon, &netns));
}

#[test]
fn a_burst_that_stands_still_is_no_leak() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let daemon = quick(&scratch);
    let _server = leaky_server(&netns, "busy", PORT, 4096);
    netns.enter(|| (0..500).for_each(|_| drop(TcpStream::connect(PORT).unwrap())));
    let notices = Notices::of(&daemon, &netns);
    thread::sleep(2 * WINDOW);
    assert_eq!(close_waits(&daemon, &netns).len(), 500);
    assert_eq!(notices.all(), [] as [&str; 0]);
}

/// It has as many local ports as connections; what they have in common is where they went.
#[test]
fn a_client_that_leaks_is_known_by_the_port_it_connects_to() {
    const LEAKY_CLIENT: &str = r#"
import socket, sys, time
kept, start = [], time.monotonic()
print("ready", flush=True)
while True:
    kept.append(socket.create_connection(("127.0.0.1", 8080)))
    time.sleep(max(0, start + len(kept) / int(sys.argv[1]) - time.monotonic()))
"#;
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let daemon = quick(&scratch);
    let listener = listen_in(&netns, PORT);
    thread::spawn(move || serve_and_close(&listener));
    let client = Script::start(&netns, LEAKY_CLIENT, &[&RATE.to_string()]);

    let leak = finding(&daemon, &netns, "leak");
    assert_eq!(
        (&leak["local"], &leak["remote"]),
        (&"*".into(), &"*:8080".into())
    );
    assert_near("rate", number(&leak, "rate_per_second"), RATE.into(), 0.2);
    assert_eq!(leak["owners"][0]["pid"], client.pid());
    drop(client);
    // Ends the server.
    netns.enter(|| TcpStream::connect(PORT).unwrap());
}

/// Until a client leaves first.
fn serve_and_close(listener: &TcpListener) {
    while let Ok((connection, _)) = listener.accept() {
        drop(connection);
    }
}
