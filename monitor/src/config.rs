//! From flags to what the rooms below are told.

use log::LevelFilter;

use crate::cli::{FilterArgs, ProgramArgs, ProgramChoice, RunArgs};
use crate::daemon;
use crate::probe::{Attach, BpfLog, Options};
use crate::track::Filter;

/// How to load the program.
pub(crate) fn program(args: &ProgramArgs) -> Options {
    Options {
        attach: match args.program {
            ProgramChoice::Auto => Attach::Auto,
            ProgramChoice::Btf => Attach::Btf,
            ProgramChoice::Classic => Attach::Classic,
        },
        ring_bytes: args.ring_size,
        log: match args.bpf_log {
            LevelFilter::Off => BpfLog::Off,
            LevelFilter::Error => BpfLog::Error,
            LevelFilter::Warn => BpfLog::Warn,
            LevelFilter::Info => BpfLog::Info,
            LevelFilter::Debug => BpfLog::Debug,
            LevelFilter::Trace => BpfLog::Trace,
        },
        object: args.bpf_object.clone(),
    }
}

/// What the daemon is told.
pub(crate) fn daemon(args: &RunArgs) -> daemon::Settings {
    daemon::Settings {
        interval: args.interval,
        summary_every: args.summary_every,
        logs_transitions: args.transitions,
        walk_share: args.walk_budget / 100.0,
        program: program(&args.program),
    }
}

/// Which transitions are wanted, in a namespace that has been looked up.
pub(crate) fn filter(args: FilterArgs, netns: Option<u32>) -> Filter {
    Filter {
        states: args.state,
        from: args.from,
        to: args.to,
        local_ports: args.local_port,
        remote_ports: args.remote_port,
        local_nets: args.local,
        remote_nets: args.remote,
        family: args.family,
        netns,
    }
}
