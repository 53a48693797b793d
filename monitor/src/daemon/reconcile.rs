//! Holds the census to the kernel: finds namespaces, reads their figures, walks where needed.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Settings;
use super::control::Asker;
use super::live::{Live, monotonic};
use super::walks::{Walker, seen, summarize};
use crate::inventory::{Depth, Error, Namespace, Worker};
use crate::tcp::Counts;
use crate::track::{Budget, Figures, Snapshot, Source, Summary, Verdict};

/// Namespaces are looked for this often, and at once when a transition names an unknown one.
const DISCOVER_EVERY: Duration = Duration::from_secs(5);
/// A namespace in which nothing moves is checked in one of so many rounds.
const QUIET_ROUNDS: u64 = 8;
/// A record that is reserved is filled within microseconds; this is ample.
const SETTLE: Duration = Duration::from_millis(1);

pub(super) struct Reconciler {
    live: Rc<RefCell<Live>>,
    walker: Walker,
    namespaces: Vec<Namespace>,
    discovered: Option<Instant>,
    budget: Budget,
    round: u64,
    interval: Duration,
    summary_every: Duration,
    /// What the log said last, and when.
    logged: (Counts, Option<Instant>),
    unreadable: u64,
}

impl Reconciler {
    pub(super) fn new(live: Rc<RefCell<Live>>, worker: Worker, settings: &Settings) -> Self {
        Self {
            live,
            walker: Walker::new(worker),
            namespaces: Vec::new(),
            discovered: None,
            budget: Budget::new(settings.walk_share, monotonic()),
            round: 0,
            interval: settings.interval,
            summary_every: settings.summary_every,
            logged: (Counts::default(), None),
            unreadable: 0,
        }
    }

    /// Takes the first snapshot of every namespace.
    ///
    /// # Errors
    /// Namespaces cannot be found or entered at all.
    pub(super) async fn start(&mut self) -> Result<()> {
        self.round(true).await?;
        tracing::info!(namespaces = self.namespaces.len(), "first snapshot taken");
        self.log_summary("counts");
        Ok(())
    }

    /// A round every interval, and one for each question.
    ///
    /// # Errors
    /// The inventory thread is gone.
    pub(super) async fn run(&mut self, mut requests: mpsc::Receiver<Asker>) -> Result<()> {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut askers = Vec::new();
            tokio::select! {
                _ = ticks.tick() => {}
                Some(asker) = requests.recv() => askers.push(asker),
            }
            while let Ok(asker) = requests.try_recv() {
                askers.push(asker);
            }
            self.round(!askers.is_empty()).await?;
            for asker in askers {
                // An asker that has gone away needs no answer.
                drop(asker.send(self.summary()));
            }
            let is_due = self
                .logged
                .1
                .is_none_or(|at| at.elapsed() >= self.summary_every);
            if is_due && self.summary().sockets() != self.logged.0 {
                self.log_summary("counts");
            }
        }
    }

    pub(super) fn summary(&self) -> Summary {
        let live = self.live.borrow();
        summarize(
            &live.census,
            &self.namespaces,
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
        let is_due = self
            .discovered
            .is_none_or(|at| at.elapsed() >= DISCOVER_EVERY);
        let has_unknown = {
            let live = self.live.borrow();
            let mut spoke = live.census.namespaces();
            spoke.any(|netns| self.namespaces.iter().all(|known| known.inode != netns))
        };
        if !is_asked && !is_due && !has_unknown {
            return Ok(());
        }
        let depth = if has_unknown {
            Depth::Threads
        } else {
            Depth::Processes
        };
        let found = self
            .walker
            .discover(depth)
            .await
            .context("cannot look for network namespaces")?;
        if found.unreadable > self.unreadable {
            tracing::warn!(
                processes = found.unreadable,
                "the namespaces of some processes cannot be read, so theirs may be missing"
            );
        }
        self.unreadable = found.unreadable;
        let inodes: Vec<u32> = found.namespaces.iter().map(|found| found.inode).collect();
        self.live.borrow_mut().census.cover(&inodes);
        self.namespaces = found.namespaces;
        self.discovered = Some(Instant::now());
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
        let due: Vec<Namespace> = self.namespaces.iter().filter(is_due).cloned().collect();
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
        let is_allowed = is_asked || is_urgent || self.budget.allows(monotonic());
        let namespace = self.namespaces.iter().find(|known| known.inode == netns);
        let (false, true, Some(namespace)) = (walk.is_empty(), is_allowed, namespace) else {
            return Ok(());
        };
        self.live.borrow_mut().census.begin(netns);
        let taken = self.walker.snapshot(namespace.clone(), walk).await;
        self.settle().await;
        let mut live = self.live.borrow_mut();
        match taken {
            Ok(taken) => {
                self.budget.spend(taken.cost.cpu);
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
        self.discovered = None;
        if !matches!(error, Error::Gone { .. }) {
            tracing::warn!(netns, "cannot take the inventory: {error}");
        }
    }
}
