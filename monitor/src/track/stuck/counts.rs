//! Rules about how many sockets an owner has.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{CountRule, Endpoint, Owner, Per, Severity};
use crate::tcp::{Evidence, Process, State};
use crate::track::incident::{Identity, Incident, Kind, MOST_OWNERS, Whose};
use crate::track::phrase::grouped;

/// The incidents of count rules that have not been cleared: they are only below 9/10 of their
/// threshold.
#[derive(Debug, Default)]
pub(crate) struct CountBoard {
    raised: HashMap<(String, Whose), Severity>,
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

/// What count rules found.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    incidents: Vec<Incident>,
    /// By rule and group: the place of the incident.
    places: HashMap<(usize, Whose), usize>,
}

impl Counted {
    pub(crate) const fn is_empty(&self) -> bool {
        self.incidents.is_empty()
    }

    /// The first incident that a socket is counted for and whose state it is in.
    pub(crate) fn of(
        &self,
        rules: &[CountRule],
        socket: &Evidence,
        owners: &[Owner],
    ) -> Option<Identity> {
        for (number, rule) in rules.iter().enumerate() {
            if !rule.matcher.matches(socket, owners) {
                continue;
            }
            for group in groups_of(rule.per, socket, owners) {
                let place = self.places.get(&(number, group));
                let incident = place.and_then(|place| self.incidents.get(*place));
                if let Some(incident) = incident.filter(|found| found.state == socket.state) {
                    return Some(incident.identity());
                }
            }
        }
        None
    }

    /// Without the sockets, which their takers add.
    pub(crate) fn into_incidents(self) -> Vec<Incident> {
        self.incidents
    }
}

/// One incident for each rule and group with more sockets than the rule allows, without any socket of
/// its own yet; sockets come with all their holders.
pub(crate) fn count_incidents(
    rules: &[CountRule],
    sockets: impl Iterator<Item = (impl Borrow<Evidence>, impl AsRef<[Owner]>)>,
    board: &mut CountBoard,
) -> Counted {
    let mut sums: Vec<BTreeMap<Whose, Sum>> = rules.iter().map(|_| BTreeMap::new()).collect();
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
            let was = before.get(&key).copied().unwrap_or(Severity::None);
            let severity = severity_of(rule, sum.sockets, was);
            if severity > Severity::None {
                let place = (number, key.1.clone());
                counted.places.insert(place, counted.incidents.len());
                counted.incidents.push(sum.incident(rule, &key.1, severity));
                board.raised.insert(key, severity);
            }
        }
    }
    counted
}

/// Each group of that kind once, however many holders a socket has in it.
fn groups_of(per: Per, socket: &Evidence, owners: &[Owner]) -> Vec<Whose> {
    let of_owner = |owner: &Owner| match per {
        Per::Process => Some(Whose::Process(owner.process.pid)),
        Per::Unit => owner.process.unit.clone().map(Whose::Unit),
        Per::Container => owner.process.container.clone().map(Whose::Container),
        Per::LocalPort | Per::Namespace => None,
    };
    let mut groups: Vec<Whose> = match per {
        Per::LocalPort => vec![Whose::LocalPort(socket.netns, socket.local.port())],
        Per::Namespace => vec![Whose::Namespace(socket.netns)],
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

impl Whose {
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
            Self::Nobody => false,
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
            Self::Nobody => "nobody".to_owned(),
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

    fn incident(&self, rule: &CountRule, group: &Whose, severity: Severity) -> Incident {
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
        Incident {
            rule: rule.name.clone(),
            whose: group.clone(),
            local: endpoint(self.local_port),
            remote: endpoint(self.remote_port),
            recv_queue_bytes: self.unread_bytes,
            send_queue_bytes: self.unacked_bytes,
            retransmits: self.retransmits,
            owners: owners.collect(),
            reason: self.reason(group, threshold),
            advice: format!(
                "see what keeps sockets in the state: `tcplinger explain {state}`; see the rule \
                 {:?}: `tcplinger stuck --rules`",
                rule.name
            ),
            ..Incident::new(Kind::Count, severity, state, self.netns)
        }
    }

    fn reason(&self, group: &Whose, threshold: u64) -> String {
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
