//! The same table as OTLP metrics (opentelemetry-proto 1.x), names by the semantic conventions where
//! they have one. Builds the request; others send it.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::{Exposed, Family, Kind, Point, Points, Value, families};
use crate::output::Clock;
use crate::output::otlp::{attribute, conventional, scope};
use crate::track::{FIRST, Histogram, SCHEMA, ZERO_THRESHOLD};

const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;
const CONNECTIONS: &str = "system.network.connection.count";

/// What one push holds. Counters are cumulative since `started_unix_ns`, histograms exponential.
pub(crate) fn export_request(
    exposed: Exposed<'_>,
    resource: Resource,
    started_unix_ns: u64,
) -> ExportMetricsServiceRequest {
    let taken = Clock::wall_of(exposed.sample, exposed.sample.taken);
    let span = Span {
        started_unix_ns,
        taken_unix_ns: u64::try_from(taken.as_nanosecond()).unwrap_or_default(),
    };
    let metrics = families().filter_map(|family| {
        let points = family.points(&exposed);
        (!points.is_empty()).then(|| span.metric(family, points))
    });
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope()),
                metrics: metrics.collect(),
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    }
}

/// What the figures are about, since the epoch.
#[derive(Clone, Copy)]
struct Span {
    started_unix_ns: u64,
    taken_unix_ns: u64,
}

impl Span {
    fn metric(self, family: &Family, points: Points) -> Metric {
        let (name, unit) = family.otel;
        // What the conventions count, they add up: their gauges are sums that can fall.
        let is_sum = family.kind == Kind::Counter || !name.starts_with("tcplinger.");
        let data = if family.kind == Kind::Histogram {
            metric::Data::ExponentialHistogram(ExponentialHistogram {
                data_points: self.histograms(family, &points),
                aggregation_temporality: CUMULATIVE,
            })
        } else if is_sum {
            metric::Data::Sum(Sum {
                data_points: self.numbers(family, points),
                aggregation_temporality: CUMULATIVE,
                is_monotonic: family.kind == Kind::Counter,
            })
        } else {
            metric::Data::Gauge(Gauge {
                data_points: self.numbers(family, points),
            })
        };
        Metric {
            name: name.to_owned(),
            description: family.help.to_owned(),
            unit: unit.to_owned(),
            metadata: Vec::new(),
            data: Some(data),
        }
    }

    fn numbers(self, family: &Family, points: Points) -> Vec<NumberDataPoint> {
        let points = if family.otel.0 == CONNECTIONS {
            connections(points)
        } else {
            points
        };
        let number = |point: &Point| {
            let value = match point.value {
                Value::Integer(count) => {
                    let count = i64::try_from(count).unwrap_or(i64::MAX);
                    number_data_point::Value::AsInt(count)
                }
                Value::Real(figure) => number_data_point::Value::AsDouble(figure),
                Value::Histogram(_) => return None,
            };
            Some(NumberDataPoint {
                attributes: attributes(family, point),
                start_time_unix_nano: self.started_unix_ns,
                time_unix_nano: self.taken_unix_ns,
                value: Some(value),
                ..NumberDataPoint::default()
            })
        };
        points.iter().filter_map(number).collect()
    }

    fn histograms(self, family: &Family, points: &Points) -> Vec<ExponentialHistogramDataPoint> {
        let histogram = |point: &Point| {
            let Value::Histogram(histogram) = &point.value else {
                return None;
            };
            Some(ExponentialHistogramDataPoint {
                attributes: attributes(family, point),
                start_time_unix_nano: self.started_unix_ns,
                time_unix_nano: self.taken_unix_ns,
                count: histogram.count(),
                sum: Some(histogram.sum().as_secs_f64()),
                scale: SCHEMA,
                zero_count: histogram.zero(),
                zero_threshold: ZERO_THRESHOLD,
                positive: Some(buckets(histogram)),
                ..ExponentialHistogramDataPoint::default()
            })
        };
        points.iter().filter_map(histogram).collect()
    }
}

/// Without the empty buckets at both ends. OTLP numbers a bucket by its lower bound, Prometheus by
/// its upper one.
fn buckets(histogram: &Histogram) -> Buckets {
    let native = histogram.native();
    let mut counted = (FIRST - 1..)
        .zip(0..)
        .zip(native)
        .filter(|(_, count)| **count > 0);
    let Some(((offset, first), _)) = counted.next() else {
        return Buckets::default();
    };
    let last = counted.last().map_or(first, |((_, last), _)| last);
    Buckets {
        offset,
        bucket_counts: native.get(first..=last).unwrap_or_default().to_vec(),
    }
}

/// The conventions have one state for both kinds of half-open sockets.
fn connections(points: Points) -> Points {
    let mut all = Points::new();
    for mut point in points {
        if let Some(name) = point.labels.first_mut()
            && let Ok(state) = name.parse()
        {
            conventional(state).clone_into(name);
        }
        let known = all.iter_mut().find(|known| known.labels == point.labels);
        match (known.map(|known| &mut known.value), &point.value) {
            (Some(Value::Integer(sum)), Value::Integer(count)) => *sum += count,
            _ => all.push(point),
        }
    }
    all
}

fn attributes(family: &Family, point: &Point) -> Vec<KeyValue> {
    let is_connections = family.otel.0 == CONNECTIONS;
    let key = |label: &'static str| match label {
        "state" if is_connections => "network.connection.state",
        "family" if is_connections => "network.type",
        other => other,
    };
    let labels = family.labels.iter().zip(&point.labels);
    let transport = is_connections.then(|| attribute("network.transport", "tcp"));
    labels
        .map(|(label, value)| attribute(key(label), value.as_str()))
        .chain(transport)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use opentelemetry_proto::tonic::common::v1::any_value;

    use super::*;
    use crate::output::metrics::fixture::busy;
    use crate::track::Outlets;

    fn request() -> Vec<Metric> {
        let exposed = Exposed {
            sample: &busy(),
            outlets: &Outlets::default(),
        };
        let mut request = export_request(exposed, Resource::default(), 1);
        let mut resource = request.resource_metrics.remove(0);
        resource.scope_metrics.remove(0).metrics
    }

    fn find<'a>(metrics: &'a [Metric], name: &str) -> &'a Metric {
        metrics.iter().find(|metric| metric.name == name).unwrap()
    }

    fn values(attributes: &[KeyValue]) -> BTreeMap<&str, &str> {
        let text = |pair: &KeyValue| match &pair.value.as_ref().unwrap().value {
            Some(any_value::Value::StringValue(text)) => text.clone().leak() as &str,
            _ => panic!("not a text"),
        };
        attributes
            .iter()
            .map(|pair| (pair.key.as_str(), text(pair)))
            .collect()
    }

    #[test]
    fn sockets_are_told_as_the_conventions_do() {
        let metrics = request();
        let metric = find(&metrics, "system.network.connection.count");
        assert_eq!(metric.unit, "{connection}");
        let Some(metric::Data::Sum(sum)) = &metric.data else {
            panic!("{:?}", metric.data);
        };
        assert!(!sum.is_monotonic && sum.aggregation_temporality == CUMULATIVE);
        assert_eq!(sum.data_points.len(), 22);
        let point = &sum.data_points[2];
        assert_eq!(
            values(&point.attributes),
            [
                ("network.connection.state", "syn_received"),
                ("network.transport", "tcp"),
                ("network.type", "ipv4"),
            ]
            .into()
        );
        // Three of a kind in each of 1,000 namespaces: SYN_RECV and NEW_SYN_RECV.
        assert_eq!(point.value, Some(number_data_point::Value::AsInt(15_000)));
    }

    #[test]
    fn counters_rise_from_the_start() {
        let metrics = request();
        let Some(metric::Data::Sum(sum)) = &find(&metrics, "process.cpu.time").data else {
            panic!("no sum");
        };
        assert!(sum.is_monotonic);
        let point = &sum.data_points[0];
        // 100 s after the start of the clock.
        let taken = 1_767_323_145_000_000_000;
        assert_eq!(
            (point.start_time_unix_nano, point.time_unix_nano),
            (1, taken)
        );
        let Some(metric::Data::Gauge(_)) = &find(&metrics, "tcplinger.namespaces").data else {
            panic!("no gauge");
        };
    }

    #[test]
    fn a_bucket_is_where_its_observations_are() {
        let metrics = request();
        let metric = find(&metrics, "tcplinger.state.duration");
        let Some(metric::Data::ExponentialHistogram(histogram)) = &metric.data else {
            panic!("{:?}", metric.data);
        };
        let point = &histogram.data_points[0];
        let buckets = point.positive.as_ref().unwrap();
        let sum: u64 = buckets.bucket_counts.iter().sum();
        assert_eq!(sum + point.zero_count, point.count);
        // 1 us to 3 s were observed, and nothing at all.
        assert_eq!(point.zero_count, 1);
        let edge = |index: usize| {
            let index = buckets.offset + i32::try_from(index).unwrap();
            (f64::from(index) / 4.0).exp2()
        };
        assert!(edge(0) < 1e-6 && edge(1) >= 1e-6);
        let last = buckets.bucket_counts.len();
        assert!(edge(last - 1) < 3.0 && edge(last) >= 3.0);
    }
}
