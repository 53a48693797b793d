//! The minisockets of one namespace: TIME_WAIT, and orphans in FIN_WAIT2.
//!
//! The kernel counts them together (`sockstat`: `tw`), and tells of their birth by inference only.
//! What ends one, or turns FIN_WAIT2 into TIME_WAIT, is silent. So every orphan in FIN_WAIT2 is
//! remembered with its ends, until the peer's FIN is seen on this host, or the kernel, asked for just
//! that socket, says what became of it. All the others are TIME_WAIT.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::{About, Question, Reply, Seen, family_slot};
use crate::tcp::{Ends, Family, State};

/// Most orphans remembered for one namespace, about 64 bytes each: the kernel's usual limit of
/// minisockets (`tcp_max_tw_buckets`) on a large host.
const MOST_ORPHANS: usize = 1 << 18;
/// A minisocket in TIME_WAIT lives at least this long (`TCP_TIMEWAIT_LEN` in `include/net/tcp.h`),
/// unless a new connection takes its place.
pub(super) const TIME_WAIT_SECONDS: u64 = 60;

/// An old orphan is asked about this much later than a young one, at most.
const PATIENCE_NS: u64 = 1_600_000_000;
/// And this much later where a program tells what becomes of it.
const TOLD_NS: u64 = 30_000_000_000;

/// How soon orphans are asked about again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// At once: somebody waits for the answer.
    None,
    Usual,
    /// A program tells when one leaves FIN_WAIT2: this is to make sure.
    Told,
}

/// An orphan in FIN_WAIT2 that lives on as a minisocket.
#[derive(Clone, Copy, Debug)]
struct Orphan {
    cookie: u64,
    /// When it entered FIN_WAIT2, full socket or not; then or earlier where `is_lower_bound`.
    since_ns: u64,
    is_lower_bound: bool,
    /// When it became a minisocket, or was first listed.
    born_ns: u64,
    /// When the kernel last said that it is in FIN_WAIT2.
    asked_ns: u64,
    /// When its peer, on this host, sent a FIN: it counts as TIME_WAIT from here on. 0 for not yet.
    fin_ns: u64,
    is_askable: bool,
}

/// What became minisockets within one second.
#[derive(Clone, Copy, Debug)]
struct Cohort {
    second: u64,
    sockets: [u64; 2],
}

#[derive(Debug, Default)]
pub(super) struct Minisockets {
    orphans: HashMap<Ends, Orphan>,
    /// Orphans without a FIN, by family.
    pub(super) fin_wait2: [u64; 2],
    /// By family.
    pub(super) time_wait: [u64; 2],
    /// Those in TIME_WAIT, the oldest first.
    cohorts: VecDeque<Cohort>,
    /// Minisockets that nothing announced: they may be in either state.
    unexplained: u64,
    /// Those that were taken for TIME_WAIT that ended before its time, until the orphans were asked
    /// about: one of these may have ended instead.
    early: Vec<Cohort>,
    /// Answers about orphans have come since the sum was last held to the kernel's.
    is_answered: bool,
    /// Orphans that the last round of requests found in another state than was published.
    surprises: u64,
    /// Handed over since the sum was last held to the kernel's: at the limit of buckets the kernel closes
    /// the same way, and keeps nothing.
    unheld: u64,
    /// The sum was not quite the kernel's when it was last held to it.
    is_off: bool,
    /// Until this second nobody knows when those in TIME_WAIT end: some that are gone were taken for
    /// others.
    untimed_until: u64,
    /// Those in TIME_WAIT that came or went unannounced since the last walk for them, and of which the
    /// family was guessed.
    guessed: u64,
}

/// A socket that was handed over, as its last transition tells.
pub(super) struct HandedOver {
    pub(super) cookie: u64,
    pub(super) ends: Ends,
    pub(super) is_askable: bool,
    /// When it entered FIN_WAIT2, where that is known.
    pub(super) since_ns: Option<u64>,
    pub(super) at_ns: u64,
}

impl Minisockets {
    pub(super) fn total(&self) -> u64 {
        self.fin_wait2.iter().chain(&self.time_wait).sum()
    }

    /// Sockets by which FIN_WAIT2 and TIME_WAIT may be off, in opposite directions; 0 where that is
    /// below one in a hundred.
    pub(super) fn uncertain(&self) -> u64 {
        let fin_wait2: u64 = self.fin_wait2.iter().sum();
        self.unexplained + unless_small(self.surprises, fin_wait2)
    }

    /// Sockets by which TIME_WAIT may be off, as they were inferred since the sum was last held to the
    /// kernel's; 0 where that is below one in a hundred.
    pub(super) fn inferred(&self) -> u64 {
        unless_small(self.unheld, self.total())
    }

    /// Sockets by which TIME_WAIT of one family may be off, in favour of the other, beyond those of which
    /// not even the state is known; 0 where that is below one in a hundred.
    pub(super) fn misplaced(&self) -> u64 {
        let families = self.time_wait.iter().copied();
        let smaller = families.filter(|sockets| *sockets > 0).min();
        let misplaced = self.guessed.saturating_sub(self.unexplained);
        unless_small(misplaced, smaller.unwrap_or_default())
    }

    /// Whether a walk for TIME_WAIT has to tell the families: they may be off by many, or by a few for
    /// good, or somebody waits for the answer.
    pub(super) fn needs_families(&self, now_ns: u64, is_asked: bool) -> bool {
        let is_over = now_ns / 1_000_000_000 >= self.untimed_until;
        self.misplaced() > 0 || self.guessed > 0 && (is_asked || is_over)
    }

    fn has_both_families(&self) -> bool {
        self.time_wait.iter().all(|sockets| *sockets > 0)
    }

    /// A full socket was handed over.
    pub(super) const fn note_handover(&mut self) {
        self.unheld += 1;
    }

    /// Whether anything that is not asked about one by one can end in silence by `now_ns`.
    pub(super) fn may_change(&self, now_ns: u64) -> bool {
        let oldest = self.cohorts.front();
        let now = now_ns / 1_000_000_000;
        let is_due =
            |cohort: &Cohort| now >= cohort.second + TIME_WAIT_SECONDS || now < self.untimed_until;
        self.unexplained > 0 || self.is_off || oldest.is_some_and(is_due)
    }

    pub(super) fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// When an orphan entered FIN_WAIT2, and whether that is a lower bound.
    pub(super) fn since(&self, ends: &Ends, cookie: u64) -> Option<(u64, bool)> {
        let orphan = self.orphans.get(ends)?;
        (orphan.cookie == cookie).then_some((orphan.since_ns, orphan.is_lower_bound))
    }

    /// The system was suspended, and its clock stood still.
    pub(super) fn note_suspension(&mut self) {
        for orphan in self.orphans.values_mut() {
            orphan.is_lower_bound = true;
        }
    }

    /// A full socket became a minisocket in TIME_WAIT.
    pub(super) fn add_time_wait(&mut self, family: Family, at_ns: u64) {
        let second = at_ns / 1_000_000_000;
        add(&mut self.time_wait, family, 1);
        match self.cohorts.back_mut() {
            Some(last) if last.second >= second => add(&mut last.sockets, family, 1),
            _ => {
                let mut sockets = [0; 2];
                add(&mut sockets, family, 1);
                self.cohorts.push_back(Cohort { second, sockets });
            }
        }
    }

    /// A full socket became a minisocket in FIN_WAIT2.
    pub(super) fn add_orphan(&mut self, socket: HandedOver) {
        let family = socket.ends.family();
        if self.orphans.len() >= MOST_ORPHANS {
            self.unexplained += 1;
            self.add_time_wait(family, socket.at_ns);
            return;
        }
        let orphan = Orphan {
            cookie: socket.cookie,
            since_ns: socket.since_ns.unwrap_or(socket.at_ns),
            is_lower_bound: socket.since_ns.is_none(),
            born_ns: socket.at_ns,
            asked_ns: socket.at_ns,
            fin_ns: 0,
            is_askable: socket.is_askable,
        };
        add(&mut self.fin_wait2, family, 1);
        if let Some(last) = self.orphans.insert(socket.ends, orphan) {
            // The same ends anew: that one had ended unseen.
            self.settle(family, &last);
        }
    }

    /// The peer of an orphan has sent its FIN; how long the orphan had been in FIN_WAIT2.
    pub(super) fn note_peer_fin(&mut self, ends: &Ends, at_ns: u64) -> Option<Duration> {
        let orphan = self.orphans.get_mut(ends)?;
        if orphan.fin_ns != 0 {
            return None;
        }
        orphan.fin_ns = at_ns;
        let orphan = *orphan;
        subtract(&mut self.fin_wait2, ends.family(), 1);
        self.add_time_wait(ends.family(), at_ns);
        orphan.time_until(at_ns)
    }

    /// The kernel says that an orphan has left FIN_WAIT2, for TIME_WAIT or for good; how long it had
    /// been in it.
    pub(super) fn note_left(
        &mut self,
        ends: &Ends,
        is_time_wait: bool,
        at_ns: u64,
    ) -> Option<Duration> {
        let orphan = self.orphans.remove(ends)?;
        self.settle(ends.family(), &orphan);
        if orphan.fin_ns != 0 {
            return None;
        }
        if is_time_wait {
            self.add_time_wait(ends.family(), at_ns);
        } else {
            self.give_back();
        }
        orphan.time_until(at_ns)
    }

    /// An orphan that is no longer remembered does not count as FIN_WAIT2.
    fn settle(&mut self, family: Family, orphan: &Orphan) {
        if orphan.fin_ns == 0 {
            subtract(&mut self.fin_wait2, family, 1);
        }
    }

    /// Orphans that were asked about last before `before_ns`, and those whose FIN is to be confirmed. One
    /// that has been there for long is asked about less often, though still within three seconds.
    pub(super) fn questions(
        &self,
        before_ns: u64,
        patience: Patience,
    ) -> impl Iterator<Item = Question> + '_ {
        let due = self.orphans.iter().filter(move |(_, orphan)| {
            let heard_ns = orphan.asked_ns.max(orphan.fin_ns);
            let age_ns = before_ns.saturating_sub(orphan.born_ns);
            let patience_ns = match patience {
                Patience::None => 0,
                Patience::Usual => (age_ns / 8).min(PATIENCE_NS),
                Patience::Told => TOLD_NS,
            };
            orphan.is_askable && heard_ns.saturating_add(patience_ns) < before_ns
        });
        due.map(|(ends, orphan)| orphan.question(ends))
    }

    /// The questions about all orphans; None where some cannot be asked about.
    pub(super) fn every_question(&self) -> Option<Vec<Question>> {
        let is_askable = |orphan: &Orphan| orphan.is_askable;
        let is_whole = self.unexplained == 0 && self.orphans.values().all(is_askable);
        let all = self.orphans.iter();
        is_whole.then(|| all.map(|(ends, orphan)| orphan.question(ends)).collect())
    }

    /// Whether there are orphans that only a walk can tell of.
    pub(super) fn needs_walk(&self, before_ns: u64) -> bool {
        let is_due = |orphan: &Orphan| !orphan.is_askable && orphan.asked_ns < before_ns;
        self.unexplained > 0 || self.orphans.values().any(is_due)
    }

    /// A round of requests starts.
    pub(super) const fn begin_round(&mut self) {
        self.surprises = 0;
        self.is_answered = true;
    }

    /// What the kernel says of an orphan, asked at `at_ns`; how long it had been in FIN_WAIT2, where it
    /// no longer is.
    pub(super) fn take_reply(&mut self, ends: &Ends, reply: Reply, at_ns: u64) -> Option<Duration> {
        let orphan = self.orphans.get_mut(ends)?;
        if orphan.born_ns > at_ns {
            return None;
        }
        match reply {
            Reply::Found {
                state: State::FinWait2,
                is_minisocket: true,
            } => {
                orphan.asked_ns = at_ns;
                if orphan.fin_ns != 0 && orphan.fin_ns < at_ns {
                    // The peer's FIN was lost on its way.
                    orphan.fin_ns = 0;
                    self.surprises += 1;
                    add(&mut self.fin_wait2, ends.family(), 1);
                    subtract(&mut self.time_wait, ends.family(), 1);
                }
                None
            }
            Reply::Found {
                state: State::TimeWait,
                ..
            } => self.note_surprise(ends, true, at_ns),
            Reply::Found { .. } | Reply::Gone => self.note_surprise(ends, false, at_ns),
            Reply::Unclear => {
                orphan.is_askable = false;
                None
            }
        }
    }

    fn note_surprise(&mut self, ends: &Ends, is_time_wait: bool, at_ns: u64) -> Option<Duration> {
        let was_told = self.orphans.get(ends)?.fin_ns != 0;
        self.surprises += u64::from(!was_told);
        self.note_left(ends, is_time_wait, at_ns)
    }

    /// Sets the sum to the kernel's own, read at `read_ns`. `after` were handed over since, and
    /// `around` while it was read.
    pub(super) fn set_total(&mut self, total: u64, read_ns: u64, after: u64, around: u64) {
        if std::mem::take(&mut self.is_answered) {
            self.early.clear();
        }
        let known = self.total().saturating_sub(after);
        self.unheld = after;
        self.is_off = total != known;
        if total > known + around {
            // Nothing announced these.
            let extra = total - known;
            self.unexplained += extra;
            self.guessed += extra;
            let family = self.larger();
            add(&mut self.time_wait, family, extra);
        } else if known > total + around {
            self.expire(known - total, read_ns);
        }
    }

    /// Of which family most in TIME_WAIT are: what nothing announced is taken for one of it.
    const fn larger(&self) -> Family {
        match self.time_wait {
            [ipv4, ipv6] if ipv6 > ipv4 => Family::Ipv6,
            _ => Family::Ipv4,
        }
    }

    /// So many have ended in silence by `now_ns`: those whose TIME_WAIT is over first, then what was
    /// counted before it was announced, then the oldest in TIME_WAIT or orphans, which ones only the
    /// kernel can tell.
    fn expire(&mut self, mut expired: u64, now_ns: u64) {
        let is_either = self.has_both_families();
        let mut is_early = false;
        while expired > 0
            && let Some(oldest) = self.cohorts.front_mut()
        {
            if !is_early && now_ns / 1_000_000_000 < oldest.second + TIME_WAIT_SECONDS {
                is_early = true;
                let announced = expired.min(self.unexplained);
                self.unexplained -= announced;
                let family = self.larger();
                subtract(&mut self.time_wait, family, announced);
                expired -= announced;
                continue;
            }
            let [ipv4, ipv6] = oldest.sockets;
            let gone = expired.min(ipv4 + ipv6);
            // In proportion, where both families are of that second.
            let of_ipv4 = (gone * ipv4).div_ceil((ipv4 + ipv6).max(1)).min(ipv4);
            oldest.sockets = [ipv4 - of_ipv4, ipv6 - (gone - of_ipv4)];
            subtract(&mut self.time_wait, Family::Ipv4, of_ipv4);
            subtract(&mut self.time_wait, Family::Ipv6, gone - of_ipv4);
            expired -= gone;
            self.guessed += if is_early && is_either { gone } else { 0 };
            if is_early && !self.orphans.is_empty() {
                self.early.push(Cohort {
                    second: oldest.second,
                    sockets: [of_ipv4, gone - of_ipv4],
                });
            }
            if oldest.sockets == [0; 2] {
                self.cohorts.pop_front();
            }
        }
        for family in Family::ALL {
            let known = self.time_wait.get(family_slot(family)).copied();
            let gone = expired.min(known.unwrap_or_default());
            self.guessed += if is_either { gone } else { 0 };
            subtract(&mut self.time_wait, family, gone);
            expired -= gone;
        }
        if is_early {
            self.untimed_until = now_ns / 1_000_000_000 + TIME_WAIT_SECONDS + 5;
        }
        if expired > 0 || is_early {
            for orphan in self.orphans.values_mut() {
                orphan.asked_ns = 0;
            }
        }
    }

    /// An orphan has ended: where one in TIME_WAIT was thought to have ended in its place, that is still
    /// there.
    fn give_back(&mut self) {
        let Some(last) = self.early.last_mut() else {
            return;
        };
        let family = match last.sockets {
            [0, _] => Family::Ipv6,
            _ => Family::Ipv4,
        };
        subtract(&mut last.sockets, family, 1);
        let second = last.second;
        if last.sockets == [0; 2] {
            self.early.pop();
        }
        add(&mut self.time_wait, family, 1);
        match self.cohorts.front_mut() {
            Some(oldest) if oldest.second <= second => add(&mut oldest.sockets, family, 1),
            _ => {
                let mut sockets = [0; 2];
                add(&mut sockets, family, 1);
                self.cohorts.push_front(Cohort { second, sockets });
            }
        }
    }

    /// A walk that began at `began_ns` listed these orphans, and no others; how long those that it did
    /// not list had been in FIN_WAIT2.
    pub(super) fn take_orphans(
        &mut self,
        listed: impl Iterator<Item = Seen>,
        began_ns: u64,
    ) -> Vec<Duration> {
        self.surprises = 0;
        let mut seen = HashSet::new();
        for socket in listed {
            if self.orphans.contains_key(&socket.ends) {
                let reply = Reply::Found {
                    state: State::FinWait2,
                    is_minisocket: true,
                };
                let _: Option<Duration> = self.take_reply(&socket.ends, reply, began_ns);
            } else {
                let family = socket.ends.family();
                self.add_orphan(HandedOver {
                    cookie: socket.cookie,
                    ends: socket.ends.clone(),
                    is_askable: !socket.is_bound_to_device,
                    since_ns: None,
                    at_ns: began_ns,
                });
                // It was counted, as TIME_WAIT.
                subtract(&mut self.time_wait, family, 1);
            }
            seen.insert(socket.ends);
        }
        let is_gone =
            |(ends, orphan): &(&Ends, &Orphan)| orphan.born_ns < began_ns && !seen.contains(*ends);
        let gone = self.orphans.iter().filter(is_gone);
        let gone: Vec<Ends> = gone.map(|(ends, _)| ends.clone()).collect();
        self.unexplained = 0;
        gone.iter()
            .filter_map(|ends| self.note_surprise(ends, true, began_ns))
            .collect()
    }

    /// A walk listed so many orphans, by family, and does not tell one from another.
    pub(super) fn set_fin_wait2(&mut self, listed: [u64; 2]) {
        self.orphans.clear();
        self.fin_wait2 = listed;
        self.unexplained = 0;
        self.surprises = 0;
    }

    /// A walk listed these in TIME_WAIT, and no others: by the second in which they began, 0 where that
    /// is not known, and by family.
    pub(super) fn set_time_wait(&mut self, listed: &BTreeMap<u64, [u64; 2]>) {
        self.time_wait = [0; 2];
        self.guessed = 0;
        self.cohorts.clear();
        for (second, sockets) in listed {
            let cohort = Cohort {
                second: *second,
                sockets: *sockets,
            };
            self.cohorts.push_back(cohort);
            for (sum, sockets) in self.time_wait.iter_mut().zip(sockets) {
                *sum += sockets;
            }
        }
    }
}

impl Orphan {
    fn question(&self, ends: &Ends) -> Question {
        Question {
            about: About::Orphan,
            cookie: Some(self.cookie),
            ends: ends.clone(),
        }
    }

    fn time_until(&self, at_ns: u64) -> Option<Duration> {
        let time = at_ns.checked_sub(self.since_ns)?;
        (!self.is_lower_bound).then_some(Duration::from_nanos(time))
    }
}

/// The number of sockets in question, or 0 where that is two at most or at most one in a hundred.
const fn unless_small(sockets: u64, all: u64) -> u64 {
    if sockets <= 2 || sockets * 100 <= all {
        0
    } else {
        sockets
    }
}

fn add(counts: &mut [u64; 2], family: Family, sockets: u64) {
    if let Some(count) = counts.get_mut(family_slot(family)) {
        *count += sockets;
    }
}

fn subtract(counts: &mut [u64; 2], family: Family, sockets: u64) {
    if let Some(count) = counts.get_mut(family_slot(family)) {
        *count = count.saturating_sub(sockets);
    }
}
