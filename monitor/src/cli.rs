//! The command line: verbs, flags, defaults and help. Nothing is decided here; [`value`] says what
//! a flag's text means.

mod check;
mod events;
mod owners;
mod run;
mod stuck;
pub(crate) mod value;
mod verbs;

use clap::builder::PossibleValue;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::tcp::{Family, OwnerKind};
pub(crate) use check::CheckArgs;
pub(crate) use events::{EventsArgs, FilterArgs, StateArgs};
pub(crate) use owners::{OwnerOrder, OwnersArgs};
pub(crate) use run::{ProgramArgs, RunArgs};
pub(crate) use stuck::{HolderArgs, SeverityChoice, StuckArgs, StuckOrder};
pub(crate) use value::Netns;
pub(crate) use verbs::{
    DoctorArgs, ExplainArgs, PortOrder, PortsArgs, SourceArgs, SourceChoice, StatusArgs,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  fine
  1  something is stuck, or a failure
  2  wrong usage, or an invalid configuration
  3  not enough privilege
  4  the kernel cannot do it";

/// Help that several verbs share.
const FILTERS: &str = "Filters (all flags must match; of the values of one flag, any)";
const NETNS: &str = "Only this network namespace, by name (see `ip netns`; `host` is the initial one) \
                     or inode number";
const CONFIG: &str =
    "Configuration file; it must exist [default: /etc/tcplinger.toml, if it exists]";

/// Counts the sockets in every TCP state on this host, prints every transition, and lists the
/// connections that are stuck, with owner and reason.
#[derive(Debug, Parser)]
#[command(name = "tcplinger", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// When to colour text; `auto` means on a terminal, unless `NO_COLOR` is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The command line of this process; help, version and wrong usage end it here.
#[expect(
    clippy::exit,
    reason = "what clap does with a refusal, but for the code"
)]
pub(crate) fn parse() -> Cli {
    Cli::try_parse()
        .and_then(Cli::checked)
        .unwrap_or_else(|error| {
            // With stderr gone, too, the exit code has to do.
            let _ = error.print();
            std::process::exit(check::usage_exit_code(&error, std::env::args_os()))
        })
}

impl Cli {
    /// What no flag can tell alone.
    fn checked(self) -> Result<Self, clap::Error> {
        match &self.verb {
            Verb::Run(run) if value::Listen::is_contradictory(&run.listen) => {
                let what = "--listen is both `off` and an address; give one or the other";
                Err(Self::command().error(ErrorKind::ArgumentConflict, what))
            }
            _ => Ok(self),
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the daemon: count sockets, find what is stuck, serve metrics and the page
    #[command(after_help = "Example:\n  tcplinger run --summary-every 5m --log-format json")]
    Run(RunArgs),
    /// Print every TCP state transition as it happens
    #[command(
        after_help = "Example:\n  tcplinger events --state time_wait,close_wait --remote 10.0.0.0/8 --count 20"
    )]
    Events(EventsArgs),
    /// Print the number of sockets in each state
    #[command(after_help = "Example:\n  tcplinger status --format json --netns host")]
    Status(StatusArgs),
    /// List the sockets that are stuck, with age, owner, reason and advice
    #[command(
        after_help = "Example:\n  tcplinger stuck --state close_wait --process nginx --sort age --top 20"
    )]
    Stuck(Box<StuckArgs>),
    /// List processes, units or containers by the sockets they hold
    #[command(after_help = "Example:\n  tcplinger owners --sort close_wait --per unit")]
    Owners(OwnersArgs),
    /// Show how many ephemeral ports and `TIME_WAIT` buckets are in use
    #[command(after_help = "Example:\n  tcplinger ports --netns host --sample 5s")]
    Ports(PortsArgs),
    /// Explain a state: what it means, what keeps a socket in it, what ends it
    #[command(after_help = "Example:\n  tcplinger explain close_wait")]
    Explain(ExplainArgs),
    /// Check for stuck sockets, as a monitoring plugin: one line, exit codes 0 to 3
    #[command(after_help = check::HELP)]
    Check(CheckArgs),
    /// Check what this kernel and these privileges allow, and how to fix the rest
    #[command(after_help = "Example:\n  tcplinger doctor")]
    Doctor(DoctorArgs),
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

impl Color {
    /// What the user demands; `None` leaves it to the environment.
    pub(crate) const fn demand(self) -> Option<bool> {
        match self {
            Self::Auto => None,
            Self::Always => Some(true),
            Self::Never => Some(false),
        }
    }
}

/// Form of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Which tracepoint program to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgramChoice {
    Auto,
    Btf,
    Classic,
}

impl ValueEnum for OwnerKind {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl ValueEnum for Family {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// The flags of `run` and their help, for the test that holds them to the configuration file.
#[cfg(test)]
pub(crate) fn run_help() -> Vec<(String, String)> {
    let command = Cli::command();
    let run = command.find_subcommand("run").expect("a verb");
    run.get_arguments()
        .filter_map(|flag| Some((flag.get_long()?.to_owned(), flag.get_help()?.to_string())))
        .collect()
}

#[cfg(test)]
mod documents;
#[cfg(test)]
mod tests;
