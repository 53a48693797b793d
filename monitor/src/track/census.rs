//! The census: every socket of the host, and from it how many are in which state, per network
//! namespace and family.
//!
//! One table of full sockets is the truth, and the counts follow from it. Transitions move it; what
//! contradicts it is counted, and settled by asking the kernel for just that socket. Minisockets
//! (TIME_WAIT and orphaned FIN_WAIT2) and half-open requests do not announce what becomes of them:
//! their sums are held to the kernel's figures, and those in question are asked about one by one.
//! `monitor/docs/census.md` has the whole of it.

mod checked;
mod merge;
mod minisockets;
mod namespace;
mod question;
mod requests;
mod scope;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Doubt;
use super::cookies::ByNetns;
use super::sockets::{Applied, News, Socket, Sockets};
use crate::tcp::{Counts, Ends, Evidence, Family, Handover, State, Subject, Transition};
pub(crate) use checked::Checked;
use merge::Merge;
use minisockets::{HandedOver, Patience};
use namespace::{ASK_AGAIN_NS, Namespace, Trust, Window};
use question::About;
pub(crate) use question::{Question, Reply};
pub(crate) use scope::{Need, Scope, Snapshot, Urgency};

/// A socket in a snapshot of the kernel's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// 0 where only /proc/net could be asked.
    pub(crate) cookie: u64,
    pub(crate) ends: Ends,
    pub(crate) state: State,
    pub(crate) is_minisocket: bool,
    /// Bound to a device, so that its ends alone do not find it.
    pub(crate) is_bound_to_device: bool,
    /// When it entered its state, at the latest: `CLOCK_MONOTONIC`, nanoseconds.
    pub(crate) since_ns: u64,
    /// Of a minisocket: seconds until it ends; 0 where that is not known.
    pub(crate) seconds_left: u16,
}

/// What the kernel counts by itself, for one namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Full sockets by family (`sockstat`, `sockstat6`: `inuse`).
    pub(crate) full: [u64; 2],
    /// Minisockets of both families (`sockstat`: `tw`).
    pub(crate) minisockets: u64,
    /// ESTABLISHED and CLOSE_WAIT of both families (`snmp`: `CurrEstab`).
    pub(crate) established_or_close_wait: u64,
    /// Segments received so far (`snmp`: `InSegs`): without one, no request can be born.
    pub(crate) segments_received: u64,
    /// Segments sent so far (`snmp`: `OutSegs`).
    pub(crate) segments_sent: u64,
    /// When the reading began and ended, `CLOCK_MONOTONIC`, nanoseconds.
    pub(crate) read_from_ns: u64,
    pub(crate) read_until_ns: u64,
}

/// How the transitions fitted the table so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Full sockets by which snapshots and answers have corrected the counts.
    #[serde(skip)]
    pub(crate) corrected: u64,
    /// Transitions that started where the table did not have their socket.
    pub(crate) contradicting: u64,
    /// Transitions that said what the table had already.
    pub(crate) repeated: u64,
    /// Of these, those that both programs had taken.
    pub(crate) duplicated: u64,
    /// Sockets that were asked about one by one.
    pub(crate) asked: u64,
    /// Transitions in a namespace that was not covered then.
    #[serde(default)]
    pub(crate) uncovered: u64,
}

const fn family_slot(family: Family) -> usize {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 1,
    }
}

/// Every socket, and the counts of every namespace.
#[derive(Debug, Default)]
pub(crate) struct Census {
    sockets: Sockets,
    namespaces: ByNetns<Namespace>,
    checked: Checked,
    tally: Tally,
    /// Times that orphans had spent in FIN_WAIT2, since they were last taken.
    ended: Vec<Duration>,
    /// Namespaces that a transition made known, since they were last taken.
    discovered: Vec<u32>,
    /// The last look for namespaces failed: some may be missing.
    may_lack_namespaces: bool,
    /// A request that lasts a second announces itself.
    sees_requests: bool,
    /// An orphan that leaves FIN_WAIT2 announces it.
    sees_minisockets: bool,
}

impl Census {
    /// Without a socket. `sees_requests` where a request that lasts a second announces itself,
    /// `sees_minisockets` where an orphan that leaves FIN_WAIT2 does.
    pub(crate) fn new(sees_requests: bool, sees_minisockets: bool) -> Self {
        Self {
            sees_requests,
            sees_minisockets,
            ..Self::default()
        }
    }

    pub(crate) const fn tally(&self) -> Tally {
        self.tally
    }

    /// Every full socket.
    pub(crate) const fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// Counts of one namespace and family, every state.
    pub(crate) fn counts(&self, netns: u32, family: Family) -> Counts {
        let namespace = self.namespaces.get(&netns);
        namespace
            .map(|namespace| namespace.counts(family))
            .unwrap_or_default()
    }

    /// Sockets of these namespaces in one state.
    pub(crate) fn sockets_in(&self, netns: impl Iterator<Item = u32>, state: State) -> u64 {
        let counts = netns.flat_map(|netns| Family::ALL.map(|family| self.counts(netns, family)));
        counts.map(|counts| counts.get(state)).sum()
    }

    /// Sockets of one namespace in lingering states, minisockets in `FIN_WAIT2` included.
    pub(crate) fn lingering(&self, netns: u32) -> u64 {
        let counts = Family::ALL.map(|family| self.counts(netns, family));
        let states = State::LINGERING.into_iter();
        states
            .flat_map(|state| counts.map(|counts| counts.get(state)))
            .sum()
    }

    /// Sockets of one namespace in any state.
    pub(crate) fn total(&self, netns: u32) -> u64 {
        let counts = Family::ALL.map(|family| self.counts(netns, family));
        counts.iter().map(Counts::total).sum()
    }

    /// Namespaces that a transition made known since the last call.
    pub(crate) fn take_discovered(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.discovered)
    }

    /// Times that orphans had spent in FIN_WAIT2 when they left it, since the last call.
    pub(crate) fn take_ended(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.ended)
    }

    /// Makes the census cover exactly these namespaces: others are forgotten, new ones unwalked.
    pub(crate) fn cover(&mut self, found: &BTreeSet<u32>) {
        self.may_lack_namespaces = false;
        self.checked.retain(found);
        let before = self.namespaces.len();
        let mut had_sockets = false;
        self.namespaces.retain(|netns, namespace| {
            let is_there = found.contains(netns);
            had_sockets |= !is_there && namespace.full.iter().any(|full| full.total() > 0);
            is_there
        });
        if had_sockets && self.namespaces.len() < before {
            let namespaces = &self.namespaces;
            self.sockets
                .retain(|socket| namespaces.contains_key(&socket.netns));
        }
        for netns in found {
            self.namespaces.entry(*netns).or_default().is_covered = true;
        }
    }

    /// A look for namespaces failed: until one succeeds, some may be missing. Whether that is news.
    pub(crate) fn note_undiscovered(&mut self) -> bool {
        !std::mem::replace(&mut self.may_lack_namespaces, true)
    }

    /// Applies a transition. One whose namespace is new makes that namespace known as unwalked.
    pub(crate) fn apply(&mut self, transition: &Transition) -> Applied {
        let Some(netns) = transition.netns else {
            self.disturb(None);
            return Applied::unplaced();
        };
        let namespace = self.namespaces.entry(netns).or_insert_with(|| {
            self.discovered.push(netns);
            Namespace::default()
        });
        self.tally.uncovered += u64::from(!namespace.is_covered);
        let ends = || Ends::new(transition.family, transition.local, transition.remote);
        match transition.subject {
            Subject::Socket => {
                let applied = self.sockets.apply(transition);
                let ended = namespace.note_applied(&applied, transition, &mut self.tally);
                self.ended.extend(ended);
                applied
            }
            Subject::Minisocket => {
                let is_time_wait = transition.to.is(State::TimeWait);
                let time =
                    namespace
                        .minisockets
                        .note_left(&ends(), is_time_wait, transition.ktime_ns);
                self.ended.extend(time);
                Applied::unplaced()
            }
            Subject::Request => {
                namespace.requests.note(ends(), transition.ktime_ns);
                Applied::unplaced()
            }
        }
    }

    /// Transitions were lost since `clean_until_ns`: no count is to be trusted until the kernel was
    /// asked.
    pub(crate) fn suspect_all(&mut self, clean_until_ns: u64) {
        for namespace in self.namespaces.values_mut() {
            namespace.note_loss(clean_until_ns);
            namespace.is_surveyed = false;
        }
    }

    /// What lingers in any namespace is to be surveyed anew: no transition tells of it.
    pub(crate) fn forget_surveys(&mut self) {
        for namespace in self.namespaces.values_mut() {
            namespace.is_surveyed = false;
        }
    }

    /// The kernel's figures are about to be read, and every transition so far was applied.
    pub(crate) fn mark(&mut self, netns: u32) {
        if let Some(namespace) = self.namespaces.get_mut(&netns) {
            namespace.mark();
        }
    }

    /// Holds the counts to figures read since [`Self::mark`], after every transition up to their
    /// reading was applied.
    pub(crate) fn check(&mut self, netns: u32, figures: &Figures) {
        if let Some(namespace) = self.namespaces.get_mut(&netns) {
            namespace.check(figures);
        }
    }

    /// The kernel's figures could not be read.
    pub(crate) fn note_unread(&mut self, netns: u32) {
        if let Some(namespace) = self.namespaces.get_mut(&netns) {
            namespace.note_unread();
        }
    }

    /// What a namespace needs to have walked, more where somebody waits for it (`is_asked`); when it began to wait for
    /// that, or `now_ns`.
    pub(crate) fn need(&mut self, netns: u32, now_ns: u64, is_asked: bool) -> (Need, u64) {
        let Some(namespace) = self.namespaces.get_mut(&netns) else {
            return (Need::default(), now_ns);
        };
        let need = namespace.need(now_ns, self.sees_requests, is_asked);
        if need.scope.is_empty() {
            namespace.waiting_since_ns = None;
        }
        let waits = namespace.waiting_since_ns.get_or_insert(now_ns);
        (need, *waits)
    }

    /// What is to be asked about the sockets of a namespace, one by one: what contradicts, and what was
    /// silent for a while, or `is_urgent`. What cannot be asked so is left to a walk.
    pub(crate) fn questions(&mut self, netns: u32, now_ns: u64, is_urgent: bool) -> Vec<Question> {
        let (silence_ns, patience) = match (is_urgent, self.sees_minisockets) {
            (true, _) => (0, Patience::None),
            (false, true) => (ASK_AGAIN_NS, Patience::Told),
            (false, false) => (ASK_AGAIN_NS, Patience::Usual),
        };
        let sockets = &self.sockets;
        let Some(namespace) = self.namespaces.get_mut(&netns) else {
            return Vec::new();
        };
        if namespace.listed.is_some() {
            // Without cookies nothing can be asked for, and walks tell.
            namespace.questions.clear();
            return Vec::new();
        }
        let mut questions: Vec<Question> = namespace
            .silent(now_ns.saturating_sub(silence_ns), patience)
            .collect();
        let mut is_unclear = false;
        namespace.questions.retain(|cookie| {
            let socket = sockets.get(*cookie);
            let socket = socket.filter(|socket| socket.netns == netns);
            match socket {
                Some(socket) if socket.is_askable() => {
                    questions.push(Question::about(*cookie, socket));
                    true
                }
                Some(_) => {
                    is_unclear = true;
                    false
                }
                None => false,
            }
        });
        if is_unclear {
            namespace.distrust(Trust::Suspect);
        }
        questions
    }

    /// Every full socket of these namespaces is to be asked about: nothing contradicts what is known of
    /// them, and yet it may be wrong.
    pub(crate) fn audit(&self, netns: &BTreeSet<u32>) -> BTreeMap<u32, Vec<Question>> {
        let mut questions: BTreeMap<u32, Vec<Question>> = BTreeMap::new();
        let all = self.sockets.iter();
        for (cookie, socket) in
            all.filter(|(_, socket)| netns.contains(&socket.netns) && socket.is_askable())
        {
            let of_namespace = questions.entry(socket.netns).or_default();
            of_namespace.push(Question::about(cookie, socket));
        }
        questions
    }

    /// The questions about every socket in a lingering state, orphans included, of those of these
    /// namespaces of which all are known, can be asked about, and are `most` at most.
    pub(crate) fn lingering_questions(
        &self,
        netns: &BTreeSet<u32>,
        most: usize,
    ) -> BTreeMap<u32, Vec<Question>> {
        let mut questions: BTreeMap<u32, Vec<Question>> = BTreeMap::new();
        for (inode, namespace) in &self.namespaces {
            let is_known = namespace.trust == Trust::Sound && namespace.listed.is_none();
            let is_small = self.lingering(*inode) <= most as u64;
            if netns.contains(inode) && is_known && is_small {
                let orphans = namespace.minisockets.every_question();
                questions.extend(orphans.map(|orphans| (*inode, orphans)));
            }
        }
        for (cookie, socket) in self.sockets.iter() {
            if socket.state.is_lingering()
                && let Some(of_namespace) = questions.get_mut(&socket.netns)
            {
                if socket.is_askable() {
                    of_namespace.push(Question::about(cookie, socket));
                } else {
                    questions.remove(&socket.netns);
                }
            }
        }
        questions
    }

    /// The kernel tells at least how long a socket has been in its state.
    pub(crate) fn explain(&mut self, seen: &Seen) {
        let number = self.sockets.next_snapshot();
        if let Some(known) = self.sockets.get_mut(seen.cookie)
            && known.state == seen.state
            && !seen.is_minisocket
        {
            known.note_listed(number, seen.ends.clone(), seen.since_ns);
        }
    }

    /// The kernel was asked for the least age of every lingering socket of a namespace.
    pub(crate) fn note_surveyed(&mut self, netns: u32) {
        if let Some(namespace) = self.namespaces.get_mut(&netns) {
            namespace.is_surveyed = true;
        }
    }

    /// The questions about these sockets, by cookie.
    pub(crate) fn about(&self, cookies: &[u64]) -> BTreeMap<u32, Vec<Question>> {
        let mut questions: BTreeMap<u32, Vec<Question>> = BTreeMap::new();
        for cookie in cookies {
            let socket = self.sockets.get(*cookie);
            if let Some(socket) = socket.filter(|socket| socket.is_askable()) {
                let of_namespace = questions.entry(socket.netns).or_default();
                of_namespace.push(Question::about(*cookie, socket));
            }
        }
        questions
    }

    /// Full sockets of one namespace.
    pub(crate) fn full(&self, netns: u32) -> u64 {
        let namespace = self.namespaces.get(&netns);
        namespace.map_or(0, |namespace| {
            namespace.full.iter().map(Counts::total).sum()
        })
    }

    /// A round of answers is about to come in for a namespace.
    pub(crate) fn begin_answers(&mut self, netns: u32) {
        if let Some(namespace) = self.namespaces.get_mut(&netns) {
            namespace.minisockets.begin_round();
        }
    }

    /// Takes the kernel's answer to a question, asked at `asked_ns`. Every transition before that was
    /// applied, and what has moved since is known better.
    pub(crate) fn take_reply(
        &mut self,
        netns: u32,
        question: &Question,
        reply: Reply,
        asked_ns: u64,
    ) {
        let Some(namespace) = self.namespaces.get_mut(&netns) else {
            return;
        };
        self.tally.asked += 1;
        match question.about {
            About::Orphan => {
                let minisockets = &mut namespace.minisockets;
                let time = minisockets.take_reply(&question.ends, reply, asked_ns);
                self.ended.extend(time);
            }
            About::Request => namespace
                .requests
                .take_reply(&question.ends, reply, asked_ns),
            About::Socket => {
                let cookie = question.cookie.unwrap_or_default();
                self.settle(netns, cookie, reply, asked_ns);
            }
        }
    }

    fn settle(&mut self, netns: u32, cookie: u64, reply: Reply, asked_ns: u64) {
        let Some(namespace) = self.namespaces.get_mut(&netns) else {
            return;
        };
        namespace.questions.remove(&cookie);
        let Some(socket) = self.sockets.get_mut(cookie) else {
            return;
        };
        if socket.since_ns >= asked_ns && !socket.is_lower_bound() {
            return;
        }
        let (family, before) = (socket.ends.family(), socket.state);
        match reply {
            Reply::Found {
                state,
                is_minisocket: false,
            } if state == before => {}
            Reply::Found {
                state,
                is_minisocket: false,
            } if state != State::NewSynRecv => {
                // It is one that can be asked about.
                *socket = Socket::listed(netns, socket.ends.clone(), state, asked_ns);
                self.tally.corrected += 1;
                namespace.recount(family, Some(before), Some(state));
            }
            // A minisocket keeps the cookie of its socket, and has taken its place.
            Reply::Found { .. } | Reply::Gone => {
                self.sockets.remove(cookie);
                self.tally.corrected += 1;
                namespace.recount(family, Some(before), None);
            }
            Reply::Unclear => {
                if socket.note_missed() {
                    namespace.distrust(Trust::Suspect);
                }
            }
        }
    }

    /// A snapshot starts: from here to [`Self::finish`] what moves is noted.
    pub(crate) fn begin(&mut self, netns: u32) {
        if let Some(namespace) = self.namespaces.get_mut(&netns) {
            namespace.window = Some(Window::default());
        }
    }

    /// The snapshot failed; the counts stay as the transitions left them.
    pub(crate) fn abandon(&mut self, netns: u32) {
        if let Some(namespace) = self.namespaces.get_mut(&netns) {
            namespace.window = None;
        }
    }

    /// Takes a snapshot over. A socket that moved since it began is known better from its transitions;
    /// one that should have been listed and was not is asked about, as a walk can miss a socket.
    ///
    /// Returns by how many full sockets the counts had been off.
    pub(crate) fn finish(
        &mut self,
        netns: u32,
        snapshot: Snapshot,
        seen: impl Iterator<Item = Seen>,
    ) -> u64 {
        let namespace = self.namespaces.entry(netns).or_default();
        let was_known = matches!(namespace.trust, Trust::Sound | Trust::Suspect);
        let window = namespace.window.take().unwrap_or_default();
        let number = self.sockets.next_snapshot();
        let mut merge = Merge::new(netns, snapshot, number, window);
        for socket in seen {
            merge.take(socket, &mut self.sockets, namespace);
        }
        if snapshot.has_cookies {
            merge.note_unlisted(&mut self.sockets, namespace);
        }
        let ended = merge.take_silent(namespace);
        self.ended.extend(ended);
        namespace.waiting_since_ns = None;
        let is_drift = if snapshot.scope.has(Scope::FULL) {
            self.checked.note_walk(netns, snapshot.began_ns);
            merge.settle(namespace)
        } else {
            namespace.is_surveyed |= snapshot.scope.has(Scope::LINGERING) && snapshot.has_cookies;
            was_known
        };
        let drift = if is_drift { merge.corrected() } else { 0 };
        self.tally.corrected += drift;
        drift
    }

    /// Both families of a namespace together.
    pub(crate) fn published(&self, netns: u32) -> Counts {
        let mut counts = Counts::default();
        for family in Family::ALL {
            counts += self.counts(netns, family);
        }
        counts
    }

    /// An audit of a namespace has just been taken over; `published` is what was told before.
    pub(crate) fn note_audit(&mut self, netns: u32, published: &Counts) {
        let asked = self.published(netns);
        self.checked.note_audit(netns, published, &asked);
    }

    /// When namespaces were last walked, and what audits found.
    pub(crate) const fn checked(&self) -> &Checked {
        &self.checked
    }

    /// Whether the counts of any namespace may be wrong, as far as anything tells.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.may_lack_namespaces || self.namespaces.values().any(Namespace::is_in_doubt)
    }

    /// How far the counts of a namespace can be trusted; one that is not known is in doubt.
    pub(crate) fn doubt(&self, netns: u32) -> Doubt {
        let namespace = self.namespaces.get(&netns);
        Doubt {
            is_in_doubt: namespace.is_none_or(Namespace::is_in_doubt),
            uncertain: namespace.map(Namespace::uncertain).unwrap_or_default(),
        }
    }

    /// Transitions that cannot be applied, as they do not name their sockets: they ask for a
    /// snapshot of their namespace, or of all.
    pub(crate) fn disturb(&mut self, netns: Option<u32>) {
        match netns {
            Some(netns) => self.namespaces.entry(netns).or_default().note_movement(),
            None => self
                .namespaces
                .values_mut()
                .for_each(Namespace::note_movement),
        }
    }

    /// Whether the figures of this namespace are to be read now, rather than in turn.
    pub(crate) fn is_active(&self, netns: u32, now_ns: u64) -> bool {
        let namespace = self.namespaces.get(&netns);
        namespace.is_none_or(|namespace| namespace.is_active(now_ns))
    }

    /// Whether the figures of this namespace contradicted its counts just now, for the first time.
    pub(crate) fn is_first_contradiction(&self, netns: u32) -> bool {
        let namespace = self.namespaces.get(&netns);
        namespace.is_some_and(Namespace::is_first_contradiction)
    }

    /// When the figures of this namespace were last read, and whether it has any socket.
    pub(crate) fn last_reading(&self, netns: u32) -> (u64, bool) {
        let namespace = self.namespaces.get(&netns);
        let read_at_ns = namespace.map_or(0, Namespace::read_at_ns);
        (read_at_ns, self.total(netns) > 0)
    }

    /// Whether every lingering socket of a namespace is known, with the least age that the kernel
    /// tells.
    pub(crate) fn is_surveyed(&self, netns: u32) -> bool {
        let namespace = self.namespaces.get(&netns);
        namespace.is_some_and(|namespace| namespace.is_surveyed)
    }

    /// Whether a full socket is known to be in this state.
    pub(crate) fn holds(&self, cookie: u64, state: State) -> bool {
        let socket = self.sockets.get(cookie);
        socket.is_some_and(|socket| socket.state == state)
    }

    /// Since when a socket is in the state that a survey saw it in (`CLOCK_MONOTONIC`, nanoseconds),
    /// and whether that is a lower bound of its age; None where nothing is known.
    pub(crate) fn since(&self, socket: &Evidence) -> Option<(u64, bool)> {
        if socket.is_minisocket {
            let ends = Ends::new(socket.family, socket.local, socket.remote);
            let namespace = self.namespaces.get(&socket.netns)?;
            return namespace.minisockets.since(&ends, socket.cookie);
        }
        let known = self.sockets.get(socket.cookie)?;
        (known.state == socket.state).then_some((known.since_ns, known.is_lower_bound()))
    }

    /// The system was suspended: see [`Sockets::note_suspension`].
    pub(crate) fn note_suspension(&mut self) {
        self.sockets.note_suspension();
        for namespace in self.namespaces.values_mut() {
            namespace.minisockets.note_suspension();
        }
    }

    /// Gives back the room that a storm took.
    pub(crate) fn shrink(&mut self) {
        self.sockets.shrink();
    }
}

impl Namespace {
    /// A transition was applied to the table of sockets; how long an orphan that it ends had been in
    /// FIN_WAIT2.
    fn note_applied(
        &mut self,
        applied: &Applied,
        transition: &Transition,
        tally: &mut Tally,
    ) -> Option<Duration> {
        match applied.news {
            News::Expected => {}
            News::Repeated => {
                tally.repeated += 1;
                tally.duplicated += u64::from(transition.is_nested);
                return None;
            }
            News::Contradicting => self.note_contradiction(transition, tally),
            // Before Linux 6.15 a child has no cookie of its own when it is born.
            News::Unplaced if transition.is_birth() && transition.cookie.is_none() => return None,
            News::Unplaced => {
                self.note_movement();
                return None;
            }
        }
        self.recount(transition.family, applied.left, applied.entered);
        if self.listed.is_some() {
            // It cannot be joined with what the last snapshot listed.
            self.note_movement();
        }
        let handover = transition.continues_as();
        self.note_step(
            transition,
            applied.left,
            applied.entered,
            handover.is_some(),
        );
        if let (Some(window), Some(cookie)) = (&mut self.window, transition.cookie) {
            window.touched.insert(cookie);
            if handover == Some(Handover::TimeWait) {
                window.handed_over.insert(cookie, transition.family);
            }
        }
        if handover.is_some() {
            self.minisockets.note_handover();
        }
        match handover {
            Some(Handover::TimeWait) => {
                let (family, at_ns) = (transition.family, transition.ktime_ns);
                self.minisockets.add_time_wait(family, at_ns);
                None
            }
            Some(Handover::FinWait2) => {
                self.minisockets.add_orphan(HandedOver {
                    cookie: transition.cookie.unwrap_or_default(),
                    ends: Ends::new(transition.family, transition.local, transition.remote),
                    is_askable: !transition.is_bound_to_device,
                    since_ns: applied.after().and_then(|after| {
                        let after_ns = u64::try_from(after.as_nanos()).ok()?;
                        transition.ktime_ns.checked_sub(after_ns)
                    }),
                    at_ns: transition.ktime_ns,
                });
                None
            }
            None => self.note_neighbours(transition),
        }
    }

    /// A socket left one state for another.
    fn recount(&mut self, family: Family, left: Option<State>, entered: Option<State>) {
        let Some(full) = self.full.get_mut(family_slot(family)) else {
            return;
        };
        if let Some(left) = left {
            let is_counted = full.take(left);
            debug_assert!(is_counted, "the counts follow from the table");
        }
        if let Some(entered) = entered {
            full.add(entered, 1);
        }
    }

    /// A transition started where the table did not have its socket. In a namespace that was not walked
    /// yet that is no news.
    fn note_contradiction(&mut self, transition: &Transition, tally: &mut Tally) {
        if self.trust == Trust::Unknown {
            return;
        }
        tally.contradicting += 1;
        self.questions.extend(transition.cookie);
    }

    /// A socket was born, which ends its request; or it sent a FIN, which ends its peer's FIN_WAIT2. How
    /// long that had been in it.
    fn note_neighbours(&mut self, transition: &Transition) -> Option<Duration> {
        let ends = || Ends::new(transition.family, transition.local, transition.remote);
        let to = transition.to.known()?;
        match to {
            State::SynRecv | State::Established if !self.requests.is_empty() => {
                self.requests.remove(&ends());
                None
            }
            State::LastAck | State::FinWait1 if self.minisockets.has_orphans() => {
                let peer = ends().reversed();
                let minisockets = &mut self.minisockets;
                let time = minisockets.note_peer_fin(&peer, transition.ktime_ns);
                // One end may be v4-mapped, and the other not.
                time.or_else(|| {
                    minisockets.note_peer_fin(&peer.other_family()?, transition.ktime_ns)
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
