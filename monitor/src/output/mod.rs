//! What the user reads: transitions, counts and the doctor's findings, as text and as JSON.
//!
//! Writes into what it is given and decides nothing; times come from the kernel's stamps, never
//! from a clock read here.

mod clock;
mod doctor;
mod escape;
pub(crate) mod explain;
mod fit;
#[cfg(test)]
mod fixture;
pub(crate) mod json;
pub(crate) mod metrics;
pub(crate) mod otlp;
mod style;
pub(crate) mod text;

pub(crate) use clock::{Clock, Elapsed};
pub(crate) use doctor::{DoctorRow, Outcome};
pub(crate) use escape::Escaped;
pub(crate) use fit::Fit;
pub(crate) use style::Style;
