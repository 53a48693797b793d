//! What the service manager that started the daemon is told (`sd_notify(3)`): ready, alive, reloading,
//! ending. Where none did, nothing is sent.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::wakeups::Ticker;
use crate::clock::monotonic;

/// Signs of life in one watchdog period: two may come late.
const SIGNS: u32 = 3;

/// The first snapshot is taken and the control socket answers, or a reload is over.
pub(crate) fn ready(status: &str) {
    notify(&format!("READY=1\nSTATUS={status}"));
}

/// The configuration is read again; [`ready`] ends that.
pub(crate) fn reloading() {
    let now_us = monotonic().as_micros();
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={now_us}"));
}

/// The daemon ends in order.
pub(super) fn stopping() {
    notify("STOPPING=1");
}

fn notify(state: &str) {
    if let Err(error) = try_notify(state) {
        tracing::debug!("cannot tell the service manager: {error}");
    }
}

/// Never waits: a manager that hangs must not keep the stream from being drained.
fn try_notify(state: &str) -> io::Result<()> {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// The watchdog's period (`sd_watchdog_enabled(3)`): none where nobody, or another process, is watched.
fn watchdog_period(period_us: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    let is_ours = |pid: &str| pid.parse() == Ok(std::process::id());
    let period = Duration::from_micros(period_us?.parse().ok()?);
    (pid.is_none_or(is_ours) && !period.is_zero()).then_some(period)
}

/// Feeds the manager's watchdog, where it set one. The loop that drains the stream does it: a daemon
/// that no longer drains is restarted.
#[derive(Debug)]
pub(super) struct Watchdog(Option<Feed>);

#[derive(Debug)]
struct Feed {
    every: Duration,
    fed: Option<Instant>,
    ticker: Ticker,
}

impl Watchdog {
    /// The one that `WATCHDOG_USEC` asks for. Call it inside the runtime.
    ///
    /// # Errors
    /// The kernel gives no timer.
    pub(super) fn from_environment() -> Result<Self> {
        let [period_us, pid] = ["WATCHDOG_USEC", "WATCHDOG_PID"].map(|name| env::var(name).ok());
        Self::new(watchdog_period(period_us.as_deref(), pid.as_deref()))
    }

    fn new(period: Option<Duration>) -> Result<Self> {
        let feed = |period: Duration| {
            let every = period / SIGNS;
            let ticker = Ticker::new(every).context("cannot set a timer for the watchdog")?;
            Ok(Feed {
                every,
                fed: None,
                ticker,
            })
        };
        period.map(feed).transpose().map(Self)
    }

    /// Gives a sign of life if one is due.
    pub(super) fn feed(&mut self) {
        if self.is_due(Instant::now()) {
            notify("WATCHDOG=1");
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let Some(feed) = &mut self.0 else {
            return false;
        };
        // A timer may be early.
        let (every, slack) = (feed.every, feed.every / 100);
        let is_due = |fed: Instant| now.saturating_duration_since(fed) + slack >= every;
        let is_due = feed.fed.is_none_or(is_due);
        if is_due {
            feed.fed = Some(now);
        }
        is_due
    }

    /// Ready when the next sign is due; never without a watchdog.
    pub(super) async fn due(&self) -> Result<()> {
        match &self.0 {
            Some(feed) => Ok(feed.ticker.tick().await?),
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sign_of_life_is_due_three_times_a_period() {
        let mut watchdog = Watchdog::new(Some(Duration::from_secs(30))).unwrap();
        let begin = Instant::now();
        let due: Vec<u64> = (0..=30)
            .filter(|second| watchdog.is_due(begin + Duration::from_secs(*second)))
            .collect();
        assert_eq!(due, [0, 10, 20, 30]);
    }

    #[test]
    fn only_the_process_that_is_watched_gives_signs() {
        let own = std::process::id().to_string();
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog_period(Some("1000000"), None), second);
        assert_eq!(watchdog_period(Some("1000000"), Some(&own)), second);
        assert_eq!(watchdog_period(Some("1000000"), Some("1")), None);
        assert_eq!(watchdog_period(Some("0"), None), None);
        assert_eq!(watchdog_period(Some("soon"), None), None);
        assert_eq!(watchdog_period(None, None), None);
    }

    #[tokio::test]
    async fn without_a_watchdog_nothing_is_due() {
        let mut watchdog = Watchdog::new(None).unwrap();
        assert!(!watchdog.is_due(Instant::now()));
        let due = tokio::time::timeout(Duration::from_millis(20), watchdog.due());
        assert!(due.await.is_err());
    }
}
