//! What the kernel says now, one network namespace at a time.
//!
//! `sock_diag` and /proc/net show only the namespace of the thread that asks, so [`Worker`] owns
//! a thread that moves between namespaces; no other thread of the process ever moves.

mod error;
mod figures;
mod namespaces;
mod proc_net;
mod row;
mod sock_diag;
mod visit;
mod wire;
mod worker;

pub(crate) use error::Error;
pub(crate) use figures::Figures;
pub(crate) use namespaces::{Depth, Discovery, Namespace};
pub(crate) use row::{Dump, Row, StateSet};
pub(crate) use worker::{Snapshot, Worker, wait};
