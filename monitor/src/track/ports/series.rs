//! A value over the last while, and how fast it changes.

use std::collections::VecDeque;
use std::time::Duration;

use crate::track::phrase::real;

/// What a rate is taken over, if it was watched for so long.
const WINDOW: Duration = Duration::from_secs(30);
/// Between two points that are kept, at least: 17 of them at most.
const STEP: Duration = Duration::from_secs(2);
/// A rate over less is noise.
const SHORTEST: Duration = Duration::from_millis(500);

/// Values and when they were taken, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    points: VecDeque<(Duration, u64)>,
}

impl Series {
    pub(super) fn push(&mut self, now: Duration, value: u64) {
        if let [.., (older, _), (newer, _)] = self.points.make_contiguous()
            && newer.saturating_sub(*older) < STEP
        {
            self.points.pop_back();
        }
        self.points.push_back((now, value));
        let is_covered = |point: &(Duration, u64)| now.saturating_sub(point.0) >= WINDOW;
        while self.points.get(1).is_some_and(is_covered) {
            self.points.pop_front();
        }
    }

    /// For a counter: one that went back starts anew.
    pub(super) fn push_counter(&mut self, now: Duration, value: u64) {
        if self.points.back().is_some_and(|(_, last)| value < *last) {
            self.points.clear();
        }
        self.push(now, value);
    }

    /// Change per second; None until it was watched for half a second.
    pub(super) fn rate(&self) -> Option<f64> {
        let (start, first) = self.points.front()?;
        let (end, last) = self.points.back()?;
        let span = end.saturating_sub(*start);
        (span >= SHORTEST).then(|| (real(*last) - real(*first)) / span.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn one_value_has_no_rate() {
        let mut series = Series::default();
        assert_eq!(series.rate(), None);
        series.push(at(0), 5);
        assert_eq!(series.rate(), None);
        series.push(at(499), 6);
        assert_eq!(series.rate(), None);
        series.push(at(1_000), 7);
        assert_eq!(series.rate(), Some(2.0));
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut series = Series::default();
        for second in 0..100 {
            let value = if second < 50 { 1_000 * second } else { 50_000 };
            series.push(at(second * 1_000), value);
        }
        assert_eq!(series.rate(), Some(0.0));
    }

    #[test]
    fn a_counter_that_goes_back_starts_anew() {
        let mut series = Series::default();
        series.push_counter(at(0), 100);
        series.push_counter(at(1_000), 0);
        assert_eq!(series.rate(), None);
        series.push_counter(at(2_000), 10);
        assert_eq!(series.rate(), Some(10.0));
    }

    proptest! {
        #[test]
        fn a_steady_change_has_its_rate_and_few_points(
            steps in prop::collection::vec(1_u64..5_000, 1..300),
            slope in 0_u64..1_000,
        ) {
            let mut series = Series::default();
            let mut now = 0;
            series.push(at(0), 0);
            for step in steps {
                now += step;
                series.push(at(now), now * slope);
                prop_assert!(series.points.len() <= 18);
                if let Some(rate) = series.rate() {
                    prop_assert!((rate - real(slope * 1_000)).abs() < 1e-6 * rate + 1e-9);
                } else {
                    prop_assert!(now < 500);
                }
            }
        }
    }
}
