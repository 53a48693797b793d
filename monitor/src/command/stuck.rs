//! `tcplinger stuck`: which sockets linger too long, whose they are, why, and what to do.

use std::cmp::Reverse;
use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::source::{Source, Wanted};
use super::{
    Abandoned, FAILURE, STDOUT, clock, logging, netns, runtime, stdout_fit, stdout_style,
    stop_signal,
};
use crate::cli::{Color, Format, SeverityChoice, StuckArgs, StuckOrder};
use crate::clock::{monotonic, nanoseconds};
use crate::inventory::{Worker, wait};
use crate::output::{Fit, explain, json, text};
use crate::tcp::Family;
use crate::track::stuck::{Endpoint, Finding, Matcher, Severity};
use crate::track::{Change, Incident, Notice, Report, seconds};
use crate::{config, probe};

/// Single sockets shown as text unless asked for more.
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
    let report = source.report(shown.wanted(), u64::MAX)?;
    note_missing(&report);
    let mut out = io::BufWriter::new(io::stdout().lock());
    let is_stuck = shown
        .print(&mut out, color, report)
        .and_then(|is_stuck| out.flush().map(|()| is_stuck))
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
    const fn wanted(&self) -> Wanted {
        Wanted {
            each: self.args.each || self.args.all,
            all: self.args.all,
        }
    }

    fn least(&self) -> Severity {
        match self.args.severity {
            None => Severity::None,
            Some(SeverityChoice::Warning) => Severity::Warning,
            Some(SeverityChoice::Critical) => Severity::Critical,
        }
    }

    fn is_wanted(&self, incident: &Incident) -> bool {
        let family = incident.local.family().or_else(|| incident.remote.family());
        incident.severity >= self.least()
            && self.matcher.admits(incident)
            && self.has_family(family)
    }

    fn is_wanted_socket(&self, socket: &Finding) -> bool {
        let family = Endpoint::Socket(socket.local).family();
        socket.severity >= self.least()
            && self.matcher.admits_socket(socket)
            && self.has_family(family)
    }

    fn has_family(&self, family: Option<Family>) -> bool {
        let wanted = self.args.filter.family;
        wanted.is_none_or(|wanted| family.is_none_or(|family| family == wanted))
    }

    /// Prints what the user wants of a report; whether anything of that is stuck.
    fn print(&self, out: &mut impl Write, color: Color, report: Report) -> io::Result<bool> {
        if self.wanted().each {
            self.print_sockets(out, color, report.sockets)
        } else {
            self.print_incidents(out, color, report.incidents)
        }
    }

    fn print_incidents(
        &self,
        out: &mut impl Write,
        color: Color,
        mut incidents: Vec<Incident>,
    ) -> io::Result<bool> {
        let all = incidents.len();
        incidents.retain(|incident| self.is_wanted(incident));
        // They come in the order of their severity.
        match self.args.sort {
            StuckOrder::Severity => {}
            StuckOrder::Age => incidents.sort_by_key(|one| {
                let oldest = one.oldest_seconds.map(seconds);
                Reverse(oldest)
            }),
            StuckOrder::RecvQueue => incidents.sort_by_key(|one| Reverse(one.recv_queue_bytes)),
            StuckOrder::SendQueue => incidents.sort_by_key(|one| Reverse(one.send_queue_bytes)),
            StuckOrder::Retransmits => incidents.sort_by_key(|one| Reverse(one.retransmits)),
        }
        let is_stuck = !incidents.is_empty();
        let hidden = self.truncate(&mut incidents, 0);
        match self.args.format {
            Format::Json => json::write(out, &incidents)?,
            Format::Text if !is_stuck => writeln!(out, "{}", nothing(all, "incident"))?,
            Format::Text => {
                let style = stdout_style(color);
                let fit = if self.args.top == Some(0) {
                    Fit {
                        height: usize::MAX,
                        ..stdout_fit()
                    }
                } else {
                    stdout_fit()
                };
                text::write_incidents(out, style, fit, &incidents, hidden, self.source)?;
            }
        }
        Ok(is_stuck)
    }

    fn print_sockets(
        &self,
        out: &mut impl Write,
        color: Color,
        mut sockets: Vec<Finding>,
    ) -> io::Result<bool> {
        let all = sockets.len();
        sockets.retain(|socket| self.is_wanted_socket(socket));
        let oldest = |socket: &Finding| Reverse(seconds(socket.age_seconds));
        match self.args.sort {
            StuckOrder::Severity => {
                sockets.sort_by_key(|socket| (Reverse(socket.severity), oldest(socket)));
            }
            StuckOrder::Age => sockets.sort_by_key(oldest),
            StuckOrder::RecvQueue => sockets.sort_by_key(|one| Reverse(one.recv_queue_bytes)),
            StuckOrder::SendQueue => sockets.sort_by_key(|one| Reverse(one.send_queue_bytes)),
            StuckOrder::Retransmits => sockets.sort_by_key(|one| Reverse(one.retransmits)),
        }
        let mut severities = sockets.iter().map(|socket| socket.severity);
        let is_stuck = severities.any(|severity| severity > Severity::None);
        let hidden = self.truncate(&mut sockets, TOP);
        match self.args.format {
            Format::Json => json::write(out, &sockets)?,
            Format::Text if sockets.is_empty() && hidden == 0 => {
                writeln!(out, "{}", nothing(all, "socket"))?;
            }
            Format::Text => {
                text::write_sockets(out, stdout_style(color), &sockets, hidden)?;
                text::write_source(out, self.source)?;
            }
        }
        Ok(is_stuck)
    }

    /// Leaves the first, by default `top` of them as text, all where that is 0; how many it took away.
    fn truncate<T>(&self, list: &mut Vec<T>, top: usize) -> usize {
        let default = match self.args.format {
            Format::Text => top,
            Format::Json => 0,
        };
        let top = match self.args.top.unwrap_or(default) {
            0 => usize::MAX,
            top => top,
        };
        let hidden = list.len().saturating_sub(top);
        list.truncate(top);
        hidden
    }
}

/// What to say where none of them is wanted.
fn nothing(all: usize, noun: &str) -> String {
    match all {
        0 => "nothing is stuck".to_owned(),
        1 => format!("the only {noun} does not match"),
        more => format!("none of {more} {noun}s matches"),
    }
}

/// On a terminal the table anew each time; elsewhere, and as JSON, a line for each change.
fn watch(source: &mut Source, shown: &Shown<'_>, color: Color) -> Result<ExitCode> {
    let args = shown.args;
    let is_table = args.format == Format::Text && io::stdout().is_terminal();
    let wanted = if is_table {
        shown.wanted()
    } else {
        Wanted::default()
    };
    // What is raised already comes first, as if it had just been.
    let mut known = None;
    runtime()?.block_on(async {
        let stop = stop_signal(args.duration, Abandoned::PRINTER)?;
        tokio::pin!(stop);
        loop {
            let mut report = source.report(wanted, known.unwrap_or(u64::MAX))?;
            let is_new = known.is_some_and(|known| report.given < known);
            if is_new {
                tracing::warn!("another daemon answers: what is active now is printed again");
            }
            if known.is_none() || is_new {
                report.notices = raised_before(&report.incidents);
            }
            note_missing(&report);
            known = Some(report.given);
            if report.missed > 0 && !is_table {
                tracing::warn!(notices = report.missed, "some changes were missed");
            }
            let mut out = io::BufWriter::new(io::stdout().lock());
            let printed = if is_table {
                write!(out, "{CLEAR}")
                    .and_then(|()| shown.print(&mut out, color, report))
                    .map(|_| ())
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
        tracing::warn!(netns = ?report.missing, "could not be checked; the daemon's log says why");
    }
}

fn raised_before(incidents: &[Incident]) -> Vec<Notice> {
    let ktime_ns = nanoseconds(monotonic());
    let notice = |incident: &Incident| Notice {
        event: Change::Raised,
        ktime_ns,
        incident: incident.clone(),
    };
    incidents.iter().map(notice).collect()
}

fn print_notices(
    out: &mut impl Write,
    shown: &Shown<'_>,
    color: Color,
    report: &Report,
) -> io::Result<()> {
    let clock = clock();
    for notice in &report.notices {
        if !shown.is_wanted(&notice.incident) {
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
