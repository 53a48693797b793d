//! Who holds most sockets: a walk of every descriptor of the host from time to time, beside all else.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot::{self, error::TryRecvError};

use super::lookers::Looker;
use super::memory;
use crate::clock::monotonic;
use crate::inventory::{Meter, Namespace, StateSet, Survey, Worker, wait};
use crate::survey::{HolderSource, SocketPlaces, id_of, owner_name};
use crate::tcp::{Counts, Evidence, Holder};
use crate::track::{Budget, TopOwners};

/// Between two walks, if the budget allows.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The same where owners come from /proc, which is far dearer.
const LOOK_IN_PROC_EVERY: Duration = Duration::from_mins(5);
/// With more sockets than this /proc is not asked.
const MOST_IN_PROC: u64 = 100_000;

pub(super) struct OwnerWatch {
    holder_source: HolderSource,
    looker: Looker,
    /// Of its own: the counts and the verdicts come first.
    budget: Budget,
    spent: Duration,
    begun: Option<Duration>,
    at_work: Option<oneshot::Receiver<(Option<TopOwners>, Duration)>>,
    latest: Arc<TopOwners>,
}

impl OwnerWatch {
    /// `walk_share` of one CPU, 0 to 1.
    pub(super) fn new(holder_source: HolderSource, looker: Looker, walk_share: f64) -> Self {
        Self {
            holder_source,
            looker,
            budget: Budget::new(walk_share, monotonic()),
            spent: Duration::ZERO,
            begun: None,
            at_work: None,
            latest: Arc::default(),
        }
    }

    /// Of the last walk; none at all where it failed, or was not tried for the number of sockets.
    pub(super) fn latest(&self) -> Arc<TopOwners> {
        Arc::clone(&self.latest)
    }

    /// CPU time of all walks so far.
    pub(super) const fn spent(&self) -> Duration {
        self.spent
    }

    /// Takes over the walk that has ended, begins the next where one is due; never waits for one. `all`
    /// are the sockets of the host, which are in the namespaces `known`.
    pub(super) fn refresh(&mut self, all: Counts, worker: &Worker, known: &[Namespace]) {
        if let Some(walked) = self.walked() {
            let (found, cpu) = walked;
            self.spent += cpu;
            self.budget.spend(cpu);
            // Better no figures than old ones.
            self.latest = Arc::new(found.unwrap_or_default());
        }
        let now = monotonic();
        let every = match self.holder_source {
            HolderSource::Kernel(_) => LOOK_EVERY,
            HolderSource::Proc { .. } => LOOK_IN_PROC_EVERY,
        };
        let is_due = |begun| now.saturating_sub(begun) >= every;
        if self.at_work.is_none() && self.begun.is_none_or(is_due) && self.budget.allows(now) {
            self.begun = Some(now);
            let (holder_source, worker, known) =
                (self.holder_source.clone(), worker.clone(), known.to_vec());
            self.at_work = Some(self.looker.start(move || {
                let meter = Meter::start();
                let mut elsewhere = Duration::ZERO;
                let holders = match holder_source {
                    _ if all.total() == 0 => Some(Vec::new()),
                    HolderSource::Kernel(_) => walk(&holder_source),
                    HolderSource::Proc { .. } if all.total() > MOST_IN_PROC => None,
                    HolderSource::Proc { .. } => {
                        look_in_proc(&holder_source, &worker, known, &mut elsewhere)
                    }
                };
                let found = holders
                    .map(|holders| TopOwners::add_up(monotonic(), holders, &all, owner_name));
                memory::return_freed();
                (found, elsewhere + meter.stop().cpu)
            }));
        }
    }

    /// What the walk that has ended brought; None while one is at work.
    fn walked(&mut self) -> Option<(Option<TopOwners>, Duration)> {
        let walked = match self.at_work.as_mut()?.try_recv() {
            Ok(walked) => walked,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Closed) => {
                tracing::error!("cannot find the owners of sockets: the walk failed");
                (None, Duration::ZERO)
            }
        };
        self.at_work = None;
        Some(walked)
    }
}

/// None where the kernel does not finish it.
fn walk(holder_source: &HolderSource) -> Option<Vec<Holder>> {
    let failed = |error| tracing::debug!("cannot find the owners of sockets: {error}");
    holder_source.look_at_all()?.map_err(failed).ok()
}

/// Links in /proc tell nothing of a socket but its number: first every socket has to be listed. `cpu` is
/// what that took on the inventory thread. None where it has stopped.
fn look_in_proc(
    holder_source: &HolderSource,
    worker: &Worker,
    known: Vec<Namespace>,
    cpu: &mut Duration,
) -> Option<Vec<Holder>> {
    let mut wanted = SocketPlaces::new();
    for namespace in known {
        let taken: Result<Survey<SocketPlaces>, _> = wait(|reply| {
            worker.survey(
                namespace,
                StateSet::ALL.plain(),
                SocketPlaces::new(),
                want,
                reply,
            );
        })
        .ok()?;
        // One that cannot be entered has its sockets counted as nobody's.
        if let Ok(survey) = taken {
            *cpu += survey.cost.cpu;
            wanted.extend(survey.found);
        }
    }
    let wanted = || wanted.iter().map(|(id, place)| (*id, *place));
    Some(holder_source.look(wanted, |holder| holder))
}

fn want(wanted: &mut SocketPlaces, socket: &Evidence) {
    if socket.inode != 0 {
        let place = (socket.inode, socket.netns, socket.state);
        wanted.insert(id_of(socket), place);
    }
}
