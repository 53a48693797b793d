//! What is raised is raised once, and cleared once; and a stream with holes changes neither that nor
//! the list.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::socket::{Pair, listen_in};
use crate::harness::{Daemon, Moment, Netns, Notices, Program, Scratch, V4, eventually};

fn close_wait(warning: &str, critical: &str) -> String {
    format!("[ages.close_wait]\nwarning = \"{warning}\"\ncritical = \"{critical}\"\n")
}

fn age(finding: &Value) -> f64 {
    finding["oldest_seconds"].as_f64().unwrap()
}

/// A server in another process that has not closed what its peer has.
fn neglected(netns: &Netns) -> (Program, Moment) {
    let mut server = Program::puppet(netns);
    let port: u16 = server.ask("listen 127.0.0.1 16");
    let client = netns.enter(|| TcpStream::connect(("127.0.0.1", port)).unwrap());
    server.tell("accept");
    (server, Moment::of(|| drop(client)))
}

#[test]
fn raised_once_worsened_once_cleared_once() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let daemon = Daemon::configured(&close_wait("1s", "2500ms"), &scratch);
    let notices = Notices::of(&daemon, &netns);
    let (mut server, _) = neglected(&netns);

    let mut cookies = Vec::new();
    for (event, severity, age_least) in [("raised", "warning", 1.0), ("worsened", "critical", 2.5)]
    {
        let notice = notices.next();
        assert_eq!(notice["event"], event, "{notice:#}");
        assert_eq!(notice["severity"], severity);
        assert_eq!(notice["state"], "close_wait");
        assert_eq!(notice["owners"][0]["pid"], server.pid());
        // Told soon after it is due: a round of the daemon, and what a busy machine adds.
        let late = age(&notice) - age_least;
        assert!((0.0..1.0).contains(&late), "{late} s late: {notice:#}");
        cookies.push(notice["examples"][0]["cookie"].as_u64().unwrap());
    }
    notices.assert_silent();

    server.tell("close");
    let notice = notices.next();
    assert_eq!(notice["event"], "cleared", "{notice:#}");
    cookies.push(notice["examples"][0]["cookie"].as_u64().unwrap());
    assert!(cookies.iter().all(|cookie| *cookie == cookies[0]));
    notices.assert_silent();
    // Whoever comes later hears of what is raised then: nothing.
    Notices::of(&daemon, &netns).assert_silent();
    let (log, netns) = (daemon.log(), format!("netns={}", netns.inode()));
    for event in ["raised: ", "worsened: ", "cleared: "] {
        let is_told = |line: &&str| line.contains(event) && line.contains(&netns);
        assert_eq!(log.lines().filter(is_told).count(), 1, "{event}: {log}");
    }
}

/// A socket that the kernel ends, and one whose process is killed, are over as well.
#[test]
fn a_process_that_is_killed_clears_what_it_held() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let daemon = Daemon::configured(&close_wait("1s", "1h"), &scratch);
    let notices = Notices::of(&daemon, &netns);
    let (server, _) = neglected(&netns);
    assert_eq!(notices.next()["event"], "raised");
    drop(server);
    assert_eq!(notices.next()["event"], "cleared");
    notices.assert_silent();
}

/// Lingering sockets of the namespace, by state, as `ss` has them.
fn lingering_by_ss(netns: &Netns) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for ((_, state), number) in netns.sockets() {
        if !["ESTAB", "LISTEN", "TIME-WAIT"].contains(&state.as_str()) {
            *all.entry(state).or_default() += usize::try_from(number).unwrap();
        }
    }
    all
}

fn lingering(findings: &[Value]) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for finding in findings {
        let state = finding["state"].as_str().unwrap().to_uppercase();
        // FIN_WAIT1 is FIN-WAIT-1 there.
        let state = state
            .replace('_', "-")
            .replace("WAIT1", "WAIT-1")
            .replace("WAIT2", "WAIT-2");
        *all.entry(state).or_default() += 1;
    }
    all
}

/// From the end of a storm with losses.
const RIGHT_WITHIN: Duration = Duration::from_millis(800);

#[test]
fn lost_events_leave_no_ghost_and_hide_nothing() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    netns.sysctl("tcp_tw_reuse", "0");
    let config = scratch.write(&close_wait("1s", "1h"));
    let daemon = Daemon::with(&format!("--ring-size 64KiB --config {config}"));
    let listener = listen_in(&netns, "127.0.0.1:0");
    let pairs = |number: usize| (0..number).map(|_| Pair::new(&netns, &listener));
    let mut kept = Vec::new();
    // Three that linger all along, three that will end unseen.
    let abandon = |pair: Pair| {
        (
            pair.client.local_addr().unwrap().port(),
            pair.server,
            Moment::of(|| drop(pair.client)),
        )
    };
    let before: Vec<_> = pairs(3).map(abandon).collect();
    // Of another service, and so an incident of its own.
    let other = listen_in(&netns, "127.0.0.1:0");
    let ends = (0..3).map(|_| Pair::new(&netns, &other));
    let ends: Vec<_> = ends.map(abandon).collect();
    let list = daemon.stuck_once(&netns, "--all --state close_wait", |list| {
        list.findings.len() == 6
    });
    for (port, _, closed) in before.iter().chain(&ends) {
        closed.assert_age(&list, list.to_port(*port));
    }

    let notices = Notices::of(&daemon, &netns);
    (0..2).for_each(|_| assert_eq!(notices.next()["event"], "raised"));

    daemon.signal(Signal::STOP);
    // The ring has room for about 600 transitions.
    for pair in pairs(400) {
        drop(pair.client);
        drop(pair.server);
    }
    drop(ends);
    for mut pair in pairs(5) {
        pair.client.write_all(b"x").unwrap();
        kept.push(pair.server);
    }
    let sockets = netns.rest().expect("nothing moves any more");
    assert_eq!(sockets[&(V4, "CLOSE-WAIT".to_owned())], 8, "{sockets:?}");
    daemon.signal(Signal::CONT);
    let agrees = eventually(RIGHT_WITHIN, || {
        let before = lingering_by_ss(&netns);
        let list = daemon.stuck(&netns, "--all");
        let is_still = before == lingering_by_ss(&netns);
        (is_still && lingering(&list.findings) == before).then_some(list)
    });
    let list = agrees.unwrap_or_else(|| {
        let list = lingering(&daemon.stuck(&netns, "--all").findings);
        panic!("{list:?}, ss has {:?}", lingering_by_ss(&netns))
    });
    assert!(daemon.status("daemon").lost_events() > 0);
    // What ended unseen is over, and so told once.
    assert_eq!(notices.next()["event"], "cleared");
    // What was seen to enter is as exact as before; what was not is marked.
    for (port, _, closed) in &before {
        closed.assert_age(&list, list.to_port(*port));
    }
    let bounds = list
        .findings
        .iter()
        .filter(|found| found["state"] == "close_wait" && found["age_is_lower_bound"] == true);
    assert_eq!(bounds.count(), 5, "{:#?}", list.findings);
    drop(before);
    drop(kept);
    daemon.stuck_once(&netns, "--all --state close_wait", |list| {
        list.findings.is_empty()
    });
}
