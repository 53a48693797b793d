//! From flags and the configuration file to what the rooms below are told. A flag wins over the
//! file, the file over the defaults, which stand here.

mod field;
mod file;
mod publish;
mod refusal;
mod rules;

use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use wildmatch::WildMatch;

use crate::cli::{FilterArgs, Format, HolderArgs, ProgramArgs, ProgramChoice, RunArgs, StateArgs};
use crate::daemon;
use crate::probe::{Attach, BpfLog, Options};
use crate::publish::Settings;
use crate::track::Filter;
use crate::track::stuck::{Matcher, UnitPattern};
use field::either;
use file::Daemon;
pub(crate) use file::{Error, File, load};

const INTERVAL: Duration = Duration::from_secs(1);
const SUMMARY_EVERY: Duration = Duration::from_mins(1);
const WALK_BUDGET_PERCENT: f64 = 1.0;
const CONTROL: &str = "/run/tcplinger.sock";
const RING_BYTES: u32 = 8 << 20;

/// How to load the program, where no file is asked.
pub(crate) fn program(args: &ProgramArgs) -> Options {
    merged_program(args, &Daemon::default())
}

fn merged_program(args: &ProgramArgs, file: &Daemon) -> Options {
    let program = either(args.program.as_ref(), file.program.as_ref());
    let log = either(args.bpf_log.as_ref(), file.bpf_log.as_ref());
    Options {
        attach: match program.unwrap_or(ProgramChoice::Auto) {
            ProgramChoice::Auto => Attach::Auto,
            ProgramChoice::Btf => Attach::Btf,
            ProgramChoice::Classic => Attach::Classic,
        },
        ring_bytes: either(args.ring_size.as_ref(), file.ring_size.as_ref()).unwrap_or(RING_BYTES),
        log: match log.unwrap_or(LevelFilter::Off) {
            LevelFilter::Off => BpfLog::Off,
            LevelFilter::Error => BpfLog::Error,
            LevelFilter::Warn => BpfLog::Warn,
            LevelFilter::Info => BpfLog::Info,
            LevelFilter::Debug => BpfLog::Debug,
            LevelFilter::Trace => BpfLog::Trace,
        },
        tells_cgroups: true,
        object: args.bpf_object.clone(),
    }
}

/// What the daemon is told.
pub(crate) fn daemon(args: &RunArgs, file: &File, log_dropped: fn() -> u64) -> daemon::Settings {
    let File {
        daemon,
        rules,
        publish: outlets,
    } = file;
    let summary_every = either(args.summary_every.as_ref(), daemon.summary_every.as_ref());
    let transitions = either(args.transitions.as_ref(), daemon.transitions.as_ref());
    let walk_percent = either(args.walk_budget.as_ref(), daemon.walk_budget.as_ref());
    let program_stats = either(args.program_stats.as_ref(), daemon.program_stats.as_ref());
    daemon::Settings {
        interval: either(args.interval.as_ref(), daemon.interval.as_ref()).unwrap_or(INTERVAL),
        summary_every: summary_every.unwrap_or(SUMMARY_EVERY),
        logs_transitions: transitions.unwrap_or(false),
        walk_share: walk_percent.unwrap_or(WALK_BUDGET_PERCENT) / 100.0,
        measures_program: program_stats.unwrap_or(false),
        program: Options {
            // No outlet of the daemon shows them.
            tells_cgroups: false,
            ..merged_program(&args.program, daemon)
        },
        rules: rules.clone(),
        log_dropped,
        publish: Settings {
            http: match &*args.listen {
                [] => outlets.http.clone(),
                listen => publish::listening(listen.to_vec(), outlets.http.clone()),
            },
            ..outlets.clone()
        },
    }
}

/// The keys of `[daemon]` that differ from what a daemon was started with, and that it cannot take
/// over while it runs.
pub(crate) fn fixed_changes(args: &RunArgs, started: &File, now: &File) -> Vec<&'static str> {
    let no_log = || 0;
    let [old, new] = [started, now].map(|file| daemon(args, file, no_log));
    let [old_control, new_control] =
        [started, now].map(|file| control(args.control.as_deref(), file));
    let share = |settings: &daemon::Settings| settings.walk_share.to_bits();
    [
        ("control", old_control != new_control),
        ("group", group(args, started) != group(args, now)),
        (
            "log_format",
            log_format(args, started) != log_format(args, now),
        ),
        ("walk_budget", share(&old) != share(&new)),
        (
            "program_stats",
            old.measures_program != new.measures_program,
        ),
        ("program", old.program.attach != new.program.attach),
        (
            "ring_size",
            old.program.ring_bytes != new.program.ring_bytes,
        ),
        ("bpf_log", old.program.log != new.program.log),
    ]
    .into_iter()
    .filter_map(|(key, has_changed)| has_changed.then_some(key))
    .collect()
}

/// Where the daemon answers, or is asked.
pub(crate) fn control(flag: Option<&Path>, file: &File) -> PathBuf {
    let path = flag.or(file.daemon.control.as_ref().map(|path| &*path.0));
    path.unwrap_or(Path::new(CONTROL)).to_owned()
}

/// The group whose members may ask the daemon; None for root alone.
pub(crate) fn group<'a>(args: &'a RunArgs, file: &'a File) -> Option<&'a str> {
    args.group
        .as_deref()
        .or(file.daemon.group.as_ref().map(|group| &*group.0))
}

/// Form of the daemon's log lines.
pub(crate) fn log_format(args: &RunArgs, file: &File) -> Format {
    let format = either(args.log_format.as_ref(), file.daemon.log_format.as_ref());
    format.unwrap_or(Format::Text)
}

/// Which transitions are wanted, in a namespace that has been looked up.
pub(crate) fn filter(states: StateArgs, args: FilterArgs, netns: Option<u32>) -> Filter {
    Filter {
        states: states.state,
        from: states.from,
        to: states.to,
        local_ports: args.local_port,
        remote_ports: args.remote_port,
        local_nets: args.local,
        remote_nets: args.remote,
        family: args.family,
        netns,
    }
}

/// Which sockets are wanted. `args.family` and `args.netns` are left to the caller.
pub(crate) fn matcher(holder: &HolderArgs, args: &FilterArgs) -> Matcher {
    let patterns = |texts: &[String]| texts.iter().map(|text| WildMatch::new(text)).collect();
    Matcher {
        states: holder.state.clone(),
        local_ports: args.local_port.clone(),
        remote_ports: args.remote_port.clone(),
        local_nets: args.local.clone(),
        remote_nets: args.remote.clone(),
        netns: Vec::new(),
        processes: patterns(&holder.process),
        units: holder
            .unit
            .iter()
            .map(|text| UnitPattern::new(text))
            .collect(),
        containers: patterns(&holder.container),
    }
}

#[cfg(test)]
mod tests;
