//! Asking the inventory thread from async code, and turning its answers into the census's words.

use std::time::Duration;

use crate::inventory;
use crate::inventory::{
    Asked, Depth, Discovery, Error, Figures, Namespace, Query, Row, StateSet, Survey, Wanted,
    Worker,
};
use crate::tcp::{Evidence, Family, Limits, State};
use crate::track::{self, Census, EventTotals, NamespaceSummary, Scope, Seen, Source, Summary};
use tokio::sync::oneshot;

/// A record that is reserved is filled within microseconds; this is ample.
pub(super) const SETTLE: Duration = Duration::from_millis(1);

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
            .map(|(inode, figures)| (inode, figures.map(|figures| words(&figures))))
            .collect())
    }

    /// Asks each namespace for some of its sockets; the answers come by inode number.
    #[expect(dead_code, reason = "the daemon's table of sockets is to ask")]
    pub(crate) async fn ask(
        &self,
        wanted: Vec<(Namespace, Vec<Wanted>)>,
        is_explained: bool,
    ) -> Result<Vec<(u32, Result<Asked, Error>)>, Error> {
        let (sender, receiver) = oneshot::channel();
        self.0
            .ask(wanted, is_explained, move |asked| drop(sender.send(asked)));
        receiver.await.map_err(|_| Error::Stopped)
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

const fn words(figures: &Figures) -> track::Figures {
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

const fn states(scope: Scope) -> StateSet {
    if scope.full {
        return StateSet::ALL;
    }
    match (scope.minisockets, scope.requests) {
        (true, false) => StateSet::MINISOCKETS,
        (false, true) => StateSet::of(&[State::SynRecv, State::NewSynRecv]),
        _ => StateSet::of(&[
            State::TimeWait,
            State::FinWait2,
            State::SynRecv,
            State::NewSynRecv,
        ]),
    }
}

/// A snapshot's row in the census's words.
pub(crate) const fn seen(row: &Row) -> Seen {
    Seen {
        cookie: row.cookie,
        family: row.ends.family(),
        state: row.state,
        is_minisocket: row.is_minisocket,
    }
}

/// The census of these namespaces as every output shows it.
pub(crate) fn summarize(
    census: &Census,
    namespaces: &[Namespace],
    source: Source,
    events: EventTotals,
) -> Summary {
    Summary {
        source,
        namespaces: namespaces
            .iter()
            .map(|namespace| NamespaceSummary {
                netns: namespace.inode,
                name: namespace.name.clone(),
                ipv4: census.counts(namespace.inode, Family::Ipv4),
                ipv6: census.counts(namespace.inode, Family::Ipv6),
            })
            .collect(),
        events,
        drift: census.drift(),
    }
}
