//! The counts of the last hour, a few seconds apart.

use std::collections::VecDeque;
use std::time::Duration;

use crate::tcp::Counts;
use crate::track::Sample;

pub(super) const STEP: Duration = Duration::from_secs(5);
/// Steps of an hour.
const MOST: usize = 720;

/// The first counts of each step, by the wall clock; None where there are none.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Steps since the epoch; each follows the one before.
    steps: VecDeque<(u64, Option<Counts>)>,
}

impl History {
    pub(super) fn take(&mut self, sample: &Sample) {
        let wall_ns = i128::try_from(sample.taken.as_nanos()).unwrap_or(i128::MAX)
            + i128::from(sample.realtime_minus_monotonic_ns);
        let step_ns = STEP.as_nanos();
        let step = u128::try_from(wall_ns).unwrap_or_default() / step_ns;
        let step = u64::try_from(step).unwrap_or(u64::MAX);
        self.put(step, sample.summary.sockets());
    }

    fn put(&mut self, step: u64, counts: Counts) {
        // The clock was set back: what it said before is told no more.
        while self.steps.back().is_some_and(|(last, _)| *last > step) {
            self.steps.pop_back();
        }
        let last = self.steps.back().map(|(last, _)| *last);
        if last == Some(step) {
            return;
        }
        let oldest = step.saturating_sub(MOST as u64 - 1);
        if let Some(last) = last {
            let gap = (last + 1).max(oldest)..step;
            self.steps.extend(gap.map(|step| (step, None)));
        }
        self.steps.push_back((step, Some(counts)));
        while self.steps.front().is_some_and(|(first, _)| *first < oldest) {
            self.steps.pop_front();
        }
    }

    /// The counts of a minute before the newest, or as long ago as there are some, and how long ago that
    /// is; None before 10 s.
    pub(super) fn before(&self) -> Option<(Duration, Counts)> {
        let (newest, _) = self.steps.back()?;
        let ago = |step: u64| STEP * u32::try_from(newest - step).unwrap_or(u32::MAX);
        let known = self
            .steps
            .iter()
            .filter_map(|(step, counts)| Some((ago(*step), (*counts)?)));
        let mut known = known.filter(|(ago, _)| (10..=60).contains(&ago.as_secs()));
        known.next()
    }

    /// Seconds since the epoch, the oldest first, and the counts.
    pub(super) fn counts(&self) -> Vec<(u64, Option<Counts>)> {
        let steps = self.steps.iter();
        steps
            .map(|(step, counts)| (step.saturating_mul(STEP.as_secs()), *counts))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::State;

    fn listening(sockets: u64) -> Counts {
        let mut counts = Counts::default();
        counts.set(State::Listen, sockets);
        counts
    }

    /// The seconds, and the listeners.
    fn shown(history: &History) -> Vec<(u64, Option<u64>)> {
        let counts = history.counts().into_iter();
        let listeners = |counts: Counts| counts.get(State::Listen);
        counts
            .map(|(seconds, counts)| (seconds, counts.map(listeners)))
            .collect()
    }

    #[test]
    fn a_step_without_a_sample_is_a_gap() {
        let mut history = History::default();
        for (step, sockets) in [(100, 1), (100, 9), (101, 2), (104, 3)] {
            history.put(step, listening(sockets));
        }
        let expected = [
            (500, Some(1)),
            (505, Some(2)),
            (510, None),
            (515, None),
            (520, Some(3)),
        ];
        assert_eq!(shown(&history), expected);
    }

    #[test]
    fn an_hour_is_kept() {
        let mut history = History::default();
        for step in 0..2_000 {
            history.put(step, listening(step));
        }
        let kept = shown(&history);
        assert_eq!(kept.len(), 720);
        assert_eq!(kept[0], (1_280 * 5, Some(1_280)));
        // After a long sleep nothing but the newest is left, and gaps.
        history.put(1_000_000, listening(1));
        let kept = shown(&history);
        assert_eq!(kept.len(), 720);
        assert_eq!(
            kept.iter().filter(|(_, counts)| counts.is_some()).count(),
            1
        );
        assert_eq!(kept.last(), Some(&(5_000_000, Some(1))));
    }

    #[test]
    fn a_clock_that_is_set_back_writes_over() {
        let mut history = History::default();
        for (step, sockets) in [(10, 1), (11, 2), (12, 3), (11, 4), (5, 5), (6, 6)] {
            history.put(step, listening(sockets));
        }
        assert_eq!(shown(&history), [(25, Some(5)), (30, Some(6))]);
        history.put(u64::MAX, listening(7));
        assert_eq!(history.counts().len(), 720);
    }
}
