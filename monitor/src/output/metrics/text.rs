//! The two text forms. prometheus-client writes `OpenMetrics` only; Prometheus' own text follows
//! from it.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::{Kind, families};

pub(super) fn open_metrics(registry: &Registry) -> String {
    let mut text = String::new();
    // Without its `# EOF`, a reader would not take it for whole.
    let _ = encode(&mut text, registry);
    text
}

/// Version 0.0.4 of the format: it names families as it names their series, and knows neither
/// infos, nor units, nor an end.
pub(super) fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("UNIT" | "EOF"), ..) => continue,
            (Some("#"), Some(what), Some(name), Some(rest)) => {
                let (suffix, kind) = match kind_of(name) {
                    Some(Kind::Counter) => ("_total", rest),
                    Some(Kind::Info) => ("_info", "gauge"),
                    _ => ("", rest),
                };
                let rest = if what == "TYPE" { kind } else { rest };
                for part in ["# ", what, " ", name, suffix, " ", rest] {
                    text.push_str(part);
                }
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

fn kind_of(name: &str) -> Option<Kind> {
    let mut families = families();
    families
        .find(|family| family.name == name)
        .map(|family| family.kind)
}
