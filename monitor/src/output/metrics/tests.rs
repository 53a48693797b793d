//! The exposition of a host as bad as can be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model as model;
use prost::Message as _;

use super::fixture::{busy, idle};
use super::*;
use crate::tcp::{Counts, State};
use crate::track::stuck::Severity;
use crate::track::{Activity, OwnerName, TOP, TopOwners};

fn exposition(form: Form, sample: &Sample) -> Vec<u8> {
    let outlets = Outlets::default();
    encode(
        form,
        Exposed {
            sample,
            outlets: &outlets,
        },
    )
}

fn written(form: Form, sample: &Sample) -> String {
    String::from_utf8(exposition(form, sample)).unwrap()
}

/// The family that a series belongs to.
fn family_of(series: &str) -> &'static Family {
    let name = series.split(['{', ' ']).next().unwrap();
    let suffixes = ["", "_total", "_info", "_sum", "_count", "_bucket"];
    let is_its = |family: &&Family| {
        suffixes
            .iter()
            .any(|suffix| name.strip_suffix(suffix) == Some(family.name))
    };
    families()
        .find(is_its)
        .unwrap_or_else(|| panic!("{name} is in no family"))
}

#[test]
fn no_host_costs_more_than_500_series() {
    for sample in [busy(), idle()] {
        for form in [Form::Text, Form::OpenMetrics] {
            let text = written(form, &sample);
            let mut seen = BTreeSet::new();
            let mut series = BTreeMap::<&str, usize>::new();
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let (name, _) = line.rsplit_once(' ').unwrap();
                assert!(seen.insert(name), "{name} is there twice");
                *series.entry(family_of(line).name).or_default() += 1;
            }
            for family in families() {
                let count = series.get(family.name).copied().unwrap_or_default();
                assert!(count <= family.most, "{} has {count}", family.name);
            }
            assert!(seen.len() <= 500, "{}", seen.len());
        }
    }
}

/// The bound is no looser than it has to be.
#[test]
fn the_worst_case_is_reached() {
    let sample = busy();
    let outlets = Outlets::default();
    let exposed = Exposed {
        sample: &sample,
        outlets: &outlets,
    };
    for family in families() {
        let points = family.points(&exposed);
        let each = if family.kind == Kind::Histogram {
            11
        } else {
            1
        };
        assert_eq!(points.len() * each, family.most, "{}", family.name);
    }
}

#[test]
fn what_has_no_leaders_is_there_without_sockets_too() {
    let series = |sample: &Sample| -> BTreeSet<String> {
        let text = written(Form::Text, sample);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
            .collect()
    };
    let idle = series(&idle());
    for expected in [
        "tcplinger_sockets{state=\"time_wait\",family=\"ipv6\"}",
        "tcplinger_transitions_total{from=\"closing\",to=\"close\"}",
        "tcplinger_transitions_total{from=\"other\",to=\"other\"}",
        "tcplinger_state_duration_seconds_bucket{le=\"+Inf\",state=\"listen\"}",
        "tcplinger_lingering_sockets{state=\"close_wait\",severity=\"critical\"}",
        "tcplinger_lingering_oldest_age_seconds{state=\"syn_sent\"}",
        "tcplinger_findings{kind=\"leak\",severity=\"warning\"}",
        "tcplinger_namespace_sockets{netns=\"other\",namespace=\"other\",state=\"other\"}",
        "tcplinger_time_wait_overflows_total{netns=\"other\",namespace=\"other\"}",
        "tcplinger_events_lost_total",
    ] {
        assert!(idle.contains(expected), "{expected}");
    }
    // Nobody has looked at the owners yet; once somebody has, there are some always.
    let is_of_owners = |name: &String| name.starts_with("tcplinger_owner_sockets");
    assert!(!idle.iter().any(is_of_owners));
    let owners = TopOwners {
        taken: Some(Duration::ZERO),
        ..TopOwners::default()
    };
    let looked_at = series(&Sample {
        owners: Arc::new(owners),
        ..fixture::idle()
    });
    assert_eq!(
        looked_at.iter().filter(|name| is_of_owners(name)).count(),
        8
    );
}

#[test]
fn leaders_and_the_rest_add_up() {
    let sample = busy();
    let outlets = Outlets::default();
    let exposed = Exposed {
        sample: &sample,
        outlets: &outlets,
    };
    let sum = |name: &str| -> u64 {
        let family = families().find(|family| family.name == name).unwrap();
        let points = family.points(&exposed);
        let count = |point: &Point| match point.value {
            Value::Integer(count) => count,
            _ => panic!("{name} is no count"),
        };
        points.iter().map(count).sum()
    };
    let sockets = sample.summary.sockets();
    assert_eq!(sum("tcplinger_sockets"), sockets.total());
    assert_eq!(sum("tcplinger_namespace_sockets"), sockets.total());
    assert_eq!(sum("tcplinger_namespace_stuck_sockets"), 2 * 12 * 1_000);
    assert_eq!(sum("tcplinger_owner_sockets"), 10_002 * 78);
    assert_eq!(sum("tcplinger_transitions"), 7 * 256);
    assert_eq!(sum("tcplinger_time_wait_overflows"), 55 + 5);
    let lingering: u64 = State::LINGERING
        .map(|state| sockets.get(state))
        .iter()
        .sum();
    assert_eq!(sum("tcplinger_lingering_sockets"), lingering);
    let waiting = sockets.get(State::TimeWait) + sockets.get(State::FinWait2);
    assert_eq!(sum("tcplinger_time_wait_buckets_used"), waiting);
}

#[test]
fn findings_are_counted_by_what_they_are_about() {
    let text = written(Form::Text, &busy());
    for (kind, severity, count) in [
        ("sockets", "warning", 2),
        ("sockets", "critical", 0),
        ("leak", "critical", 1),
        ("count", "critical", 1),
        ("ephemeral_ports", "critical", 1),
        ("time_wait_buckets", "critical", 1),
    ] {
        let line = format!("{{kind=\"{kind}\",severity=\"{severity}\"}} {count}\n");
        assert!(text.contains(&line), "{line}");
    }
}

#[test]
fn those_with_most_lead() {
    let text = written(Form::Text, &busy());
    let leaders: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("tcplinger_namespace_sockets{"))
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    let expected = [
        "99", "199", "299", "399", "499", "599", "699", "799", "899", "999", "other",
    ];
    assert_eq!(leaders.len(), 4 * (TOP + 1));
    assert!(leaders.iter().step_by(4).eq(&expected), "{leaders:?}");
    // The 4,999th destination is that of namespace 1,000; each namespace is there once.
    assert!(text.contains("tcplinger_ephemeral_ports_used{netns=\"1000\""));
    let ports = text.matches("tcplinger_ephemeral_ports_used{").count();
    assert_eq!(ports, TOP);
}

#[test]
fn owners_that_look_the_same_are_one() {
    let long = |end: &str| OwnerName::Unit("x".repeat(128) + end);
    let mut counts = Counts::default();
    counts.set(State::CloseWait, 3);
    let owners = TopOwners {
        taken: Some(Duration::ZERO),
        leaders: vec![
            (long("a"), counts),
            (long("b"), counts),
            (OwnerName::Process("a\n".to_owned()), counts),
            (OwnerName::Process("a\r".to_owned()), counts),
            (OwnerName::Container("0123456789abcdef".to_owned()), counts),
        ],
        ..TopOwners::default()
    };
    let text = written(
        Form::Text,
        &Sample {
            owners: Arc::new(owners),
            ..idle()
        },
    );
    for line in [
        format!(
            "{{kind=\"unit\",owner=\"{}\",state=\"close_wait\"}} 6",
            "x".repeat(128)
        ),
        "{kind=\"process\",owner=\"a\u{fffd}\",state=\"close_wait\"} 6".to_owned(),
        "{kind=\"container\",owner=\"0123456789ab\",state=\"close_wait\"} 3".to_owned(),
    ] {
        assert!(
            text.contains(&format!("tcplinger_owner_sockets{line}\n")),
            "{line}"
        );
    }
}

#[test]
fn a_hostile_name_stays_in_its_label() {
    let text = written(Form::OpenMetrics, &busy());
    let name = "namespace=\"a\\\"b\\\\c\u{fffd}d\u{fffd}e\u{fffd}[2J\u{fffd}199\"";
    assert!(text.contains(name));
    assert!(!text.contains(['\r', '\u{1b}', '\u{202e}']));
}

/// A newline does not get that far.
#[test]
fn what_the_formats_want_escaped_is_escaped() {
    assert_eq!(text::escaped("\\ \" \n"), "\\\\ \\\" \\n");
}

#[test]
fn open_metrics_has_its_structure() {
    let text = written(Form::OpenMetrics, &busy());
    assert!(text.ends_with("\n# EOF\n"));
    let mut open = None;
    let mut closed = BTreeSet::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "HELP", name, help] => {
                let family = families().find(|family| family.name == *name).unwrap();
                assert_eq!(*help, family.help);
                assert!(closed.insert(*name), "{name} is there twice");
                open = Some(family);
            }
            ["#", "TYPE", name, kind] => {
                assert_eq!(open.map(|family| family.name), Some(*name));
                assert_eq!(*kind, format!("{:?}", open.unwrap().kind).to_lowercase());
            }
            ["#", "UNIT", name, unit] => {
                assert_eq!(open.map(|family| family.unit), Some(*unit));
                assert!(name.ends_with(&format!("_{unit}")));
            }
            ["#", "EOF"] => open = None,
            _ => assert_eq!(family_of(line).name, open.unwrap().name),
        }
    }
    assert_eq!(closed.len(), families().count());
}

#[test]
fn prometheus_text_names_families_as_their_series() {
    let text = written(Form::Text, &busy());
    assert!(!text.contains("# UNIT") && !text.contains("# EOF"));
    for line in [
        "# TYPE tcplinger_transitions_total counter",
        "# TYPE tcplinger_walk_cpu_seconds_total counter",
        "# TYPE tcplinger_build_info gauge",
        "# TYPE tcplinger_state_duration_seconds histogram",
        "# HELP tcplinger_events_lost_total Transitions whose record did not reach the daemon; \
         it recounts after each loss.",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line}");
    }
    let figures = |form| -> Vec<String> {
        let text = written(form, &busy());
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(figures(Form::Text), figures(Form::OpenMetrics));
}

#[test]
fn protobuf_has_both_kinds_of_buckets() {
    let bytes = exposition(Form::Protobuf, &busy());
    let mut rest = bytes.as_slice();
    let mut families = BTreeMap::new();
    while !rest.is_empty() {
        let family = model::MetricFamily::decode_length_delimited(&mut rest).unwrap();
        families.insert(family.name.clone(), family);
    }
    assert_eq!(families.len(), super::families().count());
    assert!(families.contains_key("tcplinger_transitions_total"));
    let durations = &families["tcplinger_state_duration_seconds"];
    assert_eq!(durations.metric.len(), Activity::TIMED.len());
    for metric in &durations.metric {
        let histogram = metric.histogram.as_ref().unwrap();
        assert_eq!((histogram.schema, histogram.bucket.len()), (2, 9));
        assert!(histogram.zero_threshold > 0.0 && histogram.sample_count > 0);
        let spans = histogram.positive_span.iter();
        let length: u32 = spans.map(|span| span.length).sum();
        assert_eq!(length as usize, histogram.positive_delta.len());
        let (mut count, mut sum) = (0, histogram.zero_count.cast_signed());
        for delta in &histogram.positive_delta {
            count += delta;
            sum += count;
        }
        assert_eq!(sum.cast_unsigned(), histogram.sample_count);
        let last = histogram.bucket.last().unwrap();
        assert_eq!(last.cumulative_count, histogram.sample_count);
    }
}

#[test]
fn the_table_is_sound() {
    let mut names = BTreeSet::new();
    for family in families() {
        let name = family.name;
        assert!(name.starts_with("tcplinger_") && names.insert(name));
        assert!(
            !name.ends_with("_total") && !name.ends_with("_info"),
            "{name}"
        );
        if !family.unit.is_empty() {
            assert!(name.ends_with(&format!("_{}", family.unit)), "{name}");
        }
        // Help is written as it is, in every form and in a table of the documentation.
        assert!(family.help.ends_with('.') && !family.help.contains(['\\', '\n', '"', '|']));
        let (otel, unit) = family.otel;
        assert!(names.insert(otel) && !unit.is_empty(), "{name}");
        let expected = match family.unit {
            "seconds" => "s",
            "bytes" => "By",
            "ratio" => "1",
            _ => unit,
        };
        assert_eq!(unit, expected, "{name}");
    }
}

/// Writes the expositions for the tools of others: `TCPLINGER_EXPOSITIONS=DIR cargo test written_down`.
#[test]
fn written_down() {
    let sample = busy();
    let Some(folder) = std::env::var_os("TCPLINGER_EXPOSITIONS") else {
        return;
    };
    for (form, name) in [
        (Form::Text, "text"),
        (Form::OpenMetrics, "openmetrics"),
        (Form::Protobuf, "protobuf"),
    ] {
        let start = Instant::now();
        let mut bytes = Vec::new();
        for _ in 0..100 {
            bytes = exposition(form, &sample);
        }
        println!("{name}: {:?}, {} bytes", start.elapsed() / 100, bytes.len());
        std::fs::write(std::path::Path::new(&folder).join(name), bytes).unwrap();
    }
}

#[test]
fn what_was_looked_at_before_agrees_with_the_counts_of_now() {
    let mut sample = busy();
    sample.summary.namespaces.truncate(1);
    let mut counts = Counts::default();
    counts.set(State::CloseWait, 3);
    for namespace in &mut sample.summary.namespaces {
        (namespace.ipv4, namespace.ipv6) = (counts, Counts::default());
    }
    let of = |severity| (1, State::CloseWait, severity);
    let (warning, critical) = (of(Severity::Warning), of(Severity::Critical));
    sample.stuck.sockets = [
        (warning, 5),
        (critical, 2),
        ((1, State::FinWait1, Severity::Warning), 4),
    ]
    .into();
    sample.settle();
    let told = [warning, critical, (1, State::FinWait1, Severity::Warning)];
    let told = told.map(|kind| sample.stuck.sockets.get(&kind).copied());
    assert_eq!(told, [Some(1), Some(2), Some(0)], "the critical ones first");
    let states: Vec<State> = sample.oldest_since.keys().copied().collect();
    assert_eq!(states, [State::CloseWait], "no age of an empty state");
}
