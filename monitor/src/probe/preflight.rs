//! What this host offers, asked once: capabilities, kernel version, BTF, tracefs, lockdown.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};

use super::{Error, format, offsets};

/// Whether something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Yes,
    /// Missing, and something else takes its place.
    Degraded,
    No,
    CouldNotTell,
}

/// One thing that tcplinger needs of the host.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) name: &'static str,
    pub(crate) outcome: Outcome,
    /// What is there.
    pub(crate) found: String,
    /// What it is needed for, and what its lack costs.
    pub(crate) why: &'static str,
    /// What to type.
    pub(crate) mend: Option<String>,
}

/// The kernel's lockdown mode (`security/lockdown/lockdown.c`, 5.4+).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lockdown {
    None,
    Integrity,
    Confidentiality,
}

impl fmt::Display for Lockdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Integrity => "integrity",
            Self::Confidentiality => "confidentiality",
        })
    }
}

/// The ring buffer's first kernel.
const MINIMUM: (u32, u32) = (5, 8);
/// From here on a child socket is complete when its first transition fires
/// (`inet_csk_clone_lock()`, Linux 6.15).
const CHILD_IS_COMPLETE: (u32, u32) = (6, 15);
/// From here on a tracing program may call `bpf_get_socket_cookie`.
const COOKIE: (u32, u32) = (5, 12);
/// From here on who has a map's descriptor may use it (`__sys_bpf()` in `kernel/bpf/syscall.c`); before, that
/// took `CAP_BPF` where `kernel.unprivileged_bpf_disabled` is set.
const MAPS_BY_DESCRIPTOR: (u32, u32) = (5, 19);
/// From here on a tracing program may call `bpf_sock_from_file`.
const SOCKET_OF_FILE: (u32, u32) = (5, 11);
/// From here on a tracing program may call `bpf_get_current_task_btf`.
const TASK: (u32, u32) = (5, 11);

/// Refuses early, and by name, what the kernel would refuse later with a bare EPERM.
///
/// # Errors
/// [`Error::NotPrivileged`] with every capability that is missing.
pub(crate) fn ensure_privileged() -> Result<(), Error> {
    let capabilities = missing_capabilities();
    if capabilities.is_empty() {
        Ok(())
    } else {
        Err(Error::NotPrivileged { capabilities })
    }
}

/// Refuses kernels that have no ring buffer.
///
/// # Errors
/// [`Error::KernelTooOld`].
pub(super) fn ensure_kernel() -> Result<(), Error> {
    let release = release();
    match version(&release) {
        Some(found) if found < MINIMUM => Err(Error::KernelTooOld { release }),
        _ => Ok(()),
    }
}

pub(super) fn child_is_complete() -> bool {
    version(&release()).is_some_and(|found| found >= CHILD_IS_COMPLETE)
}

pub(super) fn has_task() -> bool {
    version(&release()).is_some_and(|found| found >= TASK)
}

pub(super) fn has_cookie() -> bool {
    version(&release()).is_some_and(|found| found >= COOKIE)
}

/// Whether reading a map that is open takes `CAP_BPF`; where the version tells nothing it may.
pub(crate) fn maps_take_privilege() -> bool {
    version(&release()).is_none_or(|found| found < MAPS_BY_DESCRIPTOR)
}

/// Whether this process sees the host's own processes, by the host's numbers; None where it cannot
/// tell.
pub(super) fn is_whole_host() -> Option<bool> {
    // `PROC_PID_INIT_INO` (`include/linux/proc_ns.h`, since Linux 3.8).
    const INITIAL: &str = "pid:[4026531836]";
    let own = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(own.as_os_str() == INITIAL)
}

/// Effective capabilities that are needed and not held. `CAP_SYS_ADMIN` covers `CAP_BPF` and
/// `CAP_PERFMON` (capabilities(7)).
pub(super) fn missing_capabilities() -> Vec<&'static str> {
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    let has_admin = held.contains(&Capability::CAP_SYS_ADMIN);
    let needed = [
        (Capability::CAP_BPF, "CAP_BPF", has_admin),
        (Capability::CAP_PERFMON, "CAP_PERFMON", has_admin),
        (Capability::CAP_SYS_ADMIN, "CAP_SYS_ADMIN", false),
        (Capability::CAP_SYS_PTRACE, "CAP_SYS_PTRACE", false),
    ];
    needed
        .into_iter()
        .filter(|(capability, _, is_covered)| !is_covered && !held.contains(capability))
        .map(|(_, name, _)| name)
        .collect()
}

/// The active lockdown mode; None where the kernel does not tell.
pub(super) fn lockdown() -> Option<Lockdown> {
    parse_lockdown(&fs::read_to_string("/sys/kernel/security/lockdown").ok()?)
}

/// `none [integrity] confidentiality`.
fn parse_lockdown(text: &str) -> Option<Lockdown> {
    match text.split(['[', ']']).nth(1)? {
        "none" => Some(Lockdown::None),
        "integrity" => Some(Lockdown::Integrity),
        "confidentiality" => Some(Lockdown::Confidentiality),
        _ => None,
    }
}

fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// Major and minor of a release such as `6.1.0-13-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Keeps a verifier log for a report; None where no file can be made.
pub(super) fn save_verifier_log(log: &str) -> Option<PathBuf> {
    let directory = std::env::temp_dir();
    (0..100).find_map(|number| {
        let name = format!("tcplinger-verifier-{}-{number}.log", std::process::id());
        let path = directory.join(name);
        // `create_new` follows no link that somebody else has put there.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .ok()?;
        file.write_all(log.as_bytes()).ok()?;
        Some(path)
    })
}

/// Everything that is needed of the kernel, all rows at once, without loading anything.
pub(crate) fn findings() -> Vec<Finding> {
    vec![
        privilege(),
        whole_host(),
        kernel(),
        lockdown_finding(),
        btf(),
        tracefs(),
        holders(),
    ]
}

fn privilege() -> Finding {
    let missing = missing_capabilities();
    Finding {
        name: "privilege",
        outcome: if missing.is_empty() {
            Outcome::Yes
        } else {
            Outcome::No
        },
        found: if missing.is_empty() {
            "every capability needed".to_owned()
        } else {
            format!("missing {}", missing.join(", "))
        },
        why: "loads the eBPF program and enters every network namespace",
        mend: (!missing.is_empty()).then(|| "sudo tcplinger doctor".to_owned()),
    }
}

/// Whether /proc shows every process of the host, and with them every network namespace.
fn whole_host() -> Finding {
    let (outcome, found) = match is_whole_host() {
        Some(true) => (Outcome::Yes, "the host's own processes"),
        Some(false) => (Outcome::Degraded, "a container's processes only"),
        None => (Outcome::CouldNotTell, "/proc/self/ns/pid cannot be read"),
    };
    Finding {
        name: "whole host",
        outcome,
        found: found.to_owned(),
        why: "finds the network namespaces of every process; inside a container only its own are \
              counted",
        mend: (outcome == Outcome::Degraded)
            .then(|| "run it on the host, or in a container with --pid=host".to_owned()),
    }
}

fn kernel() -> Finding {
    let release = release();
    let (outcome, mend) = match version(&release) {
        None => (Outcome::CouldNotTell, None),
        Some(found) if found < MINIMUM => {
            (Outcome::No, Some("boot Linux 5.10 LTS or later".to_owned()))
        }
        Some(found) if found < COOKIE => (
            Outcome::Degraded,
            Some("boot Linux 5.12 or later for counts without table walks".to_owned()),
        ),
        Some(_) => (Outcome::Yes, None),
    };
    Finding {
        name: "kernel",
        outcome,
        found: format!("Linux {release}"),
        why: "5.8 has the ring buffer, 5.12 the socket cookie that joins events and snapshots",
        mend,
    }
}

fn lockdown_finding() -> Finding {
    let mode = lockdown();
    Finding {
        name: "lockdown",
        outcome: match mode {
            Some(Lockdown::Confidentiality) => Outcome::Degraded,
            _ => Outcome::Yes,
        },
        found: mode.map_or_else(|| "not in this kernel".to_owned(), |mode| mode.to_string()),
        why: "confidentiality mode blocks the classic program; the BTF-typed one works",
        mend: (mode == Some(Lockdown::Confidentiality))
            .then(|| "boot with lockdown=integrity".to_owned()),
    }
}

fn btf() -> Finding {
    let result = if Path::new(offsets::VMLINUX).exists() {
        offsets::for_transitions(Path::new(offsets::VMLINUX)).map_err(|error| error.to_string())
    } else {
        Err(format!("{} is missing", offsets::VMLINUX))
    };
    Finding {
        name: "BTF",
        outcome: match result {
            Ok(_) => Outcome::Yes,
            Err(_) => Outcome::Degraded,
        },
        mend: result
            .is_err()
            .then(|| "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y".to_owned()),
        found: result.map_or_else(
            |error| error,
            |_| format!("{}, every field found", offsets::VMLINUX),
        ),
        why: "without it events have no cookie, namespace, cgroup or socket error and cost about \
              twice as much, and counts come from a table walk after each change",
    }
}

fn tracefs() -> Finding {
    let result = format::from_tracefs();
    Finding {
        name: "tracefs",
        outcome: match result {
            Ok(_) => Outcome::Yes,
            Err(_) => Outcome::Degraded,
        },
        mend: match result {
            Err(Error::NoTracefs) => {
                Some("mount -t tracefs tracefs /sys/kernel/tracing".to_owned())
            }
            _ => None,
        },
        found: match result {
            Ok(_) => "sock:inet_sock_set_state, every field found".to_owned(),
            Err(Error::NoTracefs) => "not mounted".to_owned(),
            Err(Error::Read { path, source }) => format!("{}: {source}", path.display()),
            Err(error) => error.to_string(),
        },
        why: "has the fields of the classic tracepoint, for kernels without BTF",
    }
}

/// Whether the iterator over descriptors should work; only loading it would prove it.
fn holders() -> Finding {
    let is_new_enough = version(&release()).map(|found| found >= SOCKET_OF_FILE);
    let (outcome, found) = match (is_new_enough, is_whole_host()) {
        _ if !Path::new(offsets::VMLINUX).exists() => {
            (Outcome::Degraded, "without BTF, from /proc only")
        }
        (Some(false), _) => (Outcome::Degraded, "before Linux 5.11, from /proc only"),
        (_, Some(false)) => (Outcome::Degraded, "in a container, from its /proc only"),
        (None, _) => (Outcome::CouldNotTell, "the kernel's version is unreadable"),
        (Some(true), _) => (Outcome::Yes, "from the descriptor iterator"),
    };
    Finding {
        name: "holders",
        outcome,
        found: found.to_owned(),
        why: "names the processes that hold a socket; from /proc it takes many times longer",
        mend: (outcome == Outcome::Degraded)
            .then(|| "run it on the host, on Linux 5.11 or later with BTF".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases_of_every_distribution() {
        assert_eq!(version("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(version("5.4.0"), Some((5, 4)));
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("4.19"), Some((4, 19)));
        assert_eq!(version("strange"), None);
    }

    #[test]
    fn the_active_lockdown_mode_is_the_bracketed_one() {
        assert_eq!(
            parse_lockdown("none integrity [confidentiality]\n"),
            Some(Lockdown::Confidentiality)
        );
        assert_eq!(
            parse_lockdown("[none] integrity confidentiality\n"),
            Some(Lockdown::None)
        );
        assert_eq!(parse_lockdown(""), None);
    }
}
