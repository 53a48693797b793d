//! The command line: verbs, flags, defaults and help. Nothing is decided here; [`value`] says what
//! a flag's text means.

mod value;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use log::LevelFilter;

use crate::tcp::{Family, State};
pub(crate) use value::Netns;

const EXIT_CODES: &str = "\
Exit codes:
  0  fine
  1  findings, or a failure
  2  wrong usage
  3  not enough privilege
  4  the kernel cannot do it";

/// Counts the sockets of every TCP state on this host and shows each transition.
#[derive(Debug, Parser)]
#[command(name = "tcplinger", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// When to colour text output; `auto` means on a terminal, unless `NO_COLOR` is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The command line of this process; help, version and wrong usage end it here.
pub(crate) fn parse() -> Cli {
    Cli::parse()
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Watch this host until stopped: count every transition, keep the counts exact
    #[command(after_help = "Example:\n  tcplinger run --summary-every 5m --log-format json")]
    Run(RunArgs),
    /// Print every TCP state transition as it happens
    #[command(
        after_help = "Example:\n  tcplinger events --state time_wait,close_wait --remote 10.0.0.0/8 --count 20"
    )]
    Events(EventsArgs),
    /// Print how many sockets are in each state now
    #[command(after_help = "Example:\n  tcplinger status --format json --netns host")]
    Status(StatusArgs),
    /// Check what this kernel and these privileges allow, and say how to mend the rest
    #[command(after_help = "Example:\n  tcplinger doctor")]
    Doctor(DoctorArgs),
}

/// Flags of `run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// How often the figures that are cheap to read are checked, 100ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = value::interval)]
    pub(crate) interval: Duration,
    /// How often the counts are logged, if they changed
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = value::duration)]
    pub(crate) summary_every: Duration,
    /// Log every transition
    #[arg(long)]
    pub(crate) transitions: bool,
    /// Form of the log lines
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: Format,
    /// Share of one CPU that walks of the kernel's socket tables may take, 0.01 to 100 percent
    #[arg(long, value_name = "PERCENT", default_value = "1", value_parser = value::percent)]
    pub(crate) walk_budget: f64,
    /// Control socket, where `status` asks for the counts
    #[arg(long, value_name = "PATH", default_value = "/run/tcplinger.sock")]
    pub(crate) control: PathBuf,
    /// Stop after this time, for example 10m [default: run until stopped]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) duration: Option<Duration>,
    #[command(flatten)]
    pub(crate) program: ProgramArgs,
}

/// Flags of `events`.
#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// Table, or one JSON object a line
    #[arg(long, default_value = "text")]
    pub(crate) format: Format,
    /// Stop after this many transitions were printed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Stop after this time, for example 500ms, 10s, 2m or 1h [default: run until stopped]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) duration: Option<Duration>,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    #[command(flatten)]
    pub(crate) program: ProgramArgs,
}

/// Which transitions to print: all of the given flags must agree, any value of a flag suffices.
#[derive(Args, Debug)]
#[command(next_help_heading = "Filters (flags combine with and; the values of one flag with or)")]
pub(crate) struct FilterArgs {
    /// State on either side of the transition: `time_wait` or, as `ss` has it, `TIME-WAIT`. The
    /// kernel announces neither the start of `TIME_WAIT` nor its end; `time_wait` finds the closes
    /// that continue as it (inferred)
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = value::state)]
    pub(crate) state: Vec<State>,
    /// State left
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = value::state)]
    pub(crate) from: Vec<State>,
    /// State entered; of `time_wait`, the same holds
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = value::state)]
    pub(crate) to: Vec<State>,
    /// Local port, 1 to 65535
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = value::port)]
    pub(crate) local_port: Vec<u16>,
    /// Remote port, 1 to 65535
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = value::port)]
    pub(crate) remote_port: Vec<u16>,
    /// Local address or network; host bits are ignored, so 10.1.2.3/8 means 10.0.0.0/8
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = value::network)]
    pub(crate) local: Vec<IpNet>,
    /// Remote address or network, likewise
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = value::network)]
    pub(crate) remote: Vec<IpNet>,
    /// Address family of the socket; one that takes IPv4 on an IPv6 socket is ipv6
    #[arg(long)]
    pub(crate) family: Option<Family>,
    /// Network namespace, by name (`ip netns`; `host` is the initial one) or inode number
    #[arg(long, value_name = "NAME|INODE", value_parser = value::netns)]
    pub(crate) netns: Option<Netns>,
}

/// Flags of `status`.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Table, or one JSON object
    #[arg(long, default_value = "text")]
    pub(crate) format: Format,
    /// Only this network namespace, by name (`ip netns`; `host` is the initial one) or inode number
    #[arg(long, value_name = "NAME|INODE", value_parser = value::netns)]
    pub(crate) netns: Option<Netns>,
    /// Whose counts: `auto` takes a running daemon's, and walks the kernel's tables without one
    #[arg(long, default_value = "auto")]
    pub(crate) source: SourceChoice,
    /// Control socket of the daemon
    #[arg(long, value_name = "PATH", default_value = "/run/tcplinger.sock")]
    pub(crate) control: PathBuf,
}

/// Flags of `doctor`.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Table, or a JSON list
    #[arg(long, default_value = "text")]
    pub(crate) format: Format,
}

/// How the eBPF program is loaded.
#[derive(Args, Debug)]
#[command(next_help_heading = "Program options")]
pub(crate) struct ProgramArgs {
    /// How to attach: `btf` needs kernel BTF and tells the most, `classic` works without
    #[arg(long, default_value = "auto")]
    pub(crate) program: ProgramChoice,
    /// Size of the ring buffer in bytes: a power of two from 64KiB to 1GiB, with KiB, MiB or GiB
    #[arg(long, value_name = "BYTES", default_value = "8MiB", value_parser = value::ring_size)]
    pub(crate) ring_size: u32,
    /// What the program itself may log; anything but `off` slows every transition
    #[arg(long, value_name = "LEVEL", default_value = "off", value_parser = levels())]
    pub(crate) bpf_log: LevelFilter,
    /// Object file to load in place of the embedded one
    #[arg(long, value_name = "PATH")]
    pub(crate) bpf_object: Option<PathBuf>,
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

/// Whose counts `status` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SourceChoice {
    Auto,
    Daemon,
    Kernel,
}

/// Which tracepoint program to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgramChoice {
    Auto,
    Btf,
    Classic,
}

impl ValueEnum for Family {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

fn levels() -> impl TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
        .map(|name| name.parse().unwrap_or(LevelFilter::Off))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    fn refusal(line: &str) -> String {
        let error = parse(line).expect_err("must be refused");
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn the_definition_is_sound_and_every_verb_has_an_example() {
        let command = Cli::command();
        command.clone().debug_assert();
        for verb in command.get_subcommands() {
            let help = verb
                .get_after_help()
                .expect("help after the flags")
                .to_string();
            let example = help.lines().nth(1).expect("a second line").trim();
            parse(example).unwrap_or_else(|error| panic!("{example}: {error}"));
        }
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let Verb::Run(run) = parse("tcplinger run").expect("no flag is required").verb else {
            panic!("run is not run");
        };
        assert_eq!(run.interval, Duration::from_secs(1));
        assert_eq!(run.summary_every, Duration::from_mins(1));
        assert!((run.walk_budget - 1.0).abs() < f64::EPSILON);
        assert_eq!(run.program.ring_size, 8 << 20);
        assert_eq!(run.program.bpf_log, LevelFilter::Off);
        assert_eq!(run.log_format, Format::Text);
        assert!(!run.transitions && run.duration.is_none());
    }

    #[test]
    fn filters_repeat_and_take_lists() {
        let line = "tcplinger events --state TIME-WAIT,close_wait --state estab --local-port 80,443 \
                    --remote 10.1.2.3/8 --remote ::1 --family ipv6 --netns 4026531840 --color never";
        let cli = parse(&line.split_whitespace().collect::<Vec<_>>().join(" ")).expect("valid");
        assert_eq!(cli.color.demand(), Some(false));
        let Verb::Events(events) = cli.verb else {
            panic!("events is not events");
        };
        let filter = events.filter;
        assert_eq!(
            filter.state,
            [State::TimeWait, State::CloseWait, State::Established]
        );
        assert_eq!(filter.local_port, [80, 443]);
        assert_eq!(filter.remote[0].to_string(), "10.0.0.0/8");
        assert_eq!(filter.remote[1].to_string(), "::1/128");
        assert_eq!(filter.family, Some(Family::Ipv6));
        assert_eq!(filter.netns, Some(Netns::Inode(4_026_531_840)));
    }

    #[test]
    fn wrong_usage_says_what_to_type() {
        assert!(refusal("tcplinger events --state time_wiat").contains("`time_wait`"));
        assert!(refusal("tcplinger events --local-port 70000").contains("1 to 65535"));
        assert!(refusal("tcplinger events --local 10.0.0.0/33").contains("10.0.0.0/8"));
        assert!(refusal("tcplinger evnts").contains("'events'"));
        assert!(refusal("tcplinger events --stat close").contains("'--state'"));
        assert!(refusal("tcplinger run --interval 1ms").contains("100ms to 1h"));
        assert!(refusal("tcplinger run --bpf-log loud").contains("trace"));
        refusal("tcplinger");
        let version = parse("tcplinger --version").expect_err("the version is an answer");
        assert_eq!(
            (version.kind(), version.exit_code()),
            (ErrorKind::DisplayVersion, 0)
        );
    }
}
