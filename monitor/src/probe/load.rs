//! From object to attached program: BTF-typed with a cookie, without one, or classic.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::programs::{BtfTracePoint, Program, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader, Pod};
use monitor_ebpf::{ABSENT, RINGS, Settings};

use super::extras::Extras;
use super::preflight::{self, Lockdown};
use super::{Error, format, offsets};

/// Which program to attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Attach {
    /// The BTF-typed one, the classic one where that fails.
    #[default]
    Auto,
    Btf,
    Classic,
}

/// How much the program itself logs through aya-log; off costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum BpfLog {
    #[default]
    Off = 0,
    Error = 1,
    Warn = 2,
    Info = 3,
    Debug = 4,
    Trace = 5,
}

/// How to load the program.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) attach: Attach,
    /// Size of all ring buffers together in bytes: a power of two, a multiple of the page size.
    pub(crate) ring_bytes: u32,
    pub(crate) log: BpfLog,
    /// Whether transitions tell their socket's cgroup, for which three loads wait for one another.
    pub(crate) tells_cgroups: bool,
    /// An object to use in place of the built-in one.
    pub(crate) object: Option<PathBuf>,
}

impl Options {
    /// Rings in use.
    pub(super) fn rings(&self) -> u32 {
        let cpus = aya::util::nr_cpus().unwrap_or(1);
        rings(self.ring_bytes, u32::try_from(cpus).unwrap_or(1))
    }
}

/// A program that is attached and running.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    /// True for the BTF-typed program.
    pub(super) is_typed: bool,
    pub(super) has_cookie: bool,
    /// Why something better was not used.
    pub(super) notes: Vec<String>,
    pub(super) extras: Extras,
}

pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/monitor-ebpf"));

/// The maps of the rings.
pub(super) const RECORDS: [&str; RINGS as usize] =
    ["RECORDS_0", "RECORDS_1", "RECORDS_2", "RECORDS_3"];
/// 0.1 s of the busiest CPU that was measured: 300,000 transitions a second of at most 64 bytes.
const RING_BYTES_AT_LEAST: u32 = 1 << 21;

const TYPED: &str = "socket_transition";
/// Takes what interrupts the first one; attached after it, so that it is called after it.
const NESTED: &str = "nested_transition";
const CLASSIC: &str = "copied_transition";

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Frozen(Settings);

// SAFETY: `Settings` is `repr(C)`, made of `u32` alone, without padding.
unsafe impl Pod for Frozen {}

/// Loads and attaches the best program this kernel takes.
///
/// # Errors
/// The object cannot be read, or no program that `options` allows can be loaded and attached.
pub(super) fn load(options: &Options) -> Result<Loaded, Error> {
    preflight::ensure_privileged()?;
    preflight::ensure_kernel()?;
    lift_memlock_limit();
    let bytes = match &options.object {
        None => OBJECT.to_vec(),
        Some(path) => fs::read(path).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?,
    };
    let typed = match options.attach {
        Attach::Classic => return classic(options, &bytes).map(|ebpf| loaded(ebpf, Vec::new())),
        Attach::Auto | Attach::Btf => typed(options, &bytes),
    };
    match typed {
        Err(btf) if options.attach == Attach::Auto && btf.may_fall_back() => {
            match classic(options, &bytes) {
                Ok(ebpf) => Ok(loaded(ebpf, vec![btf.to_string()])),
                Err(classic) => Err(Error::NoWay {
                    btf: Box::new(btf),
                    classic: Box::new(classic),
                }),
            }
        }
        result => result,
    }
}

/// Descriptors of the programs that are attached: first of that which takes every transition but the
/// nested ones.
pub(super) fn programs(ebpf: &Ebpf, is_typed: bool) -> Vec<OwnedFd> {
    let names: &[&str] = if is_typed {
        &[TYPED, NESTED]
    } else {
        &[CLASSIC]
    };
    let descriptor = |name: &&str| {
        let fd = match ebpf.program(name)? {
            Program::BtfTracePoint(program) => program.fd(),
            Program::TracePoint(program) => program.fd(),
            _ => return None,
        };
        fd.ok()?.as_fd().try_clone_to_owned().ok()
    };
    names.iter().filter_map(descriptor).collect()
}

fn loaded(ebpf: Ebpf, notes: Vec<String>) -> Loaded {
    Loaded {
        ebpf,
        is_typed: false,
        has_cookie: false,
        notes,
        extras: Extras::none(),
    }
}

/// The BTF-typed program, without `bpf_get_socket_cookie` where the kernel does not know it there.
fn typed(options: &Options, bytes: &[u8]) -> Result<Loaded, Error> {
    let vmlinux = Path::new(offsets::VMLINUX);
    if !vmlinux.exists() {
        return Err(Error::NoBtf {
            path: vmlinux.to_owned(),
        });
    }
    let mut settings = offsets::for_transitions(vmlinux)?;
    settings.child_is_complete = preflight::child_is_complete().into();
    settings.has_task = preflight::has_task().into();
    if !options.tells_cgroups {
        settings.sk_cgroup = ABSENT;
    }
    if settings.has_task == 0 && preflight::lockdown() == Some(Lockdown::Confidentiality) {
        // Reading through a helper is barred, loading through the socket is not.
        settings.task_flags = ABSENT;
    }
    let mut notes = Vec::new();
    for has_cookie in [1, 0] {
        settings.has_cookie = has_cookie;
        match attach_typed(options, bytes, settings) {
            Err(Error::Verifier { verdict, log, .. })
                if has_cookie == 1 && verdict.contains("bpf_get_socket_cookie") =>
            {
                // Expected before Linux 5.12, and told: its log is of no use to anybody.
                log.map(fs::remove_file);
                notes.push(format!("no socket cookie in events: {verdict}"));
            }
            result => {
                return result.map(|(ebpf, extras)| Loaded {
                    ebpf,
                    is_typed: true,
                    has_cookie: has_cookie == 1,
                    notes,
                    extras,
                });
            }
        }
    }
    Err(Error::Kernel {
        action: "load the eBPF program",
        reason: notes.join("; "),
    })
}

fn attach_typed(
    options: &Options,
    bytes: &[u8],
    settings: Settings,
) -> Result<(Ebpf, Extras), Error> {
    let mut ebpf = parse(options, bytes, settings)?;
    let btf = Btf::from_sys_fs().map_err(|source| Error::Btf {
        path: offsets::VMLINUX.into(),
        reason: source.to_string(),
    })?;
    // Both are loaded before one is attached: what the verifier takes is no gap in the stream.
    for name in [TYPED, NESTED] {
        let program: &mut BtfTracePoint = find(options, &mut ebpf, name)?;
        program
            .load("inet_sock_set_state", &btf)
            .map_err(|source| Error::from_program(name, &source))?;
    }
    for name in [TYPED, NESTED] {
        let program: &mut BtfTracePoint = find(options, &mut ebpf, name)?;
        program
            .attach()
            .map_err(|source| Error::from_program(name, &source))?;
    }
    let extras = Extras::attach(&mut ebpf, &btf, &settings);
    Ok((ebpf, extras))
}

fn classic(options: &Options, bytes: &[u8]) -> Result<Ebpf, Error> {
    if let Some(mode @ Lockdown::Confidentiality) = preflight::lockdown() {
        return Err(Error::Lockdown { mode });
    }
    let settings = format::from_tracefs()?;
    let mut ebpf = parse(options, bytes, settings)?;
    let program: &mut TracePoint = find(options, &mut ebpf, CLASSIC)?;
    program
        .load()
        .and_then(|()| program.attach("sock", "inet_sock_set_state"))
        .map_err(|source| Error::from_program(CLASSIC, &source))?;
    Ok(ebpf)
}

/// Sets the globals, sizes the rings, makes the maps.
pub(super) fn parse(
    options: &Options,
    bytes: &[u8],
    mut settings: Settings,
) -> Result<Ebpf, Error> {
    let rings = options.rings();
    settings.ring_mask = rings - 1;
    let (frozen, log) = (Frozen(settings), options.log as u8);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("SETTINGS", &frozen, true)
        .override_global(aya_log::LEVEL, &log, false);
    for (ring, name) in (0..).zip(RECORDS) {
        // Those that are not used are as small as can be.
        let bytes = if ring < rings {
            options.ring_bytes / rings
        } else {
            1
        };
        loader.map_max_entries(name, bytes);
    }
    loader
        .load(bytes)
        .map_err(|source| Error::from_load(&object_name(options), &source))
}

/// Rings for so much memory: one for each CPU, if each can then hold what one CPU writes between two looks of the
/// reader.
fn rings(ring_bytes: u32, cpus: u32) -> u32 {
    let most = (ring_bytes / RING_BYTES_AT_LEAST)
        .min(cpus.next_power_of_two())
        .clamp(1, RINGS);
    // A power of two, and so is the size.
    1 << most.ilog2()
}

fn find<'a, P>(
    options: &Options,
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut P, Error>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| Error::Object {
            object: object_name(options),
            reason: format!("it has no program {name}"),
        })
}

pub(super) fn object_name(options: &Options) -> String {
    match &options.object {
        None => "the built-in object".to_owned(),
        Some(path) => path.display().to_string(),
    }
}

/// Before Linux 5.11 eBPF maps count against `RLIMIT_MEMLOCK`; later kernels do not look at it,
/// so a refusal is no error.
pub(super) fn lift_memlock_limit() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    let _ = setrlimit(Resource::Memlock, unlimited);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_spread_over_rings_that_are_large_enough() {
        const MIB: u32 = 1 << 20;
        for (ring_bytes, cpus, expected) in [
            (8 * MIB, 1, 1),
            (8 * MIB, 2, 2),
            (8 * MIB, 3, 4),
            (8 * MIB, 64, 4),
            (4 * MIB, 64, 2),
            (2 * MIB, 64, 1),
            (1 << 16, 2, 1),
            (1 << 30, 64, 4),
        ] {
            assert_eq!(rings(ring_bytes, cpus), expected, "{ring_bytes} {cpus}");
        }
    }
}
