use super::*;
use crate::track::stuck::Endpoint;
use crate::track::{Cause, Whose};

const NOT_READ: Kind = Kind::Sockets {
    cause: Cause::NotRead,
    mptcp: false,
};

/// One socket of a service in namespace 7.
fn one(port: u16, severity: Severity) -> Incident {
    Incident {
        whose: Whose::Process(12),
        local: Endpoint::Port(port),
        sockets: 1,
        members: vec![Member {
            cookie: port.into(),
            severity,
            is_mptcp: false,
        }],
        ..Incident::new(NOT_READ, severity, State::CloseWait, 7)
    }
}

fn leak(netns: u32) -> Incident {
    Incident {
        sockets: 500,
        ..Incident::new(Kind::Leak, Severity::Warning, State::CloseWait, netns)
    }
}

fn told(active: &ActiveIncidents, known: u64) -> Vec<(Change, Option<u16>)> {
    let (notices, _) = active.notices_after(known);
    notices
        .map(|notice| (notice.event, notice.incident.local.port()))
        .collect()
}

#[test]
fn each_change_is_told_once() {
    let mut active = ActiveIncidents::default();
    let (warning, critical) = (Severity::Warning, Severity::Critical);
    for (now, expected) in [
        (vec![one(1, Severity::None)], vec![]),
        (vec![one(1, warning)], vec![(Change::Raised, Some(1))]),
        (vec![one(1, warning)], vec![]),
        (
            vec![one(2, warning), one(1, critical)],
            vec![(Change::Worsened, Some(1)), (Change::Raised, Some(2))],
        ),
        (
            vec![one(1, warning)],
            vec![(Change::Cleared, Some(2)), (Change::Eased, Some(1))],
        ),
        (vec![], vec![(Change::Cleared, Some(1))]),
        (vec![], vec![]),
    ] {
        let known = active.given();
        active.update(5, now, |_| true);
        assert_eq!(told(&active, known), expected);
    }
    assert_eq!(active.raised().count(), 0);
}

#[test]
fn what_a_look_does_not_cover_stays() {
    let mut active = ActiveIncidents::default();
    active.update(1, vec![one(1, Severity::Warning), leak(8)], |_| true);
    active.update(2, vec![], |incident| incident.netns == 8);
    assert_eq!(told(&active, 2), [(Change::Cleared, None)]);
    active.clear(3, |_, incident| incident.netns == 7);
    assert_eq!(told(&active, 3), [(Change::Cleared, Some(1))]);
}

#[test]
fn sockets_that_leave_are_taken_out_and_the_last_ends_the_incident() {
    let mut active = ActiveIncidents::default();
    let of = |severity| (7, State::CloseWait, severity);
    let (warning, critical) = (Severity::Warning, Severity::Critical);
    let mut two = one(1, critical);
    two.sockets = 2;
    two.members.push(Member {
        cookie: 2,
        severity: warning,
        is_mptcp: false,
    });
    active.judge(|_| true, [(of(warning), 501), (of(critical), 1)].into());
    active.update(1, vec![two, leak(7)], |_| true);
    active.drop_members(2, |_, cookie, _| cookie == 2);
    let stuck = active.stuck();
    assert_eq!(
        stuck.sockets,
        [(of(warning), 500), (of(critical), 1)].into()
    );
    assert_eq!(stuck.raised[0].0.sockets, 1);
    assert_eq!(active.given(), 2);
    active.drop_members(3, |_, cookie, _| cookie == 1);
    assert_eq!(told(&active, 2), [(Change::Cleared, Some(1))]);
    // A leak of more than are followed goes on until a look.
    assert_eq!(active.raised().count(), 1);
    assert_eq!(active.stuck().sockets[&of(critical)], 0);
}

#[test]
fn each_look_replaces_the_last() {
    let mut active = ActiveIncidents::default();
    active.update(
        5_000_000_000,
        vec![one(1, Severity::Critical), leak(7)],
        |_| true,
    );
    let of = |severity| (7, State::CloseWait, severity);
    let counts = [(of(Severity::Warning), 500), (of(Severity::Critical), 1)];
    active.judge(|netns| netns == 7, counts.into());
    let stuck = active.stuck();
    assert_eq!(stuck.sockets, counts.into());
    let looked = |(_, at): &(Incident, Duration)| *at == Duration::from_secs(5);
    assert!(stuck.raised.len() == 2 && stuck.raised.iter().all(looked));
    assert_eq!(stuck.raised_so_far, [("leak", 1), ("sockets", 1)].into());
    // Nothing has changed: nothing is made anew.
    assert!(Arc::ptr_eq(&active.stuck().raised, &stuck.raised));
    active.judge(|netns| netns == 8, BTreeMap::new());
    active.update(6_000_000_000, vec![], |incident| incident.netns == 8);
    assert_eq!(active.stuck().sockets, counts.into());
    active.judge(|netns| netns == 7, BTreeMap::new());
    active.update(7_000_000_000, vec![one(1, Severity::Warning)], |_| true);
    let stuck = active.stuck();
    assert_eq!((stuck.sockets.len(), stuck.raised.len()), (0, 1));
    assert_eq!(stuck.raised_so_far, [("leak", 1), ("sockets", 1)].into());
}

#[test]
fn what_matters_most_comes_first() {
    let failing = Incident {
        exhausted_in_seconds: Some(0.0),
        ..Incident::new(Kind::EphemeralPorts, Severity::Warning, State::TimeWait, 7)
    };
    let soon = Incident {
        exhausted_in_seconds: Some(40.0),
        ..leak(7)
    };
    let many = Incident {
        sockets: 9,
        ..one(2, Severity::Warning)
    };
    let far = Incident {
        exhausted_in_seconds: Some(1e9),
        ..leak(8)
    };
    let order = [
        failing,
        soon,
        one(1, Severity::Critical),
        far,
        many,
        one(3, Severity::Warning),
    ];
    let mut active = ActiveIncidents::default();
    active.update(1, order.iter().rev().cloned().collect(), |_| true);
    assert_eq!(active.ranked(1, |_| true), order);
    let later = active.ranked(2_000_000_001, |incident| incident.kind == NOT_READ);
    assert_eq!(later.len(), 3);
}

#[test]
fn old_notices_make_room_and_are_counted() {
    let mut active = ActiveIncidents::default();
    for round in 0..MOST_NOTICES as u64 {
        active.update(round, vec![one(1, Severity::Warning)], |_| true);
        active.clear(round, |_, _| true);
    }
    let report = active.report((), vec![], 10);
    assert_eq!(report.notices.len(), MOST_NOTICES);
    assert_eq!(report.given, 2 * MOST_NOTICES as u64);
    assert_eq!(report.missed, MOST_NOTICES as u64 - 10);
    let later = active.report((), vec![], report.given);
    assert_eq!((later.notices.len(), later.missed), (0, 0));
    assert_eq!(active.report((), vec![], u64::MAX).notices.len(), 0);
}
