//! The daemon whose counts are looked at: its defaults, and what it publishes and costs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::bench::http;
use crate::bench::scrape::{Running, Scratch, free_address};

/// For the first answer: a walk of a million sockets comes before it.
const PATIENCE: Duration = Duration::from_mins(2);
const SECONDS_A_DAY: f64 = 86_400.0;

pub(super) struct Daemon {
    // Before its directory, so that it goes first.
    running: Running,
    _scratch: Scratch,
    address: String,
    pub(super) started: Instant,
}

/// An answer of `/api/v1/status`.
pub(super) struct Status {
    pub(super) json: Value,
    /// When its figures were taken.
    pub(super) taken: Instant,
    /// How old they were when they arrived.
    pub(super) age: Duration,
    /// The same moment as a time of the day.
    taken_of_day: f64,
}

impl Daemon {
    pub(super) fn start(binary: &Path) -> Result<Self> {
        Self::with("", binary)
    }

    /// With a configuration of this text; with the defaults where it is empty.
    pub(super) fn with(config: &str, binary: &Path) -> Result<Self> {
        let scratch = Scratch::new()?;
        let address = free_address()?.to_string();
        let mut command = Command::new(binary);
        command.args(["run", "--listen", &address, "--control"]);
        command.arg(scratch.0.join("control"));
        if !config.is_empty() {
            let path = scratch.0.join("tcplinger.toml");
            fs::write(&path, config)?;
            command.arg("--config").arg(path);
        }
        let started = Instant::now();
        let mut daemon = Self {
            running: Running::start("tcplinger", &mut command)?,
            _scratch: scratch,
            address,
            started,
        };
        daemon.wait()?;
        Ok(daemon)
    }

    fn wait(&mut self) -> Result<()> {
        while let Err(error) = self.get("/api/v1/status") {
            self.running.ensure_alive()?;
            if self.started.elapsed() > PATIENCE {
                return Err(error.context("no counts in time"));
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn get(&self, path: &str) -> Result<String> {
        http::get(&self.address, path)
    }

    pub(super) fn json(&self, path: &str) -> Result<Value> {
        serde_json::from_str(&self.get(path)?).with_context(|| format!("answer of {path}"))
    }

    pub(super) fn status(&self) -> Result<Status> {
        let json = self.json("/api/v1/status")?;
        let taken = json.get("taken").and_then(Value::as_str);
        let taken_of_day = taken.and_then(time_of_day).context("status has no time")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let age = Duration::from_secs_f64((now - taken_of_day).rem_euclid(SECONDS_A_DAY));
        let taken = Instant::now()
            .checked_sub(age)
            .context("the status is older than this host")?;
        Ok(Status {
            json,
            taken,
            age,
            taken_of_day,
        })
    }

    pub(super) fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics(self.get("/metrics")?))
    }

    /// User and system time so far.
    pub(super) fn cpu(&self) -> Duration {
        self.running.cpu()
    }

    pub(super) fn resident_megabytes(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.pid()))?;
        let kilobytes = field(&status, "VmRSS:").context("no VmRSS")?;
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        Ok(kilobytes as f64 / 1024.0)
    }

    /// Times that its threads have gone to sleep by themselves: each ends with a wakeup.
    pub(super) fn sleeps(&self) -> Result<u64> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.running.pid()))?;
        let mut sleeps = 0;
        for task in tasks {
            let status = fs::read_to_string(task?.path().join("status"))?;
            sleeps += field(&status, "voluntary_ctxt_switches:").context("no switches")?;
        }
        Ok(sleeps)
    }
}

/// The figure of a line of `/proc/<pid>/status`.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Seconds since midnight of an RFC 3339 time in UTC.
fn time_of_day(time: &str) -> Option<f64> {
    let (_, time) = time.strip_suffix('Z')?.split_once('T')?;
    time.split(':').try_fold(0.0, |sum, part| {
        Some(sum * 60.0 + part.parse::<f64>().ok()?)
    })
}

impl Status {
    pub(super) fn number(&self, pointer: &str) -> u64 {
        let number = self.json.pointer(pointer).and_then(Value::as_u64);
        number.unwrap_or_default()
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.json.get("in_doubt").and_then(Value::as_bool) == Some(true)
    }

    /// Every namespace with its inode number.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = (u64, &Value)> {
        let namespaces = self.json.get("namespaces").and_then(Value::as_array);
        let namespaces = namespaces.into_iter().flatten();
        namespaces.filter_map(|namespace| Some((namespace.get("netns")?.as_u64()?, namespace)))
    }

    /// Whether the metrics say the same; None where they are of another moment.
    pub(super) fn agrees_with(&self, metrics: &Metrics) -> Option<bool> {
        let taken = metrics.sum("tcplinger_sample_timestamp_seconds");
        let apart = (taken - self.taken_of_day).rem_euclid(SECONDS_A_DAY);
        if apart.min(SECONDS_A_DAY - apart) > 0.01 {
            return None;
        }
        let states = self.json.get("sockets").and_then(Value::as_object)?;
        let agrees = |(state, number): (&String, &Value)| {
            let shown = metrics.sum(&format!("tcplinger_sockets{{state=\"{state}\","));
            number
                .as_f64()
                .is_some_and(|number| (number - shown).abs() < 0.5)
        };
        Some(states.iter().all(agrees))
    }
}

/// The exposition, in Prometheus' text format.
pub(super) struct Metrics(String);

impl Metrics {
    /// Sum of the series that begin like this.
    pub(super) fn sum(&self, beginning: &str) -> f64 {
        let lines = self.0.lines().filter(|line| line.starts_with(beginning));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Status {
        pub(in crate::bench::census) fn of(json: Value) -> Self {
            Self {
                json,
                taken: Instant::now(),
                age: Duration::ZERO,
                taken_of_day: 9147.5,
            }
        }
    }

    #[test]
    fn the_time_of_day_is_read() {
        assert_eq!(time_of_day("2026-11-25T02:32:27.5Z"), Some(9147.5));
        assert_eq!(time_of_day("2026-11-25"), None);
    }

    #[test]
    fn metrics_are_compared_with_the_status_of_the_same_moment() {
        let status = |number: u64| Status::of(serde_json::json!({"sockets": {"listen": number}}));
        let metrics = Metrics(
            "tcplinger_sockets{state=\"listen\",family=\"ipv4\"} 2\n\
             tcplinger_sockets{state=\"listen\",family=\"ipv6\"} 1\n\
             tcplinger_sample_timestamp_seconds 1795573947.5\n"
                .to_owned(),
        );
        assert_eq!(status(3).agrees_with(&metrics), Some(true));
        assert_eq!(status(2).agrees_with(&metrics), Some(false));
        let later = Metrics("tcplinger_sample_timestamp_seconds 1795573948.5\n".to_owned());
        assert_eq!(status(3).agrees_with(&later), None);
    }
}
