//! Values that the tests of every output share.

use crate::tcp::{Counts, Family, RawState, State, Transition, TransitionOwner};
use crate::track::{Doubt, EventTotals, NamespaceSummary, Source, Summary, Tally};

use super::Clock;

/// Puts stamp 0 at 2026-01-02T03:04:05Z.
pub(super) const CLOCK: Clock = Clock {
    realtime_minus_monotonic_ns: 1_767_323_045_000_000_000,
};

/// An active close whose peer has closed too, by a process with a hostile name.
pub(super) fn handover() -> Transition {
    Transition {
        ktime_ns: 678_901_234,
        netns: Some(4_026_531_840),
        cookie: Some(8_193),
        cgroup_id: Some(42),
        local: "192.0.2.1:443".parse().unwrap(),
        remote: "198.51.100.77:51234".parse().unwrap(),
        from: RawState::Known(State::FinWait2),
        to: RawState::Known(State::Close),
        error: Some(0),
        has_peer_fin: Some(true),
        is_orphan: Some(true),
        owner: Some(TransitionOwner {
            pid: 4_242,
            comm: *b"a\x1b[2J\xe2\x80\xaeb\"\0\0\0\0\0\0",
        }),
        ..Transition::example()
    }
}

/// A reset of which little is known.
pub(super) fn reset() -> Transition {
    Transition {
        netns: None,
        cookie: None,
        cgroup_id: None,
        family: Family::Ipv6,
        local: "[2001:db8::1]:80".parse().unwrap(),
        remote: "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"
            .parse()
            .unwrap(),
        from: RawState::Known(State::Established),
        to: RawState::Unknown(13),
        error: Some(104),
        has_peer_fin: None,
        is_orphan: None,
        owner: None,
        ..handover()
    }
}

/// One namespace with a name and one without.
pub(super) fn summary() -> Summary {
    let counts = |states: &[State]| states.iter().copied().collect::<Counts>();
    let mut ipv4 = counts(&[State::Listen, State::CloseWait]);
    ipv4.set(State::TimeWait, 131_072);
    Summary {
        log_dropped: 0,
        recent: None,
        source: Source::Daemon,
        namespaces: vec![
            NamespaceSummary {
                netns: 4_026_531_840,
                name: Some("host".to_owned()),
                is_deleted: false,
                mptcp: Counts::default(),
                ipv4,
                ipv6: counts(&[State::Listen]),
                doubt: Doubt::default(),
            },
            NamespaceSummary {
                netns: 4_026_532_201,
                name: Some("we\x1bb".to_owned()),
                is_deleted: false,
                mptcp: Counts::default(),
                ipv4: Counts::default(),
                ipv6: counts(&[State::TimeWait]),
                doubt: Doubt::default(),
            },
        ],
        events: EventTotals {
            counted: 1_203,
            received: 1_200,
            lost: 3,
            ignored: 4,
        },
        tally: Tally {
            corrected: 2,
            ..Tally::default()
        },
    }
}
