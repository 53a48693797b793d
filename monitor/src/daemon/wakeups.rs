//! What wakes the daemon: the eBPF program when the reader of its stream sleeps, and a timer.
//!
//! The runtime's own timers wake a thread once or twice more on the way to a long wait's end, to move it
//! to a finer level of their wheel.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Where a reader waits for the wakeup that it has asked the program for.
#[derive(Debug)]
pub(crate) struct Wakeups(AsyncFd<OwnedFd>);

impl Wakeups {
    /// `ring` is the ring buffer's descriptor. Call it inside the runtime.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(crate) fn new(ring: OwnedFd) -> io::Result<Self> {
        readable(ring).map(Self)
    }

    /// Waits for the wakeup. It may be lost: do not wait for it alone.
    ///
    /// # Errors
    /// The ring cannot be waited for.
    pub(crate) async fn next(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

/// Ticks at a fixed interval. Ticks that nobody waited for are one.
#[derive(Debug)]
pub(super) struct Ticker(AsyncFd<OwnedFd>);

impl Ticker {
    /// The first tick is an interval away. Call it inside the runtime.
    ///
    /// # Errors
    /// The kernel gives no timer: there are too many descriptors.
    pub(super) fn new(interval: Duration) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let interval = Timespec::try_from(interval).map_err(io::Error::other)?;
        let ticks = Itimerspec {
            it_interval: interval,
            it_value: interval,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &ticks)?;
        readable(timer).map(Self)
    }

    /// Waits for the next tick.
    ///
    /// # Errors
    /// The timer cannot be read.
    pub(super) async fn tick(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut ticks = [0; 8];
            match rustix::io::read(self.0.get_ref(), &mut ticks) {
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                read => return read.map(drop).map_err(io::Error::from),
            }
        }
    }
}

fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: it owns the descriptor, which stays open until it is dropped.
    let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    descriptor.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn ticks_come_at_their_interval_and_do_not_pile_up() {
        let interval = Duration::from_millis(20);
        let (ticker, start) = (Ticker::new(interval).unwrap(), Instant::now());
        ticker.tick().await.unwrap();
        assert!(start.elapsed() >= interval);
        std::thread::sleep(5 * interval);
        ticker.tick().await.unwrap();
        let late = Instant::now();
        ticker.tick().await.unwrap();
        assert!(late.elapsed() >= Duration::from_millis(1));
    }
}
