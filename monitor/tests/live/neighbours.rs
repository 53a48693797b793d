//! What happens in one namespace takes nothing from another.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with};
use serde_json::Value;

use crate::harness::socket::{Pair, begin_connect, listen_in};
use crate::harness::{Daemon, Netns, PATIENCE, Scratch, eventually, owners};

/// A connection that still moves is not stuck; when it stops, it is, however busy another
/// namespace keeps the daemon.
#[test]
fn a_busy_namespace_keeps_no_other_from_being_looked_at() {
    let (busy, quiet, scratch) = (Netns::new(), Netns::new(), Scratch::new());
    let ages = "[ages.close_wait]\nwarning = \"1s\"\ncritical = \"1h\"\n\
                [ages.syn_sent]\nwarning = \"1s\"\ncritical = \"1h\"\n";
    let daemon = Daemon::configured(ages, &scratch);
    busy.drop_incoming("meta l4proto tcp");
    let (of_quiet, state) = (format!("netns={} ", quiet.inode()), "state=\"close_wait\"");
    let is_raised = || {
        let log = daemon.log();
        let mut raised = log.lines().filter(|line| line.contains("raised: "));
        raised.any(|line| line.contains(&of_quiet) && line.contains(state))
    };
    let listener = listen_in(&quiet, "127.0.0.1:0");
    let Pair { client, mut server } = Pair::new(&quiet, &listener);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);

    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let address = "127.0.0.1:9".parse().unwrap();
            let mut begun = Vec::new();
            // Bounded: the test may fail before it says that it is over.
            let started = Instant::now();
            while !is_over.load(Ordering::Relaxed) && started.elapsed() < Duration::from_secs(25) {
                begun.push(begin_connect(&busy, address));
                thread::sleep(Duration::from_millis(300));
            }
        });
        let moving = Instant::now();
        while moving.elapsed() < Duration::from_secs(5) {
            server.write_all(b"x").unwrap();
            thread::sleep(Duration::from_millis(100));
        }
        let early = is_raised();
        // Who asks has the daemon look: its log tells what it does by itself.
        let raised = eventually(PATIENCE, || is_raised().then_some(()));
        is_over.store(true, Ordering::Relaxed);
        assert!(!early, "it was still moving");
        assert!(raised.is_some(), "nobody looks at it");
    });
}

/// A descriptor of an MPTCP socket stands for the TCP sockets below it.
#[test]
fn a_listener_of_mptcp_has_an_owner() {
    let netns = Netns::new();
    netns.enter(|| std::fs::write("/proc/sys/net/mptcp/enabled", "1").unwrap());
    let listener = netns.enter(|| {
        let protocol = Some(ipproto::MPTCP);
        let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, protocol).unwrap();
        bind(
            &socket,
            &"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap(),
        )
        .unwrap();
        listen(&socket, 1).unwrap();
        socket
    });
    let rows = owners(&netns, "");
    let own = Value::from(std::process::id());
    let mine: Vec<&Value> = rows.iter().filter(|row| row["pid"] == own).collect();
    assert_eq!(mine.len(), 1, "{rows:#?}");
    assert_eq!(mine[0]["sockets"]["listen"], 1);
    drop(listener);
}
