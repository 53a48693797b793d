//! What the daemon hands to its outlets, and what they count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, broadcast, watch};
use tokio::time::timeout;

use super::history::History;
use crate::output::Clock;
use crate::tcp::Counts;
use crate::track::{Notice, Outlets, Recent, Sample, Sink};

/// Notices that an outlet may be behind; 1 to 10 KB each.
const NOTICES: usize = 4_096;

/// Figures of this age are handed out as they are.
const FRESH: Duration = Duration::from_millis(100);
/// For newer ones to come.
const PATIENCE: Duration = Duration::from_millis(250);

/// The latest figures, the stream of findings, and the outlets' own counters.
#[derive(Debug)]
pub(super) struct Shared {
    sample: watch::Sender<Option<Arc<Sample>>>,
    notices: broadcast::Sender<Arc<Notice>>,
    history: Mutex<History>,
    /// `CLOCK_MONOTONIC`, nanoseconds; 0 before the first time.
    drained_ns: AtomicU64,
    /// Somebody waits for figures that are newer than the latest.
    wanted: Notify,
    /// When the counters began.
    pub(super) started_unix_ns: u64,
    pub(super) tallies: Tallies,
}

/// [`Outlets`], counted by several threads.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    http_requests: [AtomicU64; 3],
    pub(super) http_connections: AtomicU64,
    http_dropped: [AtomicU64; 4],
    exported: [AtomicU64; 4],
    export_dropped: [AtomicU64; 4],
    exposition_ns: AtomicU64,
    exposition_bytes: AtomicU64,
}

/// Why a connection was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    Slow,
    /// No HTTP.
    Protocol,
    Tls,
    /// It made room for others.
    Crowded,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            sample: watch::Sender::new(None),
            notices: broadcast::Sender::new(NOTICES),
            history: Mutex::default(),
            drained_ns: AtomicU64::new(0),
            wanted: Notify::new(),
            started_unix_ns: unix_ns(),
            tallies: Tallies::default(),
        }
    }

    /// Seconds since the epoch and the counts of the last hour, the oldest first.
    pub(super) fn history(&self) -> Vec<(u64, Option<Counts>)> {
        lock(&self.history).counts()
    }

    /// What `sample` says beside the counts.
    pub(super) fn recent(&self, sample: &Sample) -> Recent {
        Recent::new(sample, lock(&self.history).before())
    }

    pub(super) fn publish(&self, sample: Sample) {
        lock(&self.history).take(&sample);
        self.sample.send_replace(Some(Arc::new(sample)));
    }

    pub(super) fn announce<'a>(&self, notices: impl Iterator<Item = &'a Notice>) {
        if self.notices.receiver_count() > 0 {
            for notice in notices {
                // Fails only where the last receiver has gone meanwhile.
                let _ = self.notices.send(Arc::new(notice.clone()));
            }
        }
    }

    /// Counts notices that nobody gets: neither `sinks`, each of which listens once, nor the clients
    /// that stream events.
    pub(super) fn note_missed(&self, sinks: &[Sink], missed: u64) {
        for sink in sinks {
            self.tallies.note_dropped(*sink, missed);
        }
        let clients = self.notices.receiver_count().saturating_sub(sinks.len());
        let of_clients = missed.saturating_mul(clients as u64);
        self.tallies.note_dropped(Sink::Events, of_clients);
    }

    pub(super) fn note_drained(&self, now: Duration) {
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.drained_ns.store(now_ns, Ordering::Relaxed);
    }

    /// When the ring was last drained, on `CLOCK_MONOTONIC`; None before the first time.
    pub(super) fn drained(&self) -> Option<Duration> {
        let drained_ns = self.drained_ns.load(Ordering::Relaxed);
        (drained_ns > 0).then(|| Duration::from_nanos(drained_ns))
    }

    /// The latest figures; None before the first snapshot.
    pub(super) fn latest(&self) -> Option<Arc<Sample>> {
        self.sample.borrow().clone()
    }

    /// Waits until the latest figures are less than [`FRESH`] old, for a moment at most: what happens
    /// in silence is looked for when somebody asks.
    pub(super) async fn freshen(&self, now: Duration) {
        let mut samples = self.sample.subscribe();
        let is_old = |sample: &Sample| now.saturating_sub(sample.taken) >= FRESH;
        let is_wanted = samples.borrow_and_update().as_deref().is_some_and(is_old);
        if is_wanted {
            self.wanted.notify_one();
            // Old figures are better than none.
            let _ = timeout(PATIENCE, samples.changed()).await;
        }
    }

    /// Waits until somebody wants newer figures.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// From the clock of the notices to the wall's, as the latest sample has it: none is announced
    /// before the first.
    pub(super) fn clock(&self) -> Clock {
        let sample = self.latest();
        sample.as_deref().map(Clock::from).unwrap_or_default()
    }

    /// Wakes with each new sample.
    pub(super) fn samples(&self) -> watch::Receiver<Option<Arc<Sample>>> {
        self.sample.subscribe()
    }

    /// The findings from now on. Who is too slow learns how many it missed.
    pub(super) fn notices(&self) -> broadcast::Receiver<Arc<Notice>> {
        self.notices.subscribe()
    }
}

impl Tallies {
    /// An answer with this status code was given.
    pub(super) fn note_http_answer(&self, status: u16) {
        let class = match status {
            0..400 => 0,
            400..500 => 1,
            _ => 2,
        };
        add(&self.http_requests, class, 1);
    }

    pub(super) fn note_http_dropped(&self, reason: Dropped) {
        add(&self.http_dropped, reason as usize, 1);
    }

    pub(super) fn note_exported(&self, sink: Sink, count: u64) {
        add(&self.exported, sink as usize, count);
    }

    pub(super) fn note_dropped(&self, sink: Sink, count: u64) {
        add(&self.export_dropped, sink as usize, count);
    }

    pub(super) fn note_exposition(&self, took: Duration, bytes: usize) {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.exposition_ns.store(took_ns, Ordering::Relaxed);
        self.exposition_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn outlets(&self) -> Outlets {
        Outlets {
            http_requests: read(&self.http_requests),
            http_connections: self.http_connections.load(Ordering::Relaxed),
            http_dropped: read(&self.http_dropped),
            exported: read(&self.exported),
            export_dropped: read(&self.export_dropped),
            exposition_time: Duration::from_nanos(self.exposition_ns.load(Ordering::Relaxed)),
            exposition_bytes: self.exposition_bytes.load(Ordering::Relaxed),
        }
    }
}

/// Nanoseconds since the epoch; until 2554.
pub(super) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(counters: &[AtomicU64], at: usize, count: u64) {
    if let Some(counter) = counters.get(at) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

fn read<const N: usize>(counters: &[AtomicU64; N]) -> [u64; N] {
    std::array::from_fn(|at| {
        let counter = counters.get(at);
        counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_gets_is_counted_for_each_that_listens() {
        let shared = Shared::new();
        let sinks = [Sink::Findings];
        let dropped = |shared: &Shared| shared.tallies.outlets().export_dropped;
        shared.note_missed(&[], 5);
        assert_eq!(dropped(&shared), [0; 4]);
        let (_file, _client, _other) = (shared.notices(), shared.notices(), shared.notices());
        shared.note_missed(&sinks, 3);
        assert_eq!(dropped(&shared), [0, 0, 3, 6]);
    }
}
