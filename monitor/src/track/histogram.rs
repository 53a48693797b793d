//! Durations, counted in classic buckets and in a native (exponential) histogram at once.

use std::time::Duration;

/// Upper bounds of the classic buckets, seconds; one more bucket takes the rest.
pub(crate) const BOUNDS: [f64; 8] = [0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 3600.0];
/// Growth from one native bucket's bound to the next is 2^(2^-SCHEMA): 19 %.
pub(crate) const SCHEMA: i32 = 2;
/// 2^-20 s; what is not above it is in the zero bucket.
pub(crate) const ZERO_THRESHOLD: f64 = 9.536_743_164_062_5e-7;
/// Index of the first native bucket, the one above the zero bucket: its upper bound is
/// 2^(FIRST / 4) s. The last ends at 2^24 s, half a year, and takes what is longer, too.
pub(crate) const FIRST: i32 = -20 * 4 + 1;
const NATIVE: usize = (20 + 24) * 4;

/// Durations of one kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Histogram {
    classic: [u64; BOUNDS.len() + 1],
    zero: u64,
    native: [u64; NATIVE],
    sum: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            classic: [0; BOUNDS.len() + 1],
            zero: 0,
            native: [0; NATIVE],
            sum: Duration::ZERO,
        }
    }
}

impl Histogram {
    pub(crate) fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.sum = self.sum.saturating_add(time);
        // Counted, not searched: durations of all kinds follow one another, and no branch is foreseen.
        let classic: usize = BOUNDS
            .iter()
            .map(|bound| usize::from(*bound < seconds))
            .sum();
        if let Some(bucket) = self.classic.get_mut(classic) {
            *bucket += 1;
        }
        match native_position(seconds) {
            Some(index) => {
                if let Some(bucket) = self.native.get_mut(index) {
                    *bucket += 1;
                }
            }
            None => self.zero += 1,
        }
    }

    /// Observations so far.
    pub(crate) fn count(&self) -> u64 {
        self.classic.iter().sum()
    }

    pub(crate) const fn sum(&self) -> Duration {
        self.sum
    }

    /// Upper bound and number of each classic bucket, its own observations alone; the last bound is
    /// infinite.
    pub(crate) fn classic(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        bounds.zip(self.classic)
    }

    /// Observations in the zero bucket.
    pub(crate) const fn zero(&self) -> u64 {
        self.zero
    }

    /// The native buckets, from that of index [`FIRST`] on.
    pub(crate) const fn native(&self) -> &[u64] {
        &self.native
    }
}

/// Position of the native bucket; None for the zero bucket. Bucket `index` ends at 2^(index / 4) s,
/// inclusive.
fn native_position(seconds: f64) -> Option<usize> {
    const MANTISSA: u64 = (1 << 52) - 1;
    /// 2^0, 2^(1/4), 2^(1/2), 2^(3/4).
    const QUARTERS: [f64; 4] = [
        1.0,
        1.189_207_115_002_721,
        std::f64::consts::SQRT_2,
        1.681_792_830_507_429,
    ];
    if seconds <= ZERO_THRESHOLD {
        return None;
    }
    // A duration is no subnormal number, nor infinite.
    let bits = seconds.to_bits();
    let exponent = i32::try_from(bits >> 52).ok()? - 1023;
    let fraction = f64::from_bits(bits & MANTISSA | 1.0_f64.to_bits());
    let quarter: i32 = QUARTERS
        .iter()
        .map(|bound| i32::from(*bound < fraction))
        .sum();
    let index = exponent * 4 + quarter;
    let position = usize::try_from(index - FIRST).ok()?;
    Some(position.min(NATIVE - 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bounds_are_inclusive() {
        let mut histogram = Histogram::default();
        for (nanos, classic) in [(0, 0), (1_000_000, 0), (1_000_001, 1), (u64::MAX, 8)] {
            let before = histogram.classic;
            histogram.observe(Duration::from_nanos(nanos));
            let grown = (0..9).find(|at| histogram.classic[*at] > before[*at]);
            assert_eq!(grown, Some(classic), "{nanos} ns");
        }
        assert_eq!((histogram.count(), histogram.zero()), (4, 1));
        // A second is 2^0 s, and ends bucket 0.
        histogram.observe(Duration::from_secs(1));
        let second = usize::try_from(-FIRST).unwrap();
        assert_eq!(histogram.native()[second], 1);
        histogram.observe(Duration::from_nanos(1_000_000_001));
        assert_eq!(histogram.native()[second + 1], 1);
    }

    proptest! {
        #[test]
        fn every_observation_is_in_its_bucket(nanos: u64) {
            let mut histogram = Histogram::default();
            let time = Duration::from_nanos(nanos);
            histogram.observe(time);
            let seconds = time.as_secs_f64();
            prop_assert_eq!(histogram.count(), 1);
            prop_assert_eq!(histogram.sum(), time);
            match histogram.native().iter().position(|bucket| *bucket > 0) {
                None => prop_assert!(seconds <= ZERO_THRESHOLD && histogram.zero() == 1),
                Some(at) => {
                    let index = f64::from(FIRST + i32::try_from(at).unwrap());
                    let (low, high) = (((index - 1.0) / 4.0).exp2(), (index / 4.0).exp2());
                    prop_assert!(seconds > low * 0.999_999 || at == 0);
                    prop_assert!(seconds <= high * 1.000_001 || at == NATIVE - 1);
                }
            }
        }
    }
}
