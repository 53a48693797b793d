//! The rules in the configuration file: `[ages]`, `[leak]`, `[ports]`, `[[socket]]`, `[[count]]`.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::field::{
    self, Age, Field, Growth, Inode, Kind, Lingering, List, Name, Network, Number, Owner, Pattern,
    Percent, Ports, Switch, Unit, Window,
};
use super::refusal::{Flaw, position, written};
use crate::cli::value;
use crate::tcp::State;
use crate::track::stuck::{Ages, CountRule, LeakRule, Matcher, PortRule, SocketRule};

/// A value whose place may be refused once it is compared with others.
type Placed<K> = Option<Spanned<Field<K>>>;

/// `[ages.STATE]`.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AgesTable {
    warning: Placed<Age>,
    critical: Placed<Age>,
}

/// `[leak]`.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LeakTable {
    window: Option<Field<Window>>,
    growth: Option<Field<Growth>>,
}

/// `[ports]`.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PortsTable {
    warning_percent: Placed<Percent>,
    critical_percent: Placed<Percent>,
    within: Option<Field<Age>>,
}

/// The table of a rule: its name, what narrows it, and keys of its own.
macro_rules! rule_table {
    ($(#[$doc:meta])* $table:ident { $($own:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Deserialize, Default)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $table {
            name: Placed<Name>,
            state: List<Lingering>,
            local_port: List<Ports>,
            remote_port: List<Ports>,
            local: List<Network>,
            remote: List<Network>,
            netns: List<Inode>,
            process: List<Pattern>,
            unit: List<Unit>,
            container: List<Pattern>,
            $($own: $type,)*
        }

        impl $table {
            /// Its name, its conditions, and the rest.
            fn parts(self) -> (Placed<Name>, Matcher, ($($type,)*)) {
                let matcher = Matcher {
                    states: self.state.0,
                    local_ports: self.local_port.0,
                    remote_ports: self.remote_port.0,
                    local_nets: self.local.0,
                    remote_nets: self.remote.0,
                    netns: self.netns.0,
                    processes: self.process.0,
                    units: self.unit.0,
                    containers: self.container.0,
                };
                (self.name, matcher, ($(self.$own,)*))
            }
        }
    };
}

rule_table! {
    /// `[[socket]]`.
    SocketTable {
        warning: Placed<Age>,
        critical: Placed<Age>,
        ignore: Option<Field<Switch>>,
    }
}

rule_table! {
    /// `[[count]]`.
    CountTable {
        per: Placed<Owner>,
        warning: Placed<Number>,
        critical: Placed<Number>,
    }
}

/// A table that has been read.
struct Place<'t> {
    /// Of the file.
    text: &'t str,
    /// `[leak]`.
    header: &'t str,
    /// Bytes from the start of the file.
    at: usize,
}

impl<'t> Place<'t> {
    const fn new(text: &'t str, header: &'t str, at: usize) -> Self {
        Self { text, header, at }
    }

    fn require<K: Kind>(&self, key: &str, value: Placed<K>) -> Result<Spanned<Field<K>>, Flaw> {
        let (header, example) = (&self.header, K::EXAMPLE);
        let what = || format!("`{key}` is missing in {header}; add for example {key} = {example}");
        value.ok_or_else(|| Flaw::new(self.at, what()))
    }

    /// `warning` and `critical`, neither missing nor the second below the first.
    fn levels<K>(&self, warning: Placed<K>, critical: Placed<K>) -> Result<[K::Value; 2], Flaw>
    where
        K: Kind<Value: PartialOrd>,
    {
        let warning = self.require("warning", warning)?;
        let critical = self.require("critical", critical)?;
        let [low, high] = [&critical, &warning].map(|value| written(self.text, value.span()));
        let at = critical.span().start.max(warning.span().start);
        let levels = [warning, critical].map(|value| value.into_inner().0);
        if levels.is_sorted() {
            return Ok(levels);
        }
        let what = format!(
            "`critical = {low}` is below `warning = {high}`; raise `critical` or lower `warning`"
        );
        Err(Flaw::new(at, what))
    }

    /// The name of a rule, which joins `names`.
    fn name(&self, name: Placed<Name>, names: &mut Names) -> Result<String, Flaw> {
        let name = self.require("name", name)?;
        names.push((name.span().start, name.get_ref().0.clone()));
        Ok(name.into_inner().0)
    }

    fn ages(&self, warning: Placed<Age>, critical: Placed<Age>) -> Result<Ages, Flaw> {
        let [warning, critical] = self.levels(warning, critical)?;
        Ok(Ages { warning, critical })
    }
}

/// All of `[ages]`.
pub(super) fn ages(
    tables: BTreeMap<Spanned<String>, field::Table<AgesTable>>,
    text: &str,
) -> Result<BTreeMap<State, Ages>, Flaw> {
    let mut tables: Vec<_> = tables.into_iter().collect();
    tables.sort_by_key(|(key, _)| key.span().start);
    let mut ages = BTreeMap::new();
    for (key, field::Table(AgesTable { warning, critical })) in tables {
        let at = key.span().start;
        let refused = |why| Flaw::new(at, format!("in [ages]: {why}"));
        let state = value::lingering_state(key.get_ref()).map_err(refused)?;
        let header = format!("[ages.{state}]");
        let table = Place::new(text, &header, at);
        // `close_wait` and `CLOSE-WAIT` are two keys to TOML.
        if ages.insert(state, table.ages(warning, critical)?).is_some() {
            return Err(refused(format!("{state} appears twice; keep one")));
        }
    }
    Ok(ages)
}

impl From<LeakTable> for LeakRule {
    fn from(table: LeakTable) -> Self {
        let default = Self::default();
        Self {
            window: table.window.map_or(default.window, |window| window.0),
            growth: table.growth.map_or(default.growth, |growth| growth.0),
        }
    }
}

impl TryFrom<PortsTable> for PortRule {
    type Error = Flaw;

    fn try_from(table: PortsTable) -> Result<Self, Flaw> {
        let default = Self::default();
        let percent = |value: &Placed<Percent>, default: f64| {
            value
                .as_ref()
                .map_or(default * 100.0, |value| value.get_ref().0)
        };
        let low = percent(&table.warning_percent, default.warning);
        let high = percent(&table.critical_percent, default.critical);
        if low > high {
            let value = table.critical_percent.or(table.warning_percent);
            let at = value.map_or(0, |value| value.span().start);
            let what = format!(
                "critical_percent ({high}) is below warning_percent ({low}); raise \
                 `critical_percent` or lower `warning_percent`"
            );
            return Err(Flaw::new(at, what));
        }
        Ok(Self {
            warning: low / 100.0,
            critical: high / 100.0,
            within: table.within.map_or(default.within, |within| within.0),
        })
    }
}

/// The names given so far, each with its place.
pub(super) type Names = Vec<(usize, String)>;

/// One `[[socket]]`.
pub(super) fn socket(
    table: Spanned<field::Table<SocketTable>>,
    text: &str,
    names: &mut Names,
) -> Result<SocketRule, Flaw> {
    let place = Place::new(text, "[[socket]]", table.span().start);
    let (name, matcher, (warning, critical, ignore)) = table.into_inner().0.parts();
    let name = place.name(name, names)?;
    let refused = |what: &str| Err(Flaw::new(place.at, format!("rule {name:?} {what}")));
    if matcher == Matcher::default() {
        return refused(
            "has no condition; add one of state, local_port, remote_port, local, remote, netns, \
             process, unit, container",
        );
    }
    let is_ignored = ignore.is_some_and(|ignore| ignore.0);
    let has_ages = warning.is_some() || critical.is_some();
    let ages = match (is_ignored, has_ages) {
        (true, false) => None,
        (false, true) => Some(place.ages(warning, critical)?),
        (true, true) => return refused("has ages and ignore = true; remove one of the two"),
        (false, false) => {
            return refused("has no effect; add `warning` and `critical`, or ignore = true");
        }
    };
    Ok(SocketRule {
        name,
        matcher,
        ages,
    })
}

/// One `[[count]]`.
pub(super) fn count(
    table: Spanned<field::Table<CountTable>>,
    text: &str,
    names: &mut Names,
) -> Result<CountRule, Flaw> {
    let place = Place::new(text, "[[count]]", table.span().start);
    let (name, matcher, (per, warning, critical)) = table.into_inner().0.parts();
    let name = place.name(name, names)?;
    let per = place.require("per", per)?.into_inner().0;
    let [warning, critical] = place.levels(warning, critical)?;
    Ok(CountRule {
        name,
        matcher,
        per,
        warning,
        critical,
    })
}

/// Refuses a name that two rules have.
pub(super) fn ensure_unique(mut names: Names, text: &str) -> Result<(), Flaw> {
    names.sort();
    let mut first = BTreeMap::new();
    for (at, name) in names {
        if let Some(earlier) = first.insert(name.clone(), at) {
            let [(line, _), (earlier, _)] = [at, earlier].map(|at| position(text.as_bytes(), at));
            let what = format!(
                "two rules have the name {name:?}, on line {earlier} and on line {line}; rename one"
            );
            return Err(Flaw::new(at, what));
        }
    }
    Ok(())
}
