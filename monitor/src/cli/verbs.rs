//! Flags of the verbs that have few: `status`, `ports`, `explain`, `doctor`; and what several share.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{CONFIG, Format, NETNS, Netns, value};
use crate::tcp::State;

/// Flags of `status`.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Table, or one JSON object
    #[arg(long, default_value = "text")]
    pub(crate) format: Format,
    #[arg(long, value_name = "NAME|INODE", value_parser = value::netns, help = NETNS)]
    pub(crate) netns: Option<Netns>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// Flags of `ports`.
#[derive(Args, Debug)]
pub(crate) struct PortsArgs {
    /// Table, or a JSON list
    #[arg(long, default_value = "text")]
    pub(crate) format: Format,
    /// Print at most N rows, 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) top: usize,
    /// Print also rows that use less than 0.5 % of their ports, which JSON always has
    #[arg(long)]
    pub(crate) all: bool,
    /// Sort order
    #[arg(long, value_name = "ORDER", default_value = "pressure")]
    pub(crate) sort: PortOrder,
    #[arg(long, value_name = "NAME|INODE", value_parser = value::netns, help = NETNS)]
    pub(crate) netns: Option<Netns>,
    /// Without a daemon: time between the two samples that give the rates, 100ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = value::interval)]
    pub(crate) sample: Duration,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// Which ports come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PortOrder {
    /// What runs out first, then the largest share in use.
    Pressure,
    /// The largest share in use.
    Use,
    /// The most ports in use.
    Used,
    /// The most ports in `TIME_WAIT`.
    TimeWait,
}

/// Flags of `explain`.
#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// State to explain: `close_wait`, or `CLOSE-WAIT` as in `ss`
    #[arg(value_name = "STATE", value_parser = value::state)]
    pub(crate) state: State,
    /// Text, or one JSON object
    #[arg(long, default_value = "text")]
    pub(crate) format: Format,
    /// Network namespace whose sysctls are shown, by name (see `ip netns`; `host` is the initial one)
    /// or inode number [default: the caller's]
    #[arg(long, value_name = "NAME|INODE", value_parser = value::netns)]
    pub(crate) netns: Option<Netns>,
}

/// Flags of `doctor`.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Table, or a JSON list
    #[arg(long, default_value = "text")]
    pub(crate) format: Format,
}

/// Who is asked, and by which rules.
#[derive(Args, Debug)]
pub(crate) struct SourceArgs {
    /// Where the answer comes from: `auto` asks the daemon, which knows exact ages, and the kernel if no
    /// daemon answers
    #[arg(long, default_value = "auto")]
    pub(crate) source: SourceChoice,
    /// Control socket of the daemon [default: from the configuration, else /run/tcplinger.sock]
    #[arg(long, value_name = "PATH", value_parser = value::path)]
    pub(crate) control: Option<PathBuf>,
    #[arg(long, value_name = "PATH", help = CONFIG)]
    pub(crate) config: Option<PathBuf>,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SourceChoice {
    Auto,
    Daemon,
    Kernel,
}
