//! Holds the census to the kernel: finds namespaces, reads their figures, asks about single sockets,
//! and walks where that does not suffice.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::control::{Asker, Question as Asked, Reply as Answer};
use super::descriptors::DescriptorWatch;
use super::live::Live;
use super::namespaces::Namespaces;
use super::owners::OwnerWatch;
use super::queue::{Queue, Waiting};
use super::sampler::Sampler;
use super::service;
use super::wakeups::Ticker;
use super::walks::{Walker, seen, summarize};
use super::watch::{Wanted, Watch};
use super::{Lookers, NOT_RELOADED, Settings};
use crate::clock::{monotonic, nanoseconds};
use crate::inventory::{Error, Namespace, Worker};
use crate::output::json;
use crate::publish::Publisher;
use crate::tcp::Counts;
use crate::track::{Question, Scope, Snapshot, Source, Summary, Urgency};

/// A timer may be early by this.
const TICK_SLACK: Duration = Duration::from_millis(5);
/// Between two samples for the outlets.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// A sample for a client that asks is not taken sooner after the last one.
const REFRESH_EVERY: Duration = Duration::from_millis(100);
/// An answer waits for this many rounds at most to be free of doubt, and for about this long.
const ROUNDS_FOR_AN_ANSWER: usize = 3;
const TIME_FOR_AN_ANSWER: Duration = Duration::from_millis(250);
/// What is not walked by then when the daemon starts is walked later, within the budget, and in doubt
/// until then.
const TIME_FOR_THE_FIRST: Duration = Duration::from_secs(10);
/// The figures of a namespace with sockets, in which nothing moves, are read this often, and those of
/// one without. A round reads [`IN_TURN`] of them at most.
const QUIET_FOR: Duration = Duration::from_secs(5);
const EMPTY_FOR: Duration = Duration::from_secs(10);
const IN_TURN: usize = 128;
/// Of the namespaces in which something moves a round reads the figures of this many at most, those
/// that were read longest ago; one that was not read for [`OVERDUE`] is in doubt.
const ACTIVE: usize = 512;
const OVERDUE: Duration = Duration::from_millis(2_500);
/// A namespace with more full sockets than this is audited by a walk.
const AUDITED_BY_REQUESTS: u64 = 2_000;
/// Between a reading that contradicts the counts and the one that tells whether that lasts.
const READ_AGAIN: Duration = Duration::from_millis(5);
/// As many requests as this a round are always affordable: some milliseconds.
const FEW_REQUESTS: usize = 3_000;
/// Between two looks whether a list of what is stuck is written.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(20);
/// Between two audits of the same namespace, at least.
const AUDIT_EVERY: Duration = Duration::from_mins(1);

pub(super) struct Reconciler {
    live: Rc<RefCell<Live>>,
    walker: Walker,
    namespaces: Namespaces,
    /// Namespaces of which a failure was logged.
    failing: BTreeSet<u32>,
    queue: Queue,
    /// When each namespace was last audited.
    audited: BTreeMap<u32, Duration>,
    watch: Watch,
    owners: OwnerWatch,
    descriptors: DescriptorWatch,
    sampler: Rc<RefCell<Sampler>>,
    publisher: Rc<Publisher>,
    interval: Duration,
    summary_every: Duration,
    log_dropped: fn() -> u64,
    /// Lines of the log that were dropped, as the log has it.
    told_dropped: u64,
    /// Who waits for a list of what is stuck while another is written: there is memory for one.
    waiting: Vec<(Wanted, Answer)>,
    /// What the log said last, and when.
    logged: (Counts, Option<Instant>),
}

/// How thorough a round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    /// Within the budget.
    Usual,
    /// Everything that may be wrong, for somebody who waits; until this time.
    Asked { until: Duration },
}

impl Reconciler {
    pub(super) fn new(
        live: Rc<RefCell<Live>>,
        worker: Worker,
        lookers: &Lookers,
        publisher: Rc<Publisher>,
        settings: &Settings,
    ) -> Self {
        let holders = || lookers.holders.clone();
        let watch = Watch::new(Rc::clone(&live), Rc::clone(&publisher), holders(), settings);
        Self {
            owners: OwnerWatch::new(
                watch.holder_source(),
                lookers.owners.clone(),
                settings.walk_share,
            ),
            descriptors: DescriptorWatch::new(
                watch.holder_source(),
                holders(),
                settings.walk_share,
            ),
            sampler: Rc::new(RefCell::new(Sampler::new(settings.program.ring_bytes))),
            watch,
            live,
            walker: Walker::new(worker),
            namespaces: Namespaces::default(),
            failing: BTreeSet::new(),
            queue: Queue::new(settings.walk_share, monotonic()),
            audited: BTreeMap::new(),
            publisher,
            interval: settings.interval,
            summary_every: settings.summary_every,
            log_dropped: settings.log_dropped,
            told_dropped: 0,
            waiting: Vec::new(),
            logged: (Counts::default(), None),
        }
    }

    /// Takes the first snapshot of every namespace, as far as the time suffices.
    ///
    /// # Errors
    /// Namespaces cannot be found or entered at all.
    pub(super) async fn start(&mut self) -> Result<()> {
        let until = monotonic() + TIME_FOR_THE_FIRST;
        self.round(Effort::Asked { until }).await?;
        tracing::info!(
            namespaces = self.namespaces.known().len(),
            "first snapshot taken"
        );
        self.log_summary("counts");
        self.publish();
        Ok(())
    }

    /// A round every interval, and one for each question.
    ///
    /// # Errors
    /// The inventory thread is gone.
    pub(super) async fn run(
        &mut self,
        mut requests: mpsc::Receiver<Asker>,
        mut reloads: mpsc::Receiver<Settings>,
    ) -> Result<()> {
        let mut ticks = self.ticks()?;
        let mut began: Option<Instant> = None;
        let (live, sampler) = (Rc::clone(&self.live), Rc::clone(&self.sampler));
        let publisher = Rc::clone(&self.publisher);
        let mut last_sample = Instant::now();
        loop {
            let mut askers = Vec::new();
            tokio::select! {
                biased;
                Some(asker) = requests.recv() => askers.push(asker),
                Some(settings) = reloads.recv() => {
                    if self.reload(settings) {
                        match self.ticks() {
                            Ok(other) => ticks = other,
                            // Out of descriptors, most likely.
                            Err(error) => tracing::warn!("{error:#}; the old interval stays in \
                                                          force"),
                        }
                    }
                }
                () = publisher.asked_for_fresh() => {
                    if last_sample.elapsed() >= REFRESH_EVERY {
                        self.refresh().await?;
                        last_sample = Instant::now();
                    }
                    // Those who ask again meanwhile are answered by the same.
                    continue;
                }
                () = sleep(LOOK_FOR_ROOM), if !self.waiting.is_empty() => {}
                ticked = ticks.tick() => ticked.context("cannot wait for a timer")?,
            }
            while let Ok(asker) = requests.try_recv() {
                askers.push(asker);
            }
            let is_due = |began: Instant| began.elapsed() + TICK_SLACK >= self.interval;
            let is_free = !self.waiting.is_empty() && !self.watch.is_shown();
            if is_free || !askers.is_empty() || began.is_none_or(is_due) {
                began = Some(Instant::now());
                tokio::select! {
                    ended = self.round_and_answer(askers) => ended?,
                    never = Sampler::keep_fresh(&sampler, &live, &publisher) => match never {},
                }
            }
            publisher.note_drained(monotonic());
            if last_sample.elapsed() + TICK_SLACK >= SAMPLE_EVERY {
                self.publish();
                last_sample = Instant::now();
            }
        }
    }

    /// One timer for rounds and samples: at rest it is all that wakes the daemon.
    fn ticks(&self) -> Result<Ticker> {
        Ticker::new(self.interval.min(SAMPLE_EVERY)).context("cannot set a timer")
    }

    /// Takes over other settings as a whole, or not at all: then the log says why.
    fn reload(&mut self, settings: Settings) -> bool {
        if let Err(error) = self.publisher.reload(&settings.publish) {
            tracing::error!("{error}; {NOT_RELOADED}");
            service::ready("watching by the old configuration: the new one cannot be taken over");
            return false;
        }
        self.interval = settings.interval;
        self.summary_every = settings.summary_every;
        let mut live = self.live.borrow_mut();
        live.set_logs_transitions(settings.logs_transitions);
        drop(live);
        self.watch.set_rules(settings.rules);
        tracing::info!("configuration reloaded");
        service::ready("watching");
        true
    }

    /// A round, and the answers to those who asked.
    async fn round_and_answer(&mut self, askers: Vec<Asker>) -> Result<()> {
        if askers.is_empty() {
            self.round(Effort::Usual).await?;
        } else {
            let until = monotonic() + TIME_FOR_AN_ANSWER;
            for _ in 0..ROUNDS_FOR_AN_ANSWER {
                self.round(Effort::Asked { until }).await?;
                if monotonic() >= until || !self.live.borrow().census.is_in_doubt() {
                    break;
                }
            }
        }
        let known = self.namespaces.known();
        let descriptors = self.descriptors.latest();
        self.watch
            .round(&self.walker, known, descriptors, !askers.is_empty())
            .await?;
        for Asker { question, reply } in askers {
            self.answer(question, reply).await?;
        }
        self.answer_waiting().await?;
        let is_due = self
            .logged
            .1
            .is_none_or(|at| at.elapsed() >= self.summary_every);
        if is_due {
            let summary = self.summary();
            let has_dropped = summary.log_dropped > self.told_dropped;
            if has_dropped || summary.sockets() != self.logged.0 {
                self.log_summary("counts");
            }
        }
        Ok(())
    }

    /// Brings what ends in silence up to date, for a client that waits, and hands out the figures.
    async fn refresh(&mut self) -> Result<()> {
        self.live.borrow_mut().drain_all();
        let now_ns = nanoseconds(monotonic());
        let due: Vec<Namespace> = {
            let live = self.live.borrow();
            let is_active = |known: &&Namespace| live.census.is_active(known.inode, now_ns);
            let known = self.namespaces.known().iter();
            let mut active: Vec<&Namespace> = known.filter(is_active).collect();
            // Those in which most can have ended.
            active.sort_by_cached_key(|known| Reverse(live.census.total(known.inode)));
            active.into_iter().take(IN_TURN).cloned().collect()
        };
        self.read_figures(due).await?;
        self.descriptors.refresh(true).await;
        self.publish();
        Ok(())
    }

    /// Hands the figures of this moment to the outlets.
    fn publish(&mut self) {
        self.live.borrow_mut().note_losses();
        let summary = self.summary();
        let (worker, known) = (self.walker.worker(), self.namespaces.known());
        if !self.watch.is_shown() {
            self.owners.refresh(summary.sockets(), worker, known);
        }
        let (live, owners) = (self.live.borrow(), &self.owners);
        let walked = self.queue.spent() + self.descriptors.spent();
        let mut sampler = self.sampler.borrow_mut();
        let sample = sampler.sample(&live, &mut self.watch, owners, summary, walked);
        self.publisher.publish(sample);
    }

    /// Answers on a thread of its own: an asker may be slow.
    async fn answer(&mut self, question: Asked, reply: Answer) -> Result<()> {
        let known = self.namespaces.known();
        match question {
            // Answered already.
            Asked::Version => {}
            Asked::Status => {
                let summary = Summary {
                    recent: self.publisher.recent(),
                    ..self.summary()
                };
                reply.send(move |reply| json::write_status(reply, &summary));
            }
            Asked::Ports => {
                let report = self.watch.ports(&self.walker, known).await?;
                reply.send(move |reply| json::write(reply, &report));
            }
            Asked::Stuck {
                each,
                all,
                netns,
                known: given,
            } => {
                let wanted = Wanted {
                    each,
                    all,
                    netns,
                    given,
                };
                self.waiting.push((wanted, reply));
            }
        }
        Ok(())
    }

    /// Answers all who want to know what is stuck from one look, unless the last one is still written.
    async fn answer_waiting(&mut self) -> Result<()> {
        if self.waiting.is_empty() || self.watch.is_shown() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.waiting);
        let (wanted, replies): (Vec<Wanted>, Vec<Answer>) = waiting.into_iter().unzip();
        let known = self.namespaces.known();
        let reports = self.watch.reports(&self.walker, known, &wanted).await?;
        for (report, reply) in reports.into_iter().zip(replies) {
            reply.send(move |reply| json::write(reply, &report));
        }
        Ok(())
    }

    pub(super) fn summary(&self) -> Summary {
        let live = self.live.borrow();
        let summary = summarize(
            &live.census,
            self.namespaces.known(),
            Source::Daemon,
            live.totals(),
            self.descriptors.latest(),
            |netns| self.watch.mptcp.counts(netns),
        );
        Summary {
            log_dropped: (self.log_dropped)(),
            ..summary
        }
    }

    pub(super) fn log_summary(&mut self, message: &'static str) {
        self.live.borrow_mut().note_losses();
        let summary = self.summary();
        let sockets = summary.sockets();
        let counts: Vec<String> = sockets
            .iter()
            .filter_map(|(state, sockets)| Some(format!("{state}={}", sockets?)))
            .collect();
        tracing::info!(
            received = summary.events.received,
            lost = summary.events.lost,
            drift = summary.tally.corrected,
            "{message}: {}",
            counts.join(" ")
        );
        if summary.log_dropped > self.told_dropped {
            let (total, before) = (summary.log_dropped, self.told_dropped);
            let lines = total - before;
            tracing::warn!(
                lines,
                total,
                "log lines were dropped: the reader of stderr is too slow"
            );
            self.told_dropped = total;
        }
        self.logged = (sockets, Some(Instant::now()));
    }

    /// One look at the kernel.
    async fn round(&mut self, effort: Effort) -> Result<()> {
        self.live.borrow_mut().note_losses();
        self.discover_if_due(effort != Effort::Usual).await?;
        self.live.borrow_mut().drain_all();
        let due = self.due(effort);
        self.read_figures(due.clone()).await?;
        self.read_contradicted(due).await?;
        let instead = self.ask(effort).await?;
        if self.walk(effort, &instead).await? {
            // What it did not list is asked about at once.
            self.ask(effort).await?;
        }
        // A walk's rows find no room beside a look.
        if effort == Effort::Usual && !self.watch.is_shown() {
            self.audit().await?;
        }
        self.live.borrow_mut().note_losses();
        Ok(())
    }

    async fn discover_if_due(&mut self, is_asked: bool) -> Result<()> {
        let spoke = self.live.borrow_mut().census.take_discovered();
        let has_news = self.namespaces.is_news(&spoke);
        if is_asked || has_news || self.namespaces.is_due() {
            self.descriptors.refresh(is_asked || has_news).await;
        }
        let refreshed = self
            .namespaces
            .refresh(&self.walker, &spoke, is_asked, &mut self.descriptors)
            .await;
        let has_looked = match refreshed {
            // Without any there is nothing to go on with.
            Err(error) if error.is_fatal() || self.namespaces.known().is_empty() => {
                return Err(error).context("cannot find network namespaces");
            }
            Err(error) => {
                if self.live.borrow_mut().census.note_undiscovered() {
                    tracing::warn!(
                        "cannot find network namespaces: {error}; new ones are missing until this \
                         works again"
                    );
                }
                false
            }
            Ok(has_looked) => has_looked,
        };
        if has_looked {
            let known = self.namespaces.known().iter();
            let inodes: BTreeSet<u32> = known.map(|known| known.inode).collect();
            self.failing.retain(|netns| inodes.contains(netns));
            self.audited.retain(|netns, _| inodes.contains(netns));
            self.live.borrow_mut().census.cover(&inodes);
        }
        Ok(())
    }

    /// The namespaces whose figures are to be read now.
    fn due(&self, effort: Effort) -> Vec<Namespace> {
        let known = self.namespaces.known();
        if effort != Effort::Usual {
            return known.to_vec();
        }
        let now_ns = nanoseconds(monotonic());
        let mut live = self.live.borrow_mut();
        let census = &mut live.census;
        let (mut active, mut quiet) = (Vec::new(), Vec::new());
        for namespace in known {
            let (read_ns, has_sockets) = census.last_reading(namespace.inode);
            let age = Duration::from_nanos(now_ns.saturating_sub(read_ns));
            let every = if has_sockets { QUIET_FOR } else { EMPTY_FOR };
            if census.is_active(namespace.inode, now_ns) {
                active.push((Reverse(age), namespace));
            } else if age >= every {
                quiet.push((Reverse(age), namespace));
            }
        }
        active.sort_unstable_by_key(|(age, namespace)| (*age, namespace.inode));
        quiet.sort_unstable_by_key(|(age, namespace)| (*age, namespace.inode));
        for (Reverse(age), namespace) in active.iter().skip(ACTIVE) {
            if *age >= OVERDUE {
                census.note_unread(namespace.inode);
            }
        }
        let active = active.into_iter().take(ACTIVE);
        let quiet = quiet.into_iter().take(IN_TURN);
        active
            .chain(quiet)
            .map(|(_, namespace)| namespace.clone())
            .collect()
    }

    /// Reads the figures of these namespaces, and holds the census to them. One that is no longer where
    /// it was found, as the process it was entered through has ended, is looked for at once.
    async fn read_figures(&mut self, due: Vec<Namespace>) -> Result<()> {
        let gone = self.try_figures(due).await?;
        if gone.is_empty() {
            return Ok(());
        }
        self.discover_if_due(true).await?;
        let known = self.namespaces.known().iter();
        let elsewhere = known.filter(|known| gone.contains(&known.inode));
        let elsewhere = elsewhere.cloned().collect();
        self.try_figures(elsewhere).await.map(drop)
    }

    /// Those that are gone are returned.
    async fn try_figures(&mut self, due: Vec<Namespace>) -> Result<BTreeSet<u32>> {
        let mut gone = BTreeSet::new();
        if due.is_empty() {
            return Ok(gone);
        }
        for namespace in &due {
            self.live.borrow_mut().census.mark(namespace.inode);
        }
        let figures = self.walker.figures(due).await?;
        if !self.settle().await {
            // They would be compared with counts of another time; the next reading will do.
            return Ok(gone);
        }
        for (netns, figures) in figures {
            match figures {
                Ok(figures) => self.live.borrow_mut().census.check(netns, &figures),
                Err(error) if error.is_fatal() => return Err(error.into()),
                Err(error) => {
                    self.live.borrow_mut().census.note_unread(netns);
                    self.note_failure(netns, &error);
                    if matches!(error, Error::Gone { .. }) {
                        gone.insert(netns);
                    }
                }
            }
        }
        Ok(gone)
    }

    /// Makes sure that every transition up to now is applied. False where a record is still being
    /// written after 50 ms: its task was interrupted.
    async fn settle(&self) -> bool {
        Live::settle(&self.live).await
    }

    /// Reads the figures again that contradicted the counts for the first time: a task that was
    /// interrupted half-way is done by then, and anything else is a contradiction.
    async fn read_contradicted(&mut self, mut read: Vec<Namespace>) -> Result<()> {
        {
            let live = self.live.borrow();
            read.retain(|namespace| live.census.is_first_contradiction(namespace.inode));
        }
        if read.is_empty() {
            return Ok(());
        }
        sleep(READ_AGAIN).await;
        self.read_figures(read).await
    }

    /// Asks about single sockets, in every namespace at once. Where there are so many that a walk is
    /// cheaper, that is left to one: the namespaces, and what is to be walked there.
    async fn ask(&mut self, effort: Effort) -> Result<BTreeMap<u32, Scope>> {
        let now = monotonic();
        let is_asked = effort != Effort::Usual;
        let most = self.queue.requests_per_walk();
        let mut instead = BTreeMap::new();
        let mut wanted: BTreeMap<u32, Vec<Question>> = BTreeMap::new();
        {
            let mut live = self.live.borrow_mut();
            for namespace in self.namespaces.known() {
                let netns = namespace.inode;
                let questions = live.census.questions(netns, nanoseconds(now), is_asked);
                if questions.len() > most {
                    instead.insert(netns, Question::scope(&questions));
                } else if !questions.is_empty() {
                    wanted.insert(netns, questions);
                }
            }
            for (netns, questions) in live.census.about(&self.watch.take_settled()) {
                wanted.entry(netns).or_default().extend(questions);
            }
        }
        let requests: usize = wanted.values().map(Vec::len).sum();
        let is_cheap = requests < FEW_REQUESTS;
        if !is_asked && !is_cheap && !self.queue.allows(Urgency::Uncertain, now) {
            return Ok(instead);
        }
        self.put_questions(wanted, Urgency::Uncertain).await?;
        Ok(instead)
    }

    /// Puts questions to the kernel, and takes its answers.
    async fn put_questions(
        &mut self,
        wanted: BTreeMap<u32, Vec<Question>>,
        urgency: Urgency,
    ) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let mut asked = Vec::new();
        for (netns, questions) in &wanted {
            if let Some(namespace) = self.namespaces.get(*netns) {
                asked.push((namespace.clone(), questions.clone()));
            }
        }
        let replies = self.walker.ask(asked).await?;
        if !self.settle().await {
            // They stay open.
            return Ok(());
        }
        for (netns, outcome) in replies {
            match outcome {
                Ok(answers) => {
                    self.queue.spend(urgency, answers.cpu);
                    let questions = wanted.get(&netns).map(Vec::as_slice).unwrap_or_default();
                    let mut live = self.live.borrow_mut();
                    let published = live.census.published(netns);
                    live.census.begin_answers(netns);
                    for (question, reply) in questions.iter().zip(answers.replies) {
                        live.census
                            .take_reply(netns, question, reply, answers.asked_ns);
                    }
                    if urgency == Urgency::Audit {
                        live.census.note_audit(netns, &published);
                    }
                }
                Err(error) if error.is_fatal() => return Err(error.into()),
                Err(error) => self.note_failure(netns, &error),
            }
        }
        Ok(())
    }

    /// Walks the namespaces that need it, those first that are known to be wrong and have waited
    /// longest; whether any was.
    async fn walk(&mut self, effort: Effort, instead: &BTreeMap<u32, Scope>) -> Result<bool> {
        let now_ns = nanoseconds(monotonic());
        let is_asked = matches!(effort, Effort::Asked { .. });
        let waiting: Vec<Waiting> = {
            let mut live = self.live.borrow_mut();
            let census = &mut live.census;
            let known = self.namespaces.known().iter();
            let waiting = known.map(|namespace| {
                let netns = namespace.inode;
                let (mut need, since_ns) = census.need(netns, now_ns, is_asked);
                if let Some(scope) = instead.get(&netns) {
                    need.add(*scope, Urgency::Uncertain);
                }
                Waiting {
                    netns,
                    need,
                    since_ns,
                }
            });
            waiting.collect()
        };
        let mut has_walked = false;
        for turn in Queue::order(waiting) {
            let now = monotonic();
            let is_allowed = match effort {
                Effort::Asked { until } => now < until,
                Effort::Usual => self.queue.allows(turn.need.urgency, now),
            };
            if !is_allowed {
                break;
            }
            self.snapshot(turn.netns, turn.need.scope, turn.need.urgency)
                .await?;
            has_walked = true;
        }
        Ok(has_walked)
    }

    /// Checks what nothing contradicts: the namespaces in turn, the one that was not audited for
    /// longest first.
    async fn audit(&mut self) -> Result<()> {
        let now = monotonic();
        if !self.queue.allows(Urgency::Audit, now) {
            return Ok(());
        }
        let mut due: Vec<(Duration, u32, u64)> = {
            let live = self.live.borrow();
            let known = self.namespaces.known().iter();
            known
                .map(|namespace| {
                    let audited = self.audited.get(&namespace.inode).copied();
                    let sockets = live.census.full(namespace.inode);
                    (audited.unwrap_or_default(), namespace.inode, sockets)
                })
                .filter(|(audited, _, sockets)| {
                    *sockets > 0 && now.saturating_sub(*audited) >= AUDIT_EVERY
                })
                .collect()
        };
        due.sort_unstable();
        let Some((_, first, sockets)) = due.first().copied() else {
            return Ok(());
        };
        if sockets > AUDITED_BY_REQUESTS {
            self.audited.insert(first, now);
            return self.snapshot(first, Scope::ALL, Urgency::Audit).await;
        }
        let mut room = AUDITED_BY_REQUESTS;
        let mut netns = BTreeSet::new();
        for (_, inode, sockets) in due {
            if sockets > room {
                break;
            }
            room -= sockets;
            netns.insert(inode);
            self.audited.insert(inode, now);
        }
        let wanted = self.live.borrow().census.audit(&netns);
        self.put_questions(wanted, Urgency::Audit).await
    }

    /// Walks one namespace's sockets.
    async fn snapshot(&mut self, netns: u32, scope: Scope, urgency: Urgency) -> Result<()> {
        let Some(namespace) = self.namespaces.get(netns).cloned() else {
            return Ok(());
        };
        let began_ns = {
            let mut live = self.live.borrow_mut();
            live.drain_all();
            live.census.begin(netns);
            nanoseconds(monotonic())
        };
        let taken = self.walker.snapshot(namespace, scope).await;
        let is_settled = self.settle().await;
        let mut live = self.live.borrow_mut();
        match taken {
            Ok(taken) if !is_settled => {
                self.queue.spend(urgency, taken.cost.cpu);
                live.census.abandon(netns);
            }
            Ok(taken) => {
                self.queue.note_walk(scope, taken.cost.cpu);
                self.queue.spend(urgency, taken.cost.cpu);
                let snapshot = Snapshot {
                    scope,
                    has_cookies: !taken.is_fallback,
                    is_alone: !live.is_identifying(),
                    began_ns,
                };
                let rows = taken.rows.into_iter().map(|row| seen(row, began_ns));
                let published = live.census.published(netns);
                let corrected = live.census.finish(netns, snapshot, rows);
                if urgency == Urgency::Audit {
                    live.census.note_audit(netns, &published);
                }
                if corrected > 0 {
                    tracing::info!(
                        netns,
                        sockets = corrected,
                        "a snapshot corrected the counts"
                    );
                }
            }
            Err(error) if error.is_fatal() => return Err(error.into()),
            Err(error) => {
                live.census.abandon(netns);
                live.census.note_unread(netns);
                drop(live);
                self.note_failure(netns, &error);
            }
        }
        Ok(())
    }

    /// A namespace that has gone is looked for again; anything else is worth a word.
    fn note_failure(&mut self, netns: u32, error: &Error) {
        self.namespaces.look_soon();
        if !matches!(error, Error::Gone { .. }) && self.failing.insert(netns) {
            tracing::warn!(netns, "cannot take the inventory: {error}");
        }
    }
}
