//! JSON for programs: a line a transition, the counts (written and read back), the doctor's rows.
//!
//! Text of other processes is exact and yet harmless to a terminal: what [`is_harmful`] is written
//! as `\uNNNN`, which every JSON reader turns back.

pub(crate) mod api;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::ser::Formatter;

use super::clock::Rfc3339;
use super::escape::is_harmful;
use super::{Clock, DoctorRow};
use crate::tcp::{Counts, Errno, Handover, Process, RawState, State, Transition, TransitionOwner};
use crate::track::{
    Change, Doubt, EventTotals, Incident, NamespaceSummary, Notice, OwnedSockets, Recent,
    SocketOwner, Source, Summary, Tally,
};

/// Writes transitions, one object a line.
#[derive(Debug, Default)]
pub(crate) struct EventLines {
    line: Vec<u8>,
}

impl EventLines {
    /// Writes one line in one go; `after` is the time spent in `from`.
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
        let comm = transition.owner.as_ref().map(TransitionOwner::comm);
        let event = Event::new(clock, transition, after, comm.as_deref());
        self.line.clear();
        write_line(&mut self.line, &event)?;
        out.write_all(&self.line)
    }
}

/// A transition. What may be unknown is null; what is not always there is left out instead.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(serialize_with = "as_shown")]
    time: Rfc3339,
    netns: Option<u32>,
    /// A number, although some readers keep numbers exact only to 2^53: the kernel counts cookies
    /// up from 1. Only one drawn while its CPU was drawing another counts down from 2^64
    /// (`gen_cookie_next()` in `include/linux/cookie.h`).
    cookie: Option<u64>,
    family: &'static str,
    local: SocketAddr,
    remote: SocketAddr,
    #[serde(serialize_with = "as_shown")]
    from: RawState,
    #[serde(serialize_with = "as_shown")]
    to: RawState,
    after_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    continues_as: Option<&'static str>,
    /// Always true with `continues_as`.
    #[serde(skip_serializing_if = "Option::is_none")]
    inferred: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Errno>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm: Option<&'a str>,
}

impl<'a> Event<'a> {
    fn new(
        clock: Clock,
        seen: &Transition,
        after: Option<Duration>,
        comm: Option<&'a str>,
    ) -> Self {
        let continues_as = seen.continues_as().map(Handover::state).map(State::name);
        Self {
            time: Rfc3339(clock.wall(seen.ktime_ns)),
            netns: seen.netns,
            cookie: seen.cookie,
            family: seen.family.name(),
            local: seen.local,
            remote: seen.remote,
            from: seen.from,
            to: seen.to,
            after_seconds: after.map(|after| after.as_secs_f64()),
            continues_as,
            inferred: continues_as.map(|_| true),
            error: seen.error.filter(|error| *error != 0).map(Errno),
            cgroup_id: seen.cgroup_id,
            pid: seen.owner.map(|owner| owner.pid),
            comm,
        }
    }
}

impl Serialize for Errno {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn as_shown<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Writes the counts as one line.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_status(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    write_line(out, &Status::from(summary))
}

/// Reads what [`write_status`] wrote.
///
/// # Errors
/// Not JSON, another shape, or a state that is missing or unknown to this build.
pub(crate) fn read_status(text: &[u8]) -> serde_json::Result<Summary> {
    serde_json::from_slice::<Status>(text).map(Summary::from)
}

#[derive(Serialize, Deserialize)]
struct Status {
    source: Origin,
    /// The sum of the namespaces; so is theirs of the families. Both are ignored when read.
    sockets: Sockets,
    /// MPTCP connections, whose TCP sockets are among the others. Ignored when read.
    #[serde(default)]
    mptcp: Sockets,
    namespaces: Vec<Namespace>,
    events: Events,
    /// Full sockets by which the counts were corrected.
    drift: u64,
    /// Lines of the daemon's log that were dropped.
    #[serde(default)]
    log_lines_dropped: u64,
    census: Tally,
    #[serde(flatten)]
    recent: Option<Recent>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Origin {
    Daemon,
    Kernel,
}

#[derive(Serialize, Deserialize)]
struct Namespace {
    netns: u32,
    name: Option<String>,
    /// No process is in it and it is mounted nowhere: sockets keep it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    sockets: Sockets,
    family: Families,
    /// MPTCP connections, where there are some.
    #[serde(default, skip_serializing_if = "Sockets::is_empty")]
    mptcp: Sockets,
    /// Any of these counts may be wrong.
    in_doubt: bool,
    /// States whose count may be off, and by how many sockets.
    uncertain: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
struct Families {
    ipv4: Sockets,
    ipv6: Sockets,
}

#[derive(Serialize, Deserialize)]
struct Events {
    counted: u64,
    received: u64,
    lost: u64,
    ignored: u64,
}

/// Every state with its number, zero included, in the kernel's order; null where nobody can tell.
#[derive(Default, Deserialize)]
#[serde(try_from = "BTreeMap<String, Option<u64>>")]
struct Sockets(Counts);

impl Sockets {
    fn is_empty(&self) -> bool {
        self.0 == Counts::default()
    }
}

impl Serialize for Sockets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.0
                .iter()
                .map(|(state, sockets)| (state.name(), sockets)),
        )
    }
}

impl TryFrom<BTreeMap<String, Option<u64>>> for Sockets {
    type Error = String;

    fn try_from(mut named: BTreeMap<String, Option<u64>>) -> Result<Self, String> {
        let mut counts = Counts::default();
        for state in State::ALL {
            match named.remove(state.name()) {
                Some(Some(sockets)) => counts.set(state, sockets),
                Some(None) => counts.set_unknown(state),
                None => return Err(format!("state {state} is missing")),
            }
        }
        match named.pop_first() {
            Some((name, _)) => Err(format!("unknown TCP state {name:?}")),
            None => Ok(Self(counts)),
        }
    }
}

impl From<&Summary> for Status {
    fn from(summary: &Summary) -> Self {
        let namespace = |namespace: &NamespaceSummary| Namespace {
            netns: namespace.netns,
            name: namespace.name.clone(),
            deleted: namespace.is_deleted,
            sockets: Sockets(namespace.sockets()),
            family: Families {
                ipv4: Sockets(namespace.ipv4),
                ipv6: Sockets(namespace.ipv6),
            },
            mptcp: Sockets(namespace.mptcp),
            in_doubt: namespace.doubt.is_in_doubt,
            uncertain: {
                let uncertain = namespace.doubt.uncertain.iter();
                let named = uncertain.map(|(state, by)| (state.name().to_owned(), *by));
                named.collect()
            },
        };
        Self {
            source: match summary.source {
                Source::Daemon => Origin::Daemon,
                Source::Kernel => Origin::Kernel,
            },
            sockets: Sockets(summary.sockets()),
            mptcp: Sockets(summary.mptcp()),
            namespaces: summary.namespaces.iter().map(namespace).collect(),
            events: Events {
                counted: summary.events.counted,
                received: summary.events.received,
                lost: summary.events.lost,
                ignored: summary.events.ignored,
            },
            drift: summary.tally.corrected,
            log_lines_dropped: summary.log_dropped,
            census: summary.tally,
            recent: summary.recent.clone(),
        }
    }
}

impl From<Status> for Summary {
    fn from(status: Status) -> Self {
        let namespace = |namespace: Namespace| NamespaceSummary {
            netns: namespace.netns,
            name: namespace.name,
            is_deleted: namespace.deleted,
            ipv4: namespace.family.ipv4.0,
            ipv6: namespace.family.ipv6.0,
            mptcp: namespace.mptcp.0,
            doubt: Doubt {
                is_in_doubt: namespace.in_doubt,
                uncertain: {
                    let uncertain = namespace.uncertain.into_iter();
                    let known = uncertain.filter_map(|(name, by)| Some((name.parse().ok()?, by)));
                    known.collect()
                },
            },
        };
        Self {
            log_dropped: status.log_lines_dropped,
            recent: status.recent,
            source: match status.source {
                Origin::Daemon => Source::Daemon,
                Origin::Kernel => Source::Kernel,
            },
            namespaces: status.namespaces.into_iter().map(namespace).collect(),
            events: EventTotals {
                counted: status.events.counted,
                received: status.events.received,
                lost: status.events.lost,
                ignored: status.events.ignored,
            },
            tally: Tally {
                corrected: status.drift,
                ..status.census
            },
        }
    }
}

/// Writes the doctor's rows as a list, on one line.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_doctor(out: &mut impl Write, rows: &[DoctorRow]) -> io::Result<()> {
    write_line(out, &rows)
}

/// Writes a value that has a documented JSON form of its own, on one line.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    write_line(out, value)
}

/// Reads what [`write()`] wrote.
///
/// # Errors
/// Not JSON, or another shape.
pub(crate) fn read<T: DeserializeOwned>(line: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(line)
}

/// Writes a change of an incident as one line: `event`, `time`, and the incident's own fields.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_notice(out: &mut impl Write, clock: Clock, notice: &Notice) -> io::Result<()> {
    write_line(
        out,
        &NoticeForm {
            time: Rfc3339(clock.wall(notice.ktime_ns)),
            event: notice.event,
            incident: &notice.incident,
        },
    )
}

#[derive(Serialize)]
struct NoticeForm<'a> {
    #[serde(serialize_with = "as_shown")]
    time: Rfc3339,
    event: Change,
    #[serde(flatten)]
    incident: &'a Incident,
}

/// Writes who holds how many sockets as a list, on one line.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_owners(out: &mut impl Write, owners: &[OwnedSockets]) -> io::Result<()> {
    let rows: Vec<OwnerForm<'_>> = owners.iter().map(OwnerForm::from).collect();
    write_line(out, &rows)
}

/// An owner and its sockets. All null means no process.
#[derive(Serialize)]
struct OwnerForm<'a> {
    pid: Option<u32>,
    comm: Option<&'a str>,
    exe: Option<&'a str>,
    uid: Option<u32>,
    unit: Option<&'a str>,
    container: Option<&'a str>,
    pod: Option<&'a str>,
    open_files: Option<u64>,
    file_limit: Option<u64>,
    total: u64,
    sockets: Sockets,
}

impl<'a> From<&'a OwnedSockets> for OwnerForm<'a> {
    fn from(owned: &'a OwnedSockets) -> Self {
        let process = match &owned.owner {
            SocketOwner::Process(process) => Some(process),
            _ => None,
        };
        let of_process = |text: fn(&Process) -> Option<&String>| {
            process
                .and_then(|process| text(process))
                .map(String::as_str)
        };
        let (unit, container) = match &owned.owner {
            SocketOwner::Unit(unit) => (unit.as_deref(), None),
            SocketOwner::Container(container) => (None, container.as_deref()),
            _ => (
                of_process(|process| process.unit.as_ref()),
                of_process(|process| process.container.as_ref()),
            ),
        };
        Self {
            pid: process.map(|process| process.pid),
            comm: of_process(|process| Some(&process.comm)),
            exe: of_process(|process| process.exe.as_ref()),
            uid: process.and_then(|process| process.uid),
            unit,
            container,
            pod: of_process(|process| process.pod.as_ref()),
            open_files: process.and_then(|process| process.open_files),
            file_limit: process.and_then(|process| process.file_limit),
            total: owned.sockets.total(),
            sockets: Sockets(owned.sockets),
        }
    }
}

fn write_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, Harmless);
    value.serialize(&mut serializer)?;
    out.write_all(b"\n")
}

/// Compact JSON without a raw character that a terminal could obey.
struct Harmless;

impl Formatter for Harmless {
    /// `fragment` is free of what JSON itself escapes.
    fn write_string_fragment<W: Write + ?Sized>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(found) = rest.find(is_harmful) {
            let (before, from) = rest.split_at(found);
            out.write_all(before.as_bytes())?;
            let mut chars = from.chars();
            let harmful = chars.next().unwrap_or_default();
            for unit in harmful.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = chars.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests;
