//! How long a client is waited for: a connection that asks or reads too slowly ends.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// From the first byte of a request, or from the start of the connection, to the end of its headers.
pub(super) const ASKING: Duration = Duration::from_secs(5);
/// A client that takes nothing of its answer for so long is gone.
pub(super) const STALL: Duration = Duration::from_secs(10);
/// For a whole answer, unless it is an endless one.
const TAKING: Duration = Duration::from_secs(30);

const ASKING_NOW: u8 = 0;
const ANSWERING: u8 = 1;
const STREAMING: u8 = 2;

/// What a connection's service and its [`TimedStream`] tell each other.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// A request has arrived since this was last looked at.
    has_asked: AtomicBool,
    phase: AtomicU8,
    was_slow: AtomicBool,
}

impl Progress {
    /// A request has arrived.
    pub(super) fn note_asked(&self) {
        self.has_asked.store(true, Ordering::Relaxed);
        self.phase.store(ANSWERING, Ordering::Relaxed);
    }

    /// The answer to it is there to be written.
    pub(super) fn note_answered(&self) {
        self.phase.store(ASKING_NOW, Ordering::Relaxed);
    }

    /// The answer to it has no end.
    pub(super) fn note_stream(&self) {
        self.phase.store(STREAMING, Ordering::Relaxed);
    }

    fn is_in(&self, phase: u8) -> bool {
        self.phase.load(Ordering::Relaxed) == phase
    }

    /// Whether the connection was ended for its client's slowness. hyper does not always pass the
    /// error on: to it, who has sent nothing has just gone.
    pub(super) fn was_slow(&self) -> bool {
        self.was_slow.load(Ordering::Relaxed)
    }
}

/// A connection that fails with [`io::ErrorKind::TimedOut`] when its client is too slow.
pub(super) struct TimedStream<S> {
    stream: S,
    progress: Arc<Progress>,
    asking: Deadline,
    stall: Deadline,
    taking: Deadline,
    /// Something is written that is not flushed.
    is_writing: bool,
    /// Wakes who has read all that the client sends while there is an answer to write.
    at_end: Option<Waker>,
}

impl<S> TimedStream<S> {
    pub(super) fn new(stream: S, progress: Arc<Progress>) -> Self {
        let mut asking = Deadline::default();
        asking.start(ASKING);
        Self {
            stream,
            progress,
            asking,
            stall: Deadline::default(),
            taking: Deadline::default(),
            is_writing: false,
            at_end: None,
        }
    }

    fn note_progress(&mut self) {
        if self.progress.has_asked.swap(false, Ordering::Relaxed) {
            self.asking.end();
            self.taking.end();
            self.taking.start(TAKING);
        }
        if self.progress.is_in(STREAMING) {
            self.taking.end();
        }
    }

    fn too_slow(&self) -> io::Error {
        self.progress.was_slow.store(true, Ordering::Relaxed);
        io::ErrorKind::TimedOut.into()
    }

    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.note_progress();
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

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.note_progress();
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.asking.start(ASKING);
        }
        if read.is_pending() && self.asking.is_over(cx) {
            return Poll::Ready(Err(self.too_slow()));
        }
        let is_end = matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == before;
        if is_end && (self.is_writing || self.progress.is_in(ANSWERING)) {
            // Who has sent all it wants to ask still reads; hyper would take it for gone.
            self.at_end = Some(cx.waker().clone());
            return Poll::Pending;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_writing = true;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.is_writing = true;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.is_writing = false;
            if let Some(reader) = self.at_end.take() {
                reader.wake();
            }
        }
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
            let progress = Arc::new(Progress::default());
            let mut stream = TimedStream::new(stream, Arc::clone(&progress));
            progress.note_asked();
            let taking = tokio::spawn(async move {
                sleep(Duration::from_secs(2)).await;
                client.read_exact(&mut [0; 8]).await.unwrap();
                // Kept, and not read.
                client
            });
            let error = stream.write_all(&[0; 64]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(progress.was_slow());
            drop(taking);
        });
        // From the last byte that was taken.
        let took = start.elapsed();
        assert!((12..28).contains(&took.as_secs()), "{took:?}");
    }
}
