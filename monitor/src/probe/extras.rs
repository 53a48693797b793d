//! What may be watched beside the transitions, where the kernel allows it. The counts are right
//! without it.

use std::fs;

use aya::programs::{BtfTracePoint, FEntry, FExit, Program, ProgramError};
use aya::{Btf, Ebpf};
use monitor_ebpf::{ABSENT, Settings};

use super::Error;

/// What came of a group of programs: all of them run, or none does and this is why.
pub(crate) type Extra = Result<(), String>;

/// What came of each group.
pub(super) struct Extras {
    pub(super) requests: Extra,
    pub(super) minisockets: Extra,
}

impl Extras {
    /// Where the program does not see sockets themselves.
    pub(super) fn none() -> Self {
        let reason = || Err("it takes the BTF-typed program".to_owned());
        Self {
            requests: reason(),
            minisockets: reason(),
        }
    }

    pub(super) fn attach(ebpf: &mut Ebpf, btf: &Btf, settings: &Settings) -> Self {
        Self {
            requests: attach(ebpf, btf, &REQUESTS),
            minisockets: attach_minisockets(ebpf, btf, settings),
        }
    }
}

/// Retransmitted SYN-ACKs.
const REQUESTS: [(&str, &str); 1] = [("request_retransmitted", "tcp_retransmit_synack")];

/// What happens to a minisocket in `FIN_WAIT2`. The one that keeps the substate comes first.
const MINISOCKETS: [(&str, &str); 4] = [
    ("minisocket_segment", "tcp_timewait_state_process"),
    ("minisocket_segment_processed", "tcp_timewait_state_process"),
    ("minisocket_timed_out", "tw_timer_handler"),
    ("minisocket_descheduled", "inet_twsk_deschedule_put"),
];

fn attach_minisockets(ebpf: &mut Ebpf, btf: &Btf, settings: &Settings) -> Extra {
    if settings.tw_substate == ABSENT || settings.tw_timer == ABSENT {
        return Err("this kernel's inet_timewait_sock lacks tw_substate or tw_timer".to_owned());
    }
    attach(ebpf, btf, &MINISOCKETS)
}

/// Attaches all of a group: half of one would tell half the truth.
fn attach(ebpf: &mut Ebpf, btf: &Btf, group: &[(&'static str, &str)]) -> Extra {
    for (name, function) in group {
        let attached = ebpf
            .program_mut(name)
            .ok_or_else(|| format!("the object has no program {name}"))
            .and_then(|program| {
                load_and_attach(program, function, btf)
                    .map_err(|source| reason(name, function, &source))
            });
        if attached.is_err() {
            for (name, _) in group {
                ebpf.program_mut(name).map(unload);
            }
            return attached;
        }
    }
    Ok(())
}

fn load_and_attach(program: &mut Program, function: &str, btf: &Btf) -> Result<(), ProgramError> {
    match program {
        Program::BtfTracePoint(program) => {
            program.load(function, btf)?;
            program.attach().map(drop)
        }
        Program::FEntry(program) => {
            program.load(function, btf)?;
            program.attach().map(drop)
        }
        Program::FExit(program) => {
            program.load(function, btf)?;
            program.attach().map(drop)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Detaches it, too. One that is not loaded refuses, which is as good.
fn unload(program: &mut Program) {
    let _ = match program {
        Program::BtfTracePoint(program) => BtfTracePoint::unload(program),
        Program::FEntry(program) => FEntry::unload(program),
        Program::FExit(program) => FExit::unload(program),
        _ => Ok(()),
    };
}

fn reason(name: &'static str, function: &str, source: &ProgramError) -> String {
    match source {
        ProgramError::Btf(_) => format!("this kernel has no {function}"),
        // Without a log, the verifier has not even looked.
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } if verifier_log.to_string().trim().is_empty() => {
            format!("the kernel refused to watch {function}: {io_error}")
        }
        ProgramError::SyscallError(syscall) => {
            format!(
                "the kernel refused to watch {function}: {}",
                syscall.io_error
            )
        }
        other => match Error::from_program(name, other) {
            // Expected under lockdown, and nothing that anybody needs to report.
            Error::Verifier { verdict, log, .. } => {
                log.map(fs::remove_file);
                format!("the kernel's verifier rejected {name}: {verdict}")
            }
            error => error.to_string(),
        },
    }
}
