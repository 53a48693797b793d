use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::tcp::{Evidence, Process};
use crate::track::stuck::fixture::{age, evidence};

const WEB: Service = Service {
    netns: 7,
    port: 8080,
    is_local: true,
};

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// In which rounds, a second apart, these counts are a leak.
fn leaking(rule: LeakRule, counts: impl IntoIterator<Item = u64>) -> Vec<bool> {
    let mut detector = LeakDetector::new(rule);
    let mut has_leak = |(second, count): (u64, u64)| {
        detector.observe(at(second), [(WEB, count)].into_iter());
        detector.leaks().next().is_some()
    };
    (0..).zip(counts).map(&mut has_leak).collect()
}

fn ever(counts: impl IntoIterator<Item = u64>) -> bool {
    leaking(LeakRule::default(), counts).contains(&true)
}

#[test]
fn growth_is_found_after_one_window() {
    let mut detector = LeakDetector::new(LeakRule::default());
    for second in 0..=60 {
        assert_eq!(detector.leaks().count(), 0, "{second}");
        detector.observe(at(second), [(WEB, 12 + 50 * second)].into_iter());
    }
    let leak = *detector.leaks().next().unwrap();
    assert_eq!(leak.since, at(0));
    assert_eq!((leak.service, leak.sockets), (WEB, 3_012));
    assert!((leak.rate_per_second - 50.0).abs() < 0.01);
}

#[test]
fn growth_from_nothing_counts_from_the_round_before() {
    let counts = (0..100).map(|second: u64| 50 * second.saturating_sub(20));
    let found = leaking(LeakRule::default(), counts);
    assert_eq!(found.iter().position(|is_leak| *is_leak), Some(80));
}

#[test]
fn growth_through_the_noise_of_sockets_that_come_and_go_is_found() {
    assert!(ever((0..=80).map(|second| second + second * 7 % 5)));
}

#[test]
fn what_does_not_keep_growing_is_no_leak() {
    let burst = (0..300).map(|second: u64| 5 + 500 * second.clamp(100, 110));
    let late_burst = (0..300).map(|second: u64| 1 + 500 * second.clamp(115, 122));
    let sawtooth = (0..300).map(|second| 10 + 50 * (second % 20));
    let slow_sawtooth = (0..300).map(|second| 10 + 50 * (second % 50));
    let steady = (0..300).map(|second| 1_000 + second * 7 % 5);
    let slight = (0..300).map(|second| 1 + second / 4);
    assert!(!ever(burst), "burst");
    assert!(!ever(late_burst), "late burst");
    assert!(!ever(sawtooth), "sawtooth");
    assert!(!ever(slow_sawtooth), "slow sawtooth");
    assert!(!ever(steady), "steady");
    assert!(!ever(slight), "slight");
}

#[test]
fn a_mended_leak_is_cleared_after_a_window_and_not_raised_again() {
    let counts = (0..300).map(|second: u64| 50 * second.min(100) + second * 7 % 5);
    let found = leaking(LeakRule::default(), counts);
    assert!(found[61..155].iter().all(|is_leak| *is_leak));
    assert!(!found[166..].contains(&true));
}

#[test]
fn a_leak_whose_sockets_are_closed_is_cleared_at_once() {
    let counts = (0..100).map(|second| if second < 80 { 50 * second } else { 3_370 });
    let found = leaking(LeakRule::default(), counts);
    assert!(found[79] && !found[80], "3,370 are below 9/10 of 3,750");
    let counts = (0..100).map(|second| if second < 80 { 50 * second } else { 3_380 });
    assert!(leaking(LeakRule::default(), counts)[80]);
    let counts = (0..90).map(|second| if second < 80 { 50 * second } else { 0 });
    assert!(!leaking(LeakRule::default(), counts)[80]);
}

/// Beside the leak, up to 50 connections that are closed a little late.
#[test]
fn sockets_that_come_and_go_do_not_clear_a_leak() {
    let counts = (0..400).map(|second: u64| 100 + second + 50 * u64::from(second % 3 == 1));
    let found = leaking(LeakRule::default(), counts);
    assert!(found[70..].iter().all(|is_leak| *is_leak));
}

#[test]
fn a_peak_before_the_leak_does_not_clear_it() {
    let counts = (0..200).map(|second: u64| match second {
        0..10 => 10_000,
        _ => 100 + 2 * second,
    });
    let found = leaking(LeakRule::default(), counts);
    assert!(found[80..].iter().all(|is_leak| *is_leak));
}

#[test]
fn a_short_window_waits_for_four_samples() {
    let rule = LeakRule {
        window: at(2),
        growth: 3,
    };
    let found = leaking(rule, (0..5).map(|second| 10 + 50 * second));
    assert_eq!(found, [false, false, false, true, true]);
}

#[test]
fn services_are_bounded_and_the_rest_is_told() {
    let mut detector = LeakDetector::new(LeakRule::default());
    let service = |port| Service { port, ..WEB };
    let all = || (0..5_000).map(|port| (service(port), 1));
    detector.observe(at(0), all());
    assert_eq!((detector.watched.len(), detector.dropped()), (4_096, 904));
    detector.observe(at(1), all().take(1));
    assert_eq!((detector.watched.len(), detector.dropped()), (1, 0));
}

#[test]
fn a_clock_that_stands_still_changes_nothing() {
    let mut detector = LeakDetector::new(LeakRule::default());
    detector.observe(at(5), [(WEB, 5)].into_iter());
    detector.observe(at(5), std::iter::empty());
    detector.observe(at(4), std::iter::empty());
    assert_eq!(detector.watched.len(), 1);
}

fn owner(pid: u32, open_files: Option<u64>, file_limit: Option<u64>) -> Owner {
    let process = Process {
        pid,
        comm: "`web`\x1b[2J\n".to_owned(),
        open_files,
        file_limit,
        ..Process::default()
    };
    Owner {
        process: Arc::new(process),
        fd: None,
    }
}

const LEAK: Leak = Leak {
    service: WEB,
    since: Duration::from_secs(100),
    sockets: 3_000,
    rate_per_second: 50.0,
};

/// The incident of sockets that these hold, as many as the first.
fn incident(leak: &Leak, sockets: u64, severity: Severity, owners: &[(Owner, u64)]) -> Incident {
    let mut group = Group::default();
    for number in 0..sockets {
        let socket = Evidence {
            cookie: number + 1,
            ..evidence(State::CloseWait)
        };
        let holders = owners.iter().filter(|(_, held)| number < *held);
        let holders: Vec<Owner> = holders.map(|(owner, _)| owner.clone()).collect();
        group.add((), &socket, age(30), severity, &holders);
    }
    let whose = Whose::of(owners.first().map(|(owner, _)| owner));
    leak_incident(leak, at(160), whose, &group, &Names::default())
}

#[test]
fn the_growth_is_shared_by_what_each_process_holds() {
    let holders = [
        (owner(1, Some(4_000), Some(20_000)), 2_000),
        (owner(2, Some(1_100), Some(1 << 20)), 1_000),
        (owner(3, None, Some(1_024)), 1),
        (owner(4, Some(1_024), Some(1_024)), 1),
    ];
    let found = holders.map(|holder| {
        let sockets = holder.1;
        incident(&LEAK, sockets, Severity::None, &[holder])
    });
    let rates: Vec<f64> = found
        .iter()
        .map(|one| one.rate_per_second.unwrap().round())
        .collect();
    assert_eq!(rates, [33.0, 17.0, 0.0, 0.0]);
    let left: Vec<_> = found
        .iter()
        .map(|one| one.exhausted_in_seconds.map(f64::round))
        .collect();
    assert_eq!(left, [Some(480.0), Some(62_849.0), None, Some(0.0)]);
    let severities: Vec<Severity> = found.iter().map(|one| one.severity).collect();
    let [low, high] = [Severity::Warning, Severity::Critical];
    assert_eq!(severities, [high, low, low, high]);
    assert_eq!(
        found[0].reason,
        "2,000 connections that the peer closed and the application did not; growing for 1 min, \
         now by 33.3/s; pid 1 ('web'\x1b[2J\n) has 4,000 of 20,000 descriptors open and reaches \
         its limit in 8 min"
    );
    assert_eq!(
        (found[0].sockets, found[0].oldest_seconds),
        (2_000, Some(30.0))
    );
    assert!(found[0].advice.contains("'sport = :8080'"));
}

#[test]
fn a_socket_shared_after_fork_grows_in_each_process() {
    let owners = [(1, 200), (2, 100)].map(|(pid, limit)| (owner(pid, Some(0), Some(limit)), 3_000));
    let found = incident(&LEAK, 3_000, Severity::None, &owners);
    assert_eq!(found.sockets, 3_000);
    let pids: Vec<u32> = found.owners.iter().map(|one| one.process.pid).collect();
    assert_eq!(pids, [1, 2]);
    // The first of them to meet its limit.
    assert_eq!(found.exhausted_in_seconds, Some(2.0));
    assert!(found.reason.contains("pid 2 ("));
}

#[test]
fn without_a_holder_it_is_as_grave_as_its_sockets() {
    let service = Service {
        is_local: false,
        ..WEB
    };
    let found = incident(&Leak { service, ..LEAK }, 3_000, Severity::Critical, &[]);
    assert!(found.owners.is_empty());
    assert_eq!(found.severity, Severity::Critical, "as its sockets");
    assert_eq!(
        (found.local, found.remote),
        (Endpoint::Any, Endpoint::Port(8080))
    );
    assert!(found.advice.contains("'dport = :8080'"));
}

proptest! {
    /// Whatever the counts are: a leak is only raised where a naive look at the whole history finds
    /// the growth, and none is left where nothing grew.
    #[test]
    fn no_leak_without_growth_over_the_window(
        changes in prop::collection::vec(-3_i64..8, 1..250),
    ) {
        let mut count = 0_i64;
        let counts: Vec<u64> = changes
            .iter()
            .map(|change| {
                count = (count + change).max(0);
                count.cast_unsigned()
            })
            .collect();
        let rule = LeakRule { window: at(24), growth: 20 };
        let found = leaking(rule, counts.iter().copied());
        for round in 0..found.len() {
            if found[round] && (round == 0 || !found[round - 1]) {
                prop_assert!(round >= 24);
                let before = counts[..=round - 22].iter().rev().take(6).min().unwrap();
                prop_assert!(counts[round] >= before + 20);
            }
        }
    }

    #[test]
    fn steady_growth_is_always_found(start in 0_u64..10_000, slope in 1_u64..1_000) {
        let counts = (0..=60).map(|second| start + slope * second);
        prop_assert!(leaking(LeakRule::default(), counts)[60]);
    }

    #[test]
    fn what_returns_to_its_base_is_never_a_leak(
        base in 0_u64..100, slope in 1_u64..100, period in 2_u64..40,
    ) {
        prop_assert!(!ever((0..250).map(|second| base + slope * (second % period))));
    }
}
