//! Samples for the tests: of a host as bad as can be, and of one where nothing happens.

use std::sync::Arc;
use std::time::Duration;

use crate::tcp::{Counts, RawState, State, Transition};
use crate::track::stuck::Severity;
use crate::track::{
    Activity, Buckets, Cause, Census, Checked, Cost, EventTotals, Incident, Kind, NamespaceSummary,
    OwnerName, PortReport, PortRow, Sample, Scope, Snapshot, Stuck, Summary, Tally, TopOwners,
};

const HOSTILE: &str = "a\"b\\c\nd\re\u{1b}[2J\u{202e}";

/// 10,000 owners and 1,000 namespaces, in every state, all with names of others' choice.
pub(super) fn busy() -> Sample {
    let mut counts = Counts::default();
    for (state, sockets) in State::ALL.into_iter().zip(1..) {
        counts.set(state, sockets);
    }
    let namespaces = (1..=1_000).map(|netns| {
        let mut ipv4 = counts;
        ipv4.add(State::Established, u64::from(netns % 100));
        NamespaceSummary {
            netns,
            name: (netns % 3 > 0).then(|| format!("{HOSTILE}{netns}")),
            ipv4,
            ipv6: counts,
            ..NamespaceSummary::default()
        }
    });
    let summary = Summary {
        log_dropped: 7,
        namespaces: namespaces.collect(),
        events: EventTotals {
            counted: 9,
            received: 6,
            lost: 3,
            ignored: 4,
        },
        tally: Tally {
            corrected: 2,
            ..Tally::default()
        },
        ..Summary::default()
    };
    Sample {
        taken: Duration::from_secs(100),
        realtime_minus_monotonic_ns: 1_767_323_045_000_000_000,
        summary,
        is_in_doubt: true,
        transitions: [[7; 16]; 16],
        activity: Arc::new(activity()),
        oldest_since: State::LINGERING
            .map(|state| (state, Duration::from_secs(39)))
            .into(),
        stuck: stuck(),
        buckets: (1..=1_000).map(|netns| (netns, bucket(netns))).collect(),
        other_overflows: 5,
        checked: checked(),
        ports: Arc::new(ports()),
        owners: Arc::new(owners(counts)),
        cost: Cost {
            cpu: Duration::from_millis(1_500),
            program: Some((Duration::from_millis(20), 100_000)),
            attached: "tp_btf",
            ..Cost::default()
        },
    }
}

/// Every transition after four spans of time, and one close at once.
fn activity() -> Activity {
    let endpoint = "127.0.0.1:1".parse().unwrap();
    let close = Transition {
        local: endpoint,
        remote: endpoint,
        from: RawState::Known(State::Established),
        to: RawState::Known(State::Close),
        ..Transition::example()
    };
    let mut activity = Activity::default();
    activity.apply(&close, Some(Duration::ZERO));
    for (from, to) in State::ALL
        .into_iter()
        .flat_map(|from| State::ALL.map(|to| (from, to)))
    {
        let (from, to) = (RawState::Known(from), RawState::Known(to));
        for micros in [1, 40, 5_000, 3_000_000] {
            let after = Duration::from_micros(micros);
            activity.apply(&Transition { from, to, ..close }, Some(after));
        }
    }
    activity
}

fn checked() -> Checked {
    let mut census = Census::default();
    for netns in 1..=1_000 {
        let snapshot = Snapshot {
            scope: Scope::ALL,
            has_cookies: true,
            is_alone: true,
            began_ns: 40_000_000_000,
        };
        census.begin(netns);
        let _: u64 = census.finish(netns, snapshot, std::iter::empty());
        census.note_audit(netns, &Counts::default());
    }
    census.checked().clone()
}

fn bucket(netns: u32) -> Buckets {
    Buckets {
        limit: 16_384,
        overflows: (netns <= 10).then_some(netns.into()),
    }
}

fn stuck() -> Stuck {
    let severities = [Severity::None, Severity::Warning, Severity::Critical];
    let sockets = (1..=1_000).flat_map(|netns| {
        State::ALL
            .into_iter()
            .flat_map(move |state| severities.map(|severity| ((netns, state, severity), 1)))
    });
    let sockets_kind = Kind::Sockets {
        cause: Cause::NotRead,
        mptcp: false,
    };
    let raised = |kind| Incident::new(kind, Severity::Critical, State::CloseWait, 1);
    let warned = Incident::new(sockets_kind, Severity::Warning, State::CloseWait, 1);
    let groups = [
        Kind::Leak,
        Kind::Count,
        Kind::EphemeralPorts,
        Kind::TimeWaitBuckets,
    ];
    let groups = groups.map(raised).into_iter();
    Stuck {
        sockets: sockets.collect(),
        raised: groups
            .chain([warned.clone(), warned])
            .map(|incident| (incident, Duration::ZERO))
            .collect(),
        raised_so_far: Kind::NAMES.map(|kind| (kind, 3)).into(),
    }
}

fn ports() -> PortReport {
    let row = |netns: u32| PortRow {
        netns: netns % 1_000 + 1,
        netns_name: None,
        local: "127.0.0.1".parse().unwrap(),
        remote: "127.0.0.1:80".parse().unwrap(),
        capacity: 28_232,
        used: netns,
        time_wait: 1,
        reusable: 0,
        used_ratio: f64::from(netns) / 28_232.0,
        rate_per_second: None,
        exhausted_in_seconds: (netns.is_multiple_of(2)).then_some(9.5),
        severity: Severity::None,
    };
    PortReport {
        ports: (0..5_000).map(row).collect(),
        buckets: Vec::new(),
        looked: None,
    }
}

fn owners(counts: Counts) -> TopOwners {
    let leaders = (0..10_000).map(|at| {
        let name = match at % 3 {
            0 => OwnerName::Unit(format!("{HOSTILE}-{at}.service")),
            1 => OwnerName::Container(format!("{at:012x}").repeat(5)),
            _ => OwnerName::Process(HOSTILE.repeat(at % 50)),
        };
        (name, counts)
    });
    TopOwners {
        taken: Some(Duration::ZERO),
        leaders: leaders.collect(),
        other: counts,
        nobody: counts,
    }
}

/// Nothing at all, at the same moment.
pub(super) fn idle() -> Sample {
    let Sample {
        taken,
        realtime_minus_monotonic_ns,
        ..
    } = busy();
    Sample {
        taken,
        realtime_minus_monotonic_ns,
        is_in_doubt: true,
        ..Sample::default()
    }
}
