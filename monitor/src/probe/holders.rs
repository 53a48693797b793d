//! Who holds which TCP socket, from the kernel's iterator over every descriptor of every process.
//!
//! A listing, not a stream: what opens or closes during a pass may be missed, and a descriptor that
//! a child inherits meanwhile may be seen in both.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use aya::programs::{Iter, ProgramError};
use aya::{Btf, Ebpf};
use monitor_ebpf::{HolderRecord, IPPROTO_MPTCP};

use super::load::{self, Attach, BpfLog, Options};
use super::{Error, offsets, preflight};
use crate::tcp::{Family, Holder, RawState};

const PROGRAM: &str = "socket_holder";

/// `bpf_sock_from_file`, as the verifier's log numbers what it does not know
/// (`include/uapi/linux/bpf.h`; such a number never changes).
const HELPER: &str = "#162";

const RECORD: usize = size_of::<HolderRecord>();

/// Whole records that fill the 32 KiB which the kernel hands over at once (`bpf_seq_read()` in
/// `kernel/bpf/bpf_iter.c`, Linux 6.18).
const BUFFER: usize = 32 * 1024 / RECORD * RECORD;

/// The loaded and verified program. It runs only in [`Self::read`]; otherwise it costs nothing.
pub(crate) struct Holders {
    ebpf: Mutex<Ebpf>,
}

impl Holders {
    /// Loads the program, and nothing but it.
    ///
    /// # Errors
    /// The kernel cannot do it (before Linux 5.11, or without BTF), or refuses it; the message says
    /// why. /proc is the other way to the same answer.
    pub(crate) fn load() -> Result<Self, Error> {
        preflight::ensure_privileged()?;
        preflight::ensure_kernel()?;
        if !preflight::is_whole_host().unwrap_or(true) {
            return Err(unusable(
                "its process ids are the host's, but this is another pid namespace",
            ));
        }
        load::lift_memlock_limit();
        try_load().map(|ebpf| Self {
            ebpf: Mutex::new(ebpf),
        })
    }

    /// Looks at every descriptor of the host once, and hands over those of TCP sockets, ordered by
    /// process. Threads that share their process's descriptors are no holders of their own.
    ///
    /// # Errors
    /// The kernel does not start or finish the pass; what was handed over before is right.
    pub(crate) fn read(&self, mut take: impl FnMut(Holder)) -> Result<(), Error> {
        let mut pass = self.start()?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let filled = match pass.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(filled) => filled,
                // It pauses after a million descriptors that are no TCP sockets.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
                {
                    continue;
                }
                Err(error) => {
                    return Err(Error::Kernel {
                        action: "list the owners of sockets",
                        reason: error.to_string(),
                    });
                }
            };
            let (records, _) = buffer.get(..filled).unwrap_or_default().as_chunks();
            records.iter().filter_map(decode).for_each(&mut take);
        }
    }

    /// A new pass: the file from which to read it.
    fn start(&self) -> Result<File, Error> {
        let mut ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        let program = program(&mut ebpf)?;
        let link = program
            .attach()
            .and_then(|id| program.take_link(id))
            .map_err(|source| Error::from_program(PROGRAM, &source))?;
        link.into_file().map_err(|source| Error::Kernel {
            action: "start the descriptor iterator",
            reason: source.to_string(),
        })
    }
}

fn try_load() -> Result<Ebpf, Error> {
    let vmlinux = Path::new(offsets::VMLINUX);
    if !vmlinux.exists() {
        return Err(unusable(format!("{} is missing", vmlinux.display())));
    }
    let mut settings = offsets::for_holders(vmlinux).map_err(|error| match error {
        Error::NoField { structure, field } => unusable(format!("{structure} has no {field}")),
        Error::Btf { path, reason } => unusable(format!("{}: {reason}", path.display())),
        other => other,
    })?;
    settings.has_cookie = preflight::has_cookie().into();
    let options = Options {
        attach: Attach::Btf,
        // A page of any size, and for a moment only.
        ring_bytes: 1 << 16,
        log: BpfLog::Off,
        tells_cgroups: false,
        object: None,
    };
    let mut ebpf = load::parse(&options, load::OBJECT, settings)?;
    let btf = Btf::from_sys_fs().map_err(|source| unusable(source.to_string()))?;
    match program(&mut ebpf)?.load("task_file", &btf) {
        Ok(()) => {}
        Err(ProgramError::Btf(source)) => return Err(unusable(source.to_string())),
        Err(source) => return Err(refusal(Error::from_program(PROGRAM, &source))),
    }
    // The program holds on to the one map it uses.
    let maps: Vec<String> = ebpf.maps().map(|(name, _)| name.to_owned()).collect();
    for name in maps {
        drop(ebpf.take_map(&name));
    }
    Ok(ebpf)
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Iter, Error> {
    ebpf.program_mut(PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| Error::Object {
            object: "the built-in object".to_owned(),
            reason: format!("it has no program {PROGRAM}"),
        })
}

/// Tells a kernel without the helper, which is expected, from a verdict that is worth a report.
fn refusal(error: Error) -> Error {
    match error {
        Error::Verifier { verdict, log, .. } if verdict.contains(HELPER) => {
            log.map(fs::remove_file);
            unusable(format!("it needs Linux 5.11 to find sockets ({verdict})"))
        }
        other => other,
    }
}

fn unusable(reason: impl Into<String>) -> Error {
    Error::NoIterator {
        reason: reason.into(),
    }
}

/// None for a state that this build does not know.
fn decode(bytes: &[u8; RECORD]) -> Option<Holder> {
    // SAFETY: the length is that of a `HolderRecord`, every bit pattern is a valid one, and the read
    // does not ask for alignment.
    let record: HolderRecord = unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) };
    Some(Holder {
        cookie: record.cookie,
        pid: record.pid,
        fd: record.fd,
        netns: record.netns,
        state: RawState::from(record.state).known()?,
        family: Some(if record.is_ipv6 == 0 {
            Family::Ipv4
        } else {
            Family::Ipv6
        }),
        is_mptcp: record.protocol == IPPROTO_MPTCP,
    })
}

#[cfg(test)]
mod tests;
