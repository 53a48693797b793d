//! Puts the sockets of a look together by their cause.

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::{At, JudgedSockets, LingeringSockets};
use crate::tcp::{Evidence, State};
use crate::track::stuck::{
    CountBoard, Counted, Endpoint, Owner, Severity, advice, cause, count_incidents,
};
use crate::track::{
    Group, Identity, Incident, Kind, Leak, MOST_OWNERS, Service, Whose, enter, fold, leak_incident,
    list_command, name,
};

/// Which side of a connection a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Server,
    Client,
}

impl LingeringSockets {
    /// By its state, by who listens, by the range of ports that `connect()` chooses from; None where
    /// they do not tell.
    pub(super) fn side(&self, socket: &Evidence) -> Option<Side> {
        let (local, remote) = (socket.local.port(), socket.remote.port());
        match socket.state {
            State::SynSent => return Some(Side::Client),
            State::SynRecv => return Some(Side::Server),
            _ => {}
        }
        if self.listeners.contains_key(&(socket.netns, local)) {
            return Some(Side::Server);
        }
        let ephemeral = &self.limits.get(&socket.netns)?.ephemeral_ports;
        match (ephemeral.contains(&local), ephemeral.contains(&remote)) {
            (false, true) => Some(Side::Server),
            (true, false) => Some(Side::Client),
            _ => None,
        }
    }
}

/// How many sockets share a local port: a server's do, where nothing else tells which side is whose.
type Shared = HashMap<(u32, u16), u32>;

impl JudgedSockets {
    /// Everything that is stuck, or only grows, or is more than a rule allows: each socket in one
    /// incident.
    pub(crate) fn incidents(
        &self,
        leaks: &[Leak],
        counts: &mut CountBoard,
        now: Duration,
    ) -> Vec<Incident> {
        let counted = if self.rules.counts.is_empty() {
            Counted::default()
        } else {
            count_incidents(&self.rules.counts, self.owned(), counts)
        };
        let mut groups: HashMap<Identity, Group<At>> = HashMap::new();
        let shared = LazyCell::new(|| self.shared_ports());
        for at in self.lingering.places() {
            let severity = self.severity(at);
            let (Some(socket), Some(age)) = (self.lingering.get(at), self.lingering.age(at)) else {
                continue;
            };
            let is_grouped = !socket.is_mptcp && (!counted.is_empty() || !leaks.is_empty());
            if severity == Severity::None && !is_grouped {
                continue;
            }
            let owners = self.owners(&socket);
            let leak = self.leak_of(leaks, &socket);
            let of_group = leak.map(|leak| leak_identity(leak, &owners)).or_else(|| {
                let is_counted = is_grouped && !counted.is_empty();
                is_counted.then(|| counted.of(&self.rules.counts, &socket, &owners))?
            });
            let own = || {
                let port = (socket.netns, socket.local.port());
                let is_shared = || shared.get(&port).is_some_and(|sockets| *sockets > 1);
                (severity > Severity::None)
                    .then(|| self.identity(at, &socket, &owners, is_shared))?
            };
            if let Some(identity) = of_group.or_else(own) {
                groups
                    .entry(identity)
                    .or_default()
                    .add(at, &socket, age, severity, &owners);
            }
        }
        self.explained(groups, leaks, counted, now)
    }

    fn shared_ports(&self) -> Shared {
        let mut shared = Shared::new();
        for socket in self.lingering.sockets() {
            *shared
                .entry((socket.netns, socket.local.port()))
                .or_default() += 1;
        }
        shared
    }

    fn leak_of<'a>(&self, leaks: &'a [Leak], socket: &Evidence) -> Option<&'a Leak> {
        if leaks.is_empty() || socket.state != State::CloseWait || socket.is_mptcp {
            return None;
        }
        let limits = self.lingering.limits.get(&socket.netns);
        let ports = (socket.local.port(), socket.remote.port());
        let of: Vec<Service> = Service::of(limits, socket.netns, ports).collect();
        leaks.iter().find(|leak| of.contains(&leak.service))
    }

    /// What a socket that is in no group shares with others.
    fn identity(
        &self,
        at: At,
        socket: &Evidence,
        owners: &[Owner],
        is_shared: impl Fn() -> bool,
    ) -> Option<Identity> {
        let age = self.lingering.age(at)?;
        let cause = self.judge(socket, age, cause)?;
        let is_server = match self.lingering.side(socket) {
            Some(side) => side == Side::Server,
            None => is_shared(),
        };
        let (local, remote) = if is_server {
            (Endpoint::Port(socket.local.port()), Endpoint::Any)
        } else {
            (Endpoint::Any, Endpoint::Socket(socket.remote))
        };
        Some(Identity {
            netns: socket.netns,
            state: socket.state,
            kind: Kind::Sockets {
                cause,
                mptcp: socket.is_mptcp,
            },
            whose: Whose::of(owners.first()),
            local,
            remote,
            rule: None,
        })
    }

    /// Makes incidents of the groups, with their words.
    fn explained(
        &self,
        groups: HashMap<Identity, Group<At>>,
        leaks: &[Leak],
        counted: Counted,
        now: Duration,
    ) -> Vec<Incident> {
        let names = &self.lingering.names;
        let counts = counted.into_incidents().into_iter();
        let mut counts: BTreeMap<Identity, Incident> = counts
            .map(|incident| (incident.identity(), incident))
            .collect();
        let mut incidents = Vec::new();
        for (identity, group) in fold(groups) {
            let mut incident = match identity.kind {
                Kind::Leak => {
                    let is_its = |leak: &&Leak| {
                        let ends = (identity.local, identity.remote);
                        leak.service.netns == identity.netns && leak.service.ends() == ends
                    };
                    let Some(leak) = leaks.iter().find(is_its) else {
                        continue;
                    };
                    leak_incident(leak, now, identity.whose, &group, names)
                }
                Kind::Count => {
                    let Some(mut incident) = counts.remove(&identity) else {
                        continue;
                    };
                    let owners = std::mem::take(&mut incident.owners);
                    group.fill(&mut incident);
                    incident.owners = owners;
                    incident
                }
                _ => self.of_sockets(identity, &group),
            };
            let examples = group.examples().filter_map(|at| self.finding(*at));
            let bounded = examples.map(|mut example| {
                example.owners.truncate(MOST_OWNERS);
                example
            });
            incident.examples = bounded.collect();
            incidents.push(incident);
        }
        incidents.extend(counts.into_values());
        for incident in &mut incidents {
            incident.netns_name = name(names, incident.netns);
        }
        incidents
    }

    fn of_sockets(&self, identity: Identity, group: &Group<At>) -> Incident {
        let mut incident = Incident {
            whose: identity.whose,
            local: identity.local,
            remote: identity.remote,
            ..Incident::new(
                identity.kind,
                Severity::None,
                identity.state,
                identity.netns,
            )
        };
        group.fill(&mut incident);
        let worst = group.examples().next();
        let Some((at, worst)) = worst.and_then(|at| Some((*at, self.finding(*at)?))) else {
            return incident;
        };
        incident.rule = worst.rule;
        incident.is_orphaned = worst.is_orphaned;
        let (template, advice) = if group.sockets() == 1 {
            incident.owners = worst.owners;
            incident.owners.truncate(MOST_OWNERS);
            (worst.template, worst.advice)
        } else {
            let list = list_command(&incident, &self.lingering.names);
            let enter = enter(&self.lingering.names, incident.netns);
            let case = self.lingering.get(at).zip(self.lingering.age(at));
            let advice = case.and_then(|(socket, age)| {
                self.judge(&socket, age, |case| advice(case, &list, enter))
            });
            let template = format!("the oldest: {}", worst.template);
            (template, advice.unwrap_or_default())
        };
        incident.explain(template, advice);
        incident
    }
}

fn leak_identity(leak: &Leak, owners: &[Owner]) -> Identity {
    let (local, remote) = leak.service.ends();
    Identity {
        netns: leak.service.netns,
        state: State::CloseWait,
        kind: Kind::Leak,
        whose: Whose::of(owners.first()),
        local,
        remote,
        rule: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Found;
    use super::*;
    use crate::tcp::Limits;
    use crate::track::stuck::fixture::evidence;

    fn scene(listening: Option<u16>) -> LingeringSockets {
        let mut scene = LingeringSockets::default();
        let mut found = Found::default();
        if let Some(port) = listening {
            found.take(&between(State::Listen, port, 0));
        }
        scene.add(7, found, Limits::default());
        scene
    }

    fn between(state: State, local: u16, remote: u16) -> Evidence {
        Evidence {
            local: ([10, 0, 0, 1], local).into(),
            remote: ([10, 0, 0, 2], remote).into(),
            ..evidence(state)
        }
    }

    #[test]
    fn a_side_follows_from_state_listener_and_range() {
        let wait = State::CloseWait;
        for (listening, socket, side) in [
            (
                None,
                between(State::SynSent, 80, 40_000),
                Some(Side::Client),
            ),
            (
                None,
                between(State::SynRecv, 40_000, 80),
                Some(Side::Server),
            ),
            (None, between(wait, 80, 40_000), Some(Side::Server)),
            (None, between(wait, 40_000, 443), Some(Side::Client)),
            (None, between(wait, 40_000, 40_001), None),
            (
                Some(40_000),
                between(wait, 40_000, 40_001),
                Some(Side::Server),
            ),
            (Some(40_000), between(wait, 40_000, 443), Some(Side::Server)),
        ] {
            assert_eq!(scene(listening).side(&socket), side, "{socket:?}");
        }
    }
}
