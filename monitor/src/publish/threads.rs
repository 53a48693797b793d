//! The threads of the outlets that push, and their end.

use std::io;
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;

const LOOK: Duration = Duration::from_millis(5);

/// Turns true, or is closed, once the outlet is to end.
pub(super) type Stop = watch::Receiver<bool>;

/// An outlet on a thread of its own. Dropped, it ends when it has said its last words.
#[derive(Debug)]
pub(super) struct Outlet {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Outlet {
    /// Starts what `make` makes.
    ///
    /// # Errors
    /// Those of `make`, or the system has no room for another thread.
    pub(super) fn start<E: From<io::Error>, Run: FnOnce() + Send + 'static>(
        name: &str,
        make: impl FnOnce(Stop) -> Result<Run, E>,
    ) -> Result<Self, E> {
        let (stop, stopped) = watch::channel(false);
        let outlet = make(stopped)?;
        let thread = Builder::new().name(name.to_owned()).spawn(outlet)?;
        Ok(Self { stop, thread })
    }

    /// Asks it to end.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits for its end; whether it has come. One that hangs in a write does not end, and dies with
    /// the process.
    pub(super) fn has_ended_by(&self, deadline: Instant) -> bool {
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(LOOK);
        }
        true
    }
}
