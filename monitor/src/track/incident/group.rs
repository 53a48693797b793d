//! Adds up the sockets of one incident.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::time::Duration;

use super::{Identity, Incident, Kind, MOST_OWNERS, Member, Whose};
use crate::tcp::Evidence;
use crate::track::stuck::{Age, Endpoint, Owner, Severity};

/// Single sockets that an incident shows.
const EXAMPLES: usize = 3;
/// Sockets of one incident whose events are followed.
const MOST_MEMBERS: usize = 64;
/// Incidents about single sockets; with more, those that differ least are put together.
const MOST_INCIDENTS: usize = 1_000;

/// The sockets of one incident; `P` is the place of a socket, for who wants to see it again.
#[derive(Debug)]
pub(crate) struct Group<P> {
    sockets: u64,
    severity: Severity,
    oldest: Option<Age>,
    recv_queue_bytes: u64,
    send_queue_bytes: u64,
    retransmits: u64,
    /// Every process that holds any of them, and how many.
    owners: BTreeMap<u32, (Owner, u64)>,
    /// The worst, at most [`EXAMPLES`].
    examples: Vec<(Severity, Duration, P)>,
    /// None with more than [`MOST_MEMBERS`], or where one has no cookie.
    members: Option<Vec<Member>>,
}

impl<P> Default for Group<P> {
    fn default() -> Self {
        Self {
            sockets: 0,
            severity: Severity::None,
            oldest: None,
            recv_queue_bytes: 0,
            send_queue_bytes: 0,
            retransmits: 0,
            owners: BTreeMap::new(),
            examples: Vec::new(),
            members: Some(Vec::new()),
        }
    }
}

impl<P> Group<P> {
    pub(crate) fn add(
        &mut self,
        place: P,
        socket: &Evidence,
        age: Age,
        severity: Severity,
        owners: &[Owner],
    ) {
        let mut one = Self {
            sockets: 1,
            severity,
            oldest: Some(age),
            recv_queue_bytes: socket.unread_bytes().into(),
            send_queue_bytes: socket.unacked_bytes().into(),
            retransmits: socket.retransmits.into(),
            examples: vec![(severity, age.span, place)],
            members: (socket.cookie != 0).then(|| {
                vec![Member {
                    cookie: socket.cookie,
                    severity,
                    is_mptcp: socket.is_mptcp,
                }]
            }),
            ..Self::default()
        };
        for owner in owners {
            let pid = owner.process.pid;
            one.owners.entry(pid).or_insert_with(|| (owner.clone(), 1));
        }
        self.merge(one);
    }

    fn merge(&mut self, other: Self) {
        self.sockets += other.sockets;
        self.severity = self.severity.max(other.severity);
        self.oldest = match (self.oldest, other.oldest) {
            (Some(one), Some(another)) if another.span > one.span => Some(another),
            (one, another) => one.or(another),
        };
        self.recv_queue_bytes += other.recv_queue_bytes;
        self.send_queue_bytes += other.send_queue_bytes;
        self.retransmits = self.retransmits.max(other.retransmits);
        for (pid, (owner, held)) in other.owners {
            let (_, sum) = self.owners.entry(pid).or_insert((owner, 0));
            *sum += held;
        }
        for (severity, age, place) in other.examples {
            let is_worse = |one: &(Severity, Duration, P)| (one.0, one.1) >= (severity, age);
            let at = self.examples.partition_point(is_worse);
            if at < EXAMPLES {
                self.examples.insert(at, (severity, age, place));
                self.examples.truncate(EXAMPLES);
            }
        }
        self.members = match (self.members.take(), other.members) {
            (Some(mut all), Some(more)) if all.len() + more.len() <= MOST_MEMBERS => {
                all.extend(more);
                Some(all)
            }
            _ => None,
        };
    }

    pub(crate) const fn sockets(&self) -> u64 {
        self.sockets
    }

    /// Every process that holds any of them, and how many of them.
    pub(crate) fn holders(&self) -> impl Iterator<Item = (&Owner, u64)> {
        self.owners.values().map(|(owner, held)| (owner, *held))
    }

    /// The places of its worst sockets.
    pub(crate) fn examples(&self) -> impl Iterator<Item = &P> {
        self.examples.iter().map(|(_, _, place)| place)
    }

    /// Puts its figures into an incident, which is at least as grave as they are.
    pub(crate) fn fill(&self, incident: &mut Incident) {
        incident.sockets = self.sockets;
        incident.severity = self.severity.max(incident.severity);
        incident.oldest_seconds = self.oldest.map(|age| age.span.as_secs_f64());
        incident.age_is_lower_bound = self.oldest.is_some_and(|age| age.is_lower_bound);
        incident.recv_queue_bytes = self.recv_queue_bytes;
        incident.send_queue_bytes = self.send_queue_bytes;
        incident.retransmits = self.retransmits;
        let mut most: Vec<&(Owner, u64)> = self.owners.values().collect();
        most.sort_by_key(|(_, held)| std::cmp::Reverse(*held));
        let owners = most.into_iter().take(MOST_OWNERS).map(|(owner, held)| {
            // One of many descriptors says nothing.
            let fd = owner.fd.filter(|_| *held == 1);
            Owner {
                fd,
                ..owner.clone()
            }
        });
        incident.owners = owners.collect();
        incident.members = self.members.clone().unwrap_or_default();
    }
}

/// Puts together what differs least where there would be very many incidents: first whatever service,
/// then whoever's. Every socket stays in one.
pub(crate) fn fold<P, M>(groups: M) -> BTreeMap<Identity, Group<P>>
where
    Identity: Hash,
    M: IntoIterator<Item = (Identity, Group<P>)>,
{
    let mut groups: BTreeMap<Identity, Group<P>> = groups.into_iter().collect();
    let steps: [fn(&mut Identity); 2] = [
        |identity| {
            identity.local = Endpoint::Any;
            identity.remote = Endpoint::Any;
        },
        |identity| identity.whose = Whose::Nobody,
    ];
    for step in steps {
        if groups.len() <= MOST_INCIDENTS {
            break;
        }
        let mut folded: BTreeMap<Identity, Group<P>> = BTreeMap::new();
        for (mut identity, group) in groups {
            if matches!(identity.kind, Kind::Sockets { .. }) {
                step(&mut identity);
            }
            folded.entry(identity).or_default().merge(group);
        }
        groups = folded;
    }
    groups
}
