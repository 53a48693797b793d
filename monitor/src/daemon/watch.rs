//! Watches what lingers: looks closer when a socket reaches an age that a rule names, when a count
//! only grows, or when ports run short, and announces what it finds.

mod look;
mod ports;
mod scan;

use look::Shown;
pub(super) use look::Wanted;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Result;

use super::Settings;
use super::live::Live;
use super::lookers::Looker;
use super::mptcp::MptcpWatch;
use super::walks::Walker;
use crate::clock::{monotonic, nanoseconds};
use crate::inventory::Namespace;
use crate::publish::Publisher;
use crate::survey::{Descriptors, HolderSource, names};
use crate::tcp::{Limits, State};
use crate::track::stuck::{CountBoard, Rules, levels};
use crate::track::{
    ActiveIncidents, Budget, Incident, LeakDetector, Names, Overflows, PortReport, Pressure,
    Sample, TOP,
};
use scan::Scan;

/// The sysctls of a namespace are read again after this time.
const LIMITS_LAST: Duration = Duration::from_secs(30);
/// The same where nothing lingers, and few sockets are.
const QUIET_LIMITS_LAST: Duration = Duration::from_mins(5);
/// What is old enough and yet not stuck (it still moves), leaks and counts are looked at again after
/// this time.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Between two looks at the ports of a namespace that is using many.
const LOOK_AT_PORTS: Duration = Duration::from_secs(2);

pub(super) struct Watch {
    live: Rc<RefCell<Live>>,
    publisher: Rc<Publisher>,
    rules: Arc<Rules>,
    holder_source: HolderSource,
    looker: Looker,
    /// By namespace, and when they were read.
    limits: BTreeMap<u32, (Limits, Duration)>,
    pub(super) active: ActiveIncidents,
    /// What the namespaces are called.
    names: Arc<Names>,
    counts: CountBoard,
    leaks: LeakDetector,
    pressure: Pressure,
    overflows: Overflows,
    pub(super) mptcp: MptcpWatch,
    /// The pressure table as of the last look at any ports.
    ports: Arc<PortReport>,
    /// Of the last round.
    scan: Scan,
    /// Namespaces with most sockets.
    leaders: Vec<u32>,
    /// CPU time of all looks so far.
    spent: Duration,
    /// The rules have changed since the last look: every namespace needs one.
    is_unjudged: bool,
    /// Of its own: the counts must not eat up what verdicts need.
    budget: Budget,
    /// Of its own: what nobody may need must not delay a verdict.
    leaders_budget: Budget,
    /// When the last look at each namespace began: every age that was reached by then has been
    /// looked at.
    looked: BTreeMap<u32, Duration>,
    looked_at_ports: Duration,
    /// The last look that somebody asked for, while its findings are taken.
    shown: Weak<Shown>,
    /// When the ports of a leader were last looked at, or tried to.
    tried: BTreeMap<u32, Duration>,
    /// Namespaces whose survey failed, as the log has it.
    failing: BTreeSet<u32>,
    /// Notices that are in the log, and announced.
    logged: u64,
    /// Sockets and services that found no room, as the log has it.
    dropped: [u64; 2],
}

impl Watch {
    pub(super) fn new(
        live: Rc<RefCell<Live>>,
        publisher: Rc<Publisher>,
        looker: Looker,
        settings: &Settings,
    ) -> Self {
        let rules = settings.rules.clone();
        let holder_source = HolderSource::open();
        if let HolderSource::Proc { reason } = &holder_source {
            tracing::warn!("degraded: owners come from /proc: {reason}");
        }
        Self {
            live,
            publisher,
            leaks: LeakDetector::new(rules.leak),
            rules: Arc::new(rules),
            holder_source,
            looker,
            limits: BTreeMap::new(),
            active: ActiveIncidents::default(),
            names: Arc::default(),
            counts: CountBoard::default(),
            pressure: Pressure::default(),
            overflows: Overflows::default(),
            mptcp: MptcpWatch::new(settings.walk_share),
            ports: Arc::default(),
            scan: Scan::default(),
            leaders: Vec::new(),
            spent: Duration::ZERO,
            is_unjudged: false,
            budget: Budget::new(settings.walk_share, monotonic()),
            leaders_budget: Budget::new(settings.walk_share, monotonic()),
            looked: BTreeMap::new(),
            looked_at_ports: Duration::ZERO,
            shown: Weak::new(),
            tried: BTreeMap::new(),
            failing: BTreeSet::new(),
            logged: 0,
            dropped: [0; 2],
        }
    }

    /// Judges by these rules from now on. What they no longer name is over with the next look.
    pub(super) fn set_rules(&mut self, rules: Rules) {
        if *self.rules == rules {
            return;
        }
        if self.rules.leak != rules.leak {
            // Its samples are of another window.
            self.leaks = LeakDetector::new(rules.leak);
        }
        self.rules = Arc::new(rules);
        self.is_unjudged = true;
        self.judge_ports(monotonic());
    }

    /// One round, for somebody who waits or not: cheap where nothing has become due, within the budget where something has.
    ///
    /// # Errors
    /// The inventory thread is gone.
    pub(super) async fn round(
        &mut self,
        walker: &Walker,
        known: &[Namespace],
        descriptors: Option<&Descriptors>,
        is_asked: bool,
    ) -> Result<()> {
        self.mptcp
            .refresh(walker, known, descriptors, is_asked)
            .await?;
        let now = monotonic();
        let inodes: BTreeSet<u32> = known.iter().map(|known| known.inode).collect();
        self.name(known);
        self.live.borrow_mut().shrink();
        if self.pressure.retain(now, |netns| inodes.contains(&netns)) {
            self.ports = Arc::new(self.pressure.report(&self.rules.ports).named(&self.names));
        }
        self.tried.retain(|netns, _| inodes.contains(netns));
        self.looked.retain(|netns, _| inodes.contains(netns));
        self.failing.retain(|netns| inodes.contains(netns));
        self.clear_gone(now, &inodes);
        let is_first = self.overflows.cover(&inodes);
        let busy = self.note_busy(&inodes);
        let wanted = if is_first { &inodes } else { &busy };
        self.refresh_limits(walker, known, wanted, now).await?;
        // Those of one without sockets may change before it has any.
        self.limits.retain(|netns, _| busy.contains(netns));
        self.scan = Scan::new(
            self.live.borrow().census.sockets(),
            &self.rules,
            &self.limits,
            &self.scan,
            now,
        );
        self.note_leaks(now);
        let due = self.due(&inodes, now);
        // There is memory for one look.
        let is_due = |known: &&Namespace| due.contains(&known.inode) && !self.is_shown();
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
                self.look_at_ports(walker, &crowded, ChargedTo::Budget)
                    .await?;
            } else if !is_ports_turn && !due.is_empty() && self.budget.allows(now) {
                self.look(walker, &due, ChargedTo::Budget).await?;
                self.is_unjudged = false;
            }
        }
        if !self.is_shown() {
            self.look_at_leaders_ports(walker, known, now).await?;
        }
        self.note_dropped();
        self.log();
        Ok(())
    }

    fn name(&mut self, known: &[Namespace]) {
        let is_same = self.names.len() == known.len()
            && known.iter().all(|known| {
                let named = self.names.get(&known.inode);
                named.is_some_and(|named| named.name == known.name)
            });
        if !is_same {
            self.names = Arc::new(names(known));
        }
    }

    /// Fills in what is watched.
    pub(super) fn fill(&mut self, sample: &mut Sample) {
        // Rounds may be far apart.
        self.clear_left(sample.taken);
        self.log();
        sample.stuck = self.active.stuck();
        sample.buckets = self.overflows.buckets();
        sample.other_overflows = self.overflows.other();
        sample.ports = Arc::clone(&self.ports);
    }

    /// Sockets, by cookie, that have been in a lingering state for a second: in time to find out that
    /// they are not. Each is told once.
    pub(super) fn take_settled(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.scan.settled)
    }

    /// CPU time of all looks so far.
    pub(super) fn spent(&self) -> Duration {
        self.spent + self.mptcp.spent()
    }

    pub(super) fn holder_source(&self) -> HolderSource {
        self.holder_source.clone()
    }

    fn spend(&mut self, cpu: Duration, charged_to: ChargedTo) {
        self.spent += cpu;
        match charged_to {
            ChargedTo::Budget => self.budget.spend(cpu),
            ChargedTo::LeadersBudget => self.leaders_budget.spend(cpu),
            ChargedTo::Nobody => {}
        }
    }

    fn note_dropped(&mut self) {
        let sockets = self.live.borrow().untracked();
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
                "too many lingering sockets: some have no exact age, and some services are not \
                 checked for leaks"
            );
        }
        self.dropped = dropped;
    }

    /// Nothing is left to find in a namespace that is gone.
    fn clear_gone(&mut self, now: Duration, known: &BTreeSet<u32>) {
        self.clear_left(now);
        self.active.clear(nanoseconds(now), |_, incident| {
            !known.contains(&incident.netns)
        });
        self.active
            .judge(|netns| !known.contains(&netns), BTreeMap::new());
    }

    /// A socket that left its state needs no further look.
    fn clear_left(&mut self, now: Duration) {
        let live = self.live.borrow();
        let has_left = |incident: &Incident, cookie, is_mptcp: bool| {
            let Incident { netns, state, .. } = *incident;
            if is_mptcp {
                return self.mptcp.since(netns, cookie, state).is_none();
            }
            // Where the table does not have every socket, only a look can tell.
            let is_known = live.census.is_surveyed(netns) && !is_silent(incident);
            is_known && !live.census.holds(cookie, state)
        };
        self.active.drop_members(nanoseconds(now), has_left);
    }

    /// Namespaces with an incident of which only a look tells that it is over, or whose sockets are not
    /// all followed.
    fn watched(&self) -> BTreeSet<u32> {
        let is_watched = |incident: &&Incident| {
            let is_followed = incident.members.len() as u64 == incident.sockets;
            incident.kind.is_of_judged_sockets() && (!is_followed || is_silent(incident))
        };
        let raised = self.active.raised().filter(is_watched);
        raised.map(|incident| incident.netns).collect()
    }

    /// Namespaces with sockets; what lingers there, or runs short, depends on sysctls yet to be read.
    fn note_busy(&mut self, known: &BTreeSet<u32>) -> BTreeSet<u32> {
        let live = self.live.borrow();
        let sockets = known
            .iter()
            .map(|netns| (live.census.total(*netns), *netns));
        let mut busy: Vec<(u64, u32)> = sockets.filter(|(total, _)| *total > 0).collect();
        busy.sort_unstable_by_key(|(total, netns)| (Reverse(*total), *netns));
        let leaders = busy.iter().take(TOP);
        self.leaders = leaders.map(|(_, netns)| *netns).collect();
        busy.into_iter().map(|(_, netns)| netns).collect()
    }

    async fn refresh_limits(
        &mut self,
        walker: &Walker,
        known: &[Namespace],
        wanted: &BTreeSet<u32>,
        now: Duration,
    ) -> Result<()> {
        let is_old = |netns: u32| {
            let read = self.limits.get(&netns).map(|(_, read)| *read);
            read.is_none_or(|read| now.saturating_sub(read) >= self.limits_last(netns))
        };
        let wanted = known
            .iter()
            .filter(|known| wanted.contains(&known.inode) && is_old(known.inode));
        let wanted: Vec<Namespace> = wanted.cloned().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        for (netns, limits) in walker.limits(wanted).await? {
            match limits {
                Ok(limits) => {
                    self.overflows.observe(netns, &limits);
                    self.limits.insert(netns, (limits, now));
                }
                Err(error) => tracing::debug!(netns, "cannot read its limits: {error}"),
            }
        }
        Ok(())
    }

    /// For how long the limits of a namespace are good once they are read.
    fn limits_last(&self, netns: u32) -> Duration {
        let is_quiet = self.live.borrow().census.lingering(netns) == 0;
        if is_quiet && !self.leaders.contains(&netns) {
            QUIET_LIMITS_LAST
        } else {
            LIMITS_LAST
        }
    }

    fn note_leaks(&mut self, now: Duration) {
        let counts = std::mem::take(&mut self.scan.services).into_iter();
        // One socket is no leak, and there may be very many such services.
        self.leaks
            .observe(now, counts.filter(|(_, sockets)| *sockets > 1));
    }

    /// Whether an MPTCP connection of that namespace has reached an age that a rule names since it was
    /// looked at.
    fn has_aged_mptcp(&self, netns: u32, looked: Duration, now: Duration) -> bool {
        let Some((limits, _)) = self.limits.get(&netns) else {
            return false;
        };
        let news = nanoseconds(looked)..nanoseconds(now);
        self.mptcp.lingering(netns).iter().any(|socket| {
            let since_ns = self.mptcp.since(netns, socket.cookie, socket.state);
            let mut levels = levels(&self.rules, socket.state, limits).into_iter();
            levels.any(|level| {
                since_ns.is_some_and(|since_ns| {
                    news.contains(&since_ns.saturating_add(nanoseconds(level)))
                })
            })
        })
    }

    /// Namespaces that need a look: a socket has reached an age that a rule names, or something there
    /// was not looked at for long, or what lingers there is not all known.
    fn due(&self, known: &BTreeSet<u32>, now: Duration) -> BTreeSet<u32> {
        let looked = |netns| self.looked.get(&netns).copied().unwrap_or_default();
        let live = self.live.borrow();
        let reached = self.scan.reached_ns.iter();
        let is_news = |(netns, at_ns): &(&u32, &u64)| **at_ns > nanoseconds(looked(**netns));
        let mut due: BTreeSet<u32> = reached.filter(is_news).map(|(netns, _)| *netns).collect();
        // What is old enough may have stopped to move since.
        let mut again: BTreeSet<u32> = self.scan.reached_ns.keys().copied().collect();
        again.extend(self.leaks.leaks().map(|leak| leak.service.netns));
        again.extend(self.watched());
        if !self.rules.counts.is_empty() || !live.is_identifying() {
            again.extend(&self.scan.namespaces);
        }
        let is_incomplete =
            |netns: &u32| !live.census.is_surveyed(*netns) && live.census.lingering(*netns) > 0;
        due.extend(known.iter().copied().filter(is_incomplete));
        for netns in self.mptcp.namespaces() {
            again.insert(netns);
            if self.has_aged_mptcp(netns, looked(netns), now) {
                due.insert(netns);
            }
        }
        if self.is_unjudged {
            due.extend(&self.scan.namespaces);
            due.extend(self.active.raised().map(|incident| incident.netns));
        }
        again.retain(|netns| now.saturating_sub(looked(*netns)) >= LOOK_AGAIN);
        due.append(&mut again);
        if !due.is_empty() && !self.rules.counts.is_empty() {
            // An owner's sockets may be in several namespaces.
            due.extend(&self.scan.namespaces);
        }
        due
    }

    /// Announces what is new, and says it in the log, some lines at most.
    fn log(&mut self) {
        const LINES: usize = 20;
        let (notices, missed) = self.active.notices_after(self.logged);
        self.publisher.announce(notices);
        self.publisher.note_missed(missed);
        let (notices, _) = self.active.notices_after(self.logged);
        let mut rest = 0_usize;
        for (line, notice) in notices.enumerate() {
            if line < LINES {
                super::incident_log::log(notice);
            } else {
                rest += 1;
            }
        }
        self.logged = self.active.given();
        if rest > 0 {
            tracing::warn!(notices = rest, "and more; tcplinger stuck lists them");
        }
    }
}

/// Whether nothing tells of the end but a look: an orphan's minisocket vanishes in silence.
fn is_silent(incident: &Incident) -> bool {
    incident.state == State::FinWait2 && incident.is_orphaned
}

/// What the time of a look is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChargedTo {
    Budget,
    /// A look at the ports of those with most sockets.
    LeadersBudget,
    /// Somebody asked.
    Nobody,
}
