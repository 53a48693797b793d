//! `tcplinger stuck --rules`: every rule in the order in which it is asked.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::output::Escaped;
use crate::tcp::{Limits, State};
use crate::track::FORECAST_FLOOR;
use crate::track::phrase::{Span, percent};
use crate::track::stuck::{Ages, Matcher, Rules, threshold};

/// The rules as they are in one namespace; its JSON form is the documented one. Names and patterns in
/// it are raw.
#[derive(Debug, Serialize)]
pub(crate) struct RulesTable {
    /// Where no socket rule matches.
    states: Vec<StateRow>,
    /// The first that matches decides.
    socket_rules: Vec<SocketRow>,
    count_rules: Vec<CountRow>,
    leak: LeakRow,
    ports: PortRow,
}

#[derive(Debug, Serialize)]
struct StateRow {
    state: &'static str,
    #[serde(flatten)]
    ages: AgesRow,
    derivation: String,
}

#[derive(Debug, Serialize)]
struct AgesRow {
    #[serde(rename = "warning_seconds", serialize_with = "seconds")]
    warning: Duration,
    #[serde(rename = "critical_seconds", serialize_with = "seconds")]
    critical: Duration,
}

#[derive(Debug, Serialize)]
struct SocketRow {
    name: String,
    conditions: Vec<String>,
    /// Null: what matches is never stuck.
    ages: Option<AgesRow>,
}

#[derive(Debug, Serialize)]
struct CountRow {
    name: String,
    conditions: Vec<String>,
    per: &'static str,
    warning_above: u64,
    critical_above: u64,
}

#[derive(Debug, Serialize)]
struct LeakRow {
    #[serde(rename = "window_seconds", serialize_with = "seconds")]
    window: Duration,
    growth: u64,
}

#[derive(Debug, Serialize)]
struct PortRow {
    warning_share: f64,
    critical_share: f64,
    #[serde(rename = "within_seconds", serialize_with = "seconds")]
    within: Duration,
    /// A forecast counts from this share on.
    forecast_from_share: f64,
}

impl From<Ages> for AgesRow {
    fn from(Ages { warning, critical }: Ages) -> Self {
        Self { warning, critical }
    }
}

/// The rules with the ages that follow from the sysctls of one namespace.
pub(crate) fn rules_table(rules: &Rules, limits: &Limits) -> RulesTable {
    let states = State::LINGERING.into_iter().map(|state| {
        let threshold = threshold(rules, state, limits);
        StateRow {
            state: state.name(),
            ages: threshold.ages.into(),
            derivation: threshold.derivation,
        }
    });
    let socket_rules = rules.sockets.iter().map(|rule| SocketRow {
        name: rule.name.clone(),
        conditions: conditions(&rule.matcher),
        ages: rule.ages.map(AgesRow::from),
    });
    let count_rules = rules.counts.iter().map(|rule| CountRow {
        name: rule.name.clone(),
        conditions: conditions(&rule.matcher),
        per: rule.per.name(),
        warning_above: rule.warning,
        critical_above: rule.critical,
    });
    RulesTable {
        states: states.collect(),
        socket_rules: socket_rules.collect(),
        count_rules: count_rules.collect(),
        leak: LeakRow {
            window: rules.leak.window,
            growth: rules.leak.growth,
        },
        ports: PortRow {
            warning_share: rules.ports.warning,
            critical_share: rules.ports.critical,
            within: rules.ports.within,
            forecast_from_share: FORECAST_FLOOR,
        },
    }
}

/// Writes the rules as text.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_rules(out: &mut impl Write, rules: &Rules, limits: &Limits) -> io::Result<()> {
    let table = rules_table(rules, limits);
    writeln!(
        out,
        "{:<12}{:<14}{:<14}BECAUSE",
        "STATE", "WARNING", "CRITICAL"
    )?;
    for row in &table.states {
        let (warning, critical) = (Span(row.ages.warning), Span(row.ages.critical));
        let (warning, critical) = (warning.to_string(), critical.to_string());
        writeln!(
            out,
            "{:<12}{warning:<14}{critical:<14}{}",
            row.state, row.derivation
        )?;
    }
    if !table.socket_rules.is_empty() {
        writeln!(out, "\nSocket rules; the first match decides:")?;
    }
    for row in &table.socket_rules {
        let verdict = match &row.ages {
            Some(AgesRow { warning, critical }) => {
                format!("warning {}, critical {}", Span(*warning), Span(*critical))
            }
            None => "never stuck".to_owned(),
        };
        write_rule(out, &row.name, &row.conditions, &verdict)?;
    }
    if !table.count_rules.is_empty() {
        writeln!(out, "\nCount rules:")?;
    }
    for row in &table.count_rules {
        let CountRow {
            per,
            warning_above,
            critical_above,
            ..
        } = row;
        let verdict =
            format!("warning above {warning_above}, critical above {critical_above}, per {per}");
        write_rule(out, &row.name, &row.conditions, &verdict)?;
    }
    let (leak, ports) = (&table.leak, &table.ports);
    writeln!(
        out,
        "\nLeak: CLOSE_WAIT that only grows, by at least {} within {}",
        leak.growth,
        Span(leak.window),
    )?;
    writeln!(
        out,
        "Ports and TIME_WAIT buckets: warning at {}, critical at {}; ports also if at least {} are in use \
         and the rest lasts less than {} at the current rate",
        percent(ports.warning_share),
        percent(ports.critical_share),
        percent(ports.forecast_from_share),
        Span(ports.within),
    )
}

fn write_rule(
    out: &mut impl Write,
    name: &str,
    conditions: &[String],
    verdict: &str,
) -> io::Result<()> {
    let conditions = match conditions {
        [] => "every socket".to_owned(),
        conditions => conditions.join("; "),
    };
    writeln!(
        out,
        "  {}: {verdict}: {}",
        Escaped(name),
        Escaped(&conditions)
    )
}

/// The conditions that are set, each with its entries.
fn conditions(matcher: &Matcher) -> Vec<String> {
    let ports = |ports: &std::ops::RangeInclusive<u16>| match (ports.start(), ports.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    let local_ports: Vec<_> = matcher.local_ports.iter().map(ports).collect();
    let remote_ports: Vec<_> = matcher.remote_ports.iter().map(ports).collect();
    [
        listed("state", &matcher.states),
        listed("local port", &local_ports),
        listed("remote port", &remote_ports),
        listed("local net", &matcher.local_nets),
        listed("remote net", &matcher.remote_nets),
        listed("netns", &matcher.netns),
        listed("process", &matcher.processes),
        listed("unit", &matcher.units),
        listed("container", &matcher.containers),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn listed(what: &str, entries: &[impl Display]) -> Option<String> {
    let entries: Vec<_> = entries.iter().map(ToString::to_string).collect();
    (!entries.is_empty()).then(|| format!("{what} {}", entries.join(" or ")))
}

fn seconds<S: serde::Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64())
}
