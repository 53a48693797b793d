//! `tcplinger check`: one line and an exit code, as monitoring plugins give them
//! (<https://www.monitoring-plugins.org/doc/guidelines.html>).

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::source::{Source, Wanted};
use super::{STDOUT, logging};
use crate::cli::{CheckArgs, Color, Format};
use crate::config;
use crate::output::{Elapsed, Escaped, text};
use crate::track::stuck::Severity;
use crate::track::{Incident, Kind, Lingering, Report};

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
    let answered = receiver
        .recv_timeout(timeout)
        .unwrap_or_else(|_| Err(anyhow!("no answer within {}", Elapsed(timeout))));
    let (code, line) = match answered {
        Ok((report, source)) => verdict(&report, source, warning, critical),
        Err(error) => (
            UNKNOWN,
            format!("UNKNOWN - {}", plain(&format!("{error:#}"))),
        ),
    };
    writeln!(io::stdout().lock(), "TCPLINGER {line}").context(STDOUT)?;
    Ok(ExitCode::from(code))
}

fn look(args: &CheckArgs) -> Result<(Report, &'static str)> {
    let file = config::load(args.source.config.as_deref())?;
    let mut source = Source::open(&args.source, file, args.netns.as_ref())?;
    let report = source.report(Wanted::default(), u64::MAX)?;
    ensure!(
        report.missing.is_empty(),
        "network namespaces that could not be checked: {:?}; the daemon's log says why",
        report.missing
    );
    Ok((report, source.name()))
}

/// Text for the line: a bar would end it, and begin the performance data.
fn plain(text: &str) -> String {
    Escaped(text).to_string().replace('|', "/")
}

/// The exit code and the line, with performance data behind the bar. What is stuck is each stuck socket,
/// and each incident that is about more than those.
fn verdict(report: &Report, source: &str, warning: u64, critical: u64) -> (u8, String) {
    let incidents = &report.incidents;
    let sockets = |of: fn(&Lingering) -> u64| report.states.iter().map(of).sum::<u64>();
    let at_least = |severity| {
        // TCP sockets are in their state's figures, MPTCP connections in none.
        let is_counted =
            |incident: &Incident| matches!(incident.kind, Kind::Sockets { mptcp: false, .. });
        let is_bad = |incident: &&Incident| !is_counted(incident) && incident.severity >= severity;
        incidents.iter().filter(is_bad).count() as u64
    };
    let stuck = at_least(Severity::Warning) + sockets(|state| state.stuck);
    let worst = at_least(Severity::Critical) + sockets(|state| state.critical);
    let (code, word) = if worst >= critical {
        (CRITICAL, "CRITICAL")
    } else if stuck >= warning {
        (WARNING, "WARNING")
    } else {
        (OK, "OK")
    };
    let ages = incidents.iter().filter_map(|one| one.oldest_seconds);
    let of_states = report.states.iter().map(|state| state.oldest_seconds);
    let oldest = ages.chain(of_states).fold(0.0, f64::max);
    let mut line = format!("{word} - {stuck} stuck, {worst} of them critical");
    if let Some(first) = incidents.first() {
        let known = [text::service(first), text::owner_of(first)];
        let known = known.into_iter().filter(|text| text != "-");
        let head = std::iter::once(text::what(first)).chain(known);
        let head: Vec<String> = head.map(|text| plain(&text)).collect();
        let _ = write!(line, "; {}: {}", head.join(" "), plain(&first.reason));
        if incidents.len() > 1 {
            let _ = write!(line, " ({})", text::sum(incidents));
        }
    }
    let _ = write!(line, "; source {source}");
    // A plugin's threshold is the last value that is fine.
    let _ = write!(
        line,
        " | stuck={stuck};{};;0 critical={worst};;{};0 oldest={oldest:.3}s;;;0",
        warning.saturating_sub(1),
        critical.saturating_sub(1)
    );
    for row in &report.states {
        let Lingering {
            state,
            sockets,
            stuck,
            ..
        } = row;
        let _ = write!(line, " {state}={sockets};;;0 {state}_stuck={stuck};;;0");
    }
    (code, line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::State;

    #[test]
    fn a_socket_of_a_group_counts_once_and_states_are_the_census_s() {
        let leak = Incident {
            sockets: 94,
            ..Incident::new(Kind::Leak, Severity::Critical, State::CloseWait, 7)
        };
        let mut states: Vec<Lingering> = State::LINGERING.map(Lingering::none).to_vec();
        for row in states
            .iter_mut()
            .filter(|row| row.state == State::CloseWait)
        {
            (row.sockets, row.stuck, row.critical) = (120, 94, 3);
            row.oldest_seconds = 12.5;
        }
        let report = Report {
            incidents: vec![leak],
            states,
            ..Report::default()
        };
        let (code, line) = verdict(&report, "daemon", 96, 4);
        assert_eq!(code, CRITICAL);
        assert!(
            line.starts_with("CRITICAL - 95 stuck, 4 of them critical"),
            "{line}"
        );
        assert!(
            line.contains("; source daemon | stuck=95;95;;0 critical=4;;3;0 oldest=12.500s;;;0 "),
            "{line}"
        );
        assert!(
            line.contains(" close_wait=120;;;0 close_wait_stuck=94;;;0"),
            "{line}"
        );
        assert!(
            line.contains(" last_ack=0;;;0 last_ack_stuck=0;;;0"),
            "{line}"
        );
        assert_eq!(verdict(&report, "daemon", 96, 5).0, OK);
    }
}
