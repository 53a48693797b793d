//! A closer look: the sockets of some namespaces, who holds them, and the verdicts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Serialize, Serializer};

use super::super::live::Live;
use super::super::memory;
use super::super::walks::{Walker, reply};
use super::{ChargedTo, Watch};
use crate::clock::{monotonic, nanoseconds};
use crate::inventory::{Answer, Asked, Error, Meter, Namespace};
use crate::survey::{self, Found, JudgedSockets, LingeringSockets};
use crate::tcp::Evidence;
use crate::track::{Incident, Kind, Leak, Question, Report, Scope, Snapshot};

/// With more lingering sockets than this a namespace is walked: that costs as much beside 100,000
/// sockets.
const MOST_ASKED: usize = 2_000;

impl Watch {
    /// Surveys these namespaces, judges what is in them, and updates the incidents. A namespace that cannot be surveyed stays as it was.
    pub(super) async fn look(
        &mut self,
        walker: &Walker,
        namespaces: &[Namespace],
        charged_to: ChargedTo,
    ) -> Result<JudgedSockets> {
        let began = monotonic();
        if !self.live.borrow().is_identifying() {
            // No event tells who has left.
            self.live.borrow_mut().census.forget_surveys();
        }
        let mut lingering = LingeringSockets::new(Arc::clone(&self.names));
        let (mut cost, rest) = self.ask(walker, namespaces, &mut lingering).await?;
        for namespace in rest {
            cost += self.survey(walker, &namespace, &mut lingering).await?;
        }
        let covered: BTreeSet<u32> = lingering.limits.keys().copied().collect();
        for netns in &covered {
            lingering.add_mptcp(*netns, self.mptcp.lingering(*netns));
        }
        let leaks = self.leaks.leaks().copied();
        let leaks: Vec<Leak> = leaks
            .filter(|leak| covered.contains(&leak.service.netns))
            .collect();
        let judged = monotonic();
        self.set_ages(&mut lingering, judged);
        let (holder_source, rules) = (self.holder_source.clone(), Arc::clone(&self.rules));
        let mut counts = std::mem::take(&mut self.counts);
        let judge = move || {
            let meter = Meter::start();
            let look = JudgedSockets::new(lingering, &holder_source, rules);
            let incidents = look.incidents(&leaks, &mut counts, judged);
            (look, incidents, counts, meter.stop().cpu)
        };
        let (look, incidents, counts, judging) =
            self.looker.start(judge).await.context("cannot judge")?;
        self.counts = counts;
        self.spend(cost + judging, charged_to);
        self.active
            .update(nanoseconds(judged), incidents, |incident| {
                // What a count rule adds up is looked for in every namespace.
                let is_seen = incident.kind == Kind::Count || covered.contains(&incident.netns);
                is_seen && incident.kind.is_of_judged_sockets()
            });
        self.active
            .judge(|netns| covered.contains(&netns), look.tally());
        self.looked
            .extend(covered.iter().map(|netns| (*netns, began)));
        memory::return_freed();
        Ok(look)
    }

    /// What to ask about every lingering socket, as of all transitions so far.
    fn lingering_questions(&self, namespaces: &[Namespace]) -> BTreeMap<u32, Vec<Question>> {
        let inodes = namespaces.iter().map(|namespace| namespace.inode).collect();
        let mut live = self.live.borrow_mut();
        live.drain_all();
        if live.is_identifying() {
            live.census.lingering_questions(&inodes, MOST_ASKED)
        } else {
            BTreeMap::new()
        }
    }

    /// Adds the namespaces of which every lingering socket is known, and can be asked for
    /// by its ends: a walk looks through the whole host's table. What that cost, and the others.
    async fn ask(
        &mut self,
        walker: &Walker,
        namespaces: &[Namespace],
        lingering: &mut LingeringSockets,
    ) -> Result<(Duration, Vec<Namespace>)> {
        let questions = self.lingering_questions(namespaces);
        let is_askable = |namespace: &Namespace| {
            questions.contains_key(&namespace.inode) && self.limits.contains_key(&namespace.inode)
        };
        let (askable, mut rest): (Vec<Namespace>, Vec<Namespace>) = namespaces
            .iter()
            .cloned()
            .partition(|namespace| is_askable(namespace));
        if askable.is_empty() {
            return Ok((Duration::ZERO, rest));
        }
        let wanted = askable.iter().map(|namespace| {
            let questions = questions.get(&namespace.inode);
            (namespace.clone(), questions.cloned().unwrap_or_default())
        });
        let answers = walker.exact(wanted.collect(), true).await?;
        if !Live::settle(&self.live).await {
            return Ok((Duration::ZERO, rest));
        }
        let mut cost = Duration::ZERO;
        for (namespace, (netns, outcome)) in askable.into_iter().zip(answers) {
            let asked = match outcome {
                Ok(asked) => asked,
                Err(Error::Stopped) => return Err(Error::Stopped.into()),
                Err(error) => {
                    self.note_failure(netns, &error);
                    continue;
                }
            };
            cost += asked.cost.cpu;
            let of_namespace = questions.get(&netns).map(Vec::as_slice);
            let is_whole =
                self.take_answers(netns, of_namespace.unwrap_or_default(), &asked, lingering);
            if !is_whole {
                rest.push(namespace);
            } else if lingering.needs_listeners(netns) {
                let listeners = walker
                    .survey(namespace, survey::LISTENERS, Found::default(), Found::take)
                    .await;
                match listeners {
                    Ok(survey) => {
                        cost += survey.cost.cpu;
                        lingering.add(netns, survey.found, survey.limits);
                    }
                    Err(Error::Stopped) => return Err(Error::Stopped.into()),
                    Err(error) => self.note_failure(netns, &error),
                }
            }
        }
        Ok((cost, rest))
    }

    /// Adds what the kernel says of some sockets to the lingering ones, and to the census; false, and nothing
    /// done, where it is unclear.
    fn take_answers(
        &mut self,
        netns: u32,
        questions: &[Question],
        asked: &Asked,
        lingering: &mut LingeringSockets,
    ) -> bool {
        let is_unclear = |answer: &Answer| matches!(answer, Answer::Unclear);
        let limits = self.limits.get(&netns).map(|(limits, _)| limits.clone());
        let (Some(limits), false) = (limits, asked.answers.iter().any(is_unclear)) else {
            return false;
        };
        let mut live = self.live.borrow_mut();
        let mut found = Found::default();
        for (question, answer) in questions.iter().zip(&asked.answers) {
            live.census
                .take_reply(netns, question, reply(answer), asked.asked_from_ns);
            if let Answer::Socket(socket) = answer
                && socket.state.is_lingering()
            {
                live.census
                    .explain(&survey::seen(socket, asked.asked_until_ns));
                found.take(socket);
            }
        }
        live.census.note_surveyed(netns);
        drop(live);
        lingering.add(netns, found, limits);
        true
    }

    /// Adds one namespace, and brings the lingering table up to it; what that cost.
    async fn survey(
        &mut self,
        walker: &Walker,
        namespace: &Namespace,
        lingering: &mut LingeringSockets,
    ) -> Result<Duration> {
        let netns = namespace.inode;
        let began_ns = nanoseconds(monotonic());
        {
            let mut live = self.live.borrow_mut();
            live.drain_all();
            live.census.begin(netns);
        }
        let taken = walker
            .survey(
                namespace.clone(),
                survey::LINGERING,
                Found::default(),
                Found::take,
            )
            .await;
        let is_settled = Live::settle(&self.live).await;
        let mut live = self.live.borrow_mut();
        let survey = match taken {
            Ok(survey) if !is_settled => {
                live.census.abandon(netns);
                return Ok(survey.cost.cpu);
            }
            Ok(survey) => survey,
            Err(Error::Stopped) => return Err(Error::Stopped.into()),
            Err(error) => {
                live.census.abandon(netns);
                drop(live);
                self.note_failure(netns, &error);
                return Ok(Duration::ZERO);
            }
        };
        let now_ns = nanoseconds(monotonic());
        let snapshot = Snapshot {
            scope: Scope::LINGERING,
            has_cookies: !survey.is_fallback,
            is_alone: !live.is_identifying(),
            began_ns,
        };
        let found = survey.found.iter(netns);
        let found = found.map(|socket| survey::seen(&socket, now_ns));
        let _: u64 = live.census.finish(netns, snapshot, found);
        drop(live);
        let cost = survey.cost.cpu;
        if survey.is_fallback && self.failing.insert(netns) {
            tracing::warn!(netns, "{}", survey::NO_TCP_DIAG);
        }
        self.overflows.observe(netns, &survey.limits);
        lingering.add(netns, survey.found, survey.limits);
        Ok(cost)
    }

    /// A namespace that has gone is none; anything else is worth a word.
    fn note_failure(&mut self, netns: u32, error: &Error) {
        if !matches!(error, Error::Gone { .. }) && self.failing.insert(netns) {
            tracing::warn!(netns, "cannot check for lingering sockets: {error}");
        }
    }

    /// Gives each lingering socket its age; none to one that has left its state meanwhile.
    fn set_ages(&self, lingering: &mut LingeringSockets, now: Duration) {
        let live = self.live.borrow();
        let now_ns = nanoseconds(now);
        let age_of_mptcp = |socket: &Evidence| {
            let since_ns = self
                .mptcp
                .since(socket.netns, socket.cookie, socket.state)?;
            Some(survey::watched((since_ns, true), now_ns))
        };
        lingering.set_ages(|socket| match live.census.since(socket) {
            _ if socket.is_mptcp => age_of_mptcp(socket),
            Some(since) => Some(survey::watched(since, now_ns)),
            None if socket.is_minisocket || socket.cookie == 0 => Some(survey::unwatched(socket)),
            None if !live.census.is_surveyed(socket.netns) => Some(survey::unwatched(socket)),
            None => None,
        });
    }

    /// Everything that is stuck, or all that lingers, of one namespace or of all, for each who wants
    /// it: all share one look.
    ///
    /// # Errors
    /// The inventory thread is gone.
    pub(in crate::daemon) async fn reports(
        &mut self,
        walker: &Walker,
        known: &[Namespace],
        wanted: &[Wanted],
    ) -> Result<Vec<Report<SocketList>>> {
        // An owner's sockets, which a count rule adds up, may be in several namespaces.
        let takes_all = !self.rules.counts.is_empty();
        let surveyed: Vec<Namespace> = {
            let (live, mut watched) = (self.live.borrow(), self.watched());
            watched.extend(self.mptcp.namespaces());
            let is_due = |known: &&Namespace| {
                let netns = known.inode;
                let lingers = live.census.lingering(netns) > 0 || watched.contains(&netns);
                lingers && (takes_all || wanted.iter().any(|wanted| wanted.has(netns)))
            };
            known.iter().filter(is_due).cloned().collect()
        };
        let look = self.look(walker, &surveyed, ChargedTo::Nobody).await?;
        let is_missing = |known: &Namespace| !look.lingering.limits.contains_key(&known.inode);
        let missing = surveyed.into_iter().filter(is_missing).collect();
        let missing = walker.still_there(missing).await?;
        let missing: Vec<u32> = missing.iter().map(|known| known.inode).collect();
        self.log();
        let now_ns = nanoseconds(monotonic());
        let shared = Arc::new(Shown { look });
        self.shown = Arc::downgrade(&shared);
        let report = |wanted: &Wanted| {
            let wanted_has = |netns| wanted.has(netns);
            let shown = Arc::clone(&shared);
            let is_wanted = |incident: &Incident| !wanted.each && wanted.has(incident.netns);
            let incidents = self.active.ranked(now_ns, is_wanted);
            let sockets = SocketList {
                shown,
                wanted: *wanted,
            };
            let missing = missing
                .iter()
                .copied()
                .filter(|netns| takes_all || wanted.has(*netns));
            let live = self.live.borrow();
            let counted = |state| {
                let wanted = known.iter().map(|known| known.inode);
                let wanted = wanted.filter(|netns| wanted_has(*netns));
                Some(live.census.sockets_in(wanted, state))
            };
            Report {
                missing: missing.collect(),
                states: shared.look.lingering(wanted_has, counted),
                ..self.active.report(sockets, incidents, wanted.given)
            }
        };
        Ok(wanted.iter().map(report).collect())
    }

    /// Whether a look is kept in memory for those who take its findings: there is room for one.
    pub(in crate::daemon) fn is_shown(&self) -> bool {
        self.shown.strong_count() > 0
    }
}

/// What an asker wants.
#[derive(Clone, Copy, Debug)]
pub(in crate::daemon) struct Wanted {
    /// Single sockets in place of incidents.
    pub(in crate::daemon) each: bool,
    /// Those without severity, too.
    pub(in crate::daemon) all: bool,
    /// Of this namespace only.
    pub(in crate::daemon) netns: Option<u32>,
    /// The notices after the first `given` ever given.
    pub(in crate::daemon) given: u64,
}

impl Wanted {
    fn has(self, netns: u32) -> bool {
        self.netns.is_none_or(|wanted| wanted == netns)
    }
}

/// A look that is shown to those who asked.
pub(super) struct Shown {
    look: JudgedSockets,
}

/// A list of sockets that are made one by one, while they are written.
pub(in crate::daemon) struct SocketList {
    shown: Arc<Shown>,
    wanted: Wanted,
}

impl Serialize for SocketList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { shown, wanted } = self;
        let all = wanted.each.then(|| shown.look.findings(wanted.all));
        let all = all.into_iter().flatten();
        serializer.collect_seq(all.filter(|found| wanted.has(found.netns)))
    }
}
