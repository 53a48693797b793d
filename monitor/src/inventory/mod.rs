//! What the kernel says now, one network namespace at a time.
//!
//! `sock_diag` and /proc/net show only the namespace of the thread that asks, so [`Worker`] owns
//! a thread that moves between namespaces; no other thread of the process ever moves.

mod cgroup;
mod error;
mod evidence;
mod exact;
mod figures;
mod files;
mod holders;
mod limits;
mod namespaces;
mod own;
mod proc_net;
mod processes;
mod row;
mod sock_diag;
mod users;
mod visit;
mod wire;
mod worker;

pub(crate) use error::Error;
pub(crate) use exact::{Answer, ExactQuery};
pub(crate) use figures::Figures;
pub(crate) use holders::{fallback_holders, socket_inode};
pub(crate) use namespaces::{Depth, Discovery, Namespace};
pub(crate) use own::{own, raise_file_limit};
pub(crate) use processes::{process, process_name};
pub(crate) use row::{Dump, Query, Row, StateSet};
pub(crate) use users::{group_number, is_member, socket_owner};
pub(crate) use worker::{Asked, Meter, Snapshot, Survey, Worker, wait};
