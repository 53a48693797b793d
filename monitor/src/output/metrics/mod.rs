//! Metrics: one table of families, and what a sample has for each of them. The text, the protobuf
//! and the push say the same in three forms.

mod collect;
#[cfg(test)]
mod fixture;
mod form;
mod label;
mod leaders;
pub(crate) mod otlp;
mod own;
#[cfg(test)]
mod reference;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod values;

use std::time::Duration;

use prometheus_client::encoding::prometheus_protobuf;

use crate::track::{Histogram, Outlets, Sample};

pub(crate) use form::Form;
use table::families;
pub(super) use values::severity_name;

/// A row of the table.
#[derive(Debug)]
struct Family {
    /// A counter's lacks its `_total`, an info's its `_info`.
    name: &'static str,
    kind: Kind,
    /// Base unit, which the name ends in; empty for plain numbers.
    unit: &'static str,
    /// One sentence.
    help: &'static str,
    labels: &'static [&'static str],
    /// Series at most; of a histogram, those of its classic form.
    most: usize,
    /// Name and UCUM unit of the same in OTLP.
    otel: (&'static str, &'static str),
    points: fn(&Exposed<'_>, &mut Points),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

/// What is exposed.
#[derive(Clone, Copy)]
pub(crate) struct Exposed<'a> {
    pub(crate) sample: &'a Sample,
    pub(crate) outlets: &'a Outlets,
}

/// One series, or one histogram: label values in the order of the family's labels, harmless and
/// short.
#[derive(Clone, Debug, PartialEq)]
struct Point {
    labels: Vec<String>,
    value: Value,
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Integer(u64),
    Real(f64),
    Histogram(Box<Histogram>),
}

/// What a family has now.
type Points = Vec<Point>;

impl Family {
    fn points(&self, exposed: &Exposed<'_>) -> Points {
        let mut points = Points::new();
        (self.points)(exposed, &mut points);
        points
    }
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Integer(count)
    }
}

impl From<f64> for Value {
    fn from(figure: f64) -> Self {
        Self::Real(figure)
    }
}

impl From<Duration> for Value {
    /// In seconds.
    fn from(time: Duration) -> Self {
        Self::Real(time.as_secs_f64())
    }
}

impl From<&Histogram> for Value {
    fn from(histogram: &Histogram) -> Self {
        Self::Histogram(Box::new(histogram.clone()))
    }
}

/// The whole exposition.
pub(crate) fn encode(form: Form, exposed: Exposed<'_>) -> Vec<u8> {
    let registry = collect::registry(exposed);
    // Neither fails: memory takes whatever is written, and every histogram has classic buckets.
    match form {
        Form::OpenMetrics => text::open_metrics(&registry).into_bytes(),
        Form::Text => text::prometheus(&text::open_metrics(&registry)).into_bytes(),
        Form::Protobuf => prometheus_protobuf::encode_to_vec(&registry).unwrap_or_default(),
    }
}
