//! The words of the field: TCP states, families, sockets counted by state, transitions.
//!
//! Pure: no I/O, no clock, nothing but `std`.

mod counts;
mod state;
mod transition;

pub(crate) use counts::Counts;
pub(crate) use state::{Family, RawState, State};
pub(crate) use transition::{Handover, Owner, Transition};
