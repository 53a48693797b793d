use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::tcp::Family;

fn row(local: &str, remote: &str, state: State, left: Option<u64>) -> Evidence {
    Evidence {
        interface: 0,
        netns: 1,
        cookie: 0,
        family: Family::Ipv4,
        state,
        is_minisocket: left.is_some(),
        is_mptcp: false,
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        inode: 0,
        uid: 0,
        cgroup_id: None,
        recv_queue: 0,
        send_queue: 0,
        timer: left.map_or(Timer::Off, |left| {
            Timer::TimeWait(Duration::from_millis(left))
        }),
        retransmits: 0,
        info: None,
    }
}

fn usage(limits: &Limits, rows: &[Evidence]) -> PortUsage {
    let mut tally = PortTally::new(1);
    for row in rows {
        tally.take(row);
    }
    tally.finish(limits)
}

/// Capacity, used, in TIME_WAIT, reusable of the first destination.
fn first(limits: &Limits, rows: &[Evidence]) -> (u32, u32, u32, u32) {
    let usage = usage(limits, rows);
    let port = usage.top.first().unwrap();
    (port.capacity, port.used, port.time_wait, port.reusable)
}

fn small() -> Limits {
    Limits {
        ephemeral_ports: 100..=109,
        ..Limits::default()
    }
}

const PEER: &str = "10.0.0.2:80";

#[test]
fn the_defaults_leave_28232_ports() {
    let row = row("10.0.0.1:40000", PEER, State::Established, None);
    assert_eq!(first(&Limits::default(), &[row]), (28_232, 1, 0, 0));
}

#[test]
fn reserved_ports_are_neither_there_nor_used() {
    let limits = Limits {
        reserved_ports: vec![1..=5, 98..=101, 105..=105, 109..=200],
        ..small()
    };
    let rows = [100, 102, 105, 106, 110].map(|port| {
        let local = format!("10.0.0.1:{port}");
        row(&local, PEER, State::Established, None)
    });
    assert_eq!(first(&limits, &rows), (6, 2, 0, 0));
}

#[test]
fn a_listener_takes_its_port_from_every_destination() {
    let rows = [
        row("10.0.0.1:100", PEER, State::Established, None),
        row("127.0.0.9:101", "0.0.0.0:0", State::Listen, None),
        row("0.0.0.0:80", "0.0.0.0:0", State::Listen, None),
    ];
    assert_eq!(first(&small(), &rows), (10, 2, 0, 0));
}

#[test]
fn what_a_listener_accepted_is_no_client_whichever_comes_first() {
    let listener = row("0.0.0.0:101", "0.0.0.0:0", State::Listen, None);
    let accepted = row("10.0.0.1:101", "10.0.0.2:5000", State::Established, None);
    for rows in [[listener, accepted], [accepted, listener]] {
        assert_eq!(usage(&small(), &rows).destinations, 0);
    }
}

#[test]
fn a_socket_without_a_peer_or_a_port_is_none() {
    let rows = [
        row("10.0.0.1:100", "0.0.0.0:0", State::SynSent, None),
        row("10.0.0.1:0", PEER, State::SynSent, None),
        row("10.0.0.1:100", PEER, State::Close, None),
    ];
    assert_eq!(usage(&small(), &rows).destinations, 0);
}

#[test]
fn an_ipv4_address_of_an_ipv6_socket_is_the_same_destination() {
    let rows = [
        row("10.0.0.1:100", PEER, State::Established, None),
        row(
            "[::ffff:10.0.0.1]:101",
            "[::ffff:10.0.0.2]:80",
            State::Established,
            None,
        ),
    ];
    assert_eq!(first(&small(), &rows), (10, 2, 0, 0));
}

#[test]
fn a_torn_walk_counts_a_port_once_and_the_full_socket_decides() {
    let rows = [
        row("10.0.0.1:100", PEER, State::TimeWait, Some(1)),
        row("10.0.0.1:100", PEER, State::Established, None),
    ];
    let limits = Limits {
        tw_reuse: TwReuse::Always,
        ..small()
    };
    assert_eq!(first(&limits, &rows), (10, 1, 0, 0));
}

#[test]
fn time_wait_is_reusable_where_the_kernel_says_so() {
    use TwReuse::{Always, Loopback, Never};
    let far = row("10.0.0.1:100", PEER, State::TimeWait, Some(58_999));
    let young = row("10.0.0.1:100", PEER, State::TimeWait, Some(59_000));
    let orphan = row("10.0.0.1:100", PEER, State::FinWait2, Some(1_000));
    let unknown = row("10.0.0.1:100", PEER, State::TimeWait, None);
    let near = row("127.0.0.1:100", "127.0.0.1:80", State::TimeWait, Some(0));
    let near6 = row("[::1]:100", "[::1]:80", State::TimeWait, Some(0));
    for (row, tw_reuse, has_timestamps, reusable) in [
        (far, Always, true, 1),
        (far, Always, false, 0),
        (far, Loopback, true, 0),
        (far, Never, true, 0),
        (young, Always, true, 0),
        (orphan, Always, true, 0),
        (unknown, Always, true, 0),
        (near, Loopback, true, 1),
        (near6, Loopback, true, 1),
        (near, Never, true, 0),
    ] {
        let limits = Limits {
            tw_reuse,
            has_timestamps,
            ..small()
        };
        let is_time_wait = u32::from(row.state == State::TimeWait);
        let expected = (10, 1 - reusable, is_time_wait - reusable, reusable);
        assert_eq!(first(&limits, &[row]), expected, "{row:?} {tw_reuse:?}");
    }
}

/// The level of a client that connects so often for so long, each connection for a moment.
fn settles_at(limits: &Limits, every_ms: u64, lasts_ms: u64) -> u32 {
    let ages = (0..lasts_ms.min(60_000)).step_by(usize::try_from(every_ms).unwrap());
    let rows: Vec<Evidence> = (20_000_u16..)
        .zip(ages)
        .map(|(port, age)| {
            let local = format!("10.0.0.1:{port}");
            row(&local, PEER, State::TimeWait, Some(60_000 - age))
        })
        .collect();
    usage(limits, &rows).top.first().unwrap().settles_at
}

#[test]
fn the_level_is_known_long_before_it_is_reached() {
    let limits = Limits {
        ephemeral_ports: 20_000..=60_000,
        ..Limits::default()
    };
    // 250 a second settle at 15,000.
    for lasts_ms in [1_500, 5_000, 20_000, 30_000, 45_000, 60_000] {
        let level = settles_at(&limits, 4, lasts_ms);
        assert!((15_000..15_070).contains(&level), "{lasts_ms}: {level}");
    }
    // Faster than a second ago nobody knows.
    assert_eq!(settles_at(&limits, 4, 400), 6_000);
    let reusing = Limits {
        tw_reuse: TwReuse::Always,
        ..limits.clone()
    };
    let level = settles_at(&reusing, 4, 60_000);
    assert!((250..255).contains(&level), "{level}");
    let held = row("10.0.0.1:20000", PEER, State::Established, None);
    let found = usage(&limits, &[held]);
    assert_eq!(found.top.first().unwrap().settles_at, 1);
}

#[test]
fn what_was_long_ago_does_not_count_for_the_level() {
    let limits = Limits {
        ephemeral_ports: 20_000..=60_000,
        ..Limits::default()
    };
    let rows: Vec<Evidence> = (20_000..25_000_u16)
        .map(|port| {
            let local = format!("10.0.0.1:{port}");
            row(&local, PEER, State::TimeWait, Some(20_000))
        })
        .collect();
    assert_eq!(usage(&limits, &rows).top.first().unwrap().settles_at, 0);
}

#[test]
fn an_empty_range_has_no_ports() {
    let limits = Limits {
        ephemeral_ports: RangeOf::new(9, 3),
        ..small()
    };
    let row = row("10.0.0.1:5", PEER, State::Established, None);
    assert_eq!(usage(&limits, &[row]).top, []);
}

type RangeOf = std::ops::RangeInclusive<u16>;

#[test]
fn many_peers_stay_bounded_and_the_worst_comes_first() {
    let mut tally = PortTally::new(1);
    for peer in 0..100_000_u32 {
        let mut socket = row("10.0.0.1:40000", PEER, State::Established, None);
        let address = std::net::Ipv4Addr::from_bits(0x0b00_0000 + peer);
        socket.remote = SocketAddr::new(address.into(), 80);
        tally.take(&socket);
        socket
            .local
            .set_port(u16::try_from(peer % 20_000).unwrap() + 35_000);
        socket.remote = PEER.parse().unwrap();
        tally.take(&socket);
    }
    let usage = tally.finish(&Limits::default());
    assert_eq!(usage.top.len(), MOST_SHOWN);
    assert_eq!(usage.destinations, MOST_DESTINATIONS);
    assert_eq!(usage.uncounted, 100_001 - MOST_DESTINATIONS as u64);
    let worst = usage.top.first().unwrap();
    assert_eq!((worst.remote, worst.used), (PEER.parse().unwrap(), 20_000));
}

#[test]
fn all_buckets_towards_one_peer_are_one_megabyte() {
    let mut tally = PortTally::new(1);
    for _ in 0..131_072 {
        tally.take(&row("10.0.0.1:40000", PEER, State::TimeWait, Some(5)));
    }
    let bytes: usize = tally.ports.values().map(Vec::capacity).sum::<usize>() * size_of::<Taken>();
    assert!(bytes <= 1 << 20, "{bytes}");
}

/// A host, the port there, a port here, a state, what is left of it.
type Plan = (u8, u16, u16, State, u64);

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let state = prop::sample::select(vec![
        State::Established,
        State::TimeWait,
        State::FinWait2,
        State::SynSent,
        State::Listen,
        State::Close,
    ]);
    prop::collection::vec(
        (0_u8..3, 1_u16..3, 95_u16..115, state, 0_u64..61_000),
        0..80,
    )
}

proptest! {
    #[test]
    fn agrees_with_a_naive_count(
        plans in plans(),
        reserved in prop::option::of(100_u16..112),
        reuse in prop::sample::select(vec![TwReuse::Never, TwReuse::Always, TwReuse::Loopback]),
    ) {
        let limits = Limits {
            reserved_ports: reserved.map(|port| port..=port + 1).into_iter().collect(),
            tw_reuse: reuse,
            ..small()
        };
        let open: BTreeSet<u16> = limits
            .ephemeral_ports
            .clone()
            .filter(|port| !limits.reserved_ports.iter().any(|range| range.contains(port)))
            .collect();
        // A port once for each destination: what a torn walk adds is left to its own test.
        let mut seen = BTreeSet::new();
        let plans: Vec<Plan> = plans
            .into_iter()
            .filter(|(host, port, local, state, _)| {
                *state == State::Listen || seen.insert((*host, *port, *local))
            })
            .collect();
        let listening: BTreeSet<u16> = plans
            .iter()
            .filter(|plan| plan.3 == State::Listen)
            .map(|plan| plan.2)
            .collect();
        let mut naive: BTreeMap<(u8, u16), [BTreeSet<u16>; 3]> = BTreeMap::new();
        for (host, port, local, state, left) in &plans {
            let is_client = open.contains(local) && !listening.contains(local);
            if !is_client || matches!(state, State::Close | State::Listen) {
                continue;
            }
            let [used, time_wait, reusable] = naive.entry((*host, *port)).or_default();
            let may_reuse = reuse == TwReuse::Always || (reuse == TwReuse::Loopback && *host == 0);
            let is_old = left.checked_add(1_000).unwrap() < 60_000;
            if *state == State::TimeWait && may_reuse && is_old {
                reusable.insert(*local);
            } else {
                used.insert(*local);
                if *state == State::TimeWait {
                    time_wait.insert(*local);
                }
            }
        }
        let address = |host: u8| if host == 0 { "127.0.0.1".to_owned() } else { format!("10.0.0.{host}") };
        let rows: Vec<Evidence> = plans
            .iter()
            .map(|(host, port, local, state, left)| {
                let left = matches!(state, State::TimeWait | State::FinWait2).then_some(*left);
                let remote = format!("{}:{port}", address(*host));
                row(&format!("10.0.0.9:{local}"), &remote, *state, left)
            })
            .collect();
        let usage = usage(&limits, &rows);
        let blocked = open.intersection(&listening).count();
        prop_assert_eq!(usage.destinations, naive.len());
        prop_assert!(usage.top.is_sorted_by_key(|port| u32::MAX - port.used));
        for ((host, port), [used, time_wait, reusable]) in naive {
            let remote: SocketAddr = format!("{}:{port}", address(host)).parse().unwrap();
            let found = usage.top.iter().find(|port| port.remote == remote).unwrap();
            let figures = [found.capacity, found.used, found.time_wait, found.reusable];
            let expected = [open.len(), used.len() + blocked, time_wait.len(), reusable.len()];
            prop_assert_eq!(figures.map(|figure| figure as usize), expected);
            prop_assert!(found.used + found.reusable <= found.capacity);
        }
    }
}
