//! Kernel time as people and programs read it.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::track::Sample;

/// From the kernel's clock to the wall's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds.
    pub(crate) realtime_minus_monotonic_ns: i64,
}

impl From<&Sample> for Clock {
    /// That of the sample's stamps.
    fn from(sample: &Sample) -> Self {
        Self {
            realtime_minus_monotonic_ns: sample.realtime_minus_monotonic_ns,
        }
    }
}

impl Clock {
    /// Wall time of a `CLOCK_MONOTONIC` time of the sample's.
    pub(super) fn wall_of(sample: &Sample, since_boot: Duration) -> Timestamp {
        let ktime_ns = u64::try_from(since_boot.as_nanos()).unwrap_or(u64::MAX);
        Self::from(sample).wall(ktime_ns)
    }

    /// Wall time of a `CLOCK_MONOTONIC` stamp.
    pub(super) fn wall(self, ktime_ns: u64) -> Timestamp {
        let since_epoch = i128::from(ktime_ns) + i128::from(self.realtime_minus_monotonic_ns);
        // The sum of an i64 and a u64 is in the years 1677 to 2846, which a timestamp can hold.
        Timestamp::from_nanosecond(since_epoch).unwrap_or_default()
    }
}

/// RFC 3339, UTC, nanoseconds: `2026-01-02T03:04:05.678901234Z`.
pub(super) struct Rfc3339(pub(super) Timestamp);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.9}", self.0)
    }
}

/// Time of the UTC day, milliseconds: `03:04:05.678Z`.
pub(super) struct TimeOfDay(pub(super) Timestamp);

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let utc = self.0.to_zoned(TimeZone::UTC);
        let (hour, minute, second) = (utc.hour(), utc.minute(), utc.second());
        write!(
            f,
            "{hour:02}:{minute:02}:{second:02}.{:03}Z",
            utc.millisecond()
        )
    }
}

/// A time span in at most eight characters, cut and not rounded: `850ns`, `1.2ms`, `1m02s`,
/// `3d04h`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elapsed(pub(crate) Duration);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MICRO: u128 = 1_000;
        const MILLI: u128 = 1_000 * MICRO;
        let nanos = self.0.as_nanos();
        let seconds = self.0.as_secs();
        if nanos == 0 {
            f.write_str("0s")
        } else if nanos < MICRO {
            write!(f, "{nanos}ns")
        } else if nanos < MILLI {
            write!(f, "{}.{}us", nanos / MICRO, nanos % MICRO / (MICRO / 10))
        } else if seconds == 0 {
            write!(f, "{}.{}ms", nanos / MILLI, nanos % MILLI / (MILLI / 10))
        } else if seconds < 60 {
            write!(f, "{seconds}.{}s", self.0.subsec_millis() / 100)
        } else if seconds < 3_600 {
            write!(f, "{}m{:02}s", seconds / 60, seconds % 60)
        } else if seconds < 86_400 {
            write!(f, "{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60)
        } else {
            write!(f, "{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_become_wall_time() {
        let clock = Clock {
            realtime_minus_monotonic_ns: 1_767_323_045_000_000_000,
        };
        let wall = clock.wall(678_901_234);
        assert_eq!(Rfc3339(wall).to_string(), "2026-01-02T03:04:05.678901234Z");
        assert_eq!(TimeOfDay(wall).to_string(), "03:04:05.678Z");
        assert_eq!(
            Rfc3339(clock.wall(0)).to_string(),
            "2026-01-02T03:04:05.000000000Z"
        );
    }

    #[test]
    fn no_stamp_is_out_of_range() {
        for offset in [i64::MIN, 0, i64::MAX] {
            let clock = Clock {
                realtime_minus_monotonic_ns: offset,
            };
            for ktime_ns in [0, u64::MAX] {
                let expected = i128::from(ktime_ns) + i128::from(offset);
                assert_eq!(clock.wall(ktime_ns).as_nanosecond(), expected);
            }
        }
    }

    #[test]
    fn spans_are_short_and_never_overstated() {
        let shown = |nanos| Elapsed(Duration::from_nanos(nanos)).to_string();
        assert_eq!(shown(0), "0s");
        assert_eq!(shown(999), "999ns");
        assert_eq!(shown(12_345), "12.3us");
        assert_eq!(shown(1_299_999), "1.2ms");
        assert_eq!(shown(999_999_999), "999.9ms");
        assert_eq!(shown(59_990_000_000), "59.9s");
        assert_eq!(shown(62_000_000_000), "1m02s");
        assert_eq!(shown(3_725_000_000_000), "1h02m");
        assert_eq!(shown(273_600_000_000_000), "3d04h");
    }
}
