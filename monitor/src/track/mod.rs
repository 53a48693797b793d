//! What follows from transitions and snapshots. Pure: the clock is an argument, nothing needs root.

mod budget;
mod census;
mod dwell;
mod filter;
mod summary;

pub(crate) use budget::Budget;
pub(crate) use census::{Census, Figures, Scope, Seen, Snapshot, Verdict};
pub(crate) use dwell::Dwell;
pub(crate) use filter::Filter;
pub(crate) use summary::{EventTotals, NamespaceSummary, Source, Summary};
