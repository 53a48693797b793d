//! How much CPU time may be spent on walks of the kernel's tables.

use std::time::Duration;

/// Unspent time is saved up to this, so that the first walk after a quiet time need not wait.
const SAVED_AT_MOST: Duration = Duration::from_millis(200);

/// An allowance of CPU time that grows by a share of the time that passes.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Share of one CPU, 0 to 1.
    share: f64,
    /// Seconds; below zero once more was spent than saved.
    saved: f64,
    /// When `saved` was last brought up to date.
    at: Duration,
}

impl Budget {
    /// `share` of one CPU, 0 to 1; `now` on any clock that does not go back.
    pub(crate) const fn new(share: f64, now: Duration) -> Self {
        Self {
            share,
            saved: SAVED_AT_MOST.as_secs_f64(),
            at: now,
        }
    }

    /// Whether something may be spent now.
    pub(crate) fn allows(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.at);
        self.at = now;
        self.saved += passed.as_secs_f64() * self.share;
        self.saved = self.saved.min(SAVED_AT_MOST.as_secs_f64());
        self.saved > 0.0
    }

    pub(crate) fn spend(&mut self, cpu: Duration) {
        self.saved -= cpu.as_secs_f64();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_is_paid_for_before_the_next() {
        let second = Duration::from_secs(1);
        let mut budget = Budget::new(0.01, Duration::ZERO);
        assert!(budget.allows(second));
        budget.spend(Duration::from_millis(290));
        assert!(!budget.allows(second * 8));
        assert!(budget.allows(second * 11));
    }

    #[test]
    fn savings_are_bounded() {
        let mut budget = Budget::new(0.5, Duration::ZERO);
        assert!(budget.allows(Duration::from_secs(1_000_000)));
        budget.spend(Duration::from_millis(201));
        assert!(!budget.allows(Duration::from_secs(1_000_000)));
    }
}
