//! Metrics: one table of families, and what a sample has for each of them. The text, the protobuf
//! and the push say the same in three forms.

#[cfg(test)]
mod fixture;
mod form;
mod label;
mod leaders;
pub(crate) mod otlp;
mod own;
mod protobuf;
#[cfg(test)]
mod reference;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod values;

use std::time::Duration;

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

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }

    /// What the names of its series end in.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Gauge | Self::Histogram => "",
            Self::Info => "_info",
        }
    }
}

/// The whole exposition.
pub(crate) fn encode(form: Form, exposed: Exposed<'_>) -> Vec<u8> {
    if form == Form::Protobuf {
        return protobuf::encode(exposed);
    }
    let mut text = String::new();
    // Memory takes whatever is written.
    let _ = text::write(&mut text, exposed, form == Form::OpenMetrics);
    text.into_bytes()
}
