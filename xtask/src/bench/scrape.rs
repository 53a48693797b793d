//! What a scrape takes while connections come and go as fast as they can, next to the `tcpstat`
//! collector of `node_exporter` on the same sockets.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{Close, LoadArgs, load};
use crate::exec::{command, exec};
use crate::{apt, build, workspace};

const NODE_EXPORTER: &str = "prometheus-node-exporter";
/// Sockets in `TIME_WAIT` beside the churn.
const TIME_WAIT: u32 = 100_000;
/// They expire after a minute: the measurement ends before.
const AT_MOST: Duration = Duration::from_secs(45);
/// More than the churn gets done meanwhile.
const ENDLESS: &str = "100000000";
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub(crate) struct ScrapeArgs {
    #[arg(long)]
    scrapes: u32,
}

/// Starts the measurement in a network namespace of its own.
pub(super) fn run(scrapes: u32) -> Result<()> {
    apt::install_missing(&[NODE_EXPORTER])?;
    build::release()?;
    let xtask = std::env::current_exe().context("cannot find this program")?;
    let xtask = xtask.to_str().context("its path is not UTF-8")?;
    let scrapes = scrapes.to_string();
    let words = ["--net", "--", xtask, "scrape", "--scrapes", &scrapes];
    exec(&mut command("unshare", &words))
}

/// Measures, in turn, in the namespace that [`run`] made.
pub(crate) fn measure(args: &ScrapeArgs) -> Result<()> {
    exec(&mut command("ip", &["link", "set", "lo", "up"]))?;
    let (ours, theirs) = (free_address()?, free_address()?);
    // Before the targets, so that it goes after them.
    let scratch = Scratch::new()?;
    let mut tcplinger = Command::new(workspace::binary()?);
    tcplinger.args(["run", "--listen", &ours.to_string(), "--control"]);
    let mut node_exporter = Command::new(NODE_EXPORTER);
    node_exporter.args(["--collector.disable-defaults", "--collector.tcpstat"]);
    node_exporter.args(["--web.disable-exporter-metrics"]);
    node_exporter.arg(format!("--web.listen-address={theirs}"));
    let mut targets = [
        Target::start("tcplinger", tcplinger.arg(scratch.0.join("control")), ours)?,
        Target::start("node_exporter tcpstat", &mut node_exporter, theirs)?,
    ];
    load::run(&LoadArgs {
        connections: TIME_WAIT,
        close: Close::Fin,
    })?;
    let began = Instant::now();
    let mut churn = Command::new(std::env::current_exe()?);
    churn.args(["load", "--connections", ENDLESS, "--close", "reset"]);
    let churn = Running::start("the load", &mut churn)?;
    let mut rounds = 0;
    while rounds < args.scrapes && began.elapsed() < AT_MOST {
        for target in &mut targets {
            target.scrape()?;
        }
        rounds += 1;
    }
    drop(churn);
    report(rounds, time_wait()?, &mut targets);
    Ok(())
}

fn report(rounds: u32, time_wait: u64, targets: &mut [Target]) {
    eprintln!(
        "\n{rounds} scrapes of each in turn, {time_wait} sockets in TIME_WAIT, both cores busy"
    );
    eprintln!(
        "{:<24} {:>10} {:>10} {:>10} {:>14} {:>8}",
        "milliseconds", "p50", "p99", "most", "CPU a scrape", "bytes"
    );
    for target in targets {
        target.times.sort();
        let cpu = target.running.cpu().saturating_sub(target.cpu_before);
        let of_all = |share: usize| {
            let last = target.times.len().saturating_sub(1);
            let time = target.times.get(last * share / 100);
            time.map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        eprintln!(
            "{:<24} {:>10.2} {:>10.2} {:>10.2} {:>14.2} {:>8}",
            target.running.name,
            of_all(50),
            of_all(99),
            of_all(100),
            cpu.as_secs_f64() * 1e3 / f64::from(rounds.max(1)),
            target.bytes
        );
    }
    eprintln!("tcplinger's CPU has the stream of every transition in it");
}

/// An exporter under measurement.
struct Target {
    running: Running,
    address: SocketAddr,
    times: Vec<Duration>,
    bytes: usize,
    cpu_before: Duration,
}

impl Target {
    fn start(name: &'static str, command: &mut Command, address: SocketAddr) -> Result<Self> {
        let running = Running::start(name, command)?;
        let mut target = Self {
            running,
            address,
            times: Vec::new(),
            bytes: 0,
            cpu_before: Duration::ZERO,
        };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = target.get() {
            if Instant::now() > deadline {
                return Err(error.context(format!("{name} did not answer in time")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        target.cpu_before = target.running.cpu();
        Ok(target)
    }

    fn scrape(&mut self) -> Result<()> {
        let start = Instant::now();
        self.bytes = self.get()?;
        self.times.push(start.elapsed());
        Ok(())
    }

    /// Bytes of the answer.
    fn get(&self) -> Result<usize> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let host = self.address;
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        ensure!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{} did not answer with its metrics",
            self.running.name
        );
        Ok(answer.len())
    }
}

/// A process that is asked to end when this is dropped, so that it cleans up behind itself.
pub(super) struct Running {
    name: &'static str,
    child: Child,
}

impl Running {
    pub(super) fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn ensure_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has ended: {status}", self.name);
        }
        Ok(())
    }

    /// User and system time so far: fields 14 and 15 of `/proc/<pid>/stat`, in hundredths.
    pub(super) fn cpu(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(path).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; waiting is what matters.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A directory for the control socket and its lock, removed when this is dropped.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new() -> Result<Self> {
        let name = format!("tcplinger-scrape-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in the directory for temporary files goes with the next boot.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An address that nobody listens on just now.
pub(super) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?)
}

fn time_wait() -> Result<u64> {
    let sockstat = fs::read_to_string("/proc/thread-self/net/sockstat")?;
    let line = sockstat.lines().find(|line| line.starts_with("TCP:"));
    let mut words = line.unwrap_or_default().split(' ');
    words.find(|word| *word == "tw");
    words
        .next()
        .and_then(|word| word.parse().ok())
        .context("sockstat has no tw")
}
