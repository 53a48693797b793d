//! Server-sent events: the counts every second, and findings as they change.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::sleep;

use super::site::{Asked, Site, event};
use super::stopped;
use crate::output::json::{self, api};
use crate::track::Notice;
use crate::track::{Sample, Sink};

/// Without anything to tell, a word that the connection still is one.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events written ahead of what the client takes: each waits in memory.
const AHEAD: usize = 1;

/// Marks the answer whose body has no end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endless;

/// The body of an answer that ends with the daemon, or with the client.
pub(super) struct Events {
    pieces: mpsc::Receiver<Bytes>,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.poll_recv(cx);
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// A new stream.
pub(super) fn stream(site: Arc<Site>) -> Events {
    let (sender, pieces) = mpsc::channel(AHEAD);
    let mut subscription = Subscription {
        samples: site.shared.samples(),
        notices: site.shared.notices(),
        stop: site.stop.clone(),
        site,
    };
    // The counts of now come first.
    subscription.samples.mark_changed();
    drop(tokio::spawn(async move {
        while let Some((piece, findings)) = subscription.next(&sender).await {
            if sender.send(piece).await.is_err() {
                return;
            }
            let tallies = &subscription.site.shared.tallies;
            tallies.note_exported(Sink::Events, findings);
        }
    }));
    Events { pieces }
}

struct Subscription {
    site: Arc<Site>,
    samples: watch::Receiver<Option<Arc<Sample>>>,
    notices: broadcast::Receiver<Arc<Notice>>,
    stop: watch::Receiver<bool>,
}

impl Subscription {
    /// What is to be told next, and how many findings that is; None when it is over.
    async fn next(&mut self, client: &mpsc::Sender<Bytes>) -> Option<(Bytes, u64)> {
        tokio::select! {
            () = stopped(&mut self.stop) => None,
            () = client.closed() => None,
            changed = self.samples.changed() => {
                changed.ok()?;
                self.samples.mark_unchanged();
                Some((self.site.answer(Asked::StatusEvent).ok()??, 0))
            }
            notice = self.notices.recv() => self.finding(notice),
            () = sleep(KEEP_ALIVE) => Some((Bytes::from_static(b":\n\n"), 0)),
        }
    }

    fn finding(&self, notice: Result<Arc<Notice>, RecvError>) -> Option<(Bytes, u64)> {
        let shared = &self.site.shared;
        match notice {
            Ok(notice) => {
                let write = |out: &mut Vec<u8>| json::write_notice(out, shared.clock(), &notice);
                Some((event("finding", write).ok()?.into(), 1))
            }
            Err(RecvError::Lagged(missed)) => {
                shared.tallies.note_dropped(Sink::Events, missed);
                let event = event("missed", |out| api::write_missed(out, missed));
                Some((event.ok()?.into(), 0))
            }
            Err(RecvError::Closed) => None,
        }
    }
}
