use std::net::SocketAddr;

use super::*;

fn finding(cookie: u64, severity: Severity) -> Finding {
    Finding {
        cookie: Some(cookie),
        ..Finding::of_group(severity, "default", State::CloseWait, 7)
    }
}

fn told(board: &Board, known: u64) -> Vec<(Change, Option<u64>)> {
    let (notices, _) = board.notices_after(known);
    notices
        .map(|notice| (notice.event, notice.finding.cookie))
        .collect()
}

#[test]
fn each_change_is_told_once() {
    let mut board = Board::default();
    let (warning, critical) = (Severity::Warning, Severity::Critical);
    for (now, expected) in [
        (vec![finding(1, Severity::None)], vec![]),
        (vec![finding(1, warning)], vec![(Change::Raised, Some(1))]),
        (vec![finding(1, warning)], vec![]),
        (
            vec![finding(1, critical), finding(2, warning)],
            vec![(Change::Worsened, Some(1)), (Change::Raised, Some(2))],
        ),
        (
            vec![finding(1, warning)],
            vec![(Change::Cleared, Some(2)), (Change::Eased, Some(1))],
        ),
        (vec![], vec![(Change::Cleared, Some(1))]),
        (vec![], vec![]),
    ] {
        let known = board.given();
        board.update_with(5, &now, |_| true);
        assert_eq!(told(&board, known), expected);
    }
    assert_eq!(board.raised().count(), 0);
}

#[test]
fn what_a_look_does_not_cover_stays() {
    let mut board = Board::default();
    let group = Finding::of_group(Severity::Warning, "leak", State::CloseWait, 8);
    board.update_with(1, &[finding(1, Severity::Warning), group], |_| true);
    board.update_with(2, &[], |finding| finding.netns == 8);
    assert_eq!(told(&board, 2), [(Change::Cleared, None)]);
    board.clear(3, |finding| finding.cookie == Some(1));
    assert_eq!(told(&board, 3), [(Change::Cleared, Some(1))]);
}

#[test]
fn a_storm_is_told_in_part_and_its_end_makes_room() {
    let mut board = Board::default();
    let storm: Vec<Finding> = (0..MOST_ANNOUNCED as u64 + 5)
        .map(|cookie| finding(cookie, Severity::Warning))
        .collect();
    board.update_with(1, &storm, |_| true);
    let report = board.report((), 0);
    assert_eq!(
        (report.notices.len(), report.unannounced),
        (MOST_ANNOUNCED, 5)
    );
    board.begin_look(|netns| netns == 7);
    board.update_with(2, &storm[3..], |_| true);
    let report = board.report((), report.given);
    assert_eq!((report.notices.len(), report.unannounced), (6, 2));
    // A group is always worth a word.
    let group = Finding::of_group(Severity::Warning, "leak", State::CloseWait, 8);
    board.update_with(3, &[group], |_| false);
    assert_eq!(told(&board, report.given), [(Change::Raised, None)]);
}

#[test]
fn every_stuck_socket_is_counted_and_each_look_replaces_the_last() {
    let (warning, critical) = (Severity::Warning, Severity::Critical);
    let most = MOST_ANNOUNCED as u64;
    let one = |cookie, severity| Finding {
        sockets: 1,
        local: Endpoint::Socket(SocketAddr::from(([127, 0, 0, 1], 80))),
        remote: Endpoint::Socket(SocketAddr::from(([127, 0, 0, 1], 4000))),
        ..finding(cookie, severity)
    };
    let mut storm: Vec<Finding> = (0..most + 4).map(|cookie| one(cookie, warning)).collect();
    storm.push(one(most + 4, critical));
    let mut group = Finding::of_group(warning, "leak", State::CloseWait, 7);
    group.sockets = 500;
    let mut board = Board::default();
    board.begin_look(|netns| netns == 7);
    board.update_with(5_000_000_000, &[group.clone()], |_| false);
    board.update_with(5_000_000_000, &storm, |_| false);
    let of = |severity| (7, State::CloseWait, severity);
    let counts = [(of(warning), most + 504), (of(critical), 1)];
    board.judge(|netns| netns == 7, counts.into());
    let stuck = board.stuck();
    assert_eq!(stuck.sockets, counts.into());
    assert_eq!(stuck.unannounced, 5);
    assert_eq!(stuck.raised.len(), MOST_ANNOUNCED + 1);
    let looked = |(_, at): &(Finding, Duration)| *at == Duration::from_secs(5);
    assert!(stuck.raised.iter().all(looked));
    let so_far = [(FindingKind::Socket, most), (FindingKind::Leak, 1)];
    assert_eq!(stuck.raised_so_far, so_far.into());
    // Nothing has changed: nothing is made anew.
    assert!(Arc::ptr_eq(&board.stuck().raised, &stuck.raised));

    // A look elsewhere, at groups, or at ports says nothing of them.
    board.begin_look(|netns| netns == 8);
    board.update_with(6_000_000_000, &[group], Finding::is_group);
    assert_eq!(board.stuck().unannounced, 5);
    assert_eq!(board.unannounced().collect::<Vec<_>>(), [7, 7]);
    // One is known to have left.
    board.clear(6_000_000_000, |finding| finding.cookie == Some(2));
    let left = [(of(warning), most + 503), (of(critical), 1)];
    assert_eq!(board.stuck().sockets, left.into());
    // All but one have gone.
    board.begin_look(|netns| netns == 7);
    board.update_with(7_000_000_000, &[one(1, critical)], |finding| {
        !finding.is_group()
    });
    board.judge(|netns| netns == 7, [(of(critical), 1)].into());
    board.judge(|netns| netns == 8, BTreeMap::new());
    let stuck = board.stuck();
    assert_eq!(stuck.sockets, [(of(critical), 1)].into());
    assert_eq!((stuck.unannounced, stuck.raised.len()), (0, 2));
    assert_eq!(stuck.raised_so_far, so_far.into());
}

#[test]
fn old_notices_make_room_and_are_counted() {
    let mut board = Board::default();
    for round in 0..MOST_NOTICES as u64 {
        board.update_with(round, &[finding(1, Severity::Warning)], |_| true);
        board.clear(round, |_| true);
    }
    let report = board.report((), 10);
    assert_eq!(report.notices.len(), MOST_NOTICES);
    assert_eq!(report.given, 2 * MOST_NOTICES as u64);
    assert_eq!(report.missed, MOST_NOTICES as u64 - 10);
    let later = board.report((), report.given);
    assert_eq!((later.notices.len(), later.missed), (0, 0));
    assert_eq!(board.report((), u64::MAX).notices.len(), 0);
}
