//! Many connections at once: nothing is lost, or the loss is told and made good.

use std::net::{Shutdown, TcpListener, TcpStream};

use rustix::process::Signal;

use crate::harness::socket::{Pair, listen_in, reset};
use crate::harness::{Daemon, Netns, V4, assert_agrees};

/// Connects and closes with FIN, the client first, `number` times.
fn churn(netns: &Netns, listener: &TcpListener, number: u64) {
    let address = listener.local_addr().unwrap();
    netns.enter(|| {
        for _ in 0..number {
            let client = TcpStream::connect(address).unwrap();
            let (server, _) = listener.accept().unwrap();
            drop(client);
            drop(server);
        }
    });
}

#[test]
fn twenty_thousand_connections() {
    const NUMBER: u64 = 20_000;
    let (netns, daemon) = (Netns::new(), Daemon::start());
    // Else a port may be taken from its TIME_WAIT after a second, and there is one less.
    netns.sysctl("tcp_tw_reuse", "0");
    // To each only a few of the 28,000 ports: searching for the last free ones takes ages.
    let listeners = [(); 4].map(|()| listen_in(&netns, "127.0.0.1:0"));
    for listener in &listeners {
        churn(&netns, listener, NUMBER / 4);
    }
    // A busy kernel now and then ends one early: what counts is what `ss` still shows.
    let sockets = netns.rest().expect("nothing moves any more");
    assert!(
        sockets[&(V4, "TIME-WAIT".to_owned())] > NUMBER * 99 / 100,
        "{sockets:?}"
    );
    assert_agrees(&daemon, &netns);
    assert_eq!(daemon.status("daemon").lost_events(), 0);
}

#[test]
fn lost_events_are_told_and_made_good() {
    let (netns, daemon) = (Netns::new(), Daemon::with("--ring-size 64KiB"));
    let listener = listen_in(&netns, "127.0.0.1:0");
    let kept = [(); 20].map(|()| Pair::new(&netns, &listener));
    netns.settle(&[(V4, "LISTEN", 1), (V4, "ESTAB", 40)]);
    assert_agrees(&daemon, &netns);

    daemon.signal(Signal::STOP);
    // The ring has room for about 600 transitions; this makes 5,000, and the last ones matter.
    churn(&netns, &listener, 500);
    for pair in kept {
        pair.client.shutdown(Shutdown::Write).unwrap();
        drop(pair.server);
    }
    netns.settle(&[(V4, "LISTEN", 1), (V4, "TIME-WAIT", 520)]);
    daemon.signal(Signal::CONT);
    assert_agrees(&daemon, &netns);
    assert!(daemon.status("daemon").lost_events() > 0);
}

/// Connections that end, or do not, in every way a program without packet loss can choose.
#[test]
fn random_endings() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let listener = listen_in(&netns, "[::]:0");
    let port = listener.local_addr().unwrap().port();
    let mut random = 1_u64;
    let mut kept = Vec::new();
    for _ in 0..4 {
        for _ in 0..200 {
            // Knuth's MMIX generator; its high bits are the good ones.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let address = if random >> 63 == 0 {
                ([127, 0, 0, 1], port).into()
            } else {
                (std::net::Ipv6Addr::LOCALHOST, port).into()
            };
            kept.extend(end(Pair::to(&netns, &listener, address), random >> 40));
        }
        // Let a third go, from the middle: orphans and answers to orphans.
        let third = kept.len() / 3;
        kept.drain(third..2 * third);
        let sockets = netns.rest().expect("nothing moves any more");
        assert!(
            sockets.len() >= 8,
            "too few states to mean anything: {sockets:?}"
        );
        assert_agrees(&daemon, &netns);
    }
}

/// Ends a connection in the way that `choice` says; the ends that stay open.
fn end(mut pair: Pair, choice: u64) -> Vec<TcpStream> {
    match choice % 9 {
        0 => return vec![pair.client, pair.server],
        1 => return vec![pair.server],
        2 => return vec![pair.client],
        3 => drop(pair.client),
        4 => reset(pair.client),
        5 => {
            pair.client.shutdown(Shutdown::Write).unwrap();
            return vec![pair.client, pair.server];
        }
        6 => {
            pair.leave_unread();
            drop(pair.server);
            return vec![pair.client];
        }
        7 => {
            pair.client.shutdown(Shutdown::Both).unwrap();
            pair.server.shutdown(Shutdown::Both).unwrap();
            return vec![pair.client, pair.server];
        }
        _ => {
            pair.client.shutdown(Shutdown::Write).unwrap();
            reset(pair.client);
            return vec![pair.server];
        }
    }
    Vec::new()
}
