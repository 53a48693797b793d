//! Threads that keep the right to look at other processes, which the daemon's main thread gives up, and
//! what those that it starts give up with it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread::Builder;

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A handle on one such thread, which works in the order it is asked and ends with its last handle.
#[derive(Clone, Debug)]
pub(super) struct Looker(mpsc::Sender<Job>);

impl Looker {
    pub(super) fn spawn(name: &str) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        Builder::new().name(name.to_owned()).spawn(move || {
            for job in queue {
                job();
            }
        })?;
        Ok(Self(jobs))
    }

    /// Has it do some work; the result comes by the receiver, or nothing where the work panics.
    pub(super) fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        let job = move || {
            // The panic has been told; the thread has more to do.
            if let Ok(result) = catch_unwind(AssertUnwindSafe(work)) {
                // Fails where nobody waits any more.
                let _ = sender.send(result);
            }
        };
        // Fails where the thread has ended: the receiver tells.
        let _ = self.0.send(Box::new(job));
        receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_in_order_and_a_panic_ends_nothing() {
        let looker = Looker::spawn("looker").unwrap();
        let first = looker.start(|| 1);
        let second = looker.start::<u32>(|| panic!("as the test has it"));
        let third = looker.start(|| std::thread::current().name().map(str::to_owned));
        assert_eq!(first.await, Ok(1));
        assert!(second.await.is_err());
        assert_eq!(third.await.unwrap().as_deref(), Some("looker"));
    }
}
