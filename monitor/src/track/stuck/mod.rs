//! Which sockets are stuck, why, and what to do.

mod admits;
mod board;
mod bound;
mod counts;
mod defaults;
mod finding;
#[cfg(test)]
pub(super) mod fixture;
mod group;
mod levels;
mod reason;
mod rules;
mod verdict;

pub(crate) use board::{Board, Change, Key, Lingering, Notice, Report};
pub(crate) use bound::least_age;
pub(crate) use counts::{CountBoard, count_findings};
pub(crate) use defaults::{Threshold, connect_timeout, held_timeout, orphan_timeout, threshold};
pub(crate) use finding::{Age, Endpoint, Finding, Owner, Severity};
pub(crate) use levels::levels;
pub(crate) use rules::{
    Ages, CountRule, LeakRule, Matcher, Per, PortRule, Rules, SocketRule, UnitPattern,
};
pub(crate) use verdict::Case;
