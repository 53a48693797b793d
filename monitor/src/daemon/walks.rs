//! Asking the inventory thread from async code, and turning its answers into the census's types.

use std::time::Duration;

use crate::inventory;
use crate::inventory::{
    Answer, Depth, Discovery, Error, ExactQuery, Figures, Namespace, Query, Row, StateSet, Survey,
    Worker,
};
use crate::survey::Descriptors;
use crate::tcp::{Counts, Evidence, Family, Limits, State};
use crate::track::{
    self, Census, Doubt, EventTotals, NamespaceSummary, Question, Reply, Scope, Seen, Source,
    Summary,
};
use tokio::sync::oneshot;

/// The inventory thread, awaited.
#[derive(Debug)]
pub(crate) struct Walker(Worker);

impl Walker {
    pub(crate) const fn new(worker: Worker) -> Self {
        Self(worker)
    }

    pub(super) const fn worker(&self) -> &Worker {
        &self.0
    }

    pub(crate) async fn discover(&self, depth: Depth) -> Result<Discovery, Error> {
        let (sender, receiver) = oneshot::channel();
        self.0
            .discover(depth, move |found| drop(sender.send(found)));
        receiver.await.map_err(|_| Error::Stopped)?
    }

    /// Those that can still be entered where they were found.
    pub(crate) async fn still_there(
        &self,
        namespaces: Vec<Namespace>,
    ) -> Result<Vec<Namespace>, Error> {
        if namespaces.is_empty() {
            return Ok(namespaces);
        }
        let (sender, receiver) = oneshot::channel();
        self.0
            .still_there(namespaces, move |found| drop(sender.send(found)));
        receiver.await.map_err(|_| Error::Stopped)
    }

    /// The figures of each namespace, by inode number.
    pub(crate) async fn figures(
        &self,
        namespaces: Vec<Namespace>,
    ) -> Result<Vec<(u32, Result<track::Figures, Error>)>, Error> {
        let (sender, receiver) = oneshot::channel();
        self.0
            .figures(namespaces, move |found| drop(sender.send(found)));
        let figures = receiver.await.map_err(|_| Error::Stopped)?;
        Ok(figures
            .into_iter()
            .map(|(inode, figures)| (inode, figures.map(|figures| census_figures(&figures))))
            .collect())
    }

    pub(crate) async fn snapshot(
        &self,
        namespace: Namespace,
        scope: Scope,
    ) -> Result<inventory::Snapshot, Error> {
        let (sender, receiver) = oneshot::channel();
        self.0.snapshot(namespace, states(scope), move |found| {
            drop(sender.send(found));
        });
        receiver.await.map_err(|_| Error::Stopped)?
    }

    /// Asks about single sockets, in each of these namespaces.
    pub(super) async fn ask(
        &self,
        wanted: Vec<(Namespace, Vec<Question>)>,
    ) -> Result<Vec<(u32, Result<Answers, Error>)>, Error> {
        let asked = self.exact(wanted, false).await?;
        let answers = asked.into_iter().map(|(netns, outcome)| {
            let answers = outcome.map(|asked| Answers {
                replies: asked.answers.iter().map(reply).collect(),
                asked_ns: asked.asked_from_ns,
                cpu: asked.cost.cpu,
            });
            (netns, answers)
        });
        Ok(answers.collect())
    }

    /// The same, with all that the kernel tells of each socket.
    pub(super) async fn exact(
        &self,
        wanted: Vec<(Namespace, Vec<Question>)>,
        is_explained: bool,
    ) -> Result<Vec<(u32, Result<inventory::Asked, Error>)>, Error> {
        let wanted = wanted.into_iter().map(|(namespace, questions)| {
            let wanted = questions.into_iter().map(|question| ExactQuery {
                cookie: question.cookie,
                interface: 0,
                ends: question.ends,
            });
            (namespace, wanted.collect())
        });
        let (sender, receiver) = oneshot::channel();
        self.0.ask(wanted.collect(), is_explained, move |found| {
            drop(sender.send(found));
        });
        receiver.await.map_err(|_| Error::Stopped)
    }

    /// Every socket of a namespace that what lingers is judged by.
    pub(crate) async fn survey<T: Send + 'static>(
        &self,
        namespace: Namespace,
        query: Query,
        found: T,
        take: impl FnMut(&mut T, &Evidence) + Send + 'static,
    ) -> Result<Survey<T>, Error> {
        let (sender, receiver) = oneshot::channel();
        self.0.survey(namespace, query, found, take, move |found| {
            drop(sender.send(found));
        });
        receiver.await.map_err(|_| Error::Stopped)?
    }

    /// The MPTCP connections of each namespace, by inode number, and what that cost. None where the kernel
    /// does not list them.
    pub(super) async fn mptcp(
        &self,
        namespaces: Vec<Namespace>,
    ) -> Result<(Vec<(u32, Result<Option<Vec<Evidence>>, Error>)>, Duration), Error> {
        let (sender, receiver) = oneshot::channel();
        self.0.mptcp(namespaces, move |found, cost| {
            drop(sender.send((found, cost.cpu)));
        });
        receiver.await.map_err(|_| Error::Stopped)
    }

    /// The limits of each namespace, by inode number.
    pub(crate) async fn limits(
        &self,
        namespaces: Vec<Namespace>,
    ) -> Result<Vec<(u32, Result<Limits, Error>)>, Error> {
        let (sender, receiver) = oneshot::channel();
        self.0
            .limits(namespaces, move |found| drop(sender.send(found)));
        receiver.await.map_err(|_| Error::Stopped)
    }
}

/// What the kernel says to some questions.
#[derive(Debug)]
pub(super) struct Answers {
    /// In the order of the questions.
    pub(super) replies: Vec<Reply>,
    /// When the first was put, `CLOCK_MONOTONIC`, nanoseconds.
    pub(super) asked_ns: u64,
    pub(super) cpu: Duration,
}

/// An answer as the census takes it.
pub(super) const fn reply(answer: &Answer) -> Reply {
    match answer {
        Answer::Socket(socket) => Reply::Found {
            state: socket.state,
            is_minisocket: socket.is_minisocket,
        },
        Answer::Gone => Reply::Gone,
        Answer::Unclear => Reply::Unclear,
    }
}

const fn census_figures(figures: &Figures) -> track::Figures {
    track::Figures {
        full: [figures.inuse_ipv4, figures.inuse_ipv6],
        minisockets: figures.minisockets,
        established_or_close_wait: figures.established_or_close_wait,
        segments_received: figures.segments_received,
        segments_sent: figures.segments_sent,
        read_from_ns: figures.read_from_ns,
        read_until_ns: figures.read_until_ns,
    }
}

/// The states that a walk has to ask the kernel for.
fn states(scope: Scope) -> StateSet {
    if scope == Scope::ALL {
        return StateSet::ALL;
    }
    let mut states = StateSet::of(&[]);
    if scope.has(Scope::ORPHANS) {
        states = states.with(State::FinWait2);
    }
    if scope.has(Scope::TIME_WAIT) {
        states = states.with(State::TimeWait);
    }
    if scope.has(Scope::REQUESTS) {
        states = states.with(State::SynRecv).with(State::NewSynRecv);
    }
    states
}

/// A snapshot's row as the census takes it: it entered its state by then.
pub(crate) fn seen(row: Row, now_ns: u64) -> Seen {
    Seen {
        cookie: row.cookie,
        ends: row.ends,
        state: row.state,
        is_minisocket: row.is_minisocket,
        is_bound_to_device: row.interface != 0,
        since_ns: now_ns,
        seconds_left: row.seconds_left,
    }
}

/// The census of these namespaces as every output shows it, and the MPTCP connections of each. No table lists a socket in `CLOSE`: those
/// come from `descriptors`.
pub(crate) fn summarize(
    census: &Census,
    namespaces: &[Namespace],
    source: Source,
    events: EventTotals,
    descriptors: Option<&Descriptors>,
    mptcp: impl Fn(u32) -> Counts,
) -> Summary {
    let counts = |netns, family| {
        let mut counts = census.counts(netns, family);
        match descriptors {
            Some(descriptors) => counts.set(State::Close, descriptors.closed(netns, family)),
            None => counts.set_unknown(State::Close),
        }
        counts
    };
    Summary {
        source,
        log_dropped: 0,
        recent: None,
        namespaces: namespaces
            .iter()
            .map(|namespace| NamespaceSummary {
                netns: namespace.inode,
                name: namespace.name.clone(),
                is_deleted: namespace.is_deleted(),
                ipv4: counts(namespace.inode, Family::Ipv4),
                ipv6: counts(namespace.inode, Family::Ipv6),
                mptcp: mptcp(namespace.inode),
                doubt: match source {
                    Source::Daemon => census.doubt(namespace.inode),
                    // Everything was looked at for this answer.
                    Source::Kernel => Doubt::default(),
                },
            })
            .collect(),
        events,
        tally: census.tally(),
    }
}
