//! What has been raised and not cleared yet, and the notices of it: each finding is announced once,
//! and once more when it is over.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Endpoint, Finding, Severity};
use crate::tcp::State;

/// Most findings on single sockets that are announced at once; the list shows all of them. A storm
/// of a hundred thousand notices would tell nobody anything.
const MOST_ANNOUNCED: usize = 1_000;
/// Notices kept for those who ask from time to time.
const MOST_NOTICES: usize = 4_096;

/// What happened to a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Change {
    Raised,
    /// From warning to critical.
    Worsened,
    /// From critical to warning.
    Eased,
    Cleared,
}

/// One change of one finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Notice {
    pub(crate) event: Change,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub(crate) ktime_ns: u64,
    /// As it was when it changed; of a cleared one, as it was last.
    #[serde(flatten)]
    pub(crate) finding: Finding,
}

/// What tells findings apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    netns: u32,
    state: State,
    /// Of a single socket, which is the same one under whatever rule.
    cookie: Option<u64>,
    group: Option<Box<Group>>,
}

/// What tells groups of sockets apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    rule: String,
    /// What a count rule adds up, by its name.
    of: String,
    local: Endpoint,
    remote: Endpoint,
    pid: Option<u32>,
}

impl Key {
    /// Of a socket with a cookie.
    pub(crate) const fn of_socket(netns: u32, state: State, cookie: u64) -> Self {
        Self {
            netns,
            state,
            cookie: Some(cookie),
            group: None,
        }
    }

    pub(crate) fn of(finding: &Finding) -> Self {
        if let Some(group) = &finding.group {
            // Its sockets, and with them what they have in common, change.
            return Self {
                netns: 0,
                state: State::Close,
                cookie: None,
                group: Some(Box::new(Group {
                    rule: finding.rule.clone(),
                    of: group.clone(),
                    local: Endpoint::Any,
                    remote: Endpoint::Any,
                    pid: None,
                })),
            };
        }
        let group = || {
            Box::new(Group {
                of: String::new(),
                rule: finding.rule.clone(),
                local: finding.local,
                remote: finding.remote,
                pid: finding.owners.first().map(|owner| owner.process.pid),
            })
        };
        Self {
            netns: finding.netns,
            state: finding.state,
            cookie: finding.cookie,
            group: finding.cookie.is_none().then(group),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Board {
    raised: BTreeMap<Key, Finding>,
    /// Findings on single sockets at the last update that found no room.
    unannounced: usize,
    notices: VecDeque<Notice>,
    /// Notices ever given; those kept are the last of them.
    given: u64,
}

impl Board {
    /// Takes over what holds now. What is raised, covered by this look and not in it is over.
    ///
    /// Each comes with its severity, which must not be none, and a way to make it, which is gone only
    /// for what is announced.
    pub(crate) fn update<F: FnOnce() -> Option<Finding>>(
        &mut self,
        ktime_ns: u64,
        now: impl Iterator<Item = (Key, Severity, F)>,
        is_covered: impl Fn(&Finding) -> bool,
    ) {
        let current: BTreeMap<Key, (Severity, F)> = now
            .map(|(key, severity, make)| (key, (severity, make)))
            .collect();
        self.clear(ktime_ns, |finding| {
            is_covered(finding) && !current.contains_key(&Key::of(finding))
        });
        let mut unannounced = 0;
        let mut room = MOST_ANNOUNCED.saturating_sub(self.announced());
        for (key, (severity, make)) in current {
            let change = match self.raised.get(&key) {
                Some(last) if last.severity < severity => Some(Change::Worsened),
                Some(last) if last.severity > severity => Some(Change::Eased),
                Some(_) => None,
                None if key.cookie.is_some() && room == 0 => {
                    unannounced += 1;
                    continue;
                }
                None => {
                    room -= usize::from(key.cookie.is_some());
                    Some(Change::Raised)
                }
            };
            let Some(finding) = make() else {
                continue;
            };
            if let Some(change) = change {
                self.give(change, ktime_ns, finding.clone());
            }
            self.raised.insert(key, finding);
        }
        self.unannounced = unannounced;
    }

    /// Takes over findings that are made already.
    pub(crate) fn update_with(
        &mut self,
        ktime_ns: u64,
        now: &[Finding],
        is_covered: impl Fn(&Finding) -> bool,
    ) {
        let severe = now
            .iter()
            .filter(|finding| finding.severity > Severity::None);
        let made = severe.map(|finding| {
            let make = move || Some(finding.clone());
            (Key::of(finding), finding.severity, make)
        });
        self.update(ktime_ns, made, is_covered);
    }

    /// Clears what is over.
    pub(crate) fn clear(&mut self, ktime_ns: u64, is_over: impl Fn(&Finding) -> bool) {
        let over = self.raised.extract_if(.., |_, finding| is_over(finding));
        for (_, finding) in over.collect::<Vec<_>>() {
            self.give(Change::Cleared, ktime_ns, finding);
        }
    }

    fn give(&mut self, event: Change, ktime_ns: u64, finding: Finding) {
        if self.notices.len() >= MOST_NOTICES {
            self.notices.pop_front();
        }
        self.given += 1;
        self.notices.push_back(Notice {
            event,
            ktime_ns,
            finding,
        });
    }

    fn announced(&self) -> usize {
        self.raised
            .keys()
            .filter(|key| key.cookie.is_some())
            .count()
    }

    /// What is raised and not over.
    pub(crate) fn raised(&self) -> impl Iterator<Item = &Finding> {
        self.raised.values()
    }

    /// Notices ever given: where to go on from.
    pub(crate) const fn given(&self) -> u64 {
        self.given
    }

    /// The notices after the first `known` ever given, and how many of them are no longer kept.
    pub(crate) fn notices_after(&self, known: u64) -> (impl Iterator<Item = &Notice>, u64) {
        let wanted = self.given.saturating_sub(known);
        let kept = self.notices.len();
        let fresh = usize::try_from(wanted).unwrap_or(usize::MAX).min(kept);
        let missed = wanted - fresh as u64;
        (self.notices.iter().skip(kept - fresh), missed)
    }

    /// These findings, and the notices after the first `known` ever given.
    pub(crate) fn report<F>(&self, findings: F, known: u64) -> Report<F> {
        let (notices, missed) = self.notices_after(known);
        Report {
            findings,
            notices: notices.cloned().collect(),
            given: self.given,
            missed,
            unannounced: self.unannounced as u64,
            missing: Vec::new(),
        }
    }
}

/// What is stuck, and what has changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report<F = Vec<Finding>> {
    pub(crate) findings: F,
    pub(crate) notices: Vec<Notice>,
    /// Notices ever given: where to go on from.
    pub(crate) given: u64,
    /// Notices that were asked for and are no longer kept.
    pub(crate) missed: u64,
    /// Findings that are not announced one by one, as too many are already.
    pub(crate) unannounced: u64,
    /// Namespaces that could not be looked at.
    pub(crate) missing: Vec<u32>,
}

#[cfg(test)]
mod tests {
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
        board.update_with(2, &storm[3..], |_| true);
        let report = board.report((), report.given);
        assert_eq!((report.notices.len(), report.unannounced), (6, 2));
        // A group is always worth a word.
        let group = Finding::of_group(Severity::Warning, "leak", State::CloseWait, 8);
        board.update_with(3, &[group], |_| false);
        assert_eq!(told(&board, report.given), [(Change::Raised, None)]);
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
}
