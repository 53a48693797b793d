//! The rules in the configuration file: `[ages]`, `[leak]`, `[ports]`, `[[socket]]`, `[[count]]`.

use std::collections::BTreeMap;
use std::time::Duration;

use wildmatch::WildMatch;

use super::file::position;
use super::table::{Flaw, Form, Found, Shape, Table};
use crate::cli::Netns;
use crate::cli::value;
use crate::tcp::State;
use crate::track::stuck::{
    Ages, CountRule, LeakRule, Matcher, Per, PortRule, Rules, SocketRule, UnitPattern,
};

/// Rules of findings that no configuration names.
const BUILT_IN: [&str; 4] = ["default", "leak", "ephemeral_ports", "time_wait_buckets"];

/// What narrows a `[[socket]]` or a `[[count]]`.
const CONDITIONS: [&str; 9] = [
    "state",
    "local_port",
    "remote_port",
    "local",
    "remote",
    "netns",
    "process",
    "unit",
    "container",
];

pub(super) const SWITCH: Shape<bool> = shape(Form::Boolean, "true", |text| {
    text.parse().map_err(|_| "give true or false".to_owned())
});
pub(super) const PERCENT: Shape<f64> = shape(Form::TextOrNumber, "80", value::percent);
const AGE: Shape<Duration> = shape(Form::Text, "\"5m\"", value::age);
const WINDOW: Shape<Duration> = shape(Form::Text, "\"60s\"", value::window);
const NUMBER: Shape<u64> = shape(Form::Number, "1000", number);
const STATE: Shape<State> = shape(Form::Text, "\"close_wait\"", value::lingering_state);
const NAME: Shape<String> = shape(Form::Text, "\"slow backups\"", name);
const PATTERN: Shape<WildMatch> = shape(Form::Text, "\"nginx*\"", |text| {
    value::pattern(text).map(|pattern| WildMatch::new(&pattern))
});
const UNIT: Shape<UnitPattern> = shape(Form::Text, "\"nginx.service\"", |text| {
    value::unit_pattern(text).map(|pattern| UnitPattern::new(&pattern))
});
const PER: Shape<Per> = shape(Form::Text, "\"process\"", per);

const fn shape<T>(
    form: Form,
    example: &'static str,
    parse: fn(&str) -> Result<T, String>,
) -> Shape<T> {
    Shape {
        form,
        example,
        parse,
    }
}

/// Everything about verdicts; `text` is the whole file.
pub(super) fn read(root: &Table<'_>, text: &str) -> Result<Rules, Flaw> {
    let mut names = Names::default();
    let sockets = root.tables("socket")?;
    let counts = root.tables("count")?;
    let rules = Rules {
        ages: ages_by_state(root)?,
        leak: leak(root)?,
        ports: ports(root)?,
        sockets: read_each(&sockets, |table| socket(table, &mut names))?,
        counts: read_each(&counts, |table| count(table, &mut names))?,
    };
    names.ensure_unique(text)?;
    Ok(rules)
}

fn read_each<T>(
    tables: &[Table<'_>],
    read: impl FnMut(&Table<'_>) -> Result<T, Flaw>,
) -> Result<Vec<T>, Flaw> {
    tables.iter().map(read).collect()
}

fn ages_by_state(root: &Table<'_>) -> Result<BTreeMap<State, Ages>, Flaw> {
    let mut ages = BTreeMap::new();
    let Some(table) = root.table("ages", "ages")? else {
        return Ok(ages);
    };
    let mut keys: Vec<_> = table.keys().collect();
    keys.sort_by_key(|(_, at)| *at);
    for (key, at) in keys {
        let refused = |why| Flaw::new(at, format!("in [ages]: {why}"));
        let state = value::lingering_state(key).map_err(refused)?;
        let path = format!("ages.{state}");
        let Some(of_state) = table.table(key, &path)? else {
            continue;
        };
        of_state.ensure_only(&["warning", "critical"])?;
        // `close_wait` and `CLOSE-WAIT` are two keys to TOML.
        if ages.insert(state, both_ages(&of_state)?).is_some() {
            return Err(refused(format!("{state} is there twice; keep one")));
        }
    }
    Ok(ages)
}

fn both_ages(table: &Table<'_>) -> Result<Ages, Flaw> {
    let warning = table.require("warning", &AGE)?;
    let critical = table.require("critical", &AGE)?;
    ensure_ordered(&warning, &critical)?;
    Ok(Ages {
        warning: warning.value,
        critical: critical.value,
    })
}

fn ensure_ordered<T: PartialOrd>(warning: &Found<T>, critical: &Found<T>) -> Result<(), Flaw> {
    if warning.value <= critical.value {
        return Ok(());
    }
    let (low, high) = (&critical.shown, &warning.shown);
    let at = critical.at.max(warning.at);
    Err(Flaw::new(
        at,
        format!(
            "`critical = {low}` is below `warning = {high}`; raise `critical` or lower `warning`"
        ),
    ))
}

fn leak(root: &Table<'_>) -> Result<LeakRule, Flaw> {
    let default = LeakRule::default();
    let Some(table) = root.table("leak", "leak")? else {
        return Ok(default);
    };
    table.ensure_only(&["window", "growth"])?;
    let growth = table.get("growth", &shape(Form::Number, "20", positive))?;
    Ok(LeakRule {
        window: table.get("window", &WINDOW)?.unwrap_or(default.window),
        growth: growth.unwrap_or(default.growth),
    })
}

fn ports(root: &Table<'_>) -> Result<PortRule, Flaw> {
    let default = PortRule::default();
    let Some(table) = root.table("ports", "ports")? else {
        return Ok(default);
    };
    table.ensure_only(&["warning_percent", "critical_percent", "within"])?;
    let warning = table.find("warning_percent", &PERCENT)?;
    let critical = table.find("critical_percent", &PERCENT)?;
    let percent = |found: &Option<Found<f64>>, default: f64| {
        found.as_ref().map_or(default * 100.0, |found| found.value)
    };
    let low = percent(&warning, default.warning);
    let high = percent(&critical, default.critical);
    if low > high {
        let at = critical.or(warning).map_or(table.at, |found| found.at);
        return Err(Flaw::new(
            at,
            format!(
                "critical_percent ({high}) is below warning_percent ({low}); raise \
                 `critical_percent` or lower `warning_percent`"
            ),
        ));
    }
    Ok(PortRule {
        warning: low / 100.0,
        critical: high / 100.0,
        within: table.get("within", &AGE)?.unwrap_or(default.within),
    })
}

fn socket(table: &Table<'_>, names: &mut Names) -> Result<SocketRule, Flaw> {
    ensure_keys(table, &["warning", "critical", "ignore"])?;
    let name = names.take(table)?;
    let matcher = matcher(table)?;
    let refused = |what: &str| Err(Flaw::new(table.at, format!("rule {name:?} {what}")));
    if matcher == Matcher::default() {
        let conditions = CONDITIONS.join(", ");
        return refused(&format!("has no condition; add one of {conditions}"));
    }
    let is_ignored = table.get("ignore", &SWITCH)?.unwrap_or(false);
    let has_ages = table.has("warning") || table.has("critical");
    let ages = match (is_ignored, has_ages) {
        (true, false) => None,
        (false, true) => Some(both_ages(table)?),
        (true, true) => return refused("has ages and is ignored; leave one of the two out"),
        (false, false) => {
            return refused("says nothing; add `warning` and `critical`, or ignore = true");
        }
    };
    Ok(SocketRule {
        name,
        matcher,
        ages,
    })
}

fn count(table: &Table<'_>, names: &mut Names) -> Result<CountRule, Flaw> {
    ensure_keys(table, &["per", "warning", "critical"])?;
    let name = names.take(table)?;
    let matcher = matcher(table)?;
    let per = table.require("per", &PER)?.value;
    let warning = table.require("warning", &NUMBER)?;
    let critical = table.require("critical", &NUMBER)?;
    ensure_ordered(&warning, &critical)?;
    Ok(CountRule {
        name,
        matcher,
        per,
        warning: warning.value,
        critical: critical.value,
    })
}

/// Beside its name and its conditions a rule may have the keys `others`.
fn ensure_keys(table: &Table<'_>, others: &[&str]) -> Result<(), Flaw> {
    let keys = [["name"].as_slice(), CONDITIONS.as_slice(), others].concat();
    table.ensure_only(&keys)
}

fn matcher(table: &Table<'_>) -> Result<Matcher, Flaw> {
    let port = shape(Form::TextOrNumber, "8080", value::ports);
    let network = shape(Form::Text, "\"10.0.0.0/8\"", value::network);
    Ok(Matcher {
        states: table.list("state", &STATE)?,
        local_ports: table.list("local_port", &port)?,
        remote_ports: table.list("remote_port", &port)?,
        local_nets: table.list("local", &network)?,
        remote_nets: table.list("remote", &network)?,
        netns: table.list("netns", &shape(Form::Number, "4026531840", inode))?,
        processes: table.list("process", &PATTERN)?,
        units: table.list("unit", &UNIT)?,
        containers: table.list("container", &PATTERN)?,
    })
}

/// The names given so far, each with its place.
#[derive(Default)]
struct Names(Vec<(usize, String)>);

impl Names {
    /// The name of one more rule.
    fn take(&mut self, table: &Table<'_>) -> Result<String, Flaw> {
        let Found { value, at, .. } = table.require("name", &NAME)?;
        self.0.push((at, value.clone()));
        Ok(value)
    }

    fn ensure_unique(mut self, text: &str) -> Result<(), Flaw> {
        self.0.sort();
        let mut first = BTreeMap::new();
        for (at, name) in self.0 {
            if let Some(earlier) = first.insert(name.clone(), at) {
                let (line, _) = position(text.as_bytes(), at);
                let (earlier, _) = position(text.as_bytes(), earlier);
                return Err(Flaw::new(
                    at,
                    format!(
                        "two rules have the name {name:?}, on line {earlier} and on line {line}; \
                         rename one"
                    ),
                ));
            }
        }
        Ok(())
    }
}

fn name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("a name must not be empty; say what the rule is for".to_owned());
    }
    if BUILT_IN.contains(&text) {
        let names = BUILT_IN.join(", ");
        return Err(format!(
            "built-in rules have the names {names}; choose another"
        ));
    }
    Ok(text.to_owned())
}

fn number(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| "give a whole number from 0 on, for example 1000".to_owned())
}

fn positive(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("give a whole number from 1 on, for example 20".to_owned()),
        Ok(number) => Ok(number),
    }
}

fn inode(text: &str) -> Result<u32, String> {
    match value::netns(text) {
        Ok(Netns::Inode(inode)) => Ok(inode),
        _ => {
            Err("give an inode number, for example 4026531840 (tcplinger status shows them)".into())
        }
    }
}

fn per(text: &str) -> Result<Per, String> {
    const NAMES: [(&str, Per); 5] = [
        ("process", Per::Process),
        ("unit", Per::Unit),
        ("container", Per::Container),
        ("local_port", Per::LocalPort),
        ("namespace", Per::Namespace),
    ];
    let found = NAMES.into_iter().find(|(name, _)| *name == text);
    found
        .map(|(_, per)| per)
        .ok_or_else(|| value::one_of(text, &NAMES.map(|(name, _)| name)))
}
