//! Hands the table to prometheus-client, which knows how the formats are written.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, MetricEncoder, NativeHistogram, NativeHistogramBuckets, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::{Exposed, Family, Kind, Point, Points, Value, families};
use crate::track::{FIRST, Histogram, SCHEMA, ZERO_THRESHOLD};

/// What every family has, at one moment.
#[derive(Debug)]
struct Collected(Vec<(&'static Family, Points)>);

/// A registry that writes this one exposition.
pub(super) fn registry(exposed: Exposed<'_>) -> Registry {
    let families = families();
    let points = families.map(|family| (family, family.points(&exposed)));
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Collected(points.collect())));
    registry
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (family, points) in self.0.iter().filter(|(_, points)| !points.is_empty()) {
            // The encoder adds the unit, which our names end in already.
            let unit = Some(family.unit).filter(|unit| !unit.is_empty());
            let unit = unit.map(|unit| Unit::Other(unit.to_owned()));
            let mut encoder = encoder.encode_descriptor(
                family.name_without_unit(),
                family.help,
                unit.as_ref(),
                family.kind.into(),
            )?;
            for point in points {
                point.encode(family, &mut encoder)?;
            }
        }
        Ok(())
    }
}

impl Family {
    pub(super) fn name_without_unit(&self) -> &'static str {
        let name = self.name.strip_suffix(self.unit).unwrap_or(self.name);
        name.trim_end_matches('_')
    }
}

impl From<Kind> for MetricType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter,
            Kind::Gauge => Self::Gauge,
            Kind::Histogram => Self::Histogram,
            Kind::Info => Self::Info,
        }
    }
}

impl Point {
    fn encode(&self, family: &Family, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        let values = self.labels.iter().map(String::as_str);
        let labels: Vec<(&str, &str)> = family.labels.iter().copied().zip(values).collect();
        if family.kind == Kind::Info {
            encoder.encode_info(&labels)
        } else if labels.is_empty() {
            self.value.encode(family.kind, encoder)
        } else {
            self.value
                .encode(family.kind, &mut encoder.encode_family(&labels)?)
        }
    }
}

impl Value {
    fn encode(&self, kind: Kind, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        match (self, kind) {
            (Self::Integer(count), Kind::Counter) => {
                encoder.encode_counter::<NoLabelSet, _, u64>(count, None)
            }
            (Self::Real(figure), Kind::Counter) => {
                encoder.encode_counter::<NoLabelSet, _, u64>(figure, None)
            }
            (Self::Integer(count), _) => encoder.encode_gauge(count),
            (Self::Real(figure), _) => encoder.encode_gauge(figure),
            (Self::Histogram(histogram), _) => encode_histogram(histogram, encoder),
        }
    }
}

/// The classic buckets, and the native ones where the format has them.
fn encode_histogram(histogram: &Histogram, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
    let classic: Vec<(f64, u64)> = histogram.classic().collect();
    let (spans, deltas) = sparse(histogram.native());
    encoder.encode_histogram_with_native::<NoLabelSet>(
        histogram.sum().as_secs_f64(),
        histogram.count(),
        &classic,
        None,
        NativeHistogram {
            schema: SCHEMA,
            zero_threshold: ZERO_THRESHOLD,
            zero_count: histogram.zero(),
            negative: NativeHistogramBuckets {
                spans: &[],
                deltas: &[],
            },
            positive: NativeHistogramBuckets {
                spans: &spans,
                deltas: &deltas,
            },
            created: None,
        },
    )
}

/// Runs of buckets that are not empty: how many empty ones come before each (before the first, its
/// index) and its length; and by how much each bucket differs from the one before.
fn sparse(buckets: &[u64]) -> (Vec<(i32, u32)>, Vec<i64>) {
    let (mut spans, mut deltas) = (Vec::<(i32, u32)>::new(), Vec::new());
    let (mut next, mut last) = (0, 0);
    for (index, count) in (FIRST..).zip(buckets).filter(|(_, count)| **count > 0) {
        match spans.last_mut() {
            Some((_, length)) if index == next => *length += 1,
            _ => spans.push((index - next, 1)),
        }
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        deltas.push(count - last);
        (next, last) = (index + 1, count);
    }
    (spans, deltas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_buckets_are_left_out() {
        assert_eq!(sparse(&[0; 176]), (vec![], vec![]));
        let mut buckets = [0; 176];
        for (at, count) in [(0, 3), (1, 1), (79, 5), (175, 2)] {
            buckets[at] = count;
        }
        let (spans, deltas) = sparse(&buckets);
        // Bucket 79 ends at 2^0 s: its index is 0.
        assert_eq!(spans, [(FIRST, 2), (77, 1), (95, 1)]);
        assert_eq!(deltas, [3, -2, 4, -3]);
        assert_eq!(FIRST + 2 + 77, 0);
    }
}
