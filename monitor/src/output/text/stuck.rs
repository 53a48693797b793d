//! Findings for people: what, since when, whose, why, and what to do.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use super::{Capitals, Clock, Elapsed, Escaped, Style, TimeOfDay, paint_table};
use crate::tcp::RawState;
use crate::track::stuck::{Change, Finding, Notice, Owner, Severity};

/// Holders named in a row; the rest is counted.
const OWNERS_SHOWN: usize = 3;
/// Before what explains a row.
const INDENT: &str = "          ";

/// Writes a row for each finding, under it the reason, and the advice where it is another than the
/// last one's; `nothing` where there is none. `hidden` findings are not among them.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_stuck(
    out: &mut impl Write,
    style: Style,
    findings: &[Finding],
    hidden: usize,
    nothing: &str,
) -> io::Result<()> {
    if findings.is_empty() && hidden == 0 {
        return writeln!(out, "{nothing}");
    }
    let title = [
        "SEVERITY", "STATE", "AGE", "NETNS", "LOCAL", "REMOTE", "OWNER",
    ];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    rows.extend(findings.iter().map(row));
    let paints = findings
        .iter()
        .map(|finding| style.of_severity(finding.severity));
    let paints = std::iter::once(anstyle::Style::new()).chain(paints);
    let mut advised = "";
    let notes = findings.iter().map(|finding| {
        let mut note = format!("{INDENT}{}\n", Escaped(&finding.reason));
        let is_stuck = finding.severity > Severity::None;
        if is_stuck && finding.advice != advised {
            advised = &finding.advice;
            let _ = writeln!(note, "{INDENT}-> {}", Escaped(&finding.advice));
        }
        note
    });
    let notes = std::iter::once(String::new()).chain(notes);
    paint_table(out, rows.first().map_or(0, Vec::len), &rows, paints, notes)?;
    if hidden > 0 {
        writeln!(out, "\nand {hidden} more; --top 0 shows all of them")?;
    }
    Ok(())
}

fn row(finding: &Finding) -> Vec<String> {
    vec![
        severity(finding.severity).to_owned(),
        state(finding),
        age(finding),
        finding.netns.to_string(),
        finding.local.to_string(),
        finding.remote.to_string(),
        owners(finding),
    ]
}

fn state(finding: &Finding) -> String {
    let state = Capitals(RawState::Known(finding.state));
    let of = if finding.is_mptcp { " MPTCP" } else { "" };
    format!("{state}{of}")
}

const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::None => "-",
        Severity::Warning => "WARNING",
        Severity::Critical => "CRITICAL",
    }
}

fn age(finding: &Finding) -> String {
    let age = Duration::try_from_secs_f64(finding.age_seconds).unwrap_or_default();
    match (finding.age_is_lower_bound, age) {
        (true, Duration::ZERO) => "unknown".to_owned(),
        (true, age) => format!(">={}", Elapsed(age)),
        (false, age) => Elapsed(age).to_string(),
    }
}

fn owners(finding: &Finding) -> String {
    if finding.owners.is_empty() {
        let none = if finding.is_orphaned {
            "orphaned by its process"
        } else {
            "-"
        };
        return none.to_owned();
    }
    let shown = finding.owners.iter().take(OWNERS_SHOWN).map(owner);
    let mut owners = shown.collect::<Vec<_>>().join(", ");
    let rest = finding.owners.len().saturating_sub(OWNERS_SHOWN);
    if rest > 0 {
        let _ = write!(owners, ", and {rest} more");
    }
    owners
}

/// `nginx[123] fd 7 (nginx.service)`.
fn owner(owner: &Owner) -> String {
    let process = &owner.process;
    let mut text = format!("{}[{}]", Escaped(&process.comm), process.pid);
    if let Some(fd) = owner.fd {
        let _ = write!(text, " fd {fd}");
    }
    // A container's id is told apart by its first twelve characters, as its engine shows it.
    let container = process
        .container
        .as_ref()
        .map(|id| id.chars().take(12).collect::<String>());
    if let Some(place) = container.as_ref().or(process.unit.as_ref()) {
        let _ = write!(text, " ({})", Escaped(place));
    }
    text
}

/// Writes what has changed, on one line.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_notice(
    out: &mut impl Write,
    style: Style,
    clock: Clock,
    notice: &Notice,
) -> io::Result<()> {
    let finding = &notice.finding;
    let paint = match notice.event {
        Change::Cleared => style.of_severity(Severity::None),
        _ => style.of_severity(finding.severity),
    };
    let event = match notice.event {
        Change::Raised => "raised",
        Change::Worsened => "worsened",
        Change::Eased => "eased",
        Change::Cleared => "cleared",
    };
    writeln!(
        out,
        "{}  {paint}{event:<8}{paint:#}  {:<8}  {}  {} -> {}  {}  {}",
        TimeOfDay(clock.wall(notice.ktime_ns)),
        severity(finding.severity),
        Capitals(RawState::Known(finding.state)),
        finding.local,
        finding.remote,
        owners(finding),
        Escaped(&finding.reason)
    )
}
