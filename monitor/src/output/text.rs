//! Text for people: one line a transition, tables of counts, the doctor's rows.

mod owners;
mod ports;
mod stuck;

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::clock::TimeOfDay;
use super::{Clock, DoctorRow, Elapsed, Escaped, Outcome, Style};
use crate::tcp::{Counts, Errno, Handover, RawState, State, Transition, TransitionOwner};
use crate::track::phrase::{grouped, signed_rate};
use crate::track::{NamespaceSummary, Recent, Source, Summary, seconds};
pub(crate) use owners::write_owners;
pub(crate) use ports::write_ports;
pub(crate) use stuck::{
    owner_of, service, sum, what, write_incidents, write_notice, write_sockets,
};

/// Title and width of every column but the last: those of the widest IPv4 endpoint, state, inode
/// and pid.
const EVENT_COLUMNS: [(&str, usize); 9] = [
    ("TIME", 13),
    ("PID", 7),
    ("COMM", 15),
    ("NETNS", 10),
    ("LOCAL", 21),
    ("REMOTE", 21),
    ("FROM", 12),
    ("-> TO", 15),
    ("AFTER", 7),
];

const GAP: usize = 2;

/// Transitions as lines under one header.
#[derive(Debug)]
pub(crate) struct EventTable {
    style: Style,
    line: Line,
    has_header: bool,
}

impl EventTable {
    pub(crate) const fn new(style: Style) -> Self {
        Self {
            style,
            line: Line::new(),
            has_header: false,
        }
    }

    /// Writes one line, the first time with the header; `after` is the time spent in `from`.
    ///
    /// # Errors
    /// Those of `out`.
    pub(crate) fn write(
        &mut self,
        out: &mut impl Write,
        clock: Clock,
        transition: &Transition,
        after: Option<Duration>,
    ) -> io::Result<()> {
        if !self.has_header {
            self.has_header = true;
            for (title, _) in EVENT_COLUMNS {
                self.line.cell(title)?;
            }
            self.line.finish(out)?;
        }
        self.cells(clock, transition, after)?;
        self.line.finish(out)
    }

    fn cells(
        &mut self,
        clock: Clock,
        seen: &Transition,
        after: Option<Duration>,
    ) -> io::Result<()> {
        let comm = seen.owner.as_ref().map(TransitionOwner::comm);
        let line = &mut self.line;
        line.cell(TimeOfDay(clock.wall(seen.ktime_ns)))?;
        line.cell(or_dash(seen.owner.map(|owner| owner.pid)))?;
        line.cell(or_dash(comm.as_deref().map(Escaped)))?;
        line.cell(or_dash(seen.netns))?;
        line.cell(Ends(seen.local))?;
        line.cell(Ends(seen.remote))?;
        line.painted(self.style.of_state(seen.from), "", Capitals(seen.from))?;
        line.painted(self.style.of_state(seen.to), "-> ", Capitals(seen.to))?;
        line.cell(or_dash(after.map(Elapsed)))?;
        if let Some(state) = seen.continues_as().map(Handover::state) {
            let state = Capitals(RawState::Known(state));
            line.cell(format_args!("continues as {state} (inferred)"))?;
        } else if let Some(error) = seen.error.filter(|error| *error != 0) {
            line.cell(format_args!("error {}", Errno(error)))?;
        }
        Ok(())
    }
}

/// One line of cells under [`EVENT_COLUMNS`]. A cell that is too wide pushes the next ones on, until
/// one with room to spare is back in its place.
#[derive(Debug)]
struct Line {
    bytes: Vec<u8>,
    /// Cells so far.
    cells: usize,
    /// Characters on the terminal so far.
    width: usize,
}

impl Line {
    const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            cells: 0,
            width: 0,
        }
    }

    fn cell(&mut self, content: impl fmt::Display) -> io::Result<()> {
        self.painted(anstyle::Style::new(), "", content)
    }

    fn painted(
        &mut self,
        style: anstyle::Style,
        prefix: &str,
        content: impl fmt::Display,
    ) -> io::Result<()> {
        if self.cells > 0 {
            let columns = EVENT_COLUMNS.iter().take(self.cells);
            let start: usize = columns.map(|(_, width)| width + GAP).sum();
            let padding = start.saturating_sub(self.width).max(GAP);
            write!(self.bytes, "{:padding$}", "")?;
            self.width += padding;
        }
        self.cells += 1;
        write!(self.bytes, "{prefix}{style}")?;
        let start = self.bytes.len();
        write!(self.bytes, "{content}")?;
        let shown = self.bytes.get(start..).unwrap_or_default();
        let is_first_of_char = |byte: &&u8| **byte & 0xc0 != 0x80;
        self.width += prefix.len() + shown.iter().filter(is_first_of_char).count();
        write!(self.bytes, "{style:#}")
    }

    fn finish(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.bytes.push(b'\n');
        let written = out.write_all(&self.bytes);
        self.bytes.clear();
        (self.cells, self.width) = (0, 0);
        written
    }
}

/// An address and a port as `ss` shows them: `*` for no port.
struct Ends(SocketAddr);

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.0.ip()) {
            (socket, _) if socket.port() > 0 => socket.fmt(f),
            (_, IpAddr::V4(address)) => write!(f, "{address}:*"),
            (_, IpAddr::V6(address)) => write!(f, "[{address}]:*"),
        }
    }
}

/// A state as RFC 9293 and `netstat` write it.
struct Capitals(RawState);

impl fmt::Display for Capitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            RawState::Known(state) => state
                .name()
                .chars()
                .try_for_each(|c| f.write_char(c.to_ascii_uppercase())),
            RawState::Unknown(number) => write!(f, "UNKNOWN_{number}"),
        }
    }
}

fn or_dash(value: Option<impl fmt::Display>) -> impl fmt::Display {
    fmt::from_fn(move |f| match &value {
        Some(value) => value.fmt(f),
        None => f.write_str("-"),
    })
}

/// Writes the counts: a row for each state, then, if there are several, a row for each namespace.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_status(
    out: &mut impl Write,
    style: Style,
    summary: &Summary,
) -> io::Result<()> {
    let states = State::ALL.map(|state| style.of_state(RawState::Known(state)));
    let paints = std::iter::once(anstyle::Style::new()).chain(states);
    let mut rows = state_rows(summary);
    if let Some(recent) = &summary.recent {
        add_recent(&mut rows, recent);
    }
    write_table(out, 1, &rows, paints)?;
    let mptcp = summary.mptcp();
    if mptcp.total() > 0 {
        let some = mptcp.iter().filter(|(_, sockets)| *sockets > Some(0));
        let some = some.map(|(state, sockets)| {
            format!("{} {}", Capitals(RawState::Known(state)), or_dash(sockets))
        });
        let some: Vec<String> = some.collect();
        writeln!(
            out,
            "\nMPTCP connections (their TCP sockets are counted above): {}",
            some.join(", ")
        )?;
    }
    if summary.namespaces.len() > 1 {
        writeln!(out)?;
        let plain = std::iter::repeat(anstyle::Style::new());
        write_table(out, 2, &namespace_rows(summary), plain)?;
    }
    let source = match summary.source {
        Source::Daemon => "daemon",
        Source::Kernel => "kernel",
    };
    let (events, drift) = (summary.events, summary.tally.corrected);
    writeln!(
        out,
        "\nsource {source}; events {} received, {} lost; drift {drift}",
        events.received, events.lost
    )?;
    if summary.log_dropped > 0 {
        let dropped = summary.log_dropped;
        writeln!(
            out,
            "{dropped} lines of the daemon's log were dropped: the reader of its stderr is too \
             slow"
        )?;
    }
    write_doubt(out, summary)?;
    match &summary.recent {
        Some(recent) => writeln!(out, "{}", stuck_line(recent)),
        None => Ok(()),
    }
}

/// What is stuck, and how to see it.
fn stuck_line(recent: &Recent) -> String {
    let stuck = recent.stuck;
    match (stuck.incidents, stuck.critical_incidents) {
        (0, _) => "nothing is stuck".to_owned(),
        (incidents, critical) => {
            let sockets = grouped(stuck.warning + stuck.critical);
            format!(
                "stuck: {sockets} sockets; incidents: {incidents}, critical: {critical}; tcplinger stuck \
                 shows them"
            )
        }
    }
}

/// Adds a column for the age of the oldest socket, and one for the change.
fn add_recent(rows: &mut [Vec<String>], recent: &Recent) {
    let Some((titles, rows)) = rows.split_first_mut() else {
        return;
    };
    titles.extend(["OLDEST".to_owned(), "CHANGE/MIN".to_owned()]);
    for (row, state) in rows.iter_mut().zip(State::ALL) {
        let oldest = recent.oldest_seconds.get(state.name()).copied().flatten();
        let oldest = oldest.map(|oldest| Elapsed(seconds(oldest)));
        let change = recent.change_per_minute.get(state.name()).copied();
        row.push(or_dash(oldest).to_string());
        row.push(or_dash(change.flatten().map(signed_rate)).to_string());
    }
}

/// Says who answered, below all else.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_source(out: &mut impl Write, source: &str) -> io::Result<()> {
    writeln!(out, "\nsource {source}")
}

/// Names the namespaces whose counts may be wrong, a few at most.
fn write_doubt(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    const NAMED: usize = 5;
    let doubted = summary.namespaces.iter();
    let doubted: Vec<&NamespaceSummary> = doubted
        .filter(|namespace| namespace.doubt.is_in_doubt)
        .collect();
    if doubted.is_empty() {
        return Ok(());
    }
    let names = doubted.iter().take(NAMED).map(|namespace| {
        let name = namespace.shown_name();
        let name = name.as_deref().map(Escaped);
        let name = name.map_or_else(|| namespace.netns.to_string(), |name| name.to_string());
        let uncertain = namespace.doubt.uncertain.iter();
        let by: Vec<String> = uncertain
            .map(|(state, by)| format!("{} by {by}", state.name().to_uppercase()))
            .collect();
        if by.is_empty() {
            name
        } else {
            format!("{name} ({})", by.join(", "))
        }
    });
    let names: Vec<String> = names.collect();
    let rest = doubted.len() - names.len();
    let more = if rest > 0 {
        format!(", and {rest} more")
    } else {
        String::new()
    };
    writeln!(
        out,
        "counts that may be wrong now: {}{more}",
        names.join(", ")
    )
}

fn state_rows(summary: &Summary) -> Vec<Vec<String>> {
    let sockets = summary.sockets();
    let of_family = |family: fn(&NamespaceSummary) -> Counts| {
        let mut sum = Counts::default();
        for namespace in &summary.namespaces {
            sum += family(namespace);
        }
        sum
    };
    let ipv4 = of_family(|namespace| namespace.ipv4);
    let ipv6 = of_family(|namespace| namespace.ipv6);
    let title = ["STATE", "TOTAL", "IPV4", "IPV6"]
        .map(str::to_owned)
        .to_vec();
    let rows = sockets.iter().map(|(state, total)| {
        vec![
            Capitals(RawState::Known(state)).to_string(),
            or_dash(total).to_string(),
            or_dash(ipv4.known(state)).to_string(),
            or_dash(ipv6.known(state)).to_string(),
        ]
    });
    std::iter::once(title).chain(rows).collect()
}

fn namespace_rows(summary: &Summary) -> Vec<Vec<String>> {
    let all = summary.sockets();
    let states: Vec<State> = State::ALL
        .into_iter()
        .filter(|state| all.get(*state) > 0)
        .collect();
    let mut title = vec!["NETNS".to_owned(), "NAME".to_owned()];
    title.extend(
        states
            .iter()
            .map(|state| Capitals(RawState::Known(*state)).to_string()),
    );
    let rows = summary.namespaces.iter().map(|namespace| {
        let sockets = namespace.sockets();
        let name = namespace.shown_name();
        let name = or_dash(name.as_deref().map(Escaped)).to_string();
        let mut row = vec![namespace.netns.to_string(), name];
        row.extend(states.iter().map(|state| sockets.get(*state).to_string()));
        row
    });
    std::iter::once(title).chain(rows).collect()
}

/// Writes rows in columns as wide as their widest cell: the first `left` to the left, the others,
/// numbers, to the right. Each row's paint is for its first cell.
fn write_table(
    out: &mut impl Write,
    left: usize,
    rows: &[Vec<String>],
    paints: impl Iterator<Item = anstyle::Style>,
) -> io::Result<()> {
    paint_table(out, left, rows, paints, std::iter::repeat(String::new()))
}

/// The same, with something to say under each row: nothing, or lines.
fn paint_table(
    out: &mut impl Write,
    left: usize,
    rows: &[Vec<String>],
    paints: impl Iterator<Item = anstyle::Style>,
    notes: impl Iterator<Item = String>,
) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for ((row, paint), note) in rows.iter().zip(paints).zip(notes) {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| {
            if column == 0 {
                format!("{paint}{cell:<width$}{paint:#}")
            } else if column < left {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        out.write_all(note.as_bytes())?;
    }
    Ok(())
}

/// Writes a line for each requirement, and for each that is not fine what it is for and what helps.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_doctor(
    out: &mut impl Write,
    style: Style,
    rows: &[DoctorRow],
) -> io::Result<()> {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for row in rows {
        let paint = style.of_outcome(row.outcome);
        let (outcome, found) = (row.outcome.name(), Escaped(&row.found));
        writeln!(
            out,
            "{paint}{outcome:<8}{paint:#}  {:<width$}  {found}",
            row.name
        )?;
        if row.outcome != Outcome::Ok {
            writeln!(out, "          why: {}", Escaped(&row.why))?;
            if let Some(mend) = &row.mend {
                writeln!(out, "          fix: {}", Escaped(mend))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
