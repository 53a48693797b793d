//! Prometheus' protobuf form, from the table: the only one with native histograms.

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::{
    Bucket, BucketSpan, Counter, Gauge, Histogram as Native, LabelPair, Metric, MetricFamily,
    MetricType,
};
use prost::Message as _;

use super::{Exposed, Family, Kind, Point, Value, families};
use crate::track::phrase::real;
use crate::track::{FIRST, Histogram, SCHEMA, ZERO_THRESHOLD};

/// The whole exposition, each family after its length.
pub(super) fn encode(exposed: Exposed<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for family in families() {
        let points = family.points(&exposed);
        if points.is_empty() {
            continue;
        }
        let kind = match family.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge | Kind::Info => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        let message = MetricFamily {
            name: format!("{}{}", family.name, family.kind.suffix()),
            help: family.help.to_owned(),
            r#type: kind.into(),
            unit: family.unit.to_owned(),
            metric: points.iter().map(|point| metric(family, point)).collect(),
        };
        bytes.extend(message.encode_length_delimited_to_vec());
    }
    bytes
}

fn metric(family: &Family, point: &Point) -> Metric {
    let labels = family.labels.iter().zip(&point.labels);
    let labels = labels.map(|(name, value)| LabelPair {
        name: (*name).to_owned(),
        value: value.clone(),
    });
    let mut metric = Metric {
        label: labels.collect(),
        ..Metric::default()
    };
    let value = match &point.value {
        Value::Integer(count) => real(*count),
        Value::Real(figure) => *figure,
        Value::Histogram(histogram) => {
            metric.histogram = Some(native(histogram));
            return metric;
        }
    };
    if family.kind == Kind::Counter {
        metric.counter = Some(Counter {
            value,
            ..Counter::default()
        });
    } else {
        metric.gauge = Some(Gauge { value });
    }
    metric
}

/// The classic buckets, and the native ones.
fn native(histogram: &Histogram) -> Native {
    let mut cumulative_count = 0;
    let bucket = histogram.classic().map(|(upper_bound, count)| {
        cumulative_count += count;
        Bucket {
            cumulative_count,
            upper_bound,
            ..Bucket::default()
        }
    });
    let (positive_span, positive_delta) = sparse(histogram.native());
    Native {
        bucket: bucket.collect(),
        sample_count: histogram.count(),
        sample_sum: histogram.sum().as_secs_f64(),
        schema: SCHEMA,
        zero_threshold: ZERO_THRESHOLD,
        zero_count: histogram.zero(),
        positive_span,
        positive_delta,
        ..Native::default()
    }
}

/// Runs of buckets that are not empty: how many empty ones come before each (before the first, its
/// index) and its length; and by how much each bucket differs from the one before.
fn sparse(buckets: &[u64]) -> (Vec<BucketSpan>, Vec<i64>) {
    let (mut spans, mut deltas) = (Vec::<BucketSpan>::new(), Vec::new());
    let (mut next, mut last) = (0, 0);
    for (index, count) in (FIRST..).zip(buckets).filter(|(_, count)| **count > 0) {
        match spans.last_mut() {
            Some(run) if index == next => run.length += 1,
            _ => spans.push(BucketSpan {
                offset: index - next,
                length: 1,
            }),
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
        let spans: Vec<_> = spans.iter().map(|run| (run.offset, run.length)).collect();
        // Bucket 79 ends at 2^0 s: its index is 0.
        assert_eq!(spans, [(FIRST, 2), (77, 1), (95, 1)]);
        assert_eq!(deltas, [3, -2, 4, -3]);
        assert_eq!(FIRST + 2 + 77, 0);
    }
}
