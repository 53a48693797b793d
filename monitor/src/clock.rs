//! The kernel's own clock, by which its programs date transitions.
//!
//! A time namespace moves `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` for the processes in it, and for
//! nothing in the kernel: what they show here is brought back.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

const NANOS: i128 = 1_000_000_000;
/// Two clocks are not read at once: what lies between is no suspension.
const SUSPENDED: i128 = NANOS / 100;
/// `PROC_TIME_INIT_INO` in `include/linux/proc_ns.h`.
const INITIAL: &str = "time:[4026531834]";

/// How far this process's `CLOCK_MONOTONIC` is ahead of the kernel's, nanoseconds.
static AHEAD: OnceLock<i128> = OnceLock::new();

/// `CLOCK_MONOTONIC` as the kernel has it: the clock of the events.
pub(crate) fn monotonic() -> Duration {
    let ahead = *AHEAD.get_or_init(|| monotonic_ahead(Path::new("/proc/self")));
    let now = read(ClockId::Monotonic) - ahead;
    Duration::from_nanos(u64::try_from(now).unwrap_or_default())
}

/// A time of [`monotonic`] as the events have it; stays at the largest after 584 years.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// From [`monotonic`] to the wall's clock, as the two stand now. At the largest or the smallest 292
/// years from 1970, where a clock is set so.
pub(crate) fn realtime_minus_monotonic_ns() -> i64 {
    let offset = read(ClockId::Realtime) - i128::from(nanoseconds(monotonic()));
    i64::try_from(offset).unwrap_or(if offset < 0 { i64::MIN } else { i64::MAX })
}

/// Notices that the system was suspended: `CLOCK_MONOTONIC` stands still meanwhile.
#[derive(Debug)]
pub(crate) struct Suspensions {
    /// How far `CLOCK_BOOTTIME` was ahead of `CLOCK_MONOTONIC`, at least.
    ahead: i128,
}

impl Suspensions {
    pub(crate) fn new() -> Self {
        Self {
            ahead: boottime_minus_monotonic(),
        }
    }

    /// Whether it was suspended since this was last asked.
    pub(crate) fn is_news(&mut self) -> bool {
        self.note(boottime_minus_monotonic())
    }

    fn note(&mut self, ahead: i128) -> bool {
        let is_news = ahead - self.ahead > SUSPENDED;
        self.ahead = self.ahead.max(ahead);
        is_news
    }
}

/// Never too much, however long this is interrupted; by whole time namespaces apart from the kernel's.
fn boottime_minus_monotonic() -> i128 {
    let boottime = read(ClockId::Boottime);
    boottime - read(ClockId::Monotonic)
}

fn read(clock: ClockId) -> i128 {
    let now = clock_gettime(clock);
    i128::from(now.tv_sec) * NANOS + i128::from(now.tv_nsec)
}

/// What `timens_offsets` says (`man 7 time_namespaces`); 0 where there are no time namespaces.
fn monotonic_ahead(process: &Path) -> i128 {
    // The offsets are those of the namespace for children, which this process need not be in.
    let is_initial =
        fs::read_link(process.join("ns/time")).is_ok_and(|to| to == Path::new(INITIAL));
    let offsets = fs::read_to_string(process.join("timens_offsets"));
    match offsets {
        Ok(offsets) if !is_initial => monotonic_offset(&offsets).unwrap_or_default(),
        _ => 0,
    }
}

fn monotonic_offset(offsets: &str) -> Option<i128> {
    let mut lines = offsets.lines();
    let line = lines.find_map(|line| line.strip_prefix("monotonic"))?;
    let mut numbers = line.split_ascii_whitespace();
    let mut next = || numbers.next()?.parse::<i128>().ok();
    Some(next()? * NANOS + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_as_the_kernel_writes_them() {
        let offsets = "monotonic      100000         0\nboottime           -7 500000000\n";
        assert_eq!(monotonic_offset(offsets), Some(100_000 * NANOS));
        let negative = "monotonic        -101 900000000\nboottime            0         0\n";
        assert_eq!(monotonic_offset(negative), Some(-101 * NANOS + 900_000_000));
        for unknown in ["", "monotonic\n", "monotonic x 0\n", "boottime 1 0\n"] {
            assert_eq!(monotonic_offset(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn only_a_suspension_is_one() {
        let mut suspensions = Suspensions { ahead: 5 * NANOS };
        // The first reading was interrupted for a moment, and a later one for longer.
        assert!(!suspensions.note(5 * NANOS + SUSPENDED / 2));
        assert!(!suspensions.note(4 * NANOS));
        assert!(!suspensions.note(5 * NANOS));
        assert!(suspensions.note(65 * NANOS));
        assert!(!suspensions.note(65 * NANOS));
    }

    #[test]
    fn the_clocks_agree() {
        let before = monotonic();
        assert!(monotonic() >= before && !Suspensions::new().is_news());
        let wall = i128::from(nanoseconds(before)) + i128::from(realtime_minus_monotonic_ns());
        assert!((read(ClockId::Realtime) - wall).abs() < 10 * NANOS);
    }
}
