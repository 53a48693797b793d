//! `tcplinger check`: one line and an exit code, as monitoring plugins give them
//! (<https://www.monitoring-plugins.org/doc/guidelines.html>).

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::source::Source;
use super::{STDOUT, logging};
use crate::cli::{CheckArgs, Color, Format};
use crate::output::{Elapsed, Escaped};
use crate::tcp::State;
use crate::track::stuck::{Finding, Severity};
use crate::{config, probe};

/// Exit codes of plugins.
const OK: u8 = 0;
const WARNING: u8 = 1;
const CRITICAL: u8 = 2;
const UNKNOWN: u8 = 3;

pub(super) fn run(args: CheckArgs, color: Color) -> Result<ExitCode> {
    logging::start(Format::Text, color);
    let (timeout, warning, critical) = (args.timeout, args.warning, args.critical);
    let (sender, receiver) = mpsc::channel();
    // A thread of its own: the process ends without it where it takes too long.
    thread::Builder::new()
        .name("check".to_owned())
        .spawn(move || drop(sender.send(look(&args))))
        .context("cannot start a thread")?;
    let looked = receiver
        .recv_timeout(timeout)
        .unwrap_or_else(|_| Err(anyhow!("no answer within {}", Elapsed(timeout))));
    let (code, line) = match looked {
        Ok(findings) => verdict(&findings, warning, critical),
        Err(error) => (
            UNKNOWN,
            format!("UNKNOWN - {}", plain(&format!("{error:#}"))),
        ),
    };
    writeln!(io::stdout().lock(), "TCPLINGER {line}").context(STDOUT)?;
    Ok(ExitCode::from(code))
}

fn look(args: &CheckArgs) -> Result<Vec<Finding>> {
    let file = config::load(args.source.config.as_deref())?;
    probe::ensure_privileged()?;
    let mut source = Source::open(&args.source, file, args.netns.as_ref())?;
    let report = source.report(false, u64::MAX)?;
    ensure!(
        report.missing.is_empty(),
        "network namespaces that could not be looked at: {:?}; the daemon's log says why",
        report.missing
    );
    Ok(report.findings)
}

/// Text for the line: a bar would end it, and begin the performance data.
fn plain(text: &str) -> String {
    Escaped(text).to_string().replace('|', "/")
}

/// The exit code and the line, with performance data behind the bar.
fn verdict(findings: &[Finding], warning: u64, critical: u64) -> (u8, String) {
    let at_least = |severity| {
        let is_bad = |finding: &&Finding| finding.severity >= severity;
        findings.iter().filter(is_bad).count() as u64
    };
    let (stuck, worst) = (at_least(Severity::Warning), at_least(Severity::Critical));
    let (code, word) = if worst >= critical {
        (CRITICAL, "CRITICAL")
    } else if stuck >= warning {
        (WARNING, "WARNING")
    } else {
        (OK, "OK")
    };
    let oldest = findings.iter().map(|finding| finding.age_seconds);
    let oldest = oldest.fold(0.0, f64::max);
    let mut line = format!("{word} - {stuck} stuck, {worst} of them critical");
    let first = findings.iter().max_by(|a, b| {
        (a.severity, a.age_seconds)
            .partial_cmp(&(b.severity, b.age_seconds))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    if let Some(first) = first {
        let reason = plain(&first.reason);
        let owner = first.owners.first().map_or_else(String::new, |owner| {
            let comm = plain(&owner.process.comm);
            format!(", {comm}[{}]", owner.process.pid)
        });
        let (state, local, remote) = (first.state, first.local, first.remote);
        let _ = write!(line, "; {state} {local} -> {remote}{owner}: {reason}");
    }
    // A plugin's threshold is the last value that is fine.
    let _ = write!(
        line,
        " | stuck={stuck};{};;0 critical={worst};;{};0 oldest={oldest:.3}s;;;0",
        warning.saturating_sub(1),
        critical.saturating_sub(1)
    );
    for state in State::LINGERING {
        let in_state = findings.iter().filter(|finding| finding.state == state);
        let sockets: u64 = in_state.map(|finding| finding.sockets).sum();
        let _ = write!(line, " {state}={sockets};;;0");
    }
    (code, line)
}
