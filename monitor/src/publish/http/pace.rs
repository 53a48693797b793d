//! How long a client is waited for: a connection that asks or reads too slowly ends.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// From the first byte of a request, or from the start of the connection, to the end of its headers.
pub(super) const ASKING: Duration = Duration::from_secs(5);
/// A client that takes nothing of its answer for so long is gone.
pub(super) const STALL: Duration = Duration::from_secs(10);
/// For a whole answer, unless it is an endless one.
const TAKING: Duration = Duration::from_secs(30);

const NOTHING: u8 = 0;
const ASKED: u8 = 1;
const ASKED_FOR_STREAM: u8 = 2;

/// What a connection's service and its [`Paced`] tell each other.
#[derive(Debug, Default)]
pub(super) struct Pace {
    request: AtomicU8,
    was_slow: AtomicBool,
}

impl Pace {
    /// A request has arrived.
    pub(super) fn note_asked(&self) {
        self.request.store(ASKED, Ordering::Relaxed);
    }

    /// The answer to it has no end.
    pub(super) fn note_stream(&self) {
        self.request.store(ASKED_FOR_STREAM, Ordering::Relaxed);
    }

    /// Whether the connection was ended for its client's slowness. hyper does not always pass the
    /// error on: to it, who has sent nothing has just gone.
    pub(super) fn was_slow(&self) -> bool {
        self.was_slow.load(Ordering::Relaxed)
    }
}

/// A connection that fails with [`io::ErrorKind::TimedOut`] when its client is too slow.
pub(super) struct Paced<S> {
    stream: S,
    pace: Arc<Pace>,
    asking: Deadline,
    stall: Deadline,
    taking: Deadline,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, pace: Arc<Pace>) -> Self {
        let mut asking = Deadline::default();
        asking.start(ASKING);
        Self {
            stream,
            pace,
            asking,
            stall: Deadline::default(),
            taking: Deadline::default(),
        }
    }

    fn heed_pace(&mut self) {
        match self.pace.request.swap(NOTHING, Ordering::Relaxed) {
            ASKED => {
                self.asking.end();
                self.taking.end();
                self.taking.start(TAKING);
            }
            ASKED_FOR_STREAM => {
                self.asking.end();
                self.taking.end();
            }
            _ => {}
        }
    }

    fn too_slow(&self) -> io::Error {
        self.pace.was_slow.store(true, Ordering::Relaxed);
        io::ErrorKind::TimedOut.into()
    }

    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.heed_pace();
        if written.is_ready() {
            self.stall.end();
            return written;
        }
        self.stall.start(STALL);
        if self.stall.is_over(cx) || self.taking.is_over(cx) {
            return Poll::Ready(Err(self.too_slow()));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.heed_pace();
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.asking.start(ASKING);
        }
        if read.is_pending() && self.asking.is_over(cx) {
            return Poll::Ready(Err(self.too_slow()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(cx, shut)
    }
}

/// A time by which something must have happened; none until it is started.
#[derive(Default)]
struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    /// Unless it runs already.
    fn start(&mut self, after: Duration) {
        self.0.get_or_insert_with(|| Box::pin(sleep(after)));
    }

    fn end(&mut self) {
        self.0 = None;
    }

    /// If it is not, the task is woken when it will be.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let running = self.0.as_mut();
        running.is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::runtime::Builder;

    use super::*;

    /// Over a socket the kernel may be first to give up.
    #[test]
    fn who_takes_nothing_is_given_up() {
        let runtime = Builder::new_current_thread().enable_time().build();
        let start = Instant::now();
        runtime.unwrap().block_on(async {
            let (stream, mut client) = duplex(16);
            let pace = Arc::new(Pace::default());
            let mut paced = Paced::new(stream, Arc::clone(&pace));
            pace.note_asked();
            let taking = tokio::spawn(async move {
                sleep(Duration::from_secs(2)).await;
                client.read_exact(&mut [0; 8]).await.unwrap();
                // Kept, and not read.
                client
            });
            let error = paced.write_all(&[0; 64]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(pace.was_slow());
            drop(taking);
        });
        // From the last byte that was taken.
        let took = start.elapsed();
        assert!((12..28).contains(&took.as_secs()), "{took:?}");
    }
}
