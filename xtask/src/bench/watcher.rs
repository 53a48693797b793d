//! Who watches while the load runs, and what that cost.

use std::env;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::exec::{capture, command, find};

pub(super) enum Watcher {
    Nobody,
    Tcplinger { binary: PathBuf, control: PathBuf },
    Tcpstates { binary: PathBuf },
}

/// What a watcher did during one measurement.
#[derive(Default)]
pub(super) struct Cost {
    /// In the kernel; None where no program ran.
    pub(super) ns_per_event: Option<f64>,
    pub(super) events: u64,
    pub(super) lost: u64,
}

/// A watcher at work. It is stopped even where the measurement fails.
pub(super) struct Running<'a> {
    watcher: &'a Watcher,
    child: Option<Child>,
    programs: Vec<u64>,
}

impl Watcher {
    /// Nobody first: the others are compared with it.
    pub(super) fn available(binary: PathBuf) -> Vec<Self> {
        let control = env::temp_dir().join(format!("tcplinger-bench-{}.sock", std::process::id()));
        let mut watchers = vec![Self::Nobody, Self::Tcplinger { binary, control }];
        match find("tcpstates") {
            Some(binary) => watchers.push(Self::Tcpstates { binary }),
            None => eprintln!("skipped tcpstates: not installed; it is in Debian's libbpf-tools"),
        }
        watchers
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Nobody => "unwatched",
            Self::Tcplinger { .. } => "tcplinger run",
            Self::Tcpstates { .. } => "tcpstates",
        }
    }

    pub(super) fn start(&self) -> Result<Running<'_>> {
        let before = programs()?;
        let mut command = match self {
            Self::Nobody => None,
            Self::Tcplinger { binary, control } => {
                let mut command = Command::new(binary);
                command.arg("run").arg("--control").arg(control);
                Some(command)
            }
            Self::Tcpstates { binary } => Some(Command::new(binary)),
        };
        let child = command
            .as_mut()
            .map(|command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn())
            .transpose()
            .with_context(|| format!("cannot start {}", self.name()))?;
        let mut running = Running {
            watcher: self,
            child,
            programs: Vec::new(),
        };
        if running.child.is_some() {
            running.await_programs(&before)?;
        }
        Ok(running)
    }
}

impl Running<'_> {
    /// Until its program is loaded, and its first snapshot taken where it takes one.
    fn await_programs(&mut self, before: &[(u64, Usage)]) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            let is_new = |id: &u64| before.iter().all(|(known, _)| known != id);
            self.programs = programs()?
                .into_iter()
                .map(|(id, _)| id)
                .filter(is_new)
                .collect();
            let is_ready = match self.watcher {
                Watcher::Tcplinger { .. } => self.watcher.counts().is_ok(),
                _ => !self.programs.is_empty(),
            };
            if is_ready {
                sleep(Duration::from_millis(300));
                return Ok(());
            }
            sleep(Duration::from_millis(100));
        }
        bail!("{} did not start within 20 s", self.watcher.name())
    }

    pub(super) fn stop(self) -> Result<Cost> {
        let mut ns = 0;
        let mut events = 0;
        for (_, used) in programs()?
            .into_iter()
            .filter(|(id, _)| self.programs.contains(id))
        {
            // Each of a watcher's programs runs once for a transition: what they take adds up.
            ns += used.ns;
            events = events.max(used.runs);
        }
        let lost = match self.watcher {
            Watcher::Tcplinger { .. } => self.watcher.counts()?,
            _ => 0,
        };
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let ns_per_event = (events > 0).then(|| ns as f64 / events as f64);
        Ok(Cost {
            ns_per_event,
            events,
            lost,
        })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself; waiting is what matters.
            let _ = kill_process(Pid::from_child(child), Signal::INT);
            let _ = child.wait();
        }
    }
}

impl Watcher {
    /// Events lost so far, by the daemon's own account.
    fn counts(&self) -> Result<u64> {
        let Self::Tcplinger { binary, control } = self else {
            return Ok(0);
        };
        let (Some(binary), Some(control)) = (binary.to_str(), control.to_str()) else {
            bail!("a path is not UTF-8");
        };
        let words = [
            "status",
            "--source",
            "daemon",
            "--format",
            "json",
            "--control",
            control,
        ];
        let status: Value = serde_json::from_str(&capture(&mut command(binary, &words))?)?;
        status
            .pointer("/events/lost")
            .and_then(Value::as_u64)
            .context("status has no events.lost")
    }
}

#[derive(Clone, Copy, Default)]
struct Usage {
    ns: u64,
    runs: u64,
}

/// Every loaded eBPF program with what it has used, by the kernel's accounting.
fn programs() -> Result<Vec<(u64, Usage)>> {
    let listed = capture(&mut command("bpftool", &["prog", "list", "--json"]))?;
    let listed: Vec<Value> = serde_json::from_str(&listed).context("bpftool's list")?;
    let figure =
        |program: &Value, key: &str| program.get(key).and_then(Value::as_u64).unwrap_or_default();
    Ok(listed
        .iter()
        .map(|program| {
            let usage = Usage {
                ns: figure(program, "run_time_ns"),
                runs: figure(program, "run_cnt"),
            };
            (figure(program, "id"), usage)
        })
        .collect())
}
