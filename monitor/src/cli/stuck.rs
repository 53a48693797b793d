//! Flags of `stuck`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{FILTERS, FilterArgs, Format, SourceArgs, value};
use crate::tcp::State;

/// Flags of `stuck`.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct StuckArgs {
    /// Table, or a JSON list
    #[arg(long, default_value = "text")]
    pub(crate) format: Format,
    /// List single sockets instead of incidents
    #[arg(long)]
    pub(crate) each: bool,
    /// List every lingering socket, also those that are not stuck; implies --each
    #[arg(long)]
    pub(crate) all: bool,
    /// Print at most N, 0 for all [default: as many as fit the terminal; 50 with --each]
    #[arg(long, value_name = "N")]
    pub(crate) top: Option<usize>,
    /// Sort order
    #[arg(long, value_name = "ORDER", default_value = "severity")]
    pub(crate) sort: StuckOrder,
    /// Only this severity or worse
    #[arg(long, value_name = "SEVERITY", conflicts_with = "all")]
    pub(crate) severity: Option<SeverityChoice>,
    /// Refresh until stopped; with `--format json`, print one line per change
    #[arg(long)]
    pub(crate) watch: bool,
    /// How often `--watch` refreshes, 100ms to 1h
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "2s",
        requires = "watch",
        value_parser = value::interval
    )]
    pub(crate) interval: Duration,
    /// Stop `--watch` after this time, for example 10m [default: run until stopped]
    #[arg(long, value_name = "DURATION", requires = "watch", value_parser = value::duration)]
    pub(crate) duration: Option<Duration>,
    /// Show the rules in force and where each default comes from, instead of the sockets
    #[arg(long, conflicts_with_all = ["watch", "all"])]
    pub(crate) rules: bool,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) holder: HolderArgs,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

/// Which state the socket is in, and which process must hold it.
#[derive(Args, Debug)]
#[command(next_help_heading = FILTERS)]
pub(crate) struct HolderArgs {
    /// State of the socket: `close_wait`, or `CLOSE-WAIT` as in `ss`
    #[arg(
        long,
        value_name = "STATE",
        value_delimiter = ',',
        value_parser = value::lingering_state
    )]
    pub(crate) state: Vec<State>,
    /// Command name of a process that holds the socket, with * and ? as in a shell
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', value_parser = value::pattern)]
    pub(crate) process: Vec<String>,
    /// systemd unit of such a process, with * and ?; "NAME of user UID" for a user's unit, "NAME of
    /// container ID" for one in a container
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', value_parser = value::unit_pattern)]
    pub(crate) unit: Vec<String>,
    /// Container id of such a process, with * and ?; end a short id with *
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', value_parser = value::pattern)]
    pub(crate) container: Vec<String>,
}

/// What `stuck` lists first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StuckOrder {
    Severity,
    Age,
    RecvQueue,
    SendQueue,
    Retransmits,
}

/// The least severity shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SeverityChoice {
    Warning,
    Critical,
}
