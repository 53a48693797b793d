//! One look at the kernel for what lingers: the sockets, who holds them, and the verdicts. What the
//! daemon does from time to time and a verb without a daemon does once is the same.

mod descriptors;
mod incidents;
mod owners;
mod sockets;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use descriptors::Descriptors;
pub(crate) use owners::{HolderSource, SocketOwners, SocketPlaces, id_of, owner_name, process};
pub(crate) use sockets::Sockets;

use crate::inventory::{Namespace, Query, StateSet};
use crate::tcp::{Ends, Evidence, Limits, State};
use crate::track::stuck::{Age, Ages, Case, Finding, Owner, Rules, Severity, least_age, threshold};
use crate::track::{Lingering, Names, NetnsName, Seen, enter};

/// What a survey has to list: lingering sockets, and the listeners that unaccepted ones wait at.
pub(crate) const LINGERING: Query = StateSet::LINGERING.with(State::Listen).explained();

/// The listeners alone, whose table is small.
pub(crate) const LISTENERS: Query = StateSet::of(&[State::Listen]).explained();

/// The lingering sockets of some namespaces, and what decides how long they may.
#[derive(Debug, Default)]
pub(crate) struct LingeringSockets {
    /// By namespace.
    sockets: BTreeMap<u32, Sockets>,
    /// By namespace and port.
    listeners: HashMap<(u32, u16), Vec<Evidence>>,
    pub(crate) limits: BTreeMap<u32, Limits>,
    names: Arc<Names>,
}

/// What these namespaces are called.
pub(crate) fn names(namespaces: &[Namespace]) -> Names {
    let named = namespaces.iter().map(|namespace| {
        let name = NetnsName {
            name: namespace.name.clone(),
            enter: namespace.enter(),
        };
        (namespace.inode, name)
    });
    named.collect()
}

/// What a survey of a namespace found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) sockets: Sockets,
    listeners: Vec<Evidence>,
}

impl Found {
    /// For [`crate::inventory::Worker::survey`]: keeps each socket.
    pub(crate) fn take(&mut self, socket: &Evidence) {
        if socket.state == State::Listen {
            self.listeners.push(*socket);
        } else {
            self.sockets.push(socket);
        }
    }

    /// All of them, listeners included.
    pub(crate) fn iter(&self, netns: u32) -> impl Iterator<Item = Evidence> {
        self.sockets
            .iter(netns)
            .chain(self.listeners.iter().copied())
    }
}

impl LingeringSockets {
    /// An empty one, of namespaces with these names.
    pub(crate) fn new(names: Arc<Names>) -> Self {
        Self {
            names,
            ..Self::default()
        }
    }

    /// Adds what was found in a namespace; its sockets only once.
    pub(crate) fn add(&mut self, netns: u32, found: Found, limits: Limits) {
        for socket in found.listeners {
            let place = (netns, socket.local.port());
            self.listeners.entry(place).or_default().push(socket);
        }
        if found.sockets.len() > 0 {
            self.sockets.insert(netns, found.sockets);
        }
        self.limits.insert(netns, limits);
    }

    /// Adds MPTCP connections of a namespace that was added.
    pub(crate) fn add_mptcp(&mut self, netns: u32, connections: &[Evidence]) {
        for connection in connections {
            self.sockets.entry(netns).or_default().push(connection);
        }
    }

    /// Every lingering socket.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = Evidence> {
        let all = self.sockets.iter();
        all.flat_map(|(netns, sockets)| sockets.iter(*netns))
    }

    /// Gives each socket its age; None to leave it out.
    pub(crate) fn set_ages(&mut self, age: impl Fn(&Evidence) -> Option<Age>) {
        for (netns, sockets) in &mut self.sockets {
            for at in 0..sockets.len() {
                let age = sockets.get(*netns, at).and_then(|socket| age(&socket));
                sockets.set_age(at, age);
            }
        }
    }

    fn places(&self) -> impl Iterator<Item = At> {
        let all = self.sockets.iter();
        all.flat_map(|(netns, sockets)| (0..sockets.len()).map(|at| At { netns: *netns, at }))
    }

    fn get(&self, at: At) -> Option<Evidence> {
        self.sockets.get(&at.netns)?.get(at.netns, at.at)
    }

    fn age(&self, at: At) -> Option<Age> {
        self.sockets.get(&at.netns)?.age(at.at)
    }

    /// Whether the listeners of this namespace tell more of its sockets: who waits for `accept()`, or which
    /// side they are.
    pub(crate) fn needs_listeners(&self, netns: u32) -> bool {
        let of_namespace = self.sockets.get(&netns);
        let mut sockets = of_namespace.into_iter().flat_map(|of| of.iter(netns));
        sockets.any(|socket| is_waiting(&socket) || self.side(&socket).is_none())
    }

    /// The listeners at which a socket waits for `accept()`; none where it waits for nothing.
    ///
    /// Only what a listener's child has not been accepted from has no file and yet is no orphan: a
    /// peer's FIN does not orphan a socket, and what a process closes leaves `CLOSE_WAIT`.
    fn waits_at(&self, socket: &Evidence) -> impl Iterator<Item = &Evidence> {
        let place = (socket.netns, socket.local.port());
        let listeners = is_waiting(socket)
            .then(|| self.listeners.get(&place))
            .flatten();
        let to = socket.local.ip().to_canonical();
        let takes = move |listener: &&Evidence| {
            let at = listener.local.ip().to_canonical();
            at == to || at.is_unspecified()
        };
        listeners.into_iter().flatten().filter(takes)
    }
}

/// Whether a socket may wait for `accept()`.
fn is_waiting(socket: &Evidence) -> bool {
    matches!(socket.state, State::CloseWait | State::SynRecv)
        && socket.inode == 0
        && !socket.is_minisocket
}

/// The place of a lingering socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    netns: u32,
    at: usize,
}

/// Lingering sockets with all that a verdict on its sockets follows from. What explains a verdict is made only
/// for whom it is asked.
#[derive(Debug)]
pub(crate) struct JudgedSockets {
    pub(crate) lingering: LingeringSockets,
    owners: SocketOwners,
    rules: Arc<Rules>,
    /// Of those that no rule decides.
    defaults: HashMap<(u32, State), Ages>,
}

impl JudgedSockets {
    /// Looks for the holders of the lingering sockets, and judges those that have an age.
    pub(crate) fn new(
        lingering: LingeringSockets,
        holder_source: &HolderSource,
        rules: Arc<Rules>,
    ) -> Self {
        let mut defaults = HashMap::new();
        for (netns, limits) in &lingering.limits {
            for state in State::LINGERING {
                let ages = threshold(&rules, state, limits).ages;
                defaults.insert((*netns, state), ages);
            }
        }
        let mut look = Self {
            owners: SocketOwners::of(&lingering, holder_source),
            lingering,
            rules,
            defaults,
        };
        look.judge_all();
        look
    }

    fn judge_all(&mut self) {
        let mut sockets = std::mem::take(&mut self.lingering.sockets);
        for (netns, sockets) in &mut sockets {
            for at in 0..sockets.len() {
                let verdict = sockets.get(*netns, at).zip(sockets.age(at));
                let severity = verdict
                    .and_then(|(socket, age)| {
                        self.judge(&socket, age, |case| self.rules.severity(case))
                    })
                    .unwrap_or(Severity::None);
                sockets.set_severity(at, severity);
            }
        }
        self.lingering.sockets = sockets;
    }

    fn severity(&self, at: At) -> Severity {
        let of_namespace = self.lingering.sockets.get(&at.netns);
        of_namespace.map_or(Severity::None, |sockets| sockets.severity(at.at))
    }

    /// How many sockets are stuck.
    pub(crate) fn tally(&self) -> BTreeMap<(u32, State, Severity), u64> {
        let mut tally = BTreeMap::new();
        for at in self.lingering.places() {
            let severity = self.severity(at);
            if severity > Severity::None
                && self.lingering.age(at).is_some()
                && let Some(socket) = self.lingering.get(at)
            {
                *tally.entry((at.netns, socket.state, severity)).or_default() += 1;
            }
        }
        tally
    }

    /// Each lingering state of the namespaces that `wants` holds for, MPTCP connections left out;
    /// `counted` are its sockets by a count that is nearer to the truth.
    pub(crate) fn lingering(
        &self,
        wants: impl Fn(u32) -> bool,
        counted: impl Fn(State) -> Option<u64>,
    ) -> Vec<Lingering> {
        let mut states = State::LINGERING.map(Lingering::none);
        for at in self.lingering.places().filter(|at| wants(at.netns)) {
            let (Some(socket), Some(age)) = (self.lingering.get(at), self.lingering.age(at)) else {
                continue;
            };
            let state = states.iter_mut().find(|row| row.state == socket.state);
            if let Some(row) = state.filter(|_| !socket.is_mptcp) {
                row.add(self.severity(at), age.span);
            }
        }
        for row in &mut states {
            if let Some(sockets) = counted(row.state) {
                row.settle(sockets);
            }
        }
        states.to_vec()
    }

    /// The verdict on a socket, with what explains it.
    pub(crate) fn finding(&self, at: At) -> Option<Finding> {
        let (socket, age) = (self.lingering.get(at)?, self.lingering.age(at)?);
        self.judge(&socket, age, |case| self.rules.judge(case))
    }

    /// Every socket by itself, or those that are stuck.
    pub(crate) fn findings(&self, wants_all: bool) -> impl Iterator<Item = Finding> {
        let places = self.lingering.places();
        let wanted = places.filter(move |at| wants_all || self.severity(*at) > Severity::None);
        wanted.filter_map(|at| self.finding(at))
    }

    fn judge<T>(
        &self,
        socket: &Evidence,
        age: Age,
        verdict: impl FnOnce(&Case<'_>) -> T,
    ) -> Option<T> {
        let limits = self.lingering.limits.get(&socket.netns)?;
        let ages = *self.defaults.get(&(socket.netns, socket.state))?;
        Some(verdict(&Case {
            evidence: socket,
            age,
            owners: &self.owners(socket),
            is_unaccepted: self.lingering.waits_at(socket).next().is_some(),
            limits,
            ages,
            enter: enter(&self.lingering.names, socket.netns),
        }))
    }

    /// Every holder of a socket; of one that waits for `accept()`, those of its listener.
    fn owners(&self, socket: &Evidence) -> Vec<Owner> {
        let mut waits_at = self.lingering.waits_at(socket).peekable();
        if waits_at.peek().is_none() {
            self.owners.owners(socket)
        } else {
            self.owners.owners_of_listeners(waits_at)
        }
    }

    /// Each socket with all its owners.
    pub(crate) fn owned(&self) -> impl Iterator<Item = (Evidence, Vec<Owner>)> {
        let sockets = self.lingering.sockets();
        sockets.map(|socket| (socket, self.owners(&socket)))
    }
}

/// What it means that a survey had to do without `tcp_diag`.
pub(crate) const NO_TCP_DIAG: &str =
    "without tcp_diag no age is known: load it with modprobe tcp_diag";

/// The age of a socket of which the lingering table has an entry time.
pub(crate) fn watched((since_ns, is_lower_bound): (u64, bool), now_ns: u64) -> Age {
    Age {
        span: Duration::from_nanos(now_ns.saturating_sub(since_ns)),
        is_lower_bound,
    }
}

/// The age of a socket that nobody watched.
pub(crate) fn unwatched(socket: &Evidence) -> Age {
    Age {
        span: least_age(socket),
        is_lower_bound: true,
    }
}

/// A socket of a survey in the census's words: it entered its state then, or earlier.
pub(crate) fn seen(socket: &Evidence, now_ns: u64) -> Seen {
    let at_least = u64::try_from(least_age(socket).as_nanos()).unwrap_or(u64::MAX);
    Seen {
        cookie: socket.cookie,
        ends: Ends::new(socket.family, socket.local, socket.remote),
        state: socket.state,
        is_minisocket: socket.is_minisocket,
        is_bound_to_device: socket.interface != 0,
        since_ns: now_ns.saturating_sub(at_least),
        seconds_left: 0,
    }
}
