//! The two text forms, written from the table.

use std::fmt::{self, Write};

use super::{Exposed, Family, Kind, Point, Value, families};

/// The whole exposition. `OpenMetrics` (1.0.0) names a family without its suffix, and knows infos and
/// units; Prometheus' own text (0.0.4) names it as its series, and has no end.
pub(super) fn write(text: &mut String, exposed: Exposed<'_>, is_open_metrics: bool) -> fmt::Result {
    for family in families() {
        let points = family.points(&exposed);
        if points.is_empty() {
            continue;
        }
        let Family {
            name,
            unit,
            help,
            kind,
            ..
        } = family;
        if is_open_metrics {
            writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", kind.name())?;
            if !unit.is_empty() {
                writeln!(text, "# UNIT {name} {unit}")?;
            }
        } else {
            let (suffix, kind) = match kind {
                Kind::Info => (kind.suffix(), "gauge"),
                kind => (kind.suffix(), kind.name()),
            };
            writeln!(
                text,
                "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}"
            )?;
        }
        for point in points {
            point.write(text, family)?;
        }
    }
    if is_open_metrics {
        text.push_str("# EOF\n");
    }
    Ok(())
}

impl Point {
    fn write(&self, text: &mut String, family: &Family) -> fmt::Result {
        let labels = family.labels.iter().zip(&self.labels);
        let labels: Vec<String> = labels
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        let labels = labels.join(",");
        let name = family.name;
        let Value::Histogram(histogram) = &self.value else {
            let (open, close) = if labels.is_empty() {
                ("", "")
            } else {
                ("{", "}")
            };
            let suffix = family.kind.suffix();
            return writeln!(text, "{name}{suffix}{open}{labels}{close} {}", self.value);
        };
        let sum = Value::from(histogram.sum());
        writeln!(text, "{name}_sum{{{labels}}} {sum}")?;
        writeln!(text, "{name}_count{{{labels}}} {}", histogram.count())?;
        let mut cumulative = 0;
        for (bound, count) in histogram.classic() {
            cumulative += count;
            let bound = Value::Real(bound);
            writeln!(
                text,
                "{name}_bucket{{le=\"{bound}\",{labels}}} {cumulative}"
            )?;
        }
        Ok(())
    }
}

/// What both formats want escaped in a label's value.
pub(super) fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(count) => write!(f, "{count}"),
            Self::Real(f64::INFINITY) => f.write_str("+Inf"),
            Self::Real(figure) => write!(f, "{figure:?}"),
            Self::Histogram(histogram) => write!(f, "{}", histogram.count()),
        }
    }
}
