//! Holds the census to the kernel: finds namespaces, reads their figures, walks where needed.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Settings;
use super::control::{Asker, Question, Reply};
use super::live::{Live, monotonic};
use super::owners::OwnerWatch;
use super::roster::Roster;
use super::sampler::Sampler;
use super::walks::{SETTLE, Walker, seen, summarize};
use super::watch::{Wanted, Watch};
use crate::inventory::{Error, Namespace, Worker};
use crate::output::json;
use crate::publish::Publisher;
use crate::tcp::Counts;
use crate::track::{Budget, Figures, Snapshot, Source, Summary, Verdict};

/// Between two samples for the outlets.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// An answer waits for so many rounds at most to be free of doubt.
const ROUNDS_FOR_AN_ANSWER: usize = 3;
/// A namespace in which nothing moves is checked in one of so many rounds.
const QUIET_ROUNDS: u64 = 4;

pub(super) struct Reconciler {
    live: Rc<RefCell<Live>>,
    walker: Walker,
    roster: Roster,
    /// Namespaces of which a failure was logged.
    failing: BTreeSet<u32>,
    budget: Budget,
    /// CPU time of all walks so far.
    walked: Duration,
    watch: Watch,
    owners: OwnerWatch,
    sampler: Rc<RefCell<Sampler>>,
    publisher: Rc<Publisher>,
    round: u64,
    interval: Duration,
    summary_every: Duration,
    /// What the log said last, and when.
    logged: (Counts, Option<Instant>),
}

impl Reconciler {
    pub(super) fn new(
        live: Rc<RefCell<Live>>,
        worker: Worker,
        publisher: Rc<Publisher>,
        settings: &Settings,
    ) -> Self {
        let watch = Watch::new(Rc::clone(&live), Rc::clone(&publisher), settings);
        Self {
            owners: OwnerWatch::new(watch.eyes(), settings.walk_share),
            sampler: Rc::new(RefCell::new(Sampler::new(settings.program.ring_bytes))),
            watch,
            walked: Duration::ZERO,
            live,
            walker: Walker::new(worker),
            roster: Roster::default(),
            failing: BTreeSet::new(),
            budget: Budget::new(settings.walk_share, monotonic()),
            publisher,
            round: 0,
            interval: settings.interval,
            summary_every: settings.summary_every,
            logged: (Counts::default(), None),
        }
    }

    /// Takes the first snapshot of every namespace.
    ///
    /// # Errors
    /// Namespaces cannot be found or entered at all.
    pub(super) async fn start(&mut self) -> Result<()> {
        self.round(true).await?;
        tracing::info!(
            namespaces = self.roster.known().len(),
            "first snapshot taken"
        );
        self.log_summary("counts");
        self.publish().await;
        Ok(())
    }

    /// A round every interval, and one for each question.
    ///
    /// # Errors
    /// The inventory thread is gone.
    pub(super) async fn run(&mut self, mut requests: mpsc::Receiver<Asker>) -> Result<()> {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seconds = interval(SAMPLE_EVERY);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (live, sampler) = (Rc::clone(&self.live), Rc::clone(&self.sampler));
        let publisher = Rc::clone(&self.publisher);
        let mut told = Instant::now();
        loop {
            let mut askers = Vec::new();
            tokio::select! {
                _ = ticks.tick() => {}
                _ = seconds.tick() => {
                    self.publish().await;
                    told = Instant::now();
                    continue;
                }
                Some(asker) = requests.recv() => askers.push(asker),
            }
            while let Ok(asker) = requests.try_recv() {
                askers.push(asker);
            }
            tokio::select! {
                ended = self.turn(askers) => ended?,
                never = Sampler::keep_fresh(&sampler, &live, &publisher, &mut seconds) => match never {},
            }
            if told.elapsed() >= SAMPLE_EVERY {
                // Its second has passed during the turn, which kept only the stream's figures fresh.
                self.publish().await;
                told = Instant::now();
            }
        }
    }

    /// A round, and the answers to those who asked.
    async fn turn(&mut self, askers: Vec<Asker>) -> Result<()> {
        self.round(!askers.is_empty()).await?;
        for _ in 1..ROUNDS_FOR_AN_ANSWER {
            if !askers.is_empty() && self.live.borrow().census.is_in_doubt() {
                self.round(true).await?;
            }
        }
        let known = self.roster.known();
        self.watch.round(&self.walker, known).await?;
        for Asker { question, reply } in askers {
            self.answer(question, reply).await?;
        }
        let is_due = self
            .logged
            .1
            .is_none_or(|at| at.elapsed() >= self.summary_every);
        if is_due && self.summary().sockets() != self.logged.0 {
            self.log_summary("counts");
        }
        Ok(())
    }

    /// Hands the figures of this moment to the outlets.
    async fn publish(&mut self) {
        self.live.borrow_mut().note_losses();
        let summary = self.summary();
        let (worker, known) = (self.walker.worker(), self.roster.known());
        self.owners.turn(summary.sockets(), worker, known).await;
        let (live, owners) = (self.live.borrow(), &self.owners);
        let mut sampler = self.sampler.borrow_mut();
        let sample = sampler.sample(&live, &mut self.watch, owners, summary, self.walked);
        self.publisher.publish(sample);
    }

    /// Answers on a thread of its own: an asker may be slow.
    async fn answer(&mut self, question: Question, reply: Reply) -> Result<()> {
        let known = self.roster.known();
        match question {
            // Answered already.
            Question::Version => {}
            Question::Status => {
                let summary = self.summary();
                reply.send(move |reply| json::write_status(reply, &summary));
            }
            Question::Ports => {
                let report = self.watch.ports(&self.walker, known).await?;
                reply.send(move |reply| json::write(reply, &report));
            }
            Question::Stuck {
                all,
                netns,
                known: given,
            } => {
                let wanted = Wanted { all, netns };
                let report = self
                    .watch
                    .report(&self.walker, known, wanted, given)
                    .await?;
                reply.send(move |reply| json::write(reply, &report));
            }
        }
        Ok(())
    }

    pub(super) fn summary(&self) -> Summary {
        let live = self.live.borrow();
        summarize(
            &live.census,
            self.roster.known(),
            Source::Daemon,
            live.totals(),
        )
    }

    pub(super) fn log_summary(&mut self, message: &'static str) {
        self.live.borrow_mut().note_losses();
        let summary = self.summary();
        let sockets = summary.sockets();
        let counts: Vec<String> = sockets
            .iter()
            .map(|(state, sockets)| format!("{state}={sockets}"))
            .collect();
        tracing::info!(
            received = summary.events.received,
            lost = summary.events.lost,
            drift = summary.drift,
            "{message}: {}",
            counts.join(" ")
        );
        self.logged = (sockets, Some(Instant::now()));
    }

    /// One look at the kernel. When `is_asked`, every doubt is settled before it returns;
    /// otherwise only what is known to be wrong, and what the budget allows.
    async fn round(&mut self, is_asked: bool) -> Result<()> {
        self.round += 1;
        self.live.borrow_mut().note_losses();
        self.discover_if_due(is_asked).await?;
        self.live.borrow_mut().drain_all();
        let due = self.due(is_asked);
        let figures = self.walker.figures(due).await?;
        self.settle().await;
        for (netns, figures) in figures {
            match figures {
                Ok(figures) => self.hold(netns, &figures, is_asked).await?,
                Err(error) => self.note_failure(netns, &error),
            }
        }
        self.live.borrow_mut().note_losses();
        Ok(())
    }

    async fn discover_if_due(&mut self, is_asked: bool) -> Result<()> {
        let spoke: Vec<u32> = self.live.borrow().census.namespaces().collect();
        let before: Vec<u32> = self
            .roster
            .known()
            .iter()
            .map(|known| known.inode)
            .collect();
        if self.roster.refresh(&self.walker, &spoke, is_asked).await? {
            let known = self.roster.known().iter();
            let inodes: Vec<u32> = known.map(|known| known.inode).collect();
            self.failing.retain(|netns| inodes.contains(netns));
            let gone = before.into_iter().filter(|netns| !inodes.contains(netns));
            let mut live = self.live.borrow_mut();
            live.lingering.forget(&gone.collect::<Vec<_>>());
            live.census.cover(&inodes);
        }
        Ok(())
    }

    /// The namespaces whose figures are to be read now. Their marks are set.
    fn due(&self, is_asked: bool) -> Vec<Namespace> {
        let mut live = self.live.borrow_mut();
        let census = &mut live.census;
        let is_due = |namespace: &&Namespace| {
            let inode = namespace.inode;
            let is_turn = u64::from(inode) % QUIET_ROUNDS == self.round % QUIET_ROUNDS;
            is_asked || is_turn || census.is_active(inode)
        };
        let due: Vec<Namespace> = self.roster.known().iter().filter(is_due).cloned().collect();
        for namespace in &due {
            census.mark(namespace.inode);
        }
        due
    }

    /// Makes sure that every transition up to now is applied.
    async fn settle(&self) {
        sleep(SETTLE).await;
        self.live.borrow_mut().drain_all();
    }

    /// Holds one namespace to its figures, with a walk where they do not suffice.
    async fn hold(&mut self, netns: u32, figures: &Figures, is_asked: bool) -> Result<()> {
        let Verdict { walk, is_urgent } = self.live.borrow_mut().census.check(netns, figures);
        let is_free = is_asked || is_urgent;
        let is_allowed = is_free || self.budget.allows(monotonic());
        let namespace = self.roster.get(netns);
        let (false, true, Some(namespace)) = (walk.is_empty(), is_allowed, namespace) else {
            return Ok(());
        };
        self.live.borrow_mut().census.begin(netns);
        let taken = self.walker.snapshot(namespace.clone(), walk).await;
        self.settle().await;
        if let Ok(taken) = &taken {
            self.walked += taken.cost.cpu;
            if !is_free {
                self.budget.spend(taken.cost.cpu);
            }
        }
        let mut live = self.live.borrow_mut();
        match taken {
            Ok(taken) => {
                let snapshot = Snapshot {
                    scope: walk,
                    has_cookies: !taken.is_fallback,
                };
                let rows = taken.rows.iter().map(seen);
                let corrected = live.census.finish(netns, snapshot, rows);
                if corrected > 0 {
                    tracing::info!(
                        netns,
                        sockets = corrected,
                        "a snapshot corrected the counts"
                    );
                    let lingering = live.census.lingering(netns);
                    live.lingering.suspect(netns, lingering);
                }
            }
            Err(Error::Stopped) => return Err(Error::Stopped.into()),
            Err(error) => {
                live.census.abandon(netns);
                drop(live);
                self.note_failure(netns, &error);
            }
        }
        Ok(())
    }

    /// A namespace that has gone is looked for again; anything else is worth a word.
    fn note_failure(&mut self, netns: u32, error: &Error) {
        self.roster.look_soon();
        if !matches!(error, Error::Gone { .. }) && self.failing.insert(netns) {
            tracing::warn!(netns, "cannot take the inventory: {error}");
        }
    }
}
