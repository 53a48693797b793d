//! The stream and the census it moves.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::Notify;

use super::service::Watchdog;
use super::wakeups::Wakeups;
use crate::clock::{Suspensions, monotonic, nanoseconds};
use crate::output::Escaped;
use crate::probe::{Probe, Totals};
use crate::publish::Publisher;
use crate::tcp::{State, Subject, Transition};
use crate::track::{Activity, Census, EventTotals};

/// Transitions taken before other tasks get their turn: some milliseconds' worth.
const BATCH: usize = 1 << 15;
/// More batches than the largest ring holds: an end for a stream that cannot be decoded.
const BATCHES_AT_MOST: usize = 1 << 10;
/// Pause between two looks at the ring while there is traffic.
const PAUSE: Duration = Duration::from_millis(20);

/// A record that is reserved is filled within microseconds, unless its task is interrupted.
const SETTLE: Duration = Duration::from_millis(1);
const SETTLE_AT_MOST: Duration = Duration::from_millis(50);

pub(super) struct Live {
    probe: Probe,
    pub(super) census: Census,
    activity: Activity,
    logs_transitions: bool,
    totals: Totals,
    /// Transitions that had been received when `totals` were read.
    received: u64,
    /// Losses that the counts were put in doubt for, as the program's counters had them.
    noted_lost: u64,
    /// When the counters were last read and showed no new loss.
    clean_ns: u64,
    /// Time of the newest transition that was applied.
    newest_ns: u64,
    /// Transitions that had been received when that was last looked at.
    seen: Cell<u64>,
    /// The ring was found to have had records in it.
    moved: Rc<Notify>,
    suspensions: Suspensions,
}

impl Live {
    pub(super) fn new(probe: Probe, logs_transitions: bool) -> Self {
        Self {
            census: Census::new(
                probe.capabilities().sees_requests,
                probe.capabilities().sees_minisockets,
            ),
            probe,
            activity: Activity::default(),
            logs_transitions,
            totals: Totals::default(),
            received: 0,
            noted_lost: 0,
            clean_ns: 0,
            newest_ns: 0,
            seen: Cell::default(),
            moved: Rc::default(),
            suspensions: Suspensions::new(),
        }
    }

    /// Drains the ring for ever. The kernel does not wake us for each record (that is what makes
    /// other tools slow): this looks often while there is traffic, and sleeps when there is none.
    ///
    /// # Errors
    /// The ring cannot be waited for.
    pub(super) async fn keep_drained(live: &RefCell<Self>, publisher: &Publisher) -> Result<()> {
        let wakeups = Wakeups::new(live.borrow().probe.descriptor()?)?;
        let mut watchdog = Watchdog::from_environment()?;
        loop {
            watchdog.feed();
            let before = live.borrow().probe.received();
            let has_more = live.borrow_mut().drain();
            publisher.note_drained(monotonic());
            let has_moved = live.borrow().probe.received() != before;
            if has_more {
                tokio::task::yield_now().await;
            } else if has_moved || !live.borrow_mut().probe.arm()? {
                tokio::time::sleep(PAUSE).await;
            } else {
                // A wakeup may be lost: then the next round of figures finds the records.
                let moved = Rc::clone(&live.borrow().moved);
                tokio::select! {
                    woken = wakeups.next() => woken?,
                    () = moved.notified() => {}
                    due = watchdog.due() => due?,
                }
            }
        }
    }

    /// Applies at most a batch; true when more may be waiting.
    fn drain(&mut self) -> bool {
        if self.suspensions.is_news() {
            self.census.note_suspension();
        }
        let Self {
            probe,
            census,
            activity,
            logs_transitions,
            newest_ns,
            ..
        } = self;
        let is_identifying = probe.capabilities().is_identifying;
        let has_more = probe.drain(BATCH, |transition| {
            *newest_ns = transition.ktime_ns;
            let is_news = if is_identifying || transition.subject != Subject::Socket {
                let applied = census.apply(transition);
                if transition.subject == Subject::Socket && !applied.is_repeated() {
                    activity.apply(transition, applied.after());
                }
                !applied.is_repeated()
            } else {
                census.disturb(transition.netns);
                activity.apply(transition, None);
                true
            };
            if *logs_transitions && is_news && transition.subject == Subject::Socket {
                log_transition(transition);
            }
        });
        for time in census.take_ended() {
            activity.observe(State::FinWait2, time);
        }
        probe.flush_log();
        has_more
    }

    /// Somebody else than [`Self::keep_drained`] has drained the ring: where that brought anything it has to
    /// look, as the wakeup that it waits for may have been that record's.
    fn note_drained(&self) {
        if self.probe.received() != self.seen.replace(self.probe.received()) {
            self.moved.notify_one();
        }
    }

    /// Applies everything that is there now, and waits for what is being written. False where that is
    /// not all there after [`SETTLE_AT_MOST`].
    pub(super) async fn settle(live: &RefCell<Self>) -> bool {
        let written = live.borrow().probe.written();
        let began = Instant::now();
        loop {
            live.borrow_mut().drain_all();
            if live.borrow().probe.has_read(&written) {
                return true;
            }
            if began.elapsed() >= SETTLE_AT_MOST {
                return false;
            }
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Applies everything that was there when this was called.
    pub(super) fn drain_all(&mut self) {
        let called_ns = nanoseconds(monotonic());
        for _ in 0..BATCHES_AT_MOST {
            if !self.drain() || self.newest_ns > called_ns {
                break;
            }
        }
        self.note_drained();
    }

    /// Reads the program's counters, for those who show them; the losses as they are there.
    pub(super) fn read_totals(&mut self) -> Option<u64> {
        self.received = self.probe.received();
        match self.probe.totals() {
            Ok(totals) => {
                let lost = totals.lost;
                self.totals = totals.grown_from(&self.totals);
                Some(lost)
            }
            Err(error) => {
                tracing::error!("{error:#}");
                None
            }
        }
    }

    /// Reads the program's counters. Losses make every count suspect, and are logged. Not while a walk
    /// is under way: its end would settle the doubt.
    pub(super) fn note_losses(&mut self) {
        let read_ns = nanoseconds(monotonic());
        let Some(total) = self.read_totals() else {
            return;
        };
        let lost = total.saturating_sub(self.noted_lost);
        if lost > 0 {
            tracing::warn!(lost, total, "events lost: the ring was full; recounting");
            self.census.suspect_all(self.clean_ns);
        } else {
            self.clean_ns = read_ns;
        }
        self.noted_lost = total;
    }

    /// Whether every transition is logged.
    pub(super) const fn set_logs_transitions(&mut self, logs_transitions: bool) {
        self.logs_transitions = logs_transitions;
    }

    /// Whether the events keep the lingering table, or only surveys do.
    pub(super) fn is_identifying(&self) -> bool {
        self.probe.capabilities().is_identifying
    }

    pub(super) fn totals(&self) -> EventTotals {
        EventTotals {
            counted: self.totals.counted(),
            received: self.received,
            lost: self.totals.lost,
            ignored: self.totals.ignored,
        }
    }

    /// Transitions `[from][to]` by state number, as [`Self::read_totals`] last read them.
    pub(super) const fn transitions(&self) -> [[u64; 16]; 16] {
        self.totals.transitions
    }

    pub(super) fn activity(&self) -> Arc<Activity> {
        Arc::new(self.activity.clone())
    }

    /// Sockets that found no room in the table.
    pub(super) const fn untracked(&self) -> u64 {
        self.census.sockets().dropped()
    }

    /// Gives back the room that a storm took.
    pub(super) fn shrink(&mut self) {
        self.census.shrink();
    }

    pub(super) const fn probe(&self) -> &Probe {
        &self.probe
    }
}

fn log_transition(transition: &Transition) {
    let handover = transition.continues_as();
    let owner = transition.owner.map(|owner| owner.comm());
    tracing::info!(
        netns = transition.netns,
        cookie = transition.cookie,
        local = %transition.local,
        remote = %transition.remote,
        from = %transition.from,
        to = %transition.to,
        continues_as = handover.map(|handover| handover.state().name()),
        inferred = handover.map(|_| true),
        pid = transition.owner.map(|owner| owner.pid),
        comm = owner.as_deref().map(|comm| tracing::field::display(Escaped(comm))),
        "transition"
    );
}
