//! The forms of the HTTP API (`monitor/docs/http.md`), each on one line.

use std::io::{self, Write};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{Clock, Rfc3339, Sockets, Status, as_shown, write_line};
use crate::tcp::{Counts, State};
use crate::track::{Incident, OwnerName, PortReport, Recent, Sample};

/// When the figures of a form were taken.
#[derive(Serialize)]
#[serde(transparent)]
struct Taken(#[serde(serialize_with = "as_shown")] Rfc3339);

impl Taken {
    fn at(sample: &Sample, since_boot: Duration) -> Self {
        Self(Rfc3339(Clock::wall_of(sample, since_boot)))
    }
}

impl From<&Sample> for Taken {
    fn from(sample: &Sample) -> Self {
        Self::at(sample, sample.taken)
    }
}

#[derive(Serialize)]
struct StatusForm<'a> {
    taken: Taken,
    version: &'static str,
    host: &'a str,
    in_doubt: bool,
    #[serde(flatten)]
    status: Status,
}

/// The counts; `host` is the node's name.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_status(
    out: &mut impl Write,
    sample: &Sample,
    recent: Recent,
    host: &str,
) -> io::Result<()> {
    write_line(
        out,
        &StatusForm {
            taken: sample.into(),
            version: env!("CARGO_PKG_VERSION"),
            host,
            in_doubt: sample.is_in_doubt,
            status: Status {
                recent: Some(recent),
                ..Status::from(&sample.summary)
            },
        },
    )
}

#[derive(Serialize)]
struct StuckForm<'a> {
    taken: Taken,
    incidents: Aged<'a>,
}

/// Incidents as of the sample.
struct Aged<'a>(&'a Sample);

#[derive(Serialize)]
struct AgedForm {
    /// When all but the ages was found.
    looked: Taken,
    #[serde(flatten)]
    incident: Incident,
}

impl Serialize for Aged<'_> {
    /// Copies one at a time.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(sample) = self;
        let incidents = sample
            .stuck
            .raised
            .iter()
            .map(|(incident, looked_at)| AgedForm {
                looked: Taken::at(sample, *looked_at),
                incident: incident.later(sample.taken.saturating_sub(*looked_at)),
            });
        serializer.collect_seq(incidents)
    }
}

/// What is raised, what matters most first, ages as of the sample.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_stuck(out: &mut impl Write, sample: &Sample) -> io::Result<()> {
    write_line(
        out,
        &StuckForm {
            taken: sample.into(),
            incidents: Aged(sample),
        },
    )
}

#[derive(Serialize)]
struct PortsForm<'a> {
    taken: Taken,
    #[serde(flatten)]
    ports: &'a PortReport,
}

/// Ports and buckets.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_ports(out: &mut impl Write, sample: &Sample) -> io::Result<()> {
    let looked = sample.ports.looked.unwrap_or(sample.taken);
    write_line(
        out,
        &PortsForm {
            taken: Taken::at(sample, looked),
            ports: &sample.ports,
        },
    )
}

#[derive(Serialize)]
struct OwnersForm<'a> {
    /// None before the first look.
    taken: Option<Taken>,
    owners: Vec<OwnerForm<'a>>,
}

#[derive(Serialize)]
struct OwnerForm<'a> {
    kind: &'static str,
    owner: Option<&'a str>,
    total: u64,
    sockets: Sockets,
}

impl<'a> OwnerForm<'a> {
    fn new(kind: &'static str, owner: Option<&'a str>, sockets: Counts) -> Self {
        Self {
            kind,
            owner,
            total: sockets.total(),
            sockets: Sockets(sockets),
        }
    }
}

/// Who holds most, then all others together, then what nobody holds; nothing before the first look.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_owners(out: &mut impl Write, sample: &Sample) -> io::Result<()> {
    let leaders = sample.owners.leaders.iter().map(|(name, sockets)| {
        let (kind, owner) = match name {
            OwnerName::Unit(unit) => ("unit", unit),
            OwnerName::Container(container) => ("container", container),
            OwnerName::Process(comm) => ("process", comm),
        };
        OwnerForm::new(kind, Some(owner), *sockets)
    });
    let rest = [
        OwnerForm::new("other", None, sample.owners.other),
        OwnerForm::new("nobody", None, sample.owners.nobody),
    ];
    let looked_at = sample.owners.taken;
    let rest = looked_at.map(|_| rest);
    write_line(
        out,
        &OwnersForm {
            taken: looked_at.map(|looked_at| Taken::at(sample, looked_at)),
            owners: leaders.chain(rest.into_iter().flatten()).collect(),
        },
    )
}

#[derive(Serialize)]
struct HistoryForm<'a> {
    taken: Taken,
    step_seconds: u64,
    times: Vec<u64>,
    states: States<'a>,
}

/// Each state's counts, null where there is none.
struct States<'a>(&'a [(u64, Option<Counts>)]);

impl Serialize for States<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(State::ALL.into_iter().map(|state| {
            let counts = self.0.iter();
            let counts = counts.map(|(_, counts)| counts.as_ref()?.known(state));
            (state.name(), counts.collect::<Vec<Option<u64>>>())
        }))
    }
}

/// The counts over time: seconds since the epoch, the oldest first.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_history(
    out: &mut impl Write,
    sample: &Sample,
    step: Duration,
    counts: &[(u64, Option<Counts>)],
) -> io::Result<()> {
    write_line(
        out,
        &HistoryForm {
            taken: sample.into(),
            step_seconds: step.as_secs(),
            times: counts.iter().map(|(seconds, _)| *seconds).collect(),
            states: States(counts),
        },
    )
}

#[derive(Serialize)]
struct Missed {
    missed: u64,
}

/// How many findings a slow client did not get.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_missed(out: &mut impl Write, missed: u64) -> io::Result<()> {
    write_line(out, &Missed { missed })
}

#[derive(Serialize)]
struct ErrorForm<'a> {
    error: &'a str,
}

/// Why there is no answer.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_error(out: &mut impl Write, error: &str) -> io::Result<()> {
    write_line(out, &ErrorForm { error })
}
