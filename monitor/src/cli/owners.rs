//! Flags of `owners`.

use clap::Args;

use super::{Format, NETNS, Netns, value};
use crate::tcp::{OwnerKind, State};

/// Flags of `owners`.
#[derive(Args, Debug)]
pub(crate) struct OwnersArgs {
    /// Table, or a JSON list
    #[arg(long, default_value = "text")]
    pub(crate) format: Format,
    /// Print at most N owners, 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) top: usize,
    /// Sort by `total` or by the count of a state
    #[arg(long, value_name = "total|STATE", default_value = "total", value_parser = value::order)]
    pub(crate) sort: OwnerOrder,
    /// Count only sockets in these states
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = value::state)]
    pub(crate) state: Vec<State>,
    #[arg(long, value_name = "NAME|INODE", value_parser = value::netns, help = NETNS)]
    pub(crate) netns: Option<Netns>,
    /// What counts as one owner
    #[arg(long, default_value = "process")]
    pub(crate) per: OwnerKind,
}

/// Which count `owners` lists first, the largest on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnerOrder {
    Total,
    State(State),
}
