//! How much of the ephemeral ports and of the `TIME_WAIT` buckets each namespace uses, how fast that
//! grows, and what it means.
//!
//! Cannot see: ports that a socket without a peer is bound to, and `IP_LOCAL_PORT_RANGE` (a range
//! that a socket chose for itself).

mod findings;
mod pressure;
mod report;
mod series;
mod tally;

pub(crate) use pressure::{FORECAST_FLOOR, Pressure};
pub(crate) use report::{PortReport, PortRow};
pub(crate) use tally::PortTally;
