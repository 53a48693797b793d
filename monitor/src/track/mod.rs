//! What follows from transitions and snapshots. Pure: the clock is an argument, nothing needs root.

mod budget;
mod census;
mod cookies;
mod dwell;
mod filter;
mod holdings;
mod leak;
mod lingering;
pub(crate) mod phrase;
mod ports;
pub(crate) mod stuck;
mod summary;

pub(crate) use budget::Budget;
pub(crate) use census::{Census, Figures, Scope, Seen, Snapshot, Verdict};
pub(crate) use dwell::Dwell;
pub(crate) use filter::Filter;
pub(crate) use holdings::{Grouping, Holdership, Holding, holdings};
pub(crate) use leak::{Leak, LeakDetector, Service, leak_findings};
pub(crate) use lingering::{Entered, Lingering};
pub(crate) use ports::{PortReport, PortTally, Pressure};
pub(crate) use summary::{EventTotals, NamespaceSummary, Source, Summary};
