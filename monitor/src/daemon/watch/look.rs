//! A closer look: the sockets of some namespaces, who holds them, and the verdicts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Serialize, Serializer};
use tokio::task::spawn_blocking;

use super::super::live::{monotonic, nanoseconds};
use super::super::memory;
use super::super::walks::{SETTLE, Walker};
use super::{Pays, Watch, services};
use crate::inventory::{Error, Meter, Namespace};
use crate::survey::{self, Look, Scene};
use crate::tcp::{Evidence, State};
use crate::track::stuck::{Age, Finding, Owner, Report, Severity};
use crate::track::{Leak, leak_findings};

impl Watch {
    /// Surveys these namespaces, judges what is in them, and updates the board; with the look come the
    /// findings on groups. A namespace that cannot be surveyed stays as it was.
    pub(super) async fn look(
        &mut self,
        walker: &Walker,
        namespaces: &[Namespace],
        pays: Pays,
    ) -> Result<(Look, Vec<Finding>)> {
        let began = monotonic();
        if !self.live.borrow().is_identifying() {
            // No event tells who has left.
            self.live.borrow_mut().lingering.suspect_all();
        }
        let mut scene = Scene::default();
        let mut cost = Duration::ZERO;
        for namespace in namespaces {
            cost += self.survey(walker, namespace, &mut scene).await?;
        }
        let covered: BTreeSet<u32> = scene.limits.keys().copied().collect();
        let leaks = self.leaks.leaks().copied();
        let leaks: Vec<Leak> = leaks
            .filter(|leak| covered.contains(&leak.service.netns))
            .collect();
        let judged = monotonic();
        let ages = self.ages(&scene, judged);
        let (eyes, rules) = (self.eyes.clone(), Arc::clone(&self.rules));
        let mut counts = std::mem::take(&mut self.counts);
        let judge = move || {
            let meter = Meter::start();
            let look = Look::new(scene, &eyes, rules, ages);
            let stuck: Vec<(usize, Severity)> = look.stuck().collect();
            let mut groups = look.counted(&mut counts, judged);
            groups.extend(leaked(&look, &leaks, judged));
            (look, stuck, groups, counts, meter.stop().cpu)
        };
        let (look, stuck, groups, counts, judging) =
            spawn_blocking(judge).await.context("cannot judge")?;
        self.counts = counts;
        self.spend(cost + judging, pays);
        let is_covered = |finding: &Finding| {
            // What a count rule adds up is looked for in every namespace.
            let is_seen = finding.group.is_some() || covered.contains(&finding.netns);
            is_seen && finding.state != State::TimeWait
        };
        let now_ns = nanoseconds(judged);
        self.board.begin_look(|netns| covered.contains(&netns));
        self.board.update_with(now_ns, &groups, |finding| {
            is_covered(finding) && finding.is_group()
        });
        let found = stuck.into_iter().filter_map(|(at, severity)| {
            let key = look.key(at)?;
            let look = &look;
            Some((key, severity, move || look.finding(at)))
        });
        self.board.update(now_ns, found, |finding| {
            is_covered(finding) && !finding.is_group()
        });
        self.looked
            .extend(covered.iter().map(|netns| (*netns, began)));
        memory::return_freed();
        Ok((look, groups))
    }

    /// Adds one namespace to the scene, and brings the lingering table up to it; what that cost.
    async fn survey(
        &mut self,
        walker: &Walker,
        namespace: &Namespace,
        scene: &mut Scene,
    ) -> Result<Duration> {
        let netns = namespace.inode;
        let began_ns = nanoseconds(monotonic());
        {
            let mut live = self.live.borrow_mut();
            live.drain_all();
            live.lingering.begin();
        }
        let taken = walker
            .survey(
                namespace.clone(),
                survey::LINGERING,
                Vec::new(),
                Scene::collect,
            )
            .await;
        tokio::time::sleep(SETTLE).await;
        let mut live = self.live.borrow_mut();
        live.drain_all();
        let survey = match taken {
            Ok(survey) => survey,
            Err(Error::Stopped) => return Err(Error::Stopped.into()),
            Err(error) => {
                live.lingering.abandon();
                drop(live);
                self.note_failure(netns, &error);
                return Ok(Duration::ZERO);
            }
        };
        let now_ns = nanoseconds(monotonic());
        let found = survey
            .found
            .iter()
            .filter_map(|socket| survey::entered(socket, now_ns));
        live.lingering.finish(netns, began_ns, found);
        drop(live);
        let cost = survey.cost.cpu;
        if survey.is_fallback && self.failing.insert(netns) {
            tracing::warn!(netns, "{}", survey::NO_TCP_DIAG);
        }
        self.overflows.observe(netns, &survey.limits);
        scene.add(netns, survey);
        Ok(cost)
    }

    /// A namespace that has gone is none; anything else is worth a word.
    fn note_failure(&mut self, netns: u32, error: &Error) {
        if !matches!(error, Error::Gone { .. }) && self.failing.insert(netns) {
            tracing::warn!(netns, "cannot look for what lingers: {error}");
        }
    }

    /// The age of each of the scene's sockets; None where it has left its state meanwhile.
    fn ages(&self, scene: &Scene, now: Duration) -> Vec<Option<Age>> {
        let live = self.live.borrow();
        let now_ns = nanoseconds(now);
        let known = live.lingering.known();
        let age = |socket: &Evidence| match known.since(socket) {
            Some(since) => Some(survey::watched(since, now_ns)),
            None if socket.is_minisocket || socket.cookie == 0 => Some(survey::unwatched(socket)),
            None if !live.lingering.is_complete(socket.netns) => Some(survey::unwatched(socket)),
            None => None,
        };
        scene.sockets.iter().map(age).collect()
    }

    /// Everything that is stuck, or all that lingers, of one namespace or of all, and the notices
    /// after the first `given`.
    ///
    /// # Errors
    /// The inventory thread is gone.
    pub(in crate::daemon) async fn report(
        &mut self,
        walker: &Walker,
        known: &[Namespace],
        wanted: Wanted,
        given: u64,
    ) -> Result<Report<Findings>> {
        // An owner's sockets, which a count rule adds up, may be in several namespaces.
        let takes_all = !self.rules.counts.is_empty();
        let surveyed: Vec<Namespace> = {
            let (live, watched) = (self.live.borrow(), self.watched());
            let is_due = |known: &&Namespace| {
                let netns = known.inode;
                let lingers = live.census.lingering(netns) > 0 || watched.contains(&netns);
                lingers && (takes_all || wanted.has(netns))
            };
            known.iter().filter(is_due).cloned().collect()
        };
        let (look, mut groups) = self.look(walker, &surveyed, Pays::Nobody).await?;
        let is_missing =
            |known: &&Namespace| !look.scene.limits.contains_key(&known.inode) && known.is_there();
        let missing = surveyed.iter().filter(is_missing);
        let missing: Vec<u32> = missing.map(|known| known.inode).collect();
        let of_ports = |finding: &&Finding| finding.state == State::TimeWait;
        groups.extend(self.board.raised().filter(of_ports).cloned());
        self.log();
        let findings = Findings {
            groups,
            look,
            wanted,
        };
        Ok(Report {
            missing,
            ..self.board.report(findings, given)
        })
    }
}

/// A finding for each process that holds sockets of a leak.
fn leaked(look: &Look, leaks: &[Leak], now: Duration) -> Vec<Finding> {
    if leaks.is_empty() {
        return Vec::new();
    }
    let owned = look.owned();
    let findings = leaks.iter().flat_map(|leak| {
        let limits = look.scene.limits.get(&leak.service.netns);
        let mut shares: BTreeMap<u32, (Owner, u64)> = BTreeMap::new();
        for (socket, owners) in &owned {
            let ports = (socket.local.port(), socket.remote.port());
            let is_in = socket.state == State::CloseWait
                && services(limits, socket.netns, ports).any(|service| service == leak.service);
            for owner in owners.iter().filter(|_| is_in) {
                let share = shares.entry(owner.process.pid);
                share.or_insert_with(|| (owner.clone(), 0)).1 += 1;
            }
        }
        let shares: Vec<(Owner, u64)> = shares.into_values().collect();
        leak_findings(leak, now, &shares)
    });
    findings.collect()
}

/// Which findings an asker wants.
#[derive(Clone, Copy, Debug)]
pub(in crate::daemon) struct Wanted {
    /// Those without severity, too.
    pub(in crate::daemon) all: bool,
    /// Of this namespace only.
    pub(in crate::daemon) netns: Option<u32>,
}

impl Wanted {
    fn has(self, netns: u32) -> bool {
        self.netns.is_none_or(|wanted| wanted == netns)
    }
}

/// A list of findings that are made one by one, while they are written.
pub(in crate::daemon) struct Findings {
    groups: Vec<Finding>,
    look: Look,
    wanted: Wanted,
}

impl Serialize for Findings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sockets = self.look.findings(self.wanted.all);
        let all = self.groups.iter().cloned().chain(sockets);
        serializer.collect_seq(all.filter(|finding| self.wanted.has(finding.netns)))
    }
}
