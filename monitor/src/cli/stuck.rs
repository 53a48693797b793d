//! Flags of `stuck`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{FILTERS, FilterArgs, Format, SourceArgs, value};
use crate::tcp::State;

/// Flags of `stuck`.
#[derive(Args, Debug)]
pub(crate) struct StuckArgs {
    /// Table, or a JSON list
    #[arg(long, default_value = "text")]
    pub(crate) format: Format,
    /// Every lingering socket, those without a verdict too
    #[arg(long)]
    pub(crate) all: bool,
    /// Print so many at most, 0 for all [default: 50 as text, all as JSON]
    #[arg(long, value_name = "N")]
    pub(crate) top: Option<usize>,
    /// What comes first
    #[arg(long, value_name = "ORDER", default_value = "severity")]
    pub(crate) sort: StuckOrder,
    /// Only findings at least so bad
    #[arg(long, value_name = "SEVERITY", conflicts_with = "all")]
    pub(crate) severity: Option<SeverityChoice>,
    /// Print again and again until stopped
    #[arg(long)]
    pub(crate) watch: bool,
    /// How often `--watch` prints, 100ms to 1h
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "2s",
        requires = "watch",
        value_parser = value::interval
    )]
    pub(crate) interval: Duration,
    /// End `--watch` after this time, for example 10m [default: when stopped]
    #[arg(long, value_name = "DURATION", requires = "watch", value_parser = value::duration)]
    pub(crate) duration: Option<Duration>,
    /// Show the rules in force, and where each default comes from, in place of the sockets
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
    /// State that the socket lingers in: `close_wait` or, as `ss` has it, `CLOSE-WAIT`
    #[arg(
        long,
        value_name = "STATE",
        value_delimiter = ',',
        value_parser = value::lingering_state
    )]
    pub(crate) state: Vec<State>,
    /// Command name of a process that holds the socket; * and ? stand for what they do in a shell
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', value_parser = value::pattern)]
    pub(crate) process: Vec<String>,
    /// systemd unit of such a process, likewise: one of the host's; "NAME of user UID" is a user's,
    /// "NAME of container ID" a container's
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', value_parser = value::unit_pattern)]
    pub(crate) unit: Vec<String>,
    /// Container id of such a process, likewise; end a short id with *
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
