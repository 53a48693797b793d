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
    /// How often the counts are checked against the kernel's sums, 100ms to 1h [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = value::interval)]
    pub(crate) interval: Option<Duration>,
    /// How often the counts are logged, if they have changed [default: 60s]
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
    /// Format of the log [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<Format>,
    /// Percent of one CPU for walks of the kernel's socket tables, 0.01 to 100 [default: 1]
    #[arg(long, value_name = "PERCENT", value_parser = value::percent)]
    pub(crate) walk_budget: Option<f64>,
    /// Measure the eBPF program's run time, for the metrics; costs 0.1 to 0.4 us per transition
    /// [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub(crate) program_stats: Option<bool>,
    /// Control socket, which the other verbs connect to [default: /run/tcplinger.sock]
    #[arg(long, value_name = "PATH", value_parser = value::path)]
    pub(crate) control: Option<PathBuf>,
    /// Group, by name or number, whose members may use the control socket and the default HTTP address
    /// [default: root only]
    #[arg(long, value_name = "GROUP", value_parser = value::group)]
    pub(crate) group: Option<String>,
    /// HTTP address for metrics, page and API, or `off`; may be repeated
    /// [default: 127.0.0.1:9817]
    #[arg(long, value_name = "ADDRESS", value_parser = value::listen)]
    pub(crate) listen: Vec<value::Listen>,
    /// Give up the rights that no thread needs once the daemon watches; `false` keeps them all, to find an
    /// error
    /// [default: true]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub(crate) sandbox: Option<bool>,
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
    /// How to attach: `btf` needs kernel BTF and gives the most detail, `classic` works without
    /// [default: auto]
    #[arg(long)]
    pub(crate) program: Option<ProgramChoice>,
    /// Total size of the ring buffers: a power of two from 64KiB to 1GiB [default: 8MiB]
    #[arg(long, value_name = "BYTES", value_parser = value::ring_size)]
    pub(crate) ring_size: Option<u32>,
    /// Log level of the eBPF program; anything but `off` slows every transition [default: off]
    #[arg(long, value_name = "LEVEL", value_parser = levels())]
    pub(crate) bpf_log: Option<LevelFilter>,
    /// eBPF object file to load instead of the embedded one
    #[arg(long, value_name = "PATH")]
    pub(crate) bpf_object: Option<PathBuf>,
}

fn levels() -> impl TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(value::LEVELS).try_map(|name| value::level(&name))
}
