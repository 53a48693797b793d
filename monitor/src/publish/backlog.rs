//! Notices that wait for an outlet, on the outlet's own thread.

use std::collections::VecDeque;
use std::collections::vec_deque::Drain;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use tokio::time::{Instant as Moment, timeout_at};

use super::threads::Stop;
use crate::track::Notice;

/// Notices that wait at most, 1 or 2 KB each; beyond that the oldest make room.
const MOST: usize = 4_096;

#[derive(Debug)]
pub(super) struct Backlog {
    stream: broadcast::Receiver<Arc<Notice>>,
    waiting: VecDeque<Arc<Notice>>,
    stop: Stop,
    is_over: bool,
    runtime: Runtime,
}

impl Backlog {
    /// # Errors
    /// The system has no timer left.
    pub(super) fn new(stream: broadcast::Receiver<Arc<Notice>>, stop: Stop) -> io::Result<Self> {
        Ok(Self {
            stream,
            waiting: VecDeque::new(),
            stop,
            is_over: false,
            runtime: Builder::new_current_thread().enable_time().build()?,
        })
    }

    /// Waits for a notice, for the daemon's end, or until that moment, and takes in what has come;
    /// how many notices found no room.
    pub(super) fn wait(&mut self, until: Option<Instant>) -> u64 {
        let (stream, stop) = (&mut self.stream, &mut self.stop);
        let news = async {
            tokio::select! {
                biased;
                _ = stop.wait_for(|is_over| *is_over) => Err(RecvError::Closed),
                notice = stream.recv() => notice,
            }
        };
        let first = self.runtime.block_on(async {
            match until {
                Some(until) => timeout_at(Moment::from_std(until), news).await.ok(),
                None => Some(news.await),
            }
        });
        let mut dropped = 0;
        match first {
            Some(Ok(notice)) => dropped += self.add(notice),
            Some(Err(RecvError::Lagged(missed))) => dropped += missed,
            Some(Err(RecvError::Closed)) => self.is_over = true,
            None => {}
        }
        dropped + self.take_in()
    }

    /// The daemon ends: what is there now is the last.
    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }

    fn take_in(&mut self) -> u64 {
        let mut dropped = 0;
        loop {
            match self.stream.try_recv() {
                Ok(notice) => dropped += self.add(notice),
                Err(TryRecvError::Lagged(missed)) => dropped += missed,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return dropped,
            }
        }
    }

    fn add(&mut self, notice: Arc<Notice>) -> u64 {
        let is_full = self.waiting.len() >= MOST;
        if is_full {
            self.waiting.pop_front();
        }
        self.waiting.push_back(notice);
        u64::from(is_full)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Notice> {
        self.waiting.iter().map(AsRef::as_ref)
    }

    /// Takes the oldest, so many at most.
    pub(super) fn take(&mut self, number: usize) -> Drain<'_, Arc<Notice>> {
        self.waiting.drain(..number.min(self.waiting.len()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::watch;

    use super::*;
    use crate::tcp::State;
    use crate::track::stuck::Severity;
    use crate::track::{Change, Incident, Kind};

    fn notice(ktime_ns: u64) -> Arc<Notice> {
        Arc::new(Notice {
            event: Change::Raised,
            ktime_ns,
            incident: Incident::new(Kind::Leak, Severity::Warning, State::CloseWait, 7),
        })
    }

    #[test]
    fn the_newest_stay_and_the_others_are_counted() {
        let notices = broadcast::Sender::new(MOST);
        let stop = watch::Sender::new(false);
        let mut backlog = Backlog::new(notices.subscribe(), stop.subscribe()).unwrap();
        let send = |numbers: std::ops::Range<u64>| {
            numbers.for_each(|number| drop(notices.send(notice(number))));
        };
        let most = MOST as u64;
        send(0..most);
        assert_eq!(backlog.wait(None), 0);
        // Some that it takes in, and some that it is too late for.
        send(most..2 * most + 3);
        assert_eq!(backlog.wait(None), most + 3);
        let kept: Vec<u64> = backlog.iter().map(|notice| notice.ktime_ns).collect();
        assert!(kept.iter().copied().eq(most + 3..2 * most + 3));
        assert_eq!(backlog.take(10).count(), 10);
        assert_eq!(backlog.len(), MOST - 10);
    }

    #[test]
    fn the_end_is_told_after_what_came_before_it() {
        let notices = broadcast::Sender::new(MOST);
        let stop = watch::Sender::new(false);
        let mut backlog = Backlog::new(notices.subscribe(), stop.subscribe()).unwrap();
        assert_eq!(
            backlog.wait(Some(Instant::now() + Duration::from_millis(1))),
            0
        );
        assert!(!backlog.is_over());
        notices.send(notice(1)).unwrap();
        stop.send_replace(true);
        backlog.wait(None);
        assert!(backlog.is_over());
        assert_eq!(backlog.len(), 1);
    }
}
