//! What can go wrong between this process and the kernel's tracepoint.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use thiserror::Error as ThisError;

use super::preflight::{self, Lockdown};

/// Each message says what failed, why, and what to type next.
#[derive(Debug, ThisError)]
pub(crate) enum Error {
    #[error(
        "missing {}: loading eBPF programs needs CAP_BPF and CAP_PERFMON, entering network \
         namespaces CAP_SYS_ADMIN, finding them CAP_SYS_PTRACE; run it as root: sudo tcplinger ...",
        capabilities.join(", ")
    )]
    NotPrivileged { capabilities: Vec<&'static str> },
    #[error(
        "the kernel refused {action} (EPERM) despite all capabilities: most likely this is a \
         container with its own user namespace, or a seccomp filter; run tcplinger on the host, \
         or in a container started with --privileged --pid=host"
    )]
    Refused { action: &'static str },
    #[error(
        "kernel {release} is too old: tcplinger needs the BPF ring buffer of Linux 5.8; boot a \
         newer kernel (5.10 LTS or later)"
    )]
    KernelTooOld { release: String },
    #[error(
        "kernel lockdown is in {mode} mode, which blocks tracefs and keeps eBPF helpers from \
         reading kernel memory; with BTF, --program btf still works, else boot with \
         lockdown=integrity (see cat /sys/kernel/security/lockdown)"
    )]
    Lockdown { mode: Lockdown },
    #[error(
        "{} is missing: this kernel has no BTF (CONFIG_DEBUG_INFO_BTF); try --program classic, or \
         boot a kernel with BTF",
        path.display()
    )]
    NoBtf { path: PathBuf },
    #[error("cannot use the kernel's BTF in {}: {reason}; try --program classic", path.display())]
    Btf { path: PathBuf, reason: String },
    #[error("this kernel's {structure} has no {field}; try --program classic")]
    NoField {
        structure: &'static str,
        field: &'static str,
    },
    #[error("tracefs is not mounted; type: mount -t tracefs tracefs /sys/kernel/tracing")]
    NoTracefs,
    #[error(
        "{} is missing: this kernel has no inet_sock_set_state tracepoint (Linux 4.16 or later, \
         CONFIG_INET)",
        path.display()
    )]
    NoTracepoint { path: PathBuf },
    #[error("cannot attach to the tracepoint. BTF-typed: {btf}. Classic: {classic}")]
    NoWay {
        btf: Box<Error>,
        classic: Box<Error>,
    },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{object} is not a usable eBPF object: {reason}; omit --bpf-object to use the built-in \
         one, or rebuild it: cargo xtask build"
    )]
    Object { object: String, reason: String },
    #[error(
        "the kernel's verifier rejected program {program}: {verdict}; {}; \
         please report it with the kernel's version (uname -r)",
        match log { Some(path) => format!("its full log is in {}", path.display()), None => "its log could not be saved".to_owned() }
    )]
    Verifier {
        program: &'static str,
        verdict: String,
        log: Option<PathBuf>,
    },
    #[error(
        "the classic program does not report network namespaces: omit --netns, or boot a kernel \
         with BTF"
    )]
    NoNamespaces,
    #[error("cannot use the kernel's descriptor iterator for owners: {reason}")]
    NoIterator { reason: String },
    #[error("cannot {action}: {reason}")]
    Kernel {
        action: &'static str,
        reason: String,
    },
}

/// What kind of answer a failure is to the person who ran the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// More privilege would help.
    Privilege,
    /// This kernel cannot do it.
    Kernel,
    /// Anything else.
    Other,
}

impl Error {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::NotPrivileged { .. } | Self::Refused { .. } => Kind::Privilege,
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Kind::Privilege
            }
            Self::Read { .. } | Self::Object { .. } => Kind::Other,
            _ => Kind::Kernel,
        }
    }

    /// Whether another kind of program on the same kernel may still work.
    pub(super) const fn may_fall_back(&self) -> bool {
        matches!(
            self,
            Self::NoBtf { .. }
                | Self::Btf { .. }
                | Self::NoField { .. }
                | Self::Verifier { .. }
                | Self::Kernel { .. }
        )
    }

    /// From loading the object: parsing it, making its maps.
    pub(super) fn from_load(object: &str, source: &EbpfError) -> Self {
        match source {
            EbpfError::MapError(MapError::CreateError { io_error, .. }) => {
                Self::from_io("make the eBPF maps", io_error, preflight::lockdown())
            }
            EbpfError::MapError(other) => Self::Kernel {
                action: "make the eBPF maps",
                reason: chain(other),
            },
            other => Self::Object {
                object: object.to_owned(),
                reason: chain(other),
            },
        }
    }

    /// From loading or attaching one program.
    pub(super) fn from_program(program: &'static str, source: &ProgramError) -> Self {
        match source {
            ProgramError::LoadError {
                io_error,
                verifier_log,
            } => {
                let log = verifier_log.to_string();
                if log.trim().is_empty() {
                    Self::from_io("load the eBPF program", io_error, preflight::lockdown())
                } else {
                    Self::Verifier {
                        program,
                        verdict: verdict(&log),
                        log: preflight::save_verifier_log(&log),
                    }
                }
            }
            ProgramError::SyscallError(syscall) => Self::from_io(
                "attach the eBPF program",
                &syscall.io_error,
                preflight::lockdown(),
            ),
            other => Self::Kernel {
                action: "load the eBPF program",
                reason: chain(other),
            },
        }
    }

    /// Tells a lack of privilege from a lockdown and from a plain failure.
    fn from_io(action: &'static str, error: &io::Error, lockdown: Option<Lockdown>) -> Self {
        match (error.raw_os_error(), lockdown) {
            (Some(libc::EPERM | libc::EACCES), Some(mode @ Lockdown::Confidentiality)) => {
                Self::Lockdown { mode }
            }
            (Some(libc::EPERM | libc::EACCES), _) => {
                let capabilities = preflight::missing_capabilities();
                if capabilities.is_empty() {
                    Self::Refused { action }
                } else {
                    Self::NotPrivileged { capabilities }
                }
            }
            _ => Self::Kernel {
                action,
                reason: error.to_string(),
            },
        }
    }
}

/// The verifier's own conclusion: the last line that is not its statistics.
fn verdict(log: &str) -> String {
    log.lines()
        .map(str::trim)
        .rfind(|line| {
            let is_statistics = line.starts_with("processed ")
                || line.starts_with("verification time")
                || line.starts_with("stack depth");
            !line.is_empty() && !is_statistics
        })
        .unwrap_or("no reason given")
        .to_owned()
}

/// An error and its causes in one line, without the repetitions that `transparent` brings.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_the_line_before_the_statistics() {
        let log = "0: R1=ctx()\n5: (79) r0 = *(u64 *)(r10 +8)\ninvalid read from stack R10 off=8\n\
                   processed 6 insns (limit 1000000) max_states_per_insn 0\n\n";
        assert_eq!(verdict(log), "invalid read from stack R10 off=8");
        assert_eq!(verdict(""), "no reason given");
    }

    #[test]
    fn lockdown_is_told_from_a_missing_capability() {
        let eperm = io::Error::from_raw_os_error(libc::EPERM);
        let locked = Error::from_io("load", &eperm, Some(Lockdown::Confidentiality));
        assert!(matches!(locked, Error::Lockdown { .. }));
        assert_eq!(locked.kind(), Kind::Kernel);
        let refused = Error::from_io("load", &eperm, Some(Lockdown::Integrity));
        assert_eq!(refused.kind(), Kind::Privilege);
        let full = io::Error::from_raw_os_error(libc::ENOMEM);
        let failed = Error::from_io("load", &full, None);
        assert_eq!(failed.kind(), Kind::Kernel);
    }
}
