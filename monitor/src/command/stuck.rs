//! `tcplinger stuck`: which sockets linger too long, whose they are, why, and what to do.

use std::cmp::Reverse;
use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::source::Source;
use super::{
    Abandoned, FAILURE, STDOUT, clock, logging, netns, runtime, stdout_style, stop_signal,
};
use crate::cli::{Color, Format, SeverityChoice, StuckArgs, StuckOrder};
use crate::clock::{monotonic, nanoseconds};
use crate::inventory::{Worker, wait};
use crate::output::{explain, json, text};
use crate::track::stuck::{Change, Finding, Matcher, Notice, Report, Severity};
use crate::{config, probe};

/// Rows of text shown unless asked for more.
const TOP: usize = 50;
/// Clears a terminal and starts at its top.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) fn run(args: &StuckArgs, color: Color) -> Result<ExitCode> {
    let file = config::load(args.source.config.as_deref())?;
    logging::start(Format::Text, color);
    let wanted = args.filter.netns.as_ref();
    if args.rules {
        probe::ensure_privileged()?;
        return show_rules(args, &file);
    }
    let mut source = Source::open(&args.source, file, wanted)?;
    let shown = Shown {
        matcher: config::matcher(&args.holder, &args.filter),
        args,
        source: source.name(),
    };
    if args.watch {
        return watch(&mut source, &shown, color);
    }
    let report = source.report(args.all, u64::MAX)?;
    note_missing(&report);
    let nothing = Shown::nothing(report.findings.len());
    let findings = shown.of(report.findings);
    let is_stuck = findings
        .iter()
        .any(|finding| finding.severity > Severity::None);
    let mut out = io::BufWriter::new(io::stdout().lock());
    shown
        .print(&mut out, color, findings, &nothing)
        .and_then(|()| out.flush())
        .context(STDOUT)?;
    Ok(if is_stuck {
        ExitCode::from(FAILURE)
    } else {
        ExitCode::SUCCESS
    })
}

/// What of a report the user wants, in which order.
struct Shown<'a> {
    matcher: Matcher,
    args: &'a StuckArgs,
    /// Who answers.
    source: &'static str,
}

impl Shown<'_> {
    fn of(&self, mut findings: Vec<Finding>) -> Vec<Finding> {
        findings.retain(|finding| self.is_wanted(finding));
        let oldest = |finding: &Finding| Reverse(order(finding.age_seconds));
        match self.args.sort {
            StuckOrder::Severity => {
                findings.sort_by_key(|finding| (Reverse(finding.severity), oldest(finding)));
            }
            StuckOrder::Age => findings.sort_by_key(oldest),
            StuckOrder::RecvQueue => {
                findings.sort_by_key(|finding| Reverse(finding.recv_queue_bytes));
            }
            StuckOrder::SendQueue => {
                findings.sort_by_key(|finding| Reverse(finding.send_queue_bytes));
            }
            StuckOrder::Retransmits => findings.sort_by_key(|finding| Reverse(finding.retransmits)),
        }
        findings
    }

    fn is_wanted(&self, finding: &Finding) -> bool {
        let least = match self.args.severity {
            None => Severity::None,
            Some(SeverityChoice::Warning) => Severity::Warning,
            Some(SeverityChoice::Critical) => Severity::Critical,
        };
        let family = self.args.filter.family;
        finding.severity >= least
            && self.matcher.admits(finding)
            && family.is_none_or(|family| finding.family().is_none_or(|its| its == family))
    }

    /// What to say where none of so many findings is wanted.
    fn nothing(findings: usize) -> String {
        match findings {
            0 => "nothing is stuck".to_owned(),
            1 => "the only finding does not match".to_owned(),
            more => format!("none of {more} findings matches"),
        }
    }

    fn print(
        &self,
        out: &mut impl Write,
        color: Color,
        mut findings: Vec<Finding>,
        nothing: &str,
    ) -> io::Result<()> {
        let default = match self.args.format {
            Format::Text => TOP,
            Format::Json => 0,
        };
        let top = match self.args.top.unwrap_or(default) {
            0 => usize::MAX,
            top => top,
        };
        let hidden = findings.len().saturating_sub(top);
        findings.truncate(top);
        match self.args.format {
            Format::Json => json::write(out, &findings),
            Format::Text => {
                text::write_stuck(out, stdout_style(color), &findings, hidden, nothing)?;
                if findings.is_empty() {
                    return Ok(());
                }
                text::write_source(out, self.source)
            }
        }
    }
}

/// Ages in whole milliseconds, to sort by.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from a float saturates, and no age is below zero"
)]
fn order(age_seconds: f64) -> u64 {
    (age_seconds * 1e3) as u64
}

/// On a terminal the table anew each time; elsewhere, and as JSON, a line for each change.
fn watch(source: &mut Source, shown: &Shown<'_>, color: Color) -> Result<ExitCode> {
    let args = shown.args;
    let is_table = args.format == Format::Text && io::stdout().is_terminal();
    // What is raised already comes first, as if it had just been.
    let mut known = None;
    runtime()?.block_on(async {
        let stop = stop_signal(args.duration, Abandoned::PRINTER)?;
        tokio::pin!(stop);
        loop {
            let mut report = source.report(args.all && is_table, known.unwrap_or(u64::MAX))?;
            let is_new = known.is_some_and(|known| report.given < known);
            if is_new {
                tracing::warn!("another daemon answers: what is raised now comes again");
            }
            if known.is_none() || is_new {
                report.notices = raised_before(&report.findings);
            }
            note_missing(&report);
            known = Some(report.given);
            if report.missed > 0 && !is_table {
                tracing::warn!(notices = report.missed, "too late for some notices");
            }
            if report.unannounced > 0 && !is_table {
                let findings = report.unannounced;
                tracing::warn!(findings, "stuck, too, but too many to be told one by one");
            }
            let mut out = io::BufWriter::new(io::stdout().lock());
            let printed = if is_table {
                let nothing = Shown::nothing(report.findings.len());
                let findings = shown.of(report.findings);
                write!(out, "{CLEAR}")
                    .and_then(|()| shown.print(&mut out, color, findings, &nothing))
            } else {
                print_notices(&mut out, shown, color, &report)
            };
            printed.and_then(|()| out.flush()).context(STDOUT)?;
            drop(out);
            tokio::select! {
                () = &mut stop => return Ok(ExitCode::SUCCESS),
                () = tokio::time::sleep(args.interval) => {}
            }
        }
    })
}

fn note_missing(report: &Report) {
    if !report.missing.is_empty() {
        tracing::warn!(netns = ?report.missing, "could not be looked at; the daemon's log says why");
    }
}

fn raised_before(findings: &[Finding]) -> Vec<Notice> {
    let ktime_ns = nanoseconds(monotonic());
    let notice = |finding: &Finding| Notice {
        event: Change::Raised,
        ktime_ns,
        finding: finding.clone(),
    };
    findings.iter().map(notice).collect()
}

fn print_notices(
    out: &mut impl Write,
    shown: &Shown<'_>,
    color: Color,
    report: &Report,
) -> io::Result<()> {
    let clock = clock();
    for notice in &report.notices {
        if !shown.is_wanted(&notice.finding) {
            continue;
        }
        match shown.args.format {
            Format::Json => json::write_notice(out, clock, notice)?,
            Format::Text => text::write_notice(out, stdout_style(color), clock, notice)?,
        }
    }
    Ok(())
}

fn show_rules(args: &StuckArgs, file: &config::File) -> Result<ExitCode> {
    let worker = Worker::spawn()?;
    let namespace = match args.filter.netns.as_ref() {
        None => netns::own(&worker)?,
        wanted => netns::find(&worker, wanted)?,
    };
    let mut out = io::stdout().lock();
    for (_, limits) in wait(|reply| worker.limits(namespace, reply))? {
        let limits = limits.context("cannot read the namespace's sysctls")?;
        match args.format {
            Format::Text => explain::write_rules(&mut out, &file.rules, &limits),
            Format::Json => json::write(&mut out, &explain::rules_table(&file.rules, &limits)),
        }
        .context(STDOUT)?;
    }
    Ok(ExitCode::SUCCESS)
}
