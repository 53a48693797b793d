//! The words of the field: TCP states, families, transitions, sockets and their holders, limits.
//!
//! Pure: no I/O, no clock, nothing but `std`.

mod counts;
mod ends;
pub(crate) mod errno;
mod evidence;
mod limits;
mod process;
mod state;
mod transition;

pub(crate) use counts::Counts;
pub(crate) use ends::Ends;
pub(crate) use errno::Errno;
pub(crate) use evidence::{Evidence, TcpInfo, Timer};
pub(crate) use limits::{Limits, TwReuse};
pub(crate) use process::{Holder, OwnerKind, Process};
pub(crate) use state::{Family, RawState, State};
pub(crate) use transition::{Handover, Subject, Transition, TransitionOwner};
