//! One real Prometheus with a configuration and data of its own.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::hosts::Hosts;
use super::queries::{Query, RULES, Times};
use crate::bench::http;
use crate::exec::command;
use crate::workspace;

const PATIENCE: Duration = Duration::from_secs(30);
/// An empty one has settled by then.
const SETTLED: Duration = Duration::from_secs(5);
/// Points of a range, about as many as a panel is wide in steps of a scrape.
const POINTS: u64 = 240;

/// How often a query is asked: so often, and no longer than that where it was often enough.
const MOST: usize = 20;
const FEWEST: usize = 3;
const ENOUGH: Duration = Duration::from_secs(4);

pub(super) struct Prometheus {
    child: Child,
    address: String,
    config: PathBuf,
    start: Instant,
}

/// What it says of itself.
pub(super) struct Usage {
    pub(super) series: f64,
    pub(super) resident_bytes: f64,
    /// Of the last scrape of every host.
    pub(super) samples: f64,
    /// Over its whole life.
    pub(super) cpu_percent: f64,
    /// Of all groups, the last time.
    pub(super) rules_seconds: f64,
    pub(super) hosts_up: usize,
}

impl Prometheus {
    /// Starts one that scrapes nothing yet.
    pub(super) fn start(scratch: &Path) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let config = scratch.join("prometheus.yml");
        fs::write(&config, "global: {}\n")?;
        let log = fs::File::create(scratch.join("prometheus.log"))?;
        let child = command("setpriv", &["--pdeathsig", "TERM", "prometheus"])
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                scratch.join("data").display()
            ))
            .arg(format!("--web.listen-address={port}"))
            .args(["--web.enable-lifecycle", "--log.level=warn"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start Prometheus; Debian has it as prometheus")?;
        let prometheus = Self {
            child,
            address: port.to_string(),
            config,
            start: Instant::now(),
        };
        let deadline = Instant::now() + PATIENCE;
        while http::get(&prometheus.address, "/-/ready").is_err() {
            if Instant::now() > deadline {
                let log = fs::read_to_string(scratch.join("prometheus.log"))?;
                bail!("Prometheus does not get ready: {log}");
            }
            sleep(Duration::from_millis(100));
        }
        sleep(SETTLED);
        Ok(prometheus)
    }

    /// Has it scrape that many hosts, and evaluate the rules as often.
    pub(super) fn scrape(&self, hosts: SocketAddr, number: usize, every: Duration) -> Result<()> {
        let rules = workspace::root()?.join(RULES);
        let mut config = format!(
            "global: {{scrape_interval: {0}s, evaluation_interval: {0}s}}\n\
             rule_files: [{1}]\nscrape_configs:\n- job_name: tcplinger\n  static_configs:\n",
            every.as_secs(),
            rules.display()
        );
        for host in 0..number {
            let path = Hosts::path(host);
            writeln!(
                config,
                "  - {{targets: ['{hosts}'], labels: {{instance: host-{host:05}, __metrics_path__: {path}}}}}"
            )?;
        }
        fs::write(&self.config, config)?;
        http::post(&self.address, "/-/reload", &[])?;
        Ok(())
    }

    pub(super) fn usage(&self) -> Result<Usage> {
        let metrics = http::get(&self.address, "/metrics")?;
        let sum = |name: &str| -> f64 {
            let rows = metrics.lines().filter(|line| !line.starts_with('#'));
            let named = rows.filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
            // Of the name alone, and not of a longer one.
            let whole = named.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'));
            whole
                .filter_map(|(_, value)| value.parse::<f64>().ok())
                .sum()
        };
        let cpu = sum("process_cpu_seconds_total");
        Ok(Usage {
            series: sum("prometheus_tsdb_head_series"),
            resident_bytes: sum("process_resident_memory_bytes"),
            samples: self.value("sum(scrape_samples_scraped)")?,
            cpu_percent: 100.0 * cpu / self.start.elapsed().as_secs_f64(),
            rules_seconds: sum("prometheus_rule_group_last_duration_seconds"),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a number of hosts"
            )]
            hosts_up: self.value("sum(up)")? as usize,
        })
    }

    /// The one value of a query; 0 without one.
    fn value(&self, query: &str) -> Result<f64> {
        let answer = http::post(&self.address, "/api/v1/query", &[("query", query)])?;
        let answer: Value = serde_json::from_str(&answer).context("its answer")?;
        let value = answer.pointer("/data/result/0/value/1");
        Ok(value
            .and_then(Value::as_str)
            .map_or(0.0, |value| value.parse().unwrap_or(0.0)))
    }

    /// Asks it again and again: a range of that time, or the last moment of it.
    pub(super) fn time(&self, query: Query, range: Duration) -> Result<Times> {
        let end = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let (start, end) = (
            end.saturating_sub(range).as_secs().to_string(),
            end.as_secs().to_string(),
        );
        let step = (range.as_secs() / POINTS).max(1).to_string();
        let text = query.text.as_str();
        let fields = [
            ("query", text),
            ("start", &start),
            ("end", &end),
            ("step", &step),
        ];
        let (path, fields): (_, &[_]) = if query.is_instant {
            ("/api/v1/query", &[("query", text)])
        } else {
            ("/api/v1/query_range", &fields)
        };
        let mut seconds = Vec::new();
        let mut answer = String::new();
        let end = Instant::now() + ENOUGH;
        while seconds.len() < FEWEST || (seconds.len() < MOST && Instant::now() < end) {
            let start = Instant::now();
            answer = http::post(&self.address, path, fields)
                .with_context(|| format!("the query of {}: {text}", query.name))?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let answer: Value = serde_json::from_str(&answer).context("its answer")?;
        let result = answer.pointer("/data/result").and_then(Value::as_array);
        Ok(Times {
            query,
            seconds,
            series: result.map_or(0, Vec::len),
        })
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
