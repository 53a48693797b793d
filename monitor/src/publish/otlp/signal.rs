//! One kind of push, and how it fares: when to try again, and what the log has to say of it.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use crate::output::Escaped;
use crate::output::otlp::Partial;
use crate::track::Sink;

/// After the first failure; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// A collector may ask for more than that, or for less than [`FIRST_PAUSE`], but not get it.
const LONGEST_WISH: Duration = Duration::from_mins(5);

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// But for what is said.
    Taken(Partial),
    /// Worth another attempt: not before that time, where the collector names one.
    NotNow {
        why: String,
        after: Option<Duration>,
    },
    /// The same request would be refused again.
    Refused { why: String },
}

#[derive(Debug)]
pub(super) struct Signal {
    sink: Sink,
    pub(super) url: String,
    /// In a row.
    failures: u32,
    not_before: Instant,
    is_in_trouble: bool,
    /// Since the trouble began, or since the last push that was fine.
    dropped: u64,
}

impl Signal {
    pub(super) fn new(sink: Sink, endpoint: &str) -> Self {
        let signal = match sink {
            Sink::OtlpMetrics => "metrics",
            _ => "logs",
        };
        Self {
            sink,
            url: format!("{endpoint}/v1/{signal}"),
            failures: 0,
            not_before: Instant::now(),
            is_in_trouble: false,
            dropped: 0,
        }
    }

    pub(super) const fn not_before(&self) -> Instant {
        self.not_before
    }

    pub(super) const fn is_in_trouble(&self) -> bool {
        self.is_in_trouble
    }

    pub(super) const fn note_dropped(&mut self, number: u64) {
        self.dropped += number;
    }

    /// Takes note of an answer: sets the pause, and tells the log where trouble begins or ends.
    pub(super) fn note(&mut self, answer: &Verdict, now: Instant) {
        match answer {
            Verdict::NotNow { after, .. } => {
                self.failures = self.failures.saturating_add(1);
                self.not_before = now + pause(self.failures, *after, chance());
            }
            Verdict::Taken(_) | Verdict::Refused { .. } => {
                self.failures = 0;
                self.not_before = now;
            }
        }
        match answer {
            Verdict::Taken(partial) if partial.rejected == 0 => self.note_fine(&partial.message),
            Verdict::Taken(Partial { rejected, message }) => {
                self.note_trouble(&format!("it rejected {rejected} of them: {message}"));
            }
            Verdict::NotNow { why, .. } | Verdict::Refused { why } => self.note_trouble(why),
        }
    }

    fn note_fine(&mut self, message: &str) {
        let (sink, url) = (self.sink.name(), &self.url);
        if self.is_in_trouble {
            let dropped = self.dropped;
            tracing::info!(sink, url, dropped, "the collector accepts data again");
        }
        if !message.is_empty() {
            tracing::debug!(sink, url, "the collector says: {}", Escaped(message));
        }
        self.is_in_trouble = false;
        self.dropped = 0;
    }

    fn note_trouble(&mut self, why: &str) {
        if !self.is_in_trouble {
            let (sink, url) = (self.sink.name(), &self.url);
            tracing::warn!(
                sink,
                url,
                "the collector does not accept data: {}; retrying without further messages",
                Escaped(why)
            );
        }
        self.is_in_trouble = true;
    }

    /// When to push the newest metrics: at the next interval, or sooner where that is far and the
    /// collector may soon be back.
    pub(super) fn next(
        &self,
        answer: &Verdict,
        due: Instant,
        interval: Duration,
        now: Instant,
    ) -> Instant {
        let next = (due + interval).max(now);
        match answer {
            Verdict::NotNow { after: None, .. } => next.min(self.not_before),
            // It may have asked for more.
            _ => next.max(self.not_before),
        }
    }
}

/// Before the next attempt, after so many failures in a row and with a wish of the collector's;
/// `chance`, 0 to 1, spreads the attempts of a fleet.
fn pause(failures: u32, wish: Option<Duration>, chance: f64) -> Duration {
    if let Some(wish) = wish {
        return wish
            .clamp(FIRST_PAUSE, LONGEST_WISH)
            .mul_f64(1.0 + chance / 10.0);
    }
    let doublings = failures.saturating_sub(1).min(16);
    let longest = (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
    longest.mul_f64(0.5 + chance / 2.0)
}

/// A number from 0 to 1, another each time. Nobody must be unable to guess it.
fn chance() -> f64 {
    let random = RandomState::new().hash_one(0_u8);
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_now(after: Option<Duration>) -> Verdict {
        let why = "connection refused".to_owned();
        Verdict::NotNow { why, after }
    }

    #[test]
    fn pauses_double_to_a_minute_and_are_spread() {
        for (failures, least, most) in [
            (1, 500, 1_000),
            (2, 1_000, 2_000),
            (6, 16_000, 32_000),
            (7, 30_000, 60_000),
            (u32::MAX, 30_000, 60_000),
        ] {
            let bounds = [0.0, 1.0].map(|chance| pause(failures, None, chance).as_millis());
            assert_eq!(bounds, [least, most], "{failures}");
        }
        let chances: Vec<f64> = (0..100).map(|_| chance()).collect();
        assert!(chances.iter().all(|chance| (0.0..=1.0).contains(chance)));
        assert!(chances.iter().any(|chance| *chance < 0.5));
        assert!(chances.iter().any(|chance| *chance > 0.5));
    }

    #[test]
    fn a_wish_is_granted_within_reason() {
        let minute = Duration::from_mins(1);
        assert_eq!(pause(1, Some(minute), 0.0), minute);
        assert_eq!(pause(9, Some(minute), 1.0), minute * 11 / 10);
        assert_eq!(pause(1, Some(Duration::MAX), 0.0), LONGEST_WISH);
        assert_eq!(pause(1, Some(Duration::ZERO), 0.0), FIRST_PAUSE);
    }

    #[test]
    fn the_newest_metrics_follow_at_the_interval_or_sooner() {
        let mut signal = Signal::new(Sink::OtlpMetrics, "http://collector:4318");
        assert_eq!(signal.url, "http://collector:4318/v1/metrics");
        let (now, hour) = (Instant::now(), Duration::from_hours(1));
        let fine = Verdict::Taken(Partial::default());
        let mut next = |answer: &Verdict, interval| {
            signal.note(answer, now);
            signal.next(answer, now, interval, now) - now
        };
        assert_eq!(next(&fine, hour), hour);
        assert!(next(&not_now(None), hour) <= FIRST_PAUSE);
        assert!(next(&not_now(None), hour) <= 2 * FIRST_PAUSE);
        assert!(next(&not_now(Some(2 * LONGEST_PAUSE)), FIRST_PAUSE) >= 2 * LONGEST_PAUSE);
        let why = String::new();
        assert_eq!(next(&Verdict::Refused { why }, hour), hour);
        assert!(next(&not_now(None), hour) <= FIRST_PAUSE);
    }

    #[test]
    fn trouble_lasts_until_everything_is_taken() {
        let mut signal = Signal::new(Sink::OtlpLogs, "http://collector:4318");
        let now = Instant::now();
        let partial = Partial {
            rejected: 1,
            message: String::new(),
        };
        for (answer, is_in_trouble) in [
            (Verdict::Taken(Partial::default()), false),
            (not_now(None), true),
            (Verdict::Taken(partial), true),
            (Verdict::Taken(Partial::default()), false),
        ] {
            signal.note_dropped(1);
            signal.note(&answer, now);
            assert_eq!(signal.is_in_trouble(), is_in_trouble);
            assert_eq!(signal.dropped > 0, is_in_trouble);
        }
    }
}
