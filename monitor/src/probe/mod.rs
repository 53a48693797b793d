//! The eBPF side as the rest sees it: what the kernel offers, the loaded program, its stream of
//! transitions, its counters, and who holds which socket. The only user of aya.

mod error;
mod extras;
mod format;
mod holders;
mod load;
mod offsets;
mod preflight;
mod reader;
mod record;
mod ring;
mod stream;

pub(crate) use error::{Error, Kind};
pub(crate) use extras::Extra;
pub(crate) use holders::Holders;
pub(crate) use load::{Attach, BpfLog, Options};
pub(crate) use preflight::{Finding, Outcome, ensure_privileged, findings, maps_take_privilege};
pub(crate) use stream::{Capabilities, Probe, Totals};
