//! Which sockets count as stuck: ages by state, and the rules of the configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use wildmatch::WildMatch;

use super::Owner;
use crate::tcp::{Evidence, Process, State};
use crate::track::filter::{has_port, is_inside};

/// Everything a verdict follows from, beside the sysctls of the socket's own namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rules {
    /// Ages that take the place of the defaults, by lingering state.
    pub(crate) ages: BTreeMap<State, Ages>,
    /// The first that matches a socket decides; where none does, the ages by state.
    pub(crate) sockets: Vec<SocketRule>,
    pub(crate) counts: Vec<CountRule>,
    pub(crate) leak: LeakRule,
    pub(crate) ports: PortRule,
}

/// From which age on a socket is worth a warning, and from which it is critical; the second is never
/// below the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ages {
    pub(crate) warning: Duration,
    pub(crate) critical: Duration,
}

/// A rule about single sockets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SocketRule {
    /// Unique among all rules.
    pub(crate) name: String,
    pub(crate) matcher: Matcher,
    /// None: what matches is never stuck.
    pub(crate) ages: Option<Ages>,
}

/// A rule about how many sockets an owner has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CountRule {
    pub(crate) name: String,
    pub(crate) matcher: Matcher,
    pub(crate) per: Per,
    /// More than so many are worth a warning.
    pub(crate) warning: u64,
    /// More than so many are critical.
    pub(crate) critical: u64,
}

/// Whose sockets a count rule adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Per {
    Process,
    Unit,
    Container,
    LocalPort,
    Namespace,
}

impl Per {
    /// As the configuration names them.
    pub(crate) const NAMES: [(&str, Self); 5] = [
        ("process", Self::Process),
        ("unit", Self::Unit),
        ("container", Self::Container),
        ("local_port", Self::LocalPort),
        ("namespace", Self::Namespace),
    ];

    pub(crate) fn name(self) -> &'static str {
        let named = Self::NAMES.into_iter().find(|(_, per)| *per == self);
        named.map_or("", |(name, _)| name)
    }
}

/// Conditions on a socket: every one that is set must hold; an empty list is not set, and any entry
/// of a list suffices.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Matcher {
    /// Lingering states only.
    pub(crate) states: Vec<State>,
    pub(crate) local_ports: Vec<RangeInclusive<u16>>,
    pub(crate) remote_ports: Vec<RangeInclusive<u16>>,
    pub(crate) local_nets: Vec<IpNet>,
    pub(crate) remote_nets: Vec<IpNet>,
    /// Inode numbers.
    pub(crate) netns: Vec<u32>,
    /// Command names of any holder; `*` and `?` stand for what they do in a shell.
    pub(crate) processes: Vec<WildMatch>,
    /// systemd units of any holder.
    pub(crate) units: Vec<UnitPattern>,
    /// Container ids of any holder, likewise.
    pub(crate) containers: Vec<WildMatch>,
}

impl Matcher {
    /// Whether sockets in that state can match.
    pub(crate) fn is_about(&self, state: State) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    /// Whether a socket with these holders matches; of one that waits for `accept()`, those of its
    /// listener.
    pub(crate) fn matches(&self, evidence: &Evidence, owners: &[Owner]) -> bool {
        self.is_about(evidence.state)
            && has_port(&self.local_ports, evidence.local)
            && has_port(&self.remote_ports, evidence.remote)
            && is_inside(&self.local_nets, evidence.local)
            && is_inside(&self.remote_nets, evidence.remote)
            && (self.netns.is_empty() || self.netns.contains(&evidence.netns))
            && self.is_held(owners)
    }

    /// Whether any of these holders, for each condition on holders, meets it.
    pub(super) fn is_held(&self, owners: &[Owner]) -> bool {
        is_any(&self.processes, owners, |process| Some(&process.comm))
            && self.is_of_unit(owners)
            && is_any(&self.containers, owners, |process| {
                process.container.as_ref()
            })
    }

    fn is_of_unit(&self, owners: &[Owner]) -> bool {
        let mut units = owners
            .iter()
            .filter_map(|owner| owner.process.unit.as_deref());
        self.units.is_empty()
            || units.any(|unit| self.units.iter().any(|pattern| pattern.matches(unit)))
    }
}

/// Units that a rule is about. `NAME` is a unit of the host's systemd and of no other, `NAME of user UID`
/// one of a user's, `NAME of container ID` one inside a container; `*` and `?` stand in each part for
/// what they do in a shell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UnitPattern {
    name: WildMatch,
    /// What is not the host's own.
    manager: Option<WildMatch>,
}

impl UnitPattern {
    pub(crate) fn new(text: &str) -> Self {
        let (name, manager) = split_unit(text);
        Self {
            name: WildMatch::new(name),
            manager: manager.map(WildMatch::new),
        }
    }

    fn matches(&self, unit: &str) -> bool {
        let (name, manager) = split_unit(unit);
        let is_managers = match (&self.manager, manager) {
            (Some(pattern), Some(manager)) => pattern.matches(manager),
            (wanted, manager) => wanted.is_none() && manager.is_none(),
        };
        is_managers && self.name.matches(name)
    }
}

impl fmt::Display for UnitPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.manager {
            Some(manager) => write!(f, "{} of {manager}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// A unit's name, and who gave it where that is not the host's systemd: `user 1000`.
fn split_unit(unit: &str) -> (&str, Option<&str>) {
    match unit.split_once(" of ") {
        Some((name, manager)) => (name, Some(manager)),
        None => (unit, None),
    }
}

fn is_any(
    wanted: &[WildMatch],
    owners: &[Owner],
    name_of: impl Fn(&Process) -> Option<&String>,
) -> bool {
    let mut names = owners.iter().filter_map(|owner| name_of(&owner.process));
    wanted.is_empty() || names.any(|name| wanted.iter().any(|pattern| pattern.matches(name)))
}

/// When growth is a leak: over `window` the sockets in `CLOSE_WAIT` of one owner and service never
/// became fewer, and at least `growth` more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeakRule {
    /// 2 s to 1 h.
    pub(crate) window: Duration,
    /// At least 1.
    pub(crate) growth: u64,
}

impl Default for LeakRule {
    fn default() -> Self {
        Self {
            window: Duration::from_mins(1),
            growth: 20,
        }
    }
}

/// When the use of ephemeral ports, or of `TIME_WAIT` buckets, is worth a finding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PortRule {
    /// Share in use, 0 to 1.
    pub(crate) warning: f64,
    /// Likewise, at least `warning`.
    pub(crate) critical: f64,
    /// Exhaustion expected within this time is a warning, too, once half of the range is used.
    pub(crate) within: Duration,
}

impl Default for PortRule {
    fn default() -> Self {
        Self {
            warning: 0.8,
            critical: 0.95,
            within: Duration::from_mins(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_for_the_hosts_units_matches_nobody_elses() {
        let (host, user, container) = (
            "nginx.service",
            "nginx.service of user 1000",
            "nginx.service of container ab12",
        );
        for (pattern, matched) in [
            ("nginx.service", [true, false, false]),
            ("nginx*", [true, false, false]),
            ("*", [true, false, false]),
            ("* of *", [false, true, true]),
            ("nginx* of user 10??", [false, true, false]),
            ("nginx.service of user 100", [false, false, false]),
            ("*.service of container ab*", [false, false, true]),
        ] {
            let pattern = UnitPattern::new(pattern);
            assert_eq!(
                [host, user, container].map(|unit| pattern.matches(unit)),
                matched,
                "{pattern}"
            );
        }
        assert_eq!(UnitPattern::new("a? of user *").to_string(), "a? of user *");
    }
}
