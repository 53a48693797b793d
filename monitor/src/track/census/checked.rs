//! When the kernel was last asked for the whole of a namespace, and what that found.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::tcp::{Counts, State};

/// Sockets by [`State::index`]: published minus asked.
type Differences = [i64; State::ALL.len()];

/// By namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checked {
    /// When the last walk of all its sockets began, `CLOCK_MONOTONIC`.
    walked: BTreeMap<u32, Duration>,
    /// Of the last audit.
    differences: BTreeMap<u32, Differences>,
}

impl Checked {
    pub(super) fn note_walk(&mut self, netns: u32, began_ns: u64) {
        self.walked.insert(netns, Duration::from_nanos(began_ns));
    }

    pub(super) fn note_audit(&mut self, netns: u32, published: &Counts, asked: &Counts) {
        let signed = |sockets: u64| i64::try_from(sockets).unwrap_or(i64::MAX);
        let difference =
            |state| signed(published.get(state)).saturating_sub(signed(asked.get(state)));
        self.differences.insert(netns, State::ALL.map(difference));
    }

    pub(super) fn retain(&mut self, found: &BTreeSet<u32>) {
        self.walked.retain(|netns, _| found.contains(netns));
        self.differences.retain(|netns, _| found.contains(netns));
    }

    /// When the last walk of all sockets of a namespace began; None before the first.
    pub(crate) fn walked(&self, netns: u32) -> Option<Duration> {
        self.walked.get(&netns).copied()
    }

    /// Published minus asked at the last audit of each namespace, added up; None before the first.
    pub(crate) fn differences(&self) -> Option<Differences> {
        let mut all = self.differences.values();
        let first = *all.next()?;
        Some(all.fold(first, |mut sum, of_namespace| {
            for (sum, difference) in sum.iter_mut().zip(of_namespace) {
                *sum = sum.saturating_add(*difference);
            }
            sum
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_audit_of_each_namespace_counts_and_signs_stay() {
        let mut checked = Checked::default();
        assert_eq!((checked.differences(), checked.walked(7)), (None, None));
        let counts = |established, close_wait| {
            let mut counts = Counts::default();
            counts.set(State::Established, established);
            counts.set(State::CloseWait, close_wait);
            counts
        };
        checked.note_audit(7, &counts(9, 9), &counts(1, 1));
        checked.note_audit(7, &counts(5, 2), &counts(3, 3));
        checked.note_audit(8, &counts(1, 0), &counts(0, 0));
        let differences = checked.differences().unwrap();
        assert_eq!(differences[State::Established.index()], 3);
        assert_eq!(differences[State::CloseWait.index()], -1);
        checked.note_walk(7, 2_000_000_000);
        assert_eq!(checked.walked(7), Some(Duration::from_secs(2)));
        checked.retain(&[8].into());
        assert_eq!(checked.walked(7), None);
        assert_eq!(checked.differences().unwrap()[State::CloseWait.index()], 0);
    }
}
