//! Whether the daemon does its work.

use std::time::Duration;

/// The ring is looked at some ten times a second.
const DRAIN_OVERDUE: Duration = Duration::from_secs(5);
/// A sample is taken every second, unless a walk of very large tables is under way.
const SAMPLE_OVERDUE: Duration = Duration::from_secs(10);

/// Whether the stream is attached and drained; else why not. All times on one clock.
pub(super) fn check(
    drained: Option<Duration>,
    sample: Option<Duration>,
    now: Duration,
) -> Result<(), String> {
    let since = |then: Duration| now.saturating_sub(then);
    match (drained.map(since), sample.map(since)) {
        (None, _) => Err("the stream is not attached yet; ask again in a second".to_owned()),
        (Some(idle), _) if idle >= DRAIN_OVERDUE => Err(format!(
            "the stream was last drained {} s ago; is the daemon stopped, or short of CPU time? \
             Look into its log",
            idle.as_secs()
        )),
        (_, Some(age)) if age >= SAMPLE_OVERDUE => Err(format!(
            "the last figures are {} s old; is the daemon short of CPU time? Look into its log",
            age.as_secs()
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthy_is_who_drains_and_samples() {
        let at = |seconds| Some(Duration::from_secs(seconds));
        let now = Duration::from_secs(100);
        assert_eq!(check(at(99), at(99), now), Ok(()));
        assert_eq!(check(at(99), None, now), Ok(()));
        // Stamped after `now` was read.
        assert_eq!(check(at(101), at(101), now), Ok(()));
        for (drained, sample, why) in [
            (None, None, "not attached"),
            (at(95), at(99), "drained 5 s ago"),
            (at(99), at(90), "10 s old"),
        ] {
            let told = check(drained, sample, now).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }
}
