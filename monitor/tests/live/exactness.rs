//! Under load the counts are right, or said to be in doubt: a daemon with its defaults, looked at
//! through its API with a look at the kernel on either side.

use std::collections::HashSet;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::listen;
use serde_json::Value;

use crate::harness::http::get;
use crate::harness::socket::{begin_connect, listen_in};
use crate::harness::traffic::{orphans, storm};
use crate::harness::{Alone, Daemon, EventStream, Look, Netns, Watch, Wrong, eventually};

const SECOND: Duration = Duration::from_secs(1);
/// A count may be wrong, and said to be so, for this long.
const SOON: Duration = Duration::from_secs(3);
/// Connections a second that the ring has room for. An unoptimized daemon takes in fewer.
const RATE: u32 = if cfg!(debug_assertions) {
    4_000
} else {
    u32::MAX
};
const SYN_ACK: &str = "tcp flags & (syn | ack) == (syn | ack)";

#[test]
fn half_open_requests_beside_a_busy_namespace() {
    const REQUESTS: usize = 50;
    let alone = Alone::wait();
    let mut both = [(); 2].map(|()| Netns::apart(&alone));
    // What is walked in the order of the numbers walks the busy one first.
    both.sort_by_key(Netns::inode);
    let [busy, victim] = &both;
    let daemon = Daemon::serving("");
    let closes = orphans(busy, 200);
    let listener = listen_in(victim, "127.0.0.1:0");
    listen(&listener, 1_024).unwrap();
    victim.drop_incoming(SYN_ACK);
    let mut watch = Watch::new(&daemon, victim);

    thread::scope(|scope| {
        scope.spawn(|| storm(busy, 12 * SECOND, 1_000));
        thread::sleep(4 * SECOND);
        for _ in 0..2 {
            let address = listener.local_addr().unwrap();
            let clients: Vec<_> = (0..REQUESTS)
                .map(|_| begin_connect(victim, address))
                .collect();
            let is_right = |look: &Look| {
                look.published("SYN-RECV") == REQUESTS as u64 && look.wrong.is_empty()
            };
            let look = watch.look_until(Instant::now() + SOON, is_right);
            look.expect("the half-open requests are right within 3 s");
            drop(clients);
            // Whose client is gone is answered with a reset when its SYN-ACK comes again.
            victim.heal();
            let look = watch.look_until(Instant::now() + 2 * SOON, |look| {
                look.published("SYN-RECV") == 0 && look.wrong.is_empty()
            });
            look.expect("none is left");
            victim.drop_incoming(SYN_ACK);
        }
    });
    let busy = Watch::new(&daemon, busy).look();
    assert!(busy.published("TIME-WAIT") > 5_000, "{busy:?}");
    closes.end();
}

#[test]
fn orphans_whose_peers_close_later() {
    let alone = Alone::wait();
    let netns = Netns::apart(&alone);
    let daemon = Daemon::serving("");
    let closes = orphans(&netns, 100);
    thread::sleep(3 * SECOND);
    let mut watch = Watch::new(&daemon, &netns);
    let begun = Instant::now();
    let (mut looks, mut doubted) = (0, 0);
    while begun.elapsed() < 15 * SECOND {
        let look = watch.look();
        assert!(look.published("FIN-WAIT-2") > 50, "{look:?}");
        looks += 1;
        doubted += u32::from(look.is_in_doubt);
        for wrong in &look.wrong {
            let is_allowed = wrong.is_small() || look.is_in_doubt;
            assert!(is_allowed, "{}: {look:?}", wrong.state);
        }
    }
    // Doubt is no excuse for good.
    eprintln!("{doubted} of {looks} looks in doubt");
    assert!(doubted * 2 < looks, "{doubted} of {looks} looks in doubt");
    closes.end();
}

#[test]
fn losses_are_in_doubt_until_they_are_made_good() {
    let alone = Alone::wait();
    let netns = Netns::apart(&alone);
    let daemon = Daemon::serving("--ring-size 64KiB");
    let mut watch = Watch::new(&daemon, &netns);
    let (mut looks, mut doubted) = (0, 0);
    thread::scope(|scope| {
        let storm = scope.spawn(|| storm(&netns, 3 * SECOND, 20_000));
        while !storm.is_finished() {
            let look = watch.look();
            let is_right = look.wrong.iter().all(Wrong::is_small);
            assert!(is_right || look.is_in_doubt, "{look:?}");
            looks += 1;
            doubted += u32::from(look.is_in_doubt);
        }
    });
    let ended = Instant::now();
    let look = loop {
        let look = watch.look();
        assert!(look.wrong.is_empty() || look.is_in_doubt, "{look:?}");
        if look.taken > ended && look.is_settled() {
            break look;
        }
        assert!(ended.elapsed() < SOON, "still not right: {look:?}");
    };
    assert!(look.published("TIME-WAIT") > 5_000, "{look:?}");
    let lost = look.figure("/events/lost");
    eprintln!("{lost} lost, {doubted} of {looks} looks in doubt");
    assert!(lost > 0, "{look:?}");
    assert!(doubted > 0, "a loss puts the counts in doubt");
    assert!(metric(&daemon, "tcplinger_events_lost_total") > 0.0);
}

#[test]
fn a_storm_that_loses_nothing() {
    let alone = Alone::wait();
    let netns = Netns::apart(&alone);
    let daemon = Daemon::serving("");
    let mut watch = Watch::new(&daemon, &netns);
    let connections = storm(&netns, 4 * SECOND, RATE);
    let ended = Instant::now();
    thread::sleep(SECOND.saturating_sub(ended.elapsed()));
    let mut look = watch.look();
    let was_right = look.is_settled();
    while !look.is_settled() {
        assert!(look.wrong.is_empty() || look.is_in_doubt, "{look:?}");
        assert!(ended.elapsed() < SOON + SECOND, "still not right: {look:?}");
        look = watch.look();
    }
    let [drift, contradicting] = ["/drift", "/census/contradicting"].map(|at| look.figure(at));
    eprintln!("{connections} connections, drift {drift}, contradicting {contradicting}");
    assert!(look.published("TIME-WAIT") > 5_000, "{look:?}");
    assert_eq!(look.figure("/events/lost"), 0);
    assert_eq!(look.figure("/census/duplicated"), 0);
    // The kernel may keep single transitions to itself (those of the first process's threads).
    assert!(
        was_right || drift > 0,
        "late, and nothing was missing: {look:?}"
    );
    assert!(drift <= 3, "drift {drift} of {connections} connections");
}

#[test]
fn a_hundred_namespaces_made_at_once() {
    const NAMESPACES: usize = 100;
    let alone = Alone::wait();
    let daemon = Daemon::serving("");
    let made: Vec<(Netns, Vec<TcpListener>)> = (0..NAMESPACES)
        .map(|number| {
            let netns = Netns::apart(&alone);
            let sockets = (0..=number % 2).map(|_| listen_in(&netns, "127.0.0.1:0"));
            let sockets = sockets.collect();
            (netns, sockets)
        })
        .collect();
    let left = || -> Vec<Value> {
        let status = get(&daemon, "/api/v1/status").json();
        let rows = status["namespaces"].as_array().unwrap();
        let is_right = |(netns, sockets): &&(Netns, Vec<TcpListener>)| {
            let row = rows.iter().find(|row| row["netns"] == netns.inode());
            row.is_some_and(|row| {
                row["in_doubt"] == false && row["sockets"]["listen"] == sockets.len()
            })
        };
        let left = made.iter().filter(|netns| !is_right(netns));
        left.map(|(netns, _)| netns.inode().into()).collect()
    };
    let begun = Instant::now();
    let all = eventually(SOON, || left().is_empty().then_some(()));
    assert!(all.is_some(), "not counted: {:?}", left());
    eprintln!("counted after {:?}", begun.elapsed());
}

#[test]
fn an_idle_daemon_sleeps() {
    const WINDOW: Duration = Duration::from_secs(10);
    let _alone = Alone::wait();
    let daemon = Daemon::serving("");
    thread::sleep(3 * SECOND);
    // Whatever else the machine does wakes it, too: a transition is worth a wakeup, and a window with
    // many of them says little.
    let received = || daemon.status("daemon").received_events();
    let mut seen = Vec::new();
    let (mut is_asleep, mut is_quiet) = (false, false);
    while !(is_asleep && is_quiet) && seen.len() < 3 {
        let received_before = received();
        thread::sleep(SECOND);
        let before = daemon.sleeps();
        thread::sleep(WINDOW);
        let sleeps = daemon.sleeps() - before;
        let transitions = received() - received_before;
        is_asleep |= sleeps <= 3 * WINDOW.as_secs() + transitions;
        is_quiet = transitions < 100;
        seen.push((sleeps, transitions));
    }
    eprintln!("wakeups and transitions in {WINDOW:?}: {seen:?}");
    assert!(is_asleep, "{seen:?}");
}

#[test]
fn no_transition_comes_twice() {
    let alone = Alone::wait();
    let netns = Netns::apart(&alone);
    let daemon = Daemon::serving("");
    let events = EventStream::of(&netns, "--format json");
    let connections = storm(&netns, 4 * SECOND, RATE);
    let mut number = 0;
    let at_rest = eventually(10 * SECOND, || {
        let last = std::mem::replace(&mut number, events.lines().len());
        thread::sleep(SECOND / 2);
        (number == last).then_some(())
    });
    at_rest.expect("the events come to an end");
    let lines = events.lines();
    assert!(lines.len() > 5 * connections as usize, "{}", lines.len());
    let mut seen = HashSet::new();
    for line in &lines {
        let event: Value = serde_json::from_str(line).unwrap();
        let (cookie, time) = (event["cookie"].as_u64().unwrap(), event["time"].to_string());
        assert!(seen.insert((cookie, time)), "twice: {line}");
    }
    let status = get(&daemon, "/api/v1/status").json();
    assert_eq!(status["census"]["duplicated"], 0, "{status}");
}

/// The sum of the series of a metric.
fn metric(daemon: &Daemon, name: &str) -> f64 {
    let text = get(daemon, "/metrics").body;
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}
