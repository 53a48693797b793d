//! Flags of `run`, and of how the eBPF program is loaded. What is not given stays `None`: the
//! configuration file may say it, and `config` has the defaults that the help documents.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use log::LevelFilter;

use super::{CONFIG, Format, ProgramChoice, value};

/// Flags of `run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// How often the figures that are cheap to read are checked, 100ms to 1h [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = value::interval)]
    pub(crate) interval: Option<Duration>,
    /// How often the counts are logged, if they changed [default: 60s]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) summary_every: Option<Duration>,
    /// Log every transition [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub(crate) transitions: Option<bool>,
    /// Form of the log lines [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<Format>,
    /// Share of one CPU that walks of the kernel's socket tables may take, 0.01 to 100 percent
    /// [default: 1]
    #[arg(long, value_name = "PERCENT", value_parser = value::percent)]
    pub(crate) walk_budget: Option<f64>,
    /// Let the kernel measure the program's run time, for the metrics; that costs 0.1 to 0.4 us a
    /// transition [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub(crate) program_stats: Option<bool>,
    /// Control socket, where the other verbs ask [default: /run/tcplinger.sock]
    #[arg(long, value_name = "PATH", value_parser = value::path)]
    pub(crate) control: Option<PathBuf>,
    /// Group whose members may ask at the control socket and see what the default address shows, by name
    /// or number [default: root alone]
    #[arg(long, value_name = "GROUP", value_parser = value::group)]
    pub(crate) group: Option<String>,
    /// Address for metrics, page and API over HTTP, or `off`; may be given more than once
    /// [default: 127.0.0.1:9817]
    #[arg(long, value_name = "ADDRESS", value_parser = value::listen)]
    pub(crate) listen: Vec<value::Listen>,
    /// Stop after this time, for example 10m [default: run until stopped]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) duration: Option<Duration>,
    #[arg(long, value_name = "PATH", help = CONFIG)]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) program: ProgramArgs,
}

/// How the eBPF program is loaded.
#[derive(Args, Debug)]
#[command(next_help_heading = "Program options")]
pub(crate) struct ProgramArgs {
    /// How to attach: `btf` needs kernel BTF and tells the most, `classic` works without
    /// [default: auto]
    #[arg(long)]
    pub(crate) program: Option<ProgramChoice>,
    /// Size of the ring buffers together in bytes: a power of two from 64KiB to 1GiB, with KiB, MiB or GiB
    /// [default: 8MiB]
    #[arg(long, value_name = "BYTES", value_parser = value::ring_size)]
    pub(crate) ring_size: Option<u32>,
    /// What the program itself may log; anything but `off` slows every transition [default: off]
    #[arg(long, value_name = "LEVEL", value_parser = levels())]
    pub(crate) bpf_log: Option<LevelFilter>,
    /// Object file to load in place of the embedded one
    #[arg(long, value_name = "PATH")]
    pub(crate) bpf_object: Option<PathBuf>,
}

fn levels() -> impl TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(value::LEVELS).try_map(|name| value::level(&name))
}
