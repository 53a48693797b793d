//! The stream and the census it moves.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};

use crate::output::Escaped;
use crate::probe::{Probe, Totals};
use crate::publish::Publisher;
use crate::tcp::{Subject, Transition};
use crate::track::{Activity, Census, Dwell, EventTotals, Lingering};

/// Transitions taken before other tasks get their turn: some milliseconds' worth.
const BATCH: usize = 1 << 15;
/// More batches than the largest ring holds: an end for a stream that cannot be decoded.
const BATCHES_AT_MOST: usize = 1 << 10;
/// Pause between two looks at the ring while there is traffic.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Live {
    probe: Probe,
    pub(super) census: Census,
    pub(super) lingering: Lingering,
    /// Durations of every open socket.
    dwell: Dwell,
    activity: Activity,
    logs_transitions: bool,
    totals: Totals,
    /// Transitions that had been received when `totals` were read.
    received: u64,
    /// Losses that the counts were put in doubt for, as the program's counters had them.
    noted_lost: u64,
    /// Time of the newest transition that was applied.
    newest_ns: u64,
}

impl Live {
    pub(super) fn new(probe: Probe, logs_transitions: bool) -> Self {
        Self {
            probe,
            census: Census::default(),
            lingering: Lingering::default(),
            dwell: Dwell::default(),
            activity: Activity::default(),
            logs_transitions,
            totals: Totals::default(),
            received: 0,
            noted_lost: 0,
            newest_ns: 0,
        }
    }

    /// Drains the ring for ever. The kernel does not wake us for each record (that is what makes
    /// other tools slow): this looks often while there is traffic, and sleeps when there is none.
    ///
    /// # Errors
    /// The ring cannot be waited for.
    pub(super) async fn keep_drained(live: &RefCell<Self>, publisher: &Publisher) -> Result<()> {
        let wakeups = live.borrow().probe.wakeups()?;
        loop {
            let before = live.borrow().probe.received();
            let has_more = live.borrow_mut().drain();
            publisher.note_drained(monotonic());
            let has_moved = live.borrow().probe.received() != before;
            if has_more {
                tokio::task::yield_now().await;
            } else if has_moved || !live.borrow_mut().probe.arm()? {
                tokio::time::sleep(PAUSE).await;
            } else {
                wakeups.next().await?;
            }
        }
    }

    /// Applies at most a batch; true when more may be waiting.
    fn drain(&mut self) -> bool {
        let Self {
            probe,
            census,
            lingering,
            dwell,
            activity,
            logs_transitions,
            newest_ns,
            ..
        } = self;
        let is_identifying = probe.capabilities().is_identifying;
        let has_more = probe.drain(BATCH, |transition| {
            *newest_ns = transition.ktime_ns;
            if transition.subject != Subject::Socket {
                return;
            }
            activity.apply(transition, dwell.after(transition));
            if is_identifying {
                census.apply(transition);
                lingering.apply(transition);
            } else {
                census.disturb(transition.netns);
            }
            if *logs_transitions {
                log_transition(transition);
            }
        });
        probe.flush_log();
        has_more
    }

    /// Applies everything that was there when this was called.
    pub(super) fn drain_all(&mut self) {
        let called_ns = nanoseconds(monotonic());
        for _ in 0..BATCHES_AT_MOST {
            if !self.drain() || self.newest_ns > called_ns {
                return;
            }
        }
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
        let Some(total) = self.read_totals() else {
            return;
        };
        let lost = total.saturating_sub(self.noted_lost);
        if lost > 0 {
            tracing::warn!(lost, total, "events lost: the ring was full; recounting");
            self.census.suspect_all();
            self.lingering.suspect_all();
            self.dwell.forget_all();
        }
        self.noted_lost = total;
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

    /// Sockets that found no room in the table of what lingers, and in that of durations.
    pub(super) const fn untracked(&self) -> [u64; 2] {
        [self.lingering.dropped(), self.dwell.dropped()]
    }

    /// Gives back the room that a storm took.
    pub(super) fn shrink(&mut self) {
        self.lingering.shrink();
        self.dwell.shrink();
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

/// A time of [`monotonic`] as the events have it; stays at the largest after 584 years.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// `CLOCK_MONOTONIC`: the clock of the events.
pub(crate) fn monotonic() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}
