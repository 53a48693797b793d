//! What follows from transitions and snapshots. Pure: the clock is an argument, nothing needs root.

mod activity;
mod budget;
mod census;
mod cookies;
mod filter;
mod histogram;
mod incident;
mod leak;
mod mptcp;
mod oldest;
mod overflows;
mod owners;
pub(crate) mod phrase;
mod ports;
mod sample;
mod sockets;
pub(crate) mod stuck;
mod summary;

pub(crate) use activity::{Activity, Failure, Reason, Side};
pub(crate) use budget::Budget;
pub(crate) use census::{
    Census, Checked, Figures, Need, Question, Reply, Scope, Seen, Snapshot, Tally, Urgency,
};
pub(crate) use filter::Filter;
pub(crate) use histogram::{FIRST, Histogram, SCHEMA, ZERO_THRESHOLD};
#[cfg(test)]
pub(crate) use incident::Cause;
pub(crate) use incident::{
    ActiveIncidents, Change, Group, Identity, Incident, Kind, Lingering, MOST_OWNERS, Names,
    NetnsName, Notice, Report, Whose, enter, fold, list_command, name, seconds,
};
pub(crate) use leak::{Leak, LeakDetector, Service, leak_incident};
pub(crate) use mptcp::Mptcp;
pub(crate) use oldest::Oldest;
pub(crate) use overflows::Overflows;
pub(crate) use owners::{OwnedSockets, OwnerName, SocketOwner, TopOwners, owned_sockets};
pub(crate) use ports::{FORECAST_FLOOR, PortReport, PortRow, PortTally, Pressure};
pub(crate) use sample::{Buckets, Cost, Outlets, Sample, Sink, Stuck, TOP};
pub(crate) use sockets::Sockets;
pub(crate) use summary::{Doubt, EventTotals, NamespaceSummary, Recent, Source, Summary};
