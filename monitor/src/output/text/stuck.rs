//! Incidents and single sockets for people: what, since when, whose, why, and what to do.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::super::fit::{Fit, fit_columns, shortened, wrap};
use super::{Capitals, Clock, Elapsed, Escaped, Style, TimeOfDay, paint_table};
use crate::tcp::RawState;
use crate::track::phrase::grouped;
use crate::track::stuck::{Endpoint, Finding, Owner, Severity};
use crate::track::{Change, Incident, Kind, Notice, Whose, seconds};

/// Holders named in a row; the rest is counted.
const OWNERS_SHOWN: usize = 3;
/// Before what explains a row.
const INDENT: &str = "          ";
/// Lines of reason and of advice under each incident, from all to none: the first that leaves every
/// incident on the screen is taken.
const DETAIL: [(usize, usize); 7] = [
    (usize::MAX, usize::MAX),
    (3, 3),
    (2, 3),
    (2, 2),
    (2, 1),
    (1, 0),
    (0, 0),
];
/// Columns, and how narrow each may be cut where there is little room.
const COLUMNS: [(&str, usize); 7] = [
    ("SEVERITY", usize::MAX),
    ("WHAT", 17),
    ("SOCKETS", usize::MAX),
    ("OLDEST", usize::MAX),
    ("SERVICE", 12),
    ("NETNS", 8),
    ("OWNER", 12),
];
/// Left out where all incidents are in one namespace: the last line names it.
const NETNS: usize = 5;

/// Writes a line for each incident with the reason and the advice under it, then a line that sums up.
/// `hidden` incidents are not among them; `source` is who answered.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_incidents(
    out: &mut impl Write,
    style: Style,
    fit: Fit,
    incidents: &[Incident],
    hidden: usize,
    source: &str,
) -> io::Result<()> {
    // The head, the sum, and the prompt that follows.
    let room = fit.height.saturating_sub(if hidden > 0 { 5 } else { 4 });
    let notes = |detail| incidents.iter().map(move |one| note(one, fit, detail));
    let lines = |detail| notes(detail).map(|note| 1 + note.len()).sum::<usize>();
    let detail = DETAIL.into_iter().find(|detail| lines(*detail) <= room);
    let shown = if detail.is_some() {
        incidents
    } else {
        incidents.get(..room).unwrap_or(incidents)
    };
    let titles = COLUMNS.map(|(title, _)| title.to_owned()).to_vec();
    let mut rows = vec![titles];
    rows.extend(shown.iter().map(row_of));
    let is_same = |pair: &[Incident]| matches!(pair, [one, other] if one.netns == other.netns);
    let common = incidents
        .first()
        .filter(|_| incidents.windows(2).all(is_same));
    let mut narrowest = COLUMNS.map(|(_, narrowest)| narrowest).to_vec();
    if common.is_some() {
        narrowest.remove(NETNS);
        for row in rows.iter_mut().filter(|row| row.len() > NETNS) {
            row.remove(NETNS);
        }
    }
    let _: bool = fit_columns(&mut rows, &narrowest, fit.width);
    let severities = shown.iter().map(|one| style.of_severity(one.severity));
    let paints = std::iter::once(anstyle::Style::new()).chain(severities);
    let notes = notes(detail.unwrap_or_default()).map(|lines| {
        lines.into_iter().fold(String::new(), |mut all, line| {
            let _ = writeln!(all, "{line}");
            all
        })
    });
    let notes = std::iter::once(String::new()).chain(notes);
    paint_table(out, rows.first().map_or(0, Vec::len), &rows, paints, notes)?;
    let hidden = hidden + incidents.len() - shown.len();
    if hidden > 0 {
        writeln!(out, "and {hidden} more; --top 0 shows all of them")?;
    }
    let place = common.map_or_else(String::new, |one| format!(" in netns {}", netns(one)));
    writeln!(out, "\n{}{place} (source {source})", sum(incidents))
}

/// `997 sockets in 6 incidents: 2 critical`.
pub(crate) fn sum(incidents: &[Incident]) -> String {
    let plural = |n: u64, noun: &str| {
        let s = if n == 1 { "" } else { "s" };
        format!("{} {noun}{s}", grouped(n))
    };
    let sockets = incidents.iter().map(|one| one.sockets).sum();
    let is_critical = |one: &&Incident| one.severity == Severity::Critical;
    let critical = incidents.iter().filter(is_critical).count();
    let (sockets, all) = (
        plural(sockets, "socket"),
        plural(incidents.len() as u64, "incident"),
    );
    match critical {
        0 => format!("{sockets} in {all}"),
        some => format!("{sockets} in {all}: {some} critical"),
    }
}

/// What an incident is, in a few words; the rule of a count is text of the configuration.
pub(crate) fn what(incident: &Incident) -> String {
    let state = Capitals(RawState::Known(incident.state));
    match incident.kind {
        Kind::Sockets { mptcp: false, .. } => state.to_string(),
        Kind::Sockets { mptcp: true, .. } => format!("{state} MPTCP"),
        Kind::Leak => format!("{state} leak"),
        Kind::Count => format!("count {}", Escaped(&incident.rule)),
        Kind::EphemeralPorts => "ephemeral ports".to_owned(),
        Kind::TimeWaitBuckets => "TIME_WAIT buckets".to_owned(),
    }
}

/// The service: `:8080` here, or where it is.
pub(crate) fn service(incident: &Incident) -> String {
    match (incident.local, incident.remote) {
        (Endpoint::Any, Endpoint::Any) => "-".to_owned(),
        (Endpoint::Port(port), Endpoint::Any) => format!(":{port}"),
        (_, remote) => format!("to {remote}"),
    }
}

fn netns(incident: &Incident) -> String {
    match &incident.netns_name {
        Some(name) => Escaped(name).to_string(),
        None => incident.netns.to_string(),
    }
}

/// `nginx[123] (nginx.service) and 3 more`.
pub(crate) fn owner_of(incident: &Incident) -> String {
    let Some(first) = incident.owners.first() else {
        return match &incident.whose {
            Whose::Unit(name) | Whose::Container(name) => Escaped(name).to_string(),
            _ if incident.is_orphaned => "orphaned by its process".to_owned(),
            _ => "-".to_owned(),
        };
    };
    let mut text = owner(first);
    let is_other = |other: &&Owner| other.process.pid != first.process.pid;
    let others = incident.owners.iter().filter(is_other).count();
    if others > 0 {
        let _ = write!(text, " and {others} more");
    }
    text
}

fn row_of(incident: &Incident) -> Vec<String> {
    let oldest = incident.oldest_seconds.map(|oldest| {
        let sign = if incident.age_is_lower_bound { ">" } else { "" };
        format!("{sign}{}", Elapsed(seconds(oldest)))
    });
    vec![
        severity(incident.severity).to_owned(),
        what(incident),
        format!("{:>7}", grouped(incident.sockets)),
        format!("{:>6}", oldest.unwrap_or_else(|| "-".to_owned())),
        service(incident),
        netns(incident),
        owner_of(incident),
    ]
}

/// The lines under an incident: at most so many of its reason, and of its advice.
fn note(incident: &Incident, fit: Fit, (reasons, steps): (usize, usize)) -> Vec<String> {
    let width = fit.width.saturating_sub(INDENT.len()).max(20);
    let reason = Escaped(&incident.reason).to_string();
    let reason = shortened(wrap(&reason, width), reasons, width);
    let advice = Escaped(&incident.advice).to_string();
    let advice = wrap(&advice, width.saturating_sub(3));
    let advice = shortened(advice, steps, width.saturating_sub(3));
    let advice = advice.into_iter().enumerate().map(|(line, text)| {
        let mark = if line == 0 { "-> " } else { "   " };
        format!("{mark}{text}")
    });
    let lines = reason.into_iter().chain(advice);
    lines.map(|line| format!("{INDENT}{line}")).collect()
}

/// Writes a row for each socket, under it the reason, and the advice where it is another than the last
/// one's. `hidden` sockets are not among them.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_sockets(
    out: &mut impl Write,
    style: Style,
    findings: &[Finding],
    hidden: usize,
) -> io::Result<()> {
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
    let age = seconds(finding.age_seconds);
    match (finding.age_is_lower_bound, age) {
        (true, age) if age.is_zero() => "unknown".to_owned(),
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
    let incident = &notice.incident;
    let paint = match notice.event {
        Change::Cleared => style.of_severity(Severity::None),
        _ => style.of_severity(incident.severity),
    };
    writeln!(
        out,
        "{}  {paint}{:<8}{paint:#}  {:<8}  {}  {}  {}  {}: {}",
        TimeOfDay(clock.wall(notice.ktime_ns)),
        notice.event.name(),
        severity(incident.severity),
        what(incident),
        service(incident),
        owner_of(incident),
        grouped(incident.sockets),
        Escaped(&incident.reason)
    )
}
