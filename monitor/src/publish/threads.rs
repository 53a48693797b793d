//! The threads of the outlets that push, and their end.

use std::io;
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// For the last words of every outlet together.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(5);

/// True once the daemon ends.
pub(super) type Stop = watch::Receiver<bool>;

#[derive(Debug, Default)]
pub(super) struct Threads {
    stop: watch::Sender<bool>,
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn stop(&self) -> Stop {
        self.stop.subscribe()
    }

    /// # Errors
    /// The system has no room for another thread.
    pub(super) fn start(
        &mut self,
        name: &str,
        outlet: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let thread = Builder::new().name(name.to_owned()).spawn(outlet)?;
        self.running.push(thread);
        Ok(())
    }

    /// Asks every thread to end and waits a moment; whether all have. One that hangs in a write does
    /// not end, and dies with the process.
    pub(super) fn end(&self) -> bool {
        self.stop.send_replace(true);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let has_ended = self.running.iter().all(JoinHandle::is_finished);
            if has_ended || Instant::now() >= deadline {
                return has_ended;
            }
            thread::sleep(LOOK);
        }
    }
}
