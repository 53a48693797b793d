//! Rules about how many sockets an owner has.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::{CountRule, Endpoint, Finding, Owner, Per, Severity};
use crate::tcp::{Evidence, Process, State};
use crate::track::phrase::grouped;

/// Owners that a finding names.
const MOST_OWNERS: usize = 16;

/// The findings of count rules that have not been cleared: they are only below 9/10 of their
/// threshold.
#[derive(Debug, Default)]
pub(crate) struct CountBoard {
    raised: HashMap<(String, Group), Raised>,
}

#[derive(Clone, Copy, Debug)]
struct Raised {
    severity: Severity,
    since: Duration,
}

/// Whose sockets are added up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Group {
    Process(u32),
    Unit(String),
    Container(String),
    /// In a namespace.
    LocalPort(u32, u16),
    Namespace(u32),
}

/// The sockets of one group.
#[derive(Debug)]
struct Sum {
    netns: u32,
    sockets: u64,
    /// By [`State::index`].
    states: [u64; State::ALL.len()],
    /// What all have in common.
    local_port: Option<u16>,
    remote_port: Option<u16>,
    unread_bytes: u64,
    unacked_bytes: u64,
    retransmits: u64,
    owners: BTreeMap<u32, Arc<Process>>,
}

/// What count rules found, and which of the sockets are whose.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    findings: Vec<Finding>,
    /// By rule and group: the place of the finding.
    places: HashMap<(usize, Group), usize>,
}

impl Counted {
    pub(crate) const fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// Adds a socket to the first finding that it is counted for and whose state it is in, if there is
    /// one. That is as bad as the worst of its sockets.
    pub(crate) fn take(
        &mut self,
        rules: &[CountRule],
        socket: &Evidence,
        owners: &[Owner],
        severity: Severity,
    ) -> bool {
        for (number, rule) in rules.iter().enumerate() {
            if !rule.matcher.matches(socket, owners) {
                continue;
            }
            for group in groups_of(rule.per, socket, owners) {
                let place = self.places.get(&(number, group));
                let finding = place.and_then(|place| self.findings.get_mut(*place));
                if let Some(finding) = finding.filter(|finding| finding.state == socket.state) {
                    finding.sockets += 1;
                    finding.severity = severity.max(finding.severity);
                    return true;
                }
            }
        }
        false
    }

    pub(crate) fn into_findings(self) -> Vec<Finding> {
        self.findings
    }
}

/// One finding for each rule and group with more sockets than the rule allows, without any socket of
/// its own yet; sockets come with all their holders.
pub(crate) fn count_findings(
    rules: &[CountRule],
    sockets: impl Iterator<Item = (impl Borrow<Evidence>, impl AsRef<[Owner]>)>,
    board: &mut CountBoard,
    now: Duration,
) -> Counted {
    let mut sums: Vec<BTreeMap<Group, Sum>> = rules.iter().map(|_| BTreeMap::new()).collect();
    for (socket, owners) in sockets {
        let (socket, owners) = (socket.borrow(), owners.as_ref());
        for (rule, sums) in rules.iter().zip(&mut sums) {
            if rule.matcher.matches(socket, owners) {
                for group in groups_of(rule.per, socket, owners) {
                    let sum = sums
                        .entry(group.clone())
                        .or_insert_with(|| Sum::new(socket));
                    sum.add(socket, owners.iter().filter(|owner| group.has(owner)));
                }
            }
        }
    }
    let before = std::mem::take(&mut board.raised);
    let mut counted = Counted::default();
    for (number, (rule, sums)) in rules.iter().zip(sums).enumerate() {
        for (group, sum) in sums {
            let key = (rule.name.clone(), group);
            let old = before.get(&key);
            let was = old.map_or(Severity::None, |raised| raised.severity);
            let severity = severity_of(rule, sum.sockets, was);
            if severity > Severity::None {
                let since = old.map_or(now, |raised| raised.since);
                let place = (number, key.1.clone());
                counted.places.insert(place, counted.findings.len());
                let finding = sum.finding(rule, &key.1, severity, now.saturating_sub(since));
                counted.findings.push(finding);
                board.raised.insert(key, Raised { severity, since });
            }
        }
    }
    counted
}

/// Each group of that kind once, however many holders a socket has in it.
fn groups_of(per: Per, socket: &Evidence, owners: &[Owner]) -> Vec<Group> {
    let of_owner = |owner: &Owner| match per {
        Per::Process => Some(Group::Process(owner.process.pid)),
        Per::Unit => owner.process.unit.clone().map(Group::Unit),
        Per::Container => owner.process.container.clone().map(Group::Container),
        Per::LocalPort | Per::Namespace => None,
    };
    let mut groups: Vec<Group> = match per {
        Per::LocalPort => vec![Group::LocalPort(socket.netns, socket.local.port())],
        Per::Namespace => vec![Group::Namespace(socket.netns)],
        Per::Process | Per::Unit | Per::Container => owners.iter().filter_map(of_owner).collect(),
    };
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// More than the threshold, or not yet below 9/10 of it.
fn severity_of(rule: &CountRule, sockets: u64, was: Severity) -> Severity {
    let is_over = |threshold: u64, severity: Severity| {
        sockets > threshold
            || (was >= severity && sockets.saturating_mul(10) >= threshold.saturating_mul(9))
    };
    if is_over(rule.critical, Severity::Critical) {
        Severity::Critical
    } else if is_over(rule.warning, Severity::Warning) {
        Severity::Warning
    } else {
        Severity::None
    }
}

impl Group {
    /// Whether a holder of one of its sockets belongs to it.
    fn has(&self, owner: &Owner) -> bool {
        let Process {
            pid,
            unit,
            container,
            ..
        } = &*owner.process;
        match self {
            Self::Process(own) => own == pid,
            Self::Unit(own) => unit.as_ref() == Some(own),
            Self::Container(own) => container.as_ref() == Some(own),
            Self::LocalPort(..) | Self::Namespace(_) => true,
        }
    }

    fn name(&self, sum: &Sum) -> String {
        match self {
            Self::Process(pid) => {
                let comm = sum.owners.get(pid).map_or("", |process| &process.comm);
                format!("pid {pid} ({comm})")
            }
            Self::Unit(unit) => unit.clone(),
            Self::Container(container) => format!("container {container}"),
            Self::LocalPort(_, port) => format!("local port {port}"),
            Self::Namespace(netns) => format!("namespace {netns}"),
        }
    }
}

impl Sum {
    fn new(first: &Evidence) -> Self {
        Self {
            netns: first.netns,
            sockets: 0,
            states: [0; State::ALL.len()],
            local_port: Some(first.local.port()),
            remote_port: Some(first.remote.port()),
            unread_bytes: 0,
            unacked_bytes: 0,
            retransmits: 0,
            owners: BTreeMap::new(),
        }
    }

    fn add<'a>(&mut self, socket: &Evidence, owners: impl Iterator<Item = &'a Owner>) {
        self.sockets += 1;
        if let Some(count) = self.states.get_mut(socket.state.index()) {
            *count += 1;
        }
        let is_same = |port: &u16| *port == socket.local.port();
        self.local_port = self.local_port.filter(is_same);
        let is_same = |port: &u16| *port == socket.remote.port();
        self.remote_port = self.remote_port.filter(is_same);
        self.unread_bytes += u64::from(socket.unread_bytes());
        self.unacked_bytes += u64::from(socket.unacked_bytes());
        self.retransmits = self.retransmits.max(socket.retransmits.into());
        for owner in owners {
            let pid = owner.process.pid;
            if self.owners.len() < MOST_OWNERS && !self.owners.contains_key(&pid) {
                self.owners.insert(pid, Arc::clone(&owner.process));
            }
        }
    }

    /// The state that most of them are in.
    fn state(&self) -> State {
        let counts = State::ALL.into_iter().zip(self.states).rev();
        counts
            .max_by_key(|(_, count)| *count)
            .map_or(State::Close, |(state, _)| state)
    }

    fn finding(
        &self,
        rule: &CountRule,
        group: &Group,
        severity: Severity,
        age: Duration,
    ) -> Finding {
        let threshold = match severity {
            Severity::Critical => rule.critical,
            Severity::Warning | Severity::None => rule.warning,
        };
        let endpoint = |port: Option<u16>| port.map_or(Endpoint::Any, Endpoint::Port);
        let owners = self.owners.values().map(|process| Owner {
            process: Arc::clone(process),
            fd: None,
        });
        let state = self.state();
        Finding {
            age_seconds: age.as_secs_f64(),
            local: endpoint(self.local_port),
            remote: endpoint(self.remote_port),
            recv_queue_bytes: self.unread_bytes,
            send_queue_bytes: self.unacked_bytes,
            retransmits: self.retransmits,
            group: Some(format!("{group:?}")),
            owners: owners.collect(),
            reason: self.reason(group, threshold),
            advice: format!(
                "`tcplinger explain {state}` tells what keeps sockets there and what ends it"
            ),
            ..Finding::of_group(severity, &rule.name, state, self.netns)
        }
    }

    fn reason(&self, group: &Group, threshold: u64) -> String {
        let (name, sockets) = (group.name(self), grouped(self.sockets));
        let noun = if self.sockets == 1 {
            "socket"
        } else {
            "sockets"
        };
        let by_state: Vec<String> = State::ALL
            .into_iter()
            .zip(self.states)
            .filter(|(_, count)| *count > 0)
            .map(|(state, count)| format!("{} in {state}", grouped(count)))
            .collect();
        let (by_state, threshold) = (by_state.join(", "), grouped(threshold));
        format!("{name} has {sockets} {noun} ({by_state}); the rule's threshold is {threshold}")
    }
}

#[cfg(test)]
mod tests;
