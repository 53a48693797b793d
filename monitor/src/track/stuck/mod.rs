//! Which sockets are stuck, why, and what to do.

mod admits;
mod bound;
mod counts;
mod defaults;
mod finding;
#[cfg(test)]
pub(crate) mod fixture;
mod levels;
mod reason;
mod rules;
mod verdict;

pub(crate) use bound::least_age;
pub(crate) use counts::{CountBoard, Counted, count_incidents};
pub(crate) use defaults::{Threshold, connect_timeout, held_timeout, orphan_timeout, threshold};
pub(crate) use finding::{Age, Endpoint, Finding, Owner, Severity, name_of, state_named};
pub(crate) use levels::levels;
pub(crate) use reason::{advice, cause};
pub(crate) use rules::{
    Ages, CountRule, LeakRule, Matcher, Per, PortRule, Rules, SocketRule, UnitPattern,
};
pub(crate) use verdict::Case;
