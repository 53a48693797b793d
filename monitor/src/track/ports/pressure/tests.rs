use super::*;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn port(last: u8, used: u32) -> PortUse {
    PortUse {
        netns: 7,
        local: "10.0.0.1".parse().unwrap(),
        remote: SocketAddr::from(([10, 0, 0, last], 80)),
        capacity: 1_000,
        used,
        time_wait: used,
        reusable: 0,
        settles_at: 60 * used,
        has_reuse: false,
        has_timestamps: true,
    }
}

fn usage(netns: u32, mut top: Vec<PortUse>) -> PortUsage {
    for port in &mut top {
        port.netns = netns;
    }
    PortUsage {
        netns,
        destinations: top.len(),
        minisockets: 0,
        time_wait: 0,
        uncounted: 0,
        top,
    }
}

/// Of namespace 7.
fn minisockets(minisockets: u64) -> PortUsage {
    PortUsage {
        minisockets,
        time_wait: minisockets,
        ..usage(7, Vec::new())
    }
}

/// What is found with so many of 1,000 ports used, one second after the other.
fn severities(used: &[u32]) -> Vec<Severity> {
    let mut pressure = Pressure::default();
    let rule = PortRule {
        within: Duration::ZERO,
        ..PortRule::default()
    };
    let mut severity = |(second, used): (u64, &u32)| {
        pressure.observe(at(second), usage(7, vec![port(2, *used)]));
        let findings = pressure.incidents(&rule, &Names::default());
        findings.first().map_or(Severity::None, |one| one.severity)
    };
    (0..).zip(used).map(&mut severity).collect()
}

#[test]
fn exhaustion_is_foretold_from_the_growth() {
    let mut pressure = Pressure::default();
    pressure.observe(at(0), usage(7, vec![port(2, 100)]));
    let row = pressure.report(&PortRule::default()).ports.remove(0);
    assert_eq!(
        (row.rate_per_second, row.exhausted_in_seconds),
        (None, None)
    );
    pressure.observe(at(10), usage(7, vec![port(2, 600)]));
    let row = pressure.report(&PortRule::default()).ports.remove(0);
    assert_eq!(row.rate_per_second, Some(50.0));
    assert_eq!(row.exhausted_in_seconds, Some(8.0));
    let found = pressure
        .incidents(&PortRule::default(), &Names::default())
        .remove(0);
    assert_eq!(found.severity, Severity::Warning);
    assert_eq!(
        found.reason,
        "600 of 1,000 ephemeral ports from 10.0.0.1 to 10.0.0.2:80 are in use, 600 of them in \
         TIME_WAIT; at +50.0/s the rest lasts 8 s"
    );
    assert_eq!(found.local.to_string(), "10.0.0.1:*");
    pressure.observe(at(18), usage(7, vec![port(2, 1_000)]));
    let found = pressure
        .incidents(&PortRule::default(), &Names::default())
        .remove(0);
    assert_eq!(found.severity, Severity::Critical);
    assert_eq!(found.exhausted_in_seconds, Some(0.0));
    assert_eq!(found.oldest_seconds, None);
    assert!(
        found
            .reason
            .ends_with("; connect() fails with EADDRNOTAVAIL")
    );
}

/// What is foretold after a second with so much growth and so many of 1,000 ports used.
fn foretold(before: PortUse, after: PortUse) -> (Option<f64>, Vec<Severity>) {
    let mut pressure = Pressure::default();
    pressure.observe(at(0), usage(7, vec![before]));
    pressure.observe(at(1), usage(7, vec![after]));
    let findings = pressure.incidents(&PortRule::default(), &Names::default());
    let row = pressure.report(&PortRule::default()).ports.remove(0);
    let severities = findings.iter().map(|one| one.severity);
    (row.exhausted_in_seconds, severities.collect())
}

#[test]
fn growth_that_levels_off_is_no_finding() {
    let tends = |used, settles_at| PortUse {
        settles_at,
        ..port(2, used)
    };
    assert_eq!(foretold(tends(500, 640), tends(510, 640)), (None, vec![]));
    let warned = vec![Severity::Warning];
    assert_eq!(
        foretold(tends(500, 999), tends(510, 1_000)),
        (Some(49.0), warned)
    );
}

/// Connections that are never closed: no `TIME_WAIT` ends for them.
#[test]
fn growth_of_what_is_held_does_not_level_off() {
    let held = |used| PortUse {
        settles_at: used,
        time_wait: 0,
        ..port(2, used)
    };
    let warned = vec![Severity::Warning];
    assert_eq!(foretold(held(500), held(510)), (Some(49.0), warned.clone()));
    let beside = |used, settles_at| PortUse {
        settles_at,
        time_wait: 300,
        ..port(2, used)
    };
    assert_eq!(
        foretold(beside(500, 790), beside(510, 800)),
        (Some(49.0), warned.clone())
    );
    let slowly = |used, time_wait| PortUse {
        settles_at: 800,
        time_wait,
        ..port(2, used)
    };
    assert_eq!(
        foretold(slowly(500, 300), slowly(520, 319)),
        (Some(200.0), warned)
    );
}

#[test]
fn growth_below_half_of_the_range_is_no_finding() {
    let mut pressure = Pressure::default();
    for (second, used) in [(0, 0), (1, 499)] {
        pressure.observe(at(second), usage(7, vec![port(2, used)]));
    }
    assert_eq!(
        pressure.incidents(&PortRule::default(), &Names::default()),
        []
    );
}

#[test]
fn a_finding_clears_below_nine_tenths_of_its_threshold() {
    use Severity::{Critical, None, Warning};
    for (used, expected) in [
        (
            &[799, 800, 721, 719, 799][..],
            &[None, Warning, Warning, None, None][..],
        ),
        (
            &[950, 855, 854, 949],
            &[Critical, Critical, Warning, Warning],
        ),
        (&[949, 950], &[Warning, Critical]),
    ] {
        assert_eq!(severities(used), expected, "{used:?}");
    }
}

#[test]
fn namespaces_are_apart_and_forgotten_when_gone() {
    let mut pressure = Pressure::default();
    pressure.observe(at(0), usage(7, vec![port(2, 10), port(3, 990)]));
    pressure.observe(at(0), usage(8, vec![port(2, 500)]));
    pressure.observe(at(1), usage(7, vec![port(2, 10)]));
    let used: Vec<u32> = pressure
        .report(&PortRule::default())
        .ports
        .iter()
        .map(|row| row.used)
        .collect();
    assert_eq!(used, [500, 10]);
    pressure.retain(at(0), |netns| netns == 7);
    assert_eq!(pressure.report(&PortRule::default()).ports.len(), 1);
}

#[test]
fn only_the_fullest_are_watched() {
    let mut pressure = Pressure::default();
    for netns in 1..=10 {
        let ports = (0..64).map(|last| port(last, netns * 64 + u32::from(last)));
        pressure.observe(at(0), usage(netns, ports.collect()));
    }
    let used: Vec<u32> = pressure
        .report(&PortRule::default())
        .ports
        .iter()
        .map(|row| row.used)
        .collect();
    assert_eq!(used.len(), MOST_WATCHED);
    assert_eq!((used[0], used[255]), (703, 448));
}

#[test]
fn buckets_are_critical_while_they_overflow() {
    let mut pressure = Pressure::default();
    let mut severity = |second, count, overflows| {
        let limits = Limits {
            time_wait_overflows: overflows,
            ..Limits::default()
        };
        pressure.observe_buckets(at(second), &minisockets(count), &limits);
        let findings = pressure.incidents(&PortRule::default(), &Names::default());
        findings
            .into_iter()
            .next()
            .map(|one| (one.severity, one.reason))
    };
    assert_eq!(severity(0, 1_000, 500), None);
    let (level, reason) = severity(10, 131_072, 1_500).unwrap();
    assert_eq!(level, Severity::Critical);
    assert_eq!(
        reason,
        "131,072 of 131,072 TIME_WAIT buckets are in use, and 100.0 closes/s skip TIME_WAIT \
         (1,500 so far)"
    );
    // A namespace of the same number, born anew.
    assert_eq!(severity(20, 0, 0), None);
    assert_eq!(severity(30, 110_000, 0).unwrap().0, Severity::Warning);
}

#[test]
fn no_buckets_at_all_are_not_divided_by() {
    let mut pressure = Pressure::default();
    let limits = Limits {
        max_tw_buckets: 0,
        ..Limits::default()
    };
    pressure.observe_buckets(at(0), &minisockets(0), &limits);
    assert!(pressure.report(&PortRule::default()).buckets[0].ratio.abs() < 1e-9);
    assert_eq!(
        pressure.incidents(&PortRule::default(), &Names::default()),
        []
    );
}

#[test]
fn advice_is_never_wrong() {
    let mut pressure = Pressure::default();
    pressure.observe(at(0), usage(7, vec![port(2, 1_000)]));
    pressure.observe_buckets(at(0), &minisockets(131_072), &Limits::default());
    let findings = pressure.incidents(&PortRule::default(), &Names::default());
    assert_eq!(findings.len(), 2);
    // Those of the ports are not counted again.
    let of_ports = u64::from(port(2, 1_000).time_wait) + u64::from(port(2, 1_000).reusable);
    assert_eq!(
        (findings[0].sockets, findings[1].sockets),
        (of_ports, 131_072 - of_ports)
    );
    for finding in findings {
        assert!(!finding.advice.contains("recycle") && !finding.advice.contains("fin_timeout"));
    }
}

#[test]
fn reuse_is_advised_where_it_is_off_and_can_work() {
    let told = |has_reuse, has_timestamps| {
        let mut pressure = Pressure::default();
        let port = PortUse {
            has_reuse,
            has_timestamps,
            ..port(2, 1_000)
        };
        pressure.observe(at(0), usage(7, vec![port]));
        let mut findings = pressure.incidents(&PortRule::default(), &Names::default());
        findings.remove(0).advice
    };
    let has =
        |advice: String| ["tcp_tw_reuse=1", "tcp_timestamps=1"].map(|one| advice.contains(one));
    assert_eq!(has(told(true, true)), [false, false]);
    assert_eq!(has(told(false, true)), [true, false]);
    assert_eq!(has(told(true, false)), [false, true]);
    assert_eq!(has(told(false, false)), [true, true]);
}

#[test]
fn what_is_not_counted_is_told() {
    let mut pressure = Pressure::default();
    let usage = PortUsage {
        uncounted: 9,
        ..minisockets(1)
    };
    pressure.observe_buckets(at(0), &usage, &Limits::default());
    assert_eq!(
        pressure.report(&PortRule::default()).buckets[0].uncounted,
        9
    );
}

#[test]
fn a_report_survives_json() {
    let mut pressure = Pressure::default();
    pressure.observe(at(0), usage(7, vec![port(2, 1_000)]));
    pressure.observe_buckets(at(0), &minisockets(5), &Limits::default());
    let mut report = pressure.report(&PortRule::default());
    assert_eq!(report.looked.take(), Some(at(0)));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["ports"][0]["remote"], "10.0.0.2:80");
    assert_eq!(json["ports"][0]["exhausted_in_seconds"], 0.0);
    assert_eq!(json["buckets"][0]["uncounted"], 0);
    assert_eq!(
        json["buckets"][0]["overflow_rate_per_second"],
        serde_json::Value::Null
    );
    assert_eq!(serde_json::from_value::<PortReport>(json).unwrap(), report);
}

#[test]
fn what_is_not_looked_at_any_more_is_no_longer_shown_unless_it_is_raised() {
    let mut pressure = Pressure::default();
    let rule = PortRule::default();
    let (all, none) = (Limits::default(), |_| true);
    for (netns, used) in [(7, 950), (8, 10)] {
        pressure.observe_buckets(at(0), &usage(netns, Vec::new()), &all);
        pressure.observe(at(0), usage(netns, vec![port(2, used)]));
    }
    assert_eq!(pressure.incidents(&rule, &Names::default()).len(), 1);
    assert!(!pressure.retain(at(119), none));
    assert_eq!(
        (
            pressure.report(&PortRule::default()).ports.len(),
            pressure.looked(8)
        ),
        (2, Some(at(0)))
    );
    assert!(pressure.retain(at(120), none));
    let report = pressure.report(&PortRule::default());
    let ports: Vec<u32> = report.ports.iter().map(|row| row.netns).collect();
    assert_eq!((ports, report.buckets.len()), (vec![7], 0));
    assert_eq!(pressure.looked(8), None);
}
