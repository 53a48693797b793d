//! The exposition of one host, and what another host would have in its place at another time.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::bench::http;
use crate::exec::{command, is_root};
use crate::{build, setup, workspace};

/// Labels whose values differ from host to host.
const OWN_LABELS: [&str; 3] = ["owner", "namespace", "netns"];
/// Values of theirs that do not.
const COMMON: [&str; 3] = ["", "other", "nobody"];
/// Counters double in this time.
const DOUBLING_SECONDS: f64 = 600.0;

pub(super) struct Exposition {
    lines: Vec<Line>,
}

enum Line {
    Comment(String),
    Sample {
        name: String,
        /// With their braces, or empty.
        labels: String,
        value: Value,
    },
}

#[derive(Clone, Copy)]
enum Value {
    /// Rises with time; a histogram's parts by the same factor, so that they stay in order.
    Counter(f64),
    Gauge(f64),
    /// What a host has from its start on.
    Fixed(f64),
    /// The time at which it is asked for.
    Now,
}

impl Exposition {
    /// Reads Prometheus' text format, as far as tcplinger writes it.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let rising: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .filter_map(|line| line.split_once(' '))
            .filter(|(_, kind)| matches!(*kind, "counter" | "histogram"))
            .map(|(name, _)| name)
            .collect();
        let lines: Result<Vec<Line>> = text
            .lines()
            .filter(|line| !line.trim().is_empty() && *line != "# EOF")
            .map(|line| Line::parse(line, &rising))
            .collect();
        let exposition = Self { lines: lines? };
        ensure!(exposition.series() > 0, "the exposition has no series");
        Ok(exposition)
    }

    pub(super) fn series(&self) -> usize {
        let is_sample = |line: &&Line| matches!(line, Line::Sample { .. });
        self.lines.iter().filter(is_sample).count()
    }

    /// What that host exposes after so many seconds.
    pub(super) fn of(&self, host: usize, seconds: f64) -> String {
        let mut text = String::new();
        for (number, line) in self.lines.iter().enumerate() {
            // Writing to a string does not fail.
            let _ = match line {
                Line::Comment(comment) => writeln!(text, "{comment}"),
                Line::Sample {
                    name,
                    labels,
                    value,
                } => {
                    let labels = own(labels, host);
                    match value.of(host, number, seconds) {
                        f64::INFINITY => writeln!(text, "{name}{labels} +Inf"),
                        value => writeln!(text, "{name}{labels} {value}"),
                    }
                }
            };
        }
        text
    }
}

impl Line {
    fn parse(line: &str, rising: &BTreeSet<&str>) -> Result<Self> {
        if line.starts_with('#') {
            return Ok(Self::Comment(line.to_owned()));
        }
        let (series, value) = line
            .rsplit_once(' ')
            .with_context(|| format!("no value in the line {line:?}"))?;
        let (name, labels) = series.split_at(series.find('{').unwrap_or(series.len()));
        let number: f64 = match value {
            "+Inf" => f64::INFINITY,
            value => value
                .parse()
                .with_context(|| format!("no number in the line {line:?}"))?,
        };
        let parts = ["", "_bucket", "_count", "_sum"];
        let is_rising = parts
            .iter()
            .filter_map(|part| name.strip_suffix(part))
            .any(|base| rising.contains(base));
        let value = if name.ends_with("_timestamp_seconds") {
            Value::Now
        } else if name.ends_with("_start_time_seconds") || name.ends_with("_info") {
            Value::Fixed(number)
        } else if is_rising {
            Value::Counter(number)
        } else {
            Value::Gauge(number)
        };
        Ok(Self::Sample {
            name: name.to_owned(),
            labels: labels.to_owned(),
            value,
        })
    }
}

impl Value {
    fn of(self, host: usize, series: usize, seconds: f64) -> f64 {
        // From half of what the template has to one and a half times as much.
        let size = 0.5 + fraction(host);
        let (value, seen) = match self {
            Self::Now => return now(),
            Self::Fixed(value) => return value,
            Self::Counter(value) => (value, value * size * (1.0 + seconds / DOUBLING_SECONDS)),
            Self::Gauge(value) => {
                let phase = std::f64::consts::TAU * fraction(host.wrapping_add(series));
                let wave = 1.0 + 0.2 * (seconds / 60.0 + phase).sin();
                (value, value * size * wave)
            }
        };
        // Of a whole number there is no half.
        if value.fract() == 0.0 {
            seen.floor()
        } else {
            seen
        }
    }
}

/// Something between 0 and 1 that is always the same for that number, and another for the next.
fn fraction(number: usize) -> f64 {
    let mixed = (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    #[expect(clippy::cast_precision_loss, reason = "32 bits")]
    let fraction = mixed as f64 / f64::from(u32::MAX);
    fraction
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// The labels with this host's own owners and namespaces in them.
fn own(labels: &str, host: usize) -> String {
    let mut rest = labels;
    let mut owned = String::new();
    while let Some((label, value)) = rest.split_once("=\"") {
        let end = end_of_value(value);
        let (value, tail) = value.split_at(end);
        let name = label.trim_start_matches(['{', ',']);
        let is_own = OWN_LABELS.contains(&name) && !COMMON.contains(&value);
        let _ = match value.parse::<usize>() {
            _ if !is_own => write!(owned, "{label}=\"{value}\""),
            Ok(number) => write!(owned, "{label}=\"{}\"", number.wrapping_add(host)),
            Err(_) => write!(owned, "{label}=\"{value}-{host}\""),
        };
        rest = tail.strip_prefix('"').unwrap_or(tail);
    }
    owned + rest
}

/// Where the closing quote is.
fn end_of_value(text: &str) -> usize {
    let mut is_escaped = false;
    let closing = text.char_indices().find(|(_, c)| {
        let is_end = *c == '"' && !is_escaped;
        is_escaped = *c == '\\' && !is_escaped;
        is_end
    });
    closing.map_or(text.len(), |(end, _)| end)
}

/// What a daemon on this host exposes, a moment after its start.
pub(super) fn of_a_daemon() -> Result<String> {
    ensure!(
        is_root(),
        "the daemon needs root: run the same command as root, or give --exposition FILE"
    );
    setup::ensure()?;
    build::release()?;
    let daemon = Daemon::start()?;
    // Its first look at owners, and some rates.
    thread::sleep(Duration::from_secs(3));
    http::get(&daemon.address, "/metrics")
}

/// A daemon with a listener of its own; ended with this.
struct Daemon {
    child: Child,
    address: String,
}

impl Daemon {
    fn start() -> Result<Self> {
        let binary = workspace::binary()?;
        let binary = binary.to_str().context("the target folder is not UTF-8")?;
        let control = std::env::temp_dir().join(format!("tcplinger-fleet-{}", std::process::id()));
        let control = control.with_extension("sock");
        let mut child = command(
            "setpriv",
            &[
                "--pdeathsig",
                "TERM",
                binary,
                "run",
                "--listen",
                "127.0.0.1:0",
            ],
        )
        .arg("--control")
        .arg(control)
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the daemon")?;
        let stderr = child.stderr.take().context("it has no stderr")?;
        let mut daemon = Self {
            child,
            address: String::new(),
        };
        let (sender, addresses) = mpsc::channel();
        // Reads on to the end, so that the daemon never waits for us.
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(address) = http::address_in(&line) {
                    let _ = sender.send(address);
                }
            }
        });
        daemon.address = addresses
            .recv_timeout(Duration::from_secs(20))
            .context("the daemon logs no address of its HTTP listener")?;
        Ok(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself; waiting is what matters.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a_total Words.\n# TYPE a_total counter\n\
        a_total{owner=\"x \\\"y\\\"\",kind=\"unit\"} 10\n# TYPE h histogram\n\
        h_bucket{le=\"1\"} 5\nh_bucket{le=\"+Inf\"} 9\nh_sum 12.5\nh_count 9\n# TYPE g gauge\n\
        g{netns=\"4026531833\",namespace=\"\"} +Inf\ng{netns=\"other\",namespace=\"other\"} 0\n\
        # TYPE taken_timestamp_seconds gauge\ntaken_timestamp_seconds 5\n# EOF\n";

    #[test]
    fn each_host_has_its_own_labels() {
        let exposition = Exposition::parse(TEXT).unwrap();
        assert_eq!(exposition.series(), 8);
        let text = exposition.of(7, 0.0);
        assert!(
            text.contains("a_total{owner=\"x \\\"y\\\"-7\",kind=\"unit\"} "),
            "{text}"
        );
        assert!(
            text.contains("g{netns=\"4026531840\",namespace=\"\"} +Inf\n"),
            "{text}"
        );
        assert!(text.contains("g{netns=\"other\",namespace=\"other\"} 0\n"));
        assert!(!text.contains("taken_timestamp_seconds 5\n"));
        assert!(!text.contains("# EOF"));
    }

    #[test]
    fn counters_never_fall_and_buckets_stay_in_order() {
        let exposition = Exposition::parse(TEXT).unwrap();
        let value = |text: &str, series: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(series)).unwrap();
            line.rsplit_once(' ').unwrap().1.parse().unwrap()
        };
        for host in 0..50 {
            let mut last = [0.0; 3];
            for second in 0..200 {
                let text = exposition.of(host, f64::from(second));
                let seen = ["h_bucket{le=\"1\"}", "h_bucket{le=\"+Inf\"}", "h_sum"];
                let seen = seen.map(|series| value(&text, series));
                assert!(last.iter().zip(&seen).all(|(last, seen)| last <= seen));
                assert!(seen[0] <= seen[1]);
                last = seen;
            }
        }
    }

    #[test]
    fn what_is_no_exposition_is_refused() {
        for (text, reason) in [
            ("", "the exposition has no series"),
            ("a", "no value in the line \"a\""),
            ("a b", "no number in the line \"a b\""),
        ] {
            let error = Exposition::parse(text).err().unwrap();
            assert_eq!(error.to_string(), reason);
        }
    }
}
