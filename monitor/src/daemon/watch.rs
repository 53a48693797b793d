//! Watches what lingers: looks closer when a socket reaches an age that a rule names, when a count
//! only grows, or when ports run short, and announces what it finds.

mod look;
mod ports;

pub(super) use look::Wanted;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::Settings;
use super::live::{Live, monotonic, nanoseconds};
use super::walks::Walker;
use crate::inventory::Namespace;
use crate::survey::Eyes;
use crate::tcp::{Limits, State};
use crate::track::stuck::{Board, CountBoard, Finding, Rules, levels};
use crate::track::{Budget, LeakDetector, Pressure, Service};

/// The sysctls of a namespace are read again after this time.
const LIMITS_LAST: Duration = Duration::from_secs(30);
/// What is old enough and yet not stuck (it still moves), leaks and counts are looked at again after
/// this time.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Between two looks at the ports of a namespace that is using many.
const LOOK_AT_PORTS: Duration = Duration::from_secs(2);

pub(super) struct Watch {
    live: Rc<RefCell<Live>>,
    rules: Arc<Rules>,
    eyes: Eyes,
    /// By namespace, and when they were read.
    limits: BTreeMap<u32, (Limits, Duration)>,
    pub(super) board: Board,
    counts: CountBoard,
    leaks: LeakDetector,
    pressure: Pressure,
    /// Of its own: the counts must not eat up what verdicts need.
    budget: Budget,
    /// When the last look at each namespace began: every age that was reached by then has been
    /// looked at.
    looked: BTreeMap<u32, Duration>,
    looked_at_ports: Duration,
    /// Namespaces whose survey failed, as the log has it.
    failing: BTreeSet<u32>,
    /// Notices that are in the log.
    logged: u64,
    /// Sockets and services that found no room, as the log has it.
    dropped: [u64; 2],
}

impl Watch {
    pub(super) fn new(live: Rc<RefCell<Live>>, settings: &Settings) -> Self {
        let rules = settings.rules.clone();
        let eyes = Eyes::open();
        if let Eyes::Proc { reason } = &eyes {
            tracing::warn!("degraded: owners come from /proc: {reason}");
        }
        Self {
            live,
            leaks: LeakDetector::new(rules.leak),
            rules: Arc::new(rules),
            eyes,
            limits: BTreeMap::new(),
            board: Board::default(),
            counts: CountBoard::default(),
            pressure: Pressure::default(),
            budget: Budget::new(settings.walk_share, monotonic()),
            looked: BTreeMap::new(),
            looked_at_ports: Duration::ZERO,
            failing: BTreeSet::new(),
            logged: 0,
            dropped: [0; 2],
        }
    }

    /// One round: cheap where nothing has become due, within the budget where something has.
    ///
    /// # Errors
    /// The inventory thread is gone.
    pub(super) async fn round(&mut self, walker: &Walker, known: &[Namespace]) -> Result<()> {
        let now = monotonic();
        let inodes: BTreeSet<u32> = known.iter().map(|known| known.inode).collect();
        self.live.borrow_mut().lingering.shrink();
        self.pressure.retain(|netns| inodes.contains(&netns));
        self.looked.retain(|netns, _| inodes.contains(netns));
        self.failing.retain(|netns| inodes.contains(netns));
        self.clear_gone(now, &inodes);
        let mut decided_by_limits = self.lingers();
        decided_by_limits.extend(self.busy(&inodes));
        self.refresh_limits(walker, known, &decided_by_limits, now)
            .await?;
        self.note_leaks(now);
        let due = self.due(&inodes, now);
        let is_due = |known: &&Namespace| due.contains(&known.inode);
        let due: Vec<Namespace> = known.iter().filter(is_due).cloned().collect();
        let crowded = if now.saturating_sub(self.looked_at_ports) >= LOOK_AT_PORTS {
            self.crowded(known)
        } else {
            Vec::new()
        };
        // Who has waited longer goes first: the budget may not suffice for both.
        let last_look = self.looked.values().max().copied().unwrap_or_default();
        let ports_first = self.looked_at_ports <= last_look;
        for is_ports_turn in [ports_first, !ports_first] {
            if is_ports_turn && !crowded.is_empty() && self.budget.allows(now) {
                self.looked_at_ports = now;
                self.look_at_ports(walker, &crowded, Pays::Budget).await?;
            } else if !is_ports_turn && !due.is_empty() && self.budget.allows(now) {
                self.look(walker, &due, Pays::Budget).await?;
            }
        }
        self.note_dropped();
        self.log();
        Ok(())
    }

    fn note_dropped(&mut self) {
        let sockets = self.live.borrow().lingering.dropped();
        let dropped = [sockets, self.leaks.dropped()];
        if dropped
            .iter()
            .zip(self.dropped)
            .any(|(now, before)| *now > before)
        {
            let [sockets, services] = dropped;
            tracing::warn!(
                sockets,
                services,
                "too much lingers at once: these sockets have no exact age, these services are not \
                 watched for leaks"
            );
        }
        self.dropped = dropped;
    }

    /// A socket that left its state needs no further look, nor does a namespace that is gone.
    fn clear_gone(&mut self, now: Duration, known: &BTreeSet<u32>) {
        let live = self.live.borrow();
        self.board.clear(nanoseconds(now), |finding| {
            // Where the table does not have every socket, only a look can tell.
            let is_known = live.lingering.is_complete(finding.netns) && !is_silent(finding);
            let has_left = |cookie| !live.lingering.holds(cookie, finding.state);
            let is_over = is_known && finding.cookie.is_some_and(has_left);
            is_over || !known.contains(&finding.netns)
        });
    }

    /// Namespaces with a raised finding of which only a look tells that it is over.
    fn watched(&self) -> BTreeSet<u32> {
        let is_watched = |finding: &&Finding| {
            is_silent(finding) || (finding.is_group() && finding.state != State::TimeWait)
        };
        let raised = self.board.raised().filter(is_watched);
        raised.map(|finding| finding.netns).collect()
    }

    /// Namespaces that may be short of ports or buckets, by sysctls yet to be read.
    fn busy(&self, known: &BTreeSet<u32>) -> Vec<u32> {
        let live = self.live.borrow();
        let is_busy = |netns: &u32| live.census.total(*netns) > 0;
        known.iter().copied().filter(is_busy).collect()
    }

    /// Namespaces with a socket in the lingering table.
    fn lingers(&self) -> BTreeSet<u32> {
        let live = self.live.borrow();
        live.lingering.iter().map(|entered| entered.netns).collect()
    }

    async fn refresh_limits(
        &mut self,
        walker: &Walker,
        known: &[Namespace],
        wanted: &BTreeSet<u32>,
        now: Duration,
    ) -> Result<()> {
        self.limits.retain(|netns, _| wanted.contains(netns));
        let is_old = |netns: &u32| {
            let read = self.limits.get(netns).map(|(_, read)| *read);
            read.is_none_or(|read| now.saturating_sub(read) >= LIMITS_LAST)
        };
        let wanted = known
            .iter()
            .filter(|known| wanted.contains(&known.inode) && is_old(&known.inode));
        let wanted: Vec<Namespace> = wanted.cloned().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        for (netns, limits) in walker.limits(wanted).await? {
            match limits {
                Ok(limits) => drop(self.limits.insert(netns, (limits, now))),
                Err(error) => tracing::debug!(netns, "cannot read its limits: {error}"),
            }
        }
        Ok(())
    }

    fn note_leaks(&mut self, now: Duration) {
        let live = self.live.borrow();
        let mut counts: HashMap<Service, u64> = HashMap::new();
        for entered in live.lingering.iter() {
            if entered.state == State::CloseWait {
                let limits = self.limits.get(&entered.netns).map(|(limits, _)| limits);
                let ports = (entered.local_port, entered.remote_port);
                for service in services(limits, entered.netns, ports) {
                    *counts.entry(service).or_default() += 1;
                }
            }
        }
        // One socket is no leak, and there may be very many such services.
        counts.retain(|_, sockets| *sockets > 1);
        self.leaks.observe(now, counts.into_iter());
    }

    /// Namespaces that need a look: a socket has reached an age that a rule names, or something there
    /// was not looked at for long, or what lingers there is not all known.
    fn due(&self, known: &BTreeSet<u32>, now: Duration) -> BTreeSet<u32> {
        let now_ns = nanoseconds(now);
        let looked = |netns| self.looked.get(&netns).copied().unwrap_or_default();
        let mut known_levels: HashMap<(u32, State), Vec<u64>> = HashMap::new();
        let (mut due, mut again) = (BTreeSet::new(), BTreeSet::new());
        let live = self.live.borrow();
        for entered in live.lingering.iter() {
            let (netns, state) = (entered.netns, entered.state);
            let Some((limits, _)) = self.limits.get(&netns) else {
                continue;
            };
            let levels = known_levels.entry((netns, state)).or_insert_with(|| {
                let levels = levels(&self.rules, state, limits);
                levels.into_iter().map(nanoseconds).collect()
            });
            let reached = levels
                .iter()
                .map(|level| entered.since_ns.saturating_add(*level));
            if let Some(latest_ns) = reached.take_while(|at| *at <= now_ns).last() {
                // What is old enough may have stopped to move since.
                again.insert(netns);
                if latest_ns > nanoseconds(looked(netns)) {
                    due.insert(netns);
                }
            }
        }
        again.extend(self.leaks.leaks().map(|leak| leak.service.netns));
        again.extend(self.watched());
        if !self.rules.counts.is_empty() || !live.is_identifying() {
            again.extend(self.lingers());
        }
        let is_incomplete =
            |netns: &u32| !live.lingering.is_complete(*netns) && live.census.lingering(*netns) > 0;
        due.extend(known.iter().copied().filter(is_incomplete));
        again.retain(|netns| now.saturating_sub(looked(*netns)) >= LOOK_AGAIN);
        due.append(&mut again);
        if !due.is_empty() && !self.rules.counts.is_empty() {
            // An owner's sockets may be in several namespaces.
            due.extend(self.lingers());
        }
        due
    }

    /// Says what is new in the log, some lines at most.
    fn log(&mut self) {
        const LINES: usize = 20;
        let (notices, _) = self.board.notices_after(self.logged);
        let mut rest = 0_usize;
        for (line, notice) in notices.enumerate() {
            if line < LINES {
                super::journal::log(notice);
            } else {
                rest += 1;
            }
        }
        self.logged = self.board.given();
        if rest > 0 {
            tracing::warn!(notices = rest, "and more; tcplinger stuck lists them");
        }
    }
}

/// Whether nothing tells of the end but a look: an orphan's minisocket vanishes in silence.
fn is_silent(finding: &Finding) -> bool {
    finding.state == State::FinWait2 && finding.is_orphaned
}

/// What a connection belongs to: the port it was accepted on, or the one it was made to; both where
/// the limits do not tell which is which.
fn services(
    limits: Option<&Limits>,
    netns: u32,
    (local, remote): (u16, u16),
) -> impl Iterator<Item = Service> {
    let is_ephemeral = |port| limits.is_none_or(|limits| limits.ephemeral_ports.contains(&port));
    let of_server = Service {
        netns,
        port: local,
        is_local: true,
    };
    let of_client = Service {
        netns,
        port: remote,
        is_local: false,
    };
    let is_server = !is_ephemeral(local);
    let is_client = !is_server && !is_ephemeral(remote);
    let of_server = (!is_client).then_some(of_server);
    let of_client = (!is_server).then_some(of_client);
    of_server.into_iter().chain(of_client)
}

/// Who pays for a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pays {
    Budget,
    /// Somebody asked.
    Nobody,
}
