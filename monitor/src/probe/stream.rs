//! The attached program: its transitions, its counters, its log.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use aya::Pod;
use aya::maps::{Map, MapData, PerCpuArray};
use aya::sys::{Stats, enable_stats};
use aya_log::EbpfLogger;
use monitor_ebpf::{COUNTER_SETS, Counters, STATE_SLOTS};

use super::extras::Extra;
use super::load::{self, Loaded, Options};
use super::ring::{Mark, Rings};
use super::{Error, record};
use crate::tcp::{Subject, Transition};

const STATS_ENABLED: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// What the loaded program can tell about a socket.
#[derive(Clone, Debug)]
pub(crate) struct Capabilities {
    /// `btf` or `classic`.
    pub(crate) program: &'static str,
    /// Events carry the socket's cookie and its namespace, so they can move the census.
    pub(crate) is_identifying: bool,
    /// Half-open requests whose SYN-ACK is retransmitted are told.
    pub(crate) sees_requests: bool,
    /// Minisockets that leave `FIN_WAIT2` are told.
    pub(crate) sees_minisockets: bool,
    /// What is missing and why; empty when everything is there. The extras are not among it.
    pub(crate) notes: Vec<String>,
    /// Why requests are not told, if so.
    pub(crate) requests: Extra,
    /// Why minisockets are not told, if so.
    pub(crate) minisockets: Extra,
}

/// The program's counters, all CPUs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// TCP transitions `[from][to]` that the program saw, by state number, whether or not their record
    /// reached userspace.
    pub(crate) transitions: [[u64; STATE_SLOTS]; STATE_SLOTS],
    /// Transitions of which no record reached userspace: the ring was full, the record could not
    /// be decoded, or the kernel ran no program because one was at work on that CPU.
    pub(crate) lost: u64,
    /// Calls for sockets of other protocols.
    pub(crate) ignored: u64,
}

impl Totals {
    /// Every transition.
    pub(crate) fn counted(&self) -> u64 {
        self.transitions.iter().flatten().sum()
    }

    /// These after `before`, as counters: a miss that is just being taken counts as lost in one reading
    /// and not in the next.
    pub(crate) fn grown_from(self, before: &Self) -> Self {
        Self {
            lost: self.lost.max(before.lost),
            ..self
        }
    }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct PerCpu(Counters);

// SAFETY: `Counters` is `repr(C)`, made of `u64` alone, without padding.
unsafe impl Pod for PerCpu {}

/// An attached program. Dropping it detaches and unloads.
pub(crate) struct Probe {
    capabilities: Capabilities,
    rings: Rings,
    counters: PerCpuArray<MapData, PerCpu>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    received: u64,
    undecodable: u64,
    /// The one that takes every transition but the nested ones, then the one for those.
    programs: Vec<OwnedFd>,
    /// While it is open the kernel measures how long programs run.
    stats: Option<OwnedFd>,
    /// Owns the links.
    _ebpf: aya::Ebpf,
}

impl Probe {
    /// Loads the program and attaches it: from here on every transition of the host is counted.
    ///
    /// # Errors
    /// See [`Error`]; nothing stays loaded.
    pub(crate) fn attach(options: &Options) -> Result<Self, Error> {
        let Loaded {
            mut ebpf,
            is_typed,
            has_cookie,
            notes,
            extras,
        } = load::load(options)?;
        let lacks = |name: &str| Error::Object {
            object: load::object_name(options),
            reason: format!("its map {name} is missing or of another kind"),
        };
        let mut records = Vec::new();
        for (name, _) in load::RECORDS.into_iter().zip(0..options.rings()) {
            match ebpf.take_map(name) {
                Some(Map::RingBuf(map)) => records.push(map),
                _ => return Err(lacks(name)),
            }
        }
        let sleeping = ebpf
            .take_map("SLEEPING")
            .and_then(|map| map.try_into().ok())
            .ok_or_else(|| lacks("SLEEPING"))?;
        let counters = ebpf.take_map("COUNTERS");
        let is_logging = options.log != load::BpfLog::Off;
        Ok(Self {
            capabilities: Capabilities {
                program: if is_typed { "btf" } else { "classic" },
                is_identifying: has_cookie,
                sees_requests: extras.requests.is_ok(),
                sees_minisockets: extras.minisockets.is_ok(),
                notes,
                requests: extras.requests,
                minisockets: extras.minisockets,
            },
            rings: Rings::new(records, sleeping)?,
            counters: counters
                .and_then(|map| map.try_into().ok())
                .ok_or_else(|| lacks("COUNTERS"))?,
            logger: if is_logging {
                EbpfLogger::init(&mut ebpf).ok()
            } else {
                None
            },
            received: 0,
            undecodable: 0,
            programs: load::programs(&ebpf, is_typed),
            stats: None,
            _ebpf: ebpf,
        })
    }

    /// Has the kernel measure how long its programs run, until this is dropped.
    ///
    /// # Errors
    /// The kernel refuses to.
    pub(crate) fn measure_run_time(&mut self) -> Result<(), Error> {
        let stats = enable_stats(Stats::RunTime).map_err(|source| Error::Kernel {
            action: "measure the program's run time",
            reason: source.to_string(),
        })?;
        self.stats = Some(stats);
        Ok(())
    }

    pub(crate) const fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Transitions received so far; what is told of requests and minisockets is none.
    pub(crate) const fn received(&self) -> u64 {
        self.received
    }

    /// Hands over the waiting records, at most `limit`; true when that limit ended it.
    pub(crate) fn drain(&mut self, limit: usize, mut take: impl FnMut(&Transition)) -> bool {
        let Self {
            rings,
            received,
            undecodable,
            ..
        } = self;
        // By reference: a transition is four cache lines, and need not be moved.
        rings.drain(limit, |record| match &record::decode(record) {
            Some(transition) => {
                if transition.subject == Subject::Socket {
                    *received += 1;
                }
                take(transition);
            }
            None => *undecodable += 1,
        })
    }

    /// Up to where records are written, or being written: a mark for [`Self::has_read`].
    pub(crate) fn written(&self) -> Mark {
        self.rings.written()
    }

    /// Whether every record up to a mark was handed over.
    pub(crate) fn has_read(&self, written: &Mark) -> bool {
        self.rings.has_read(written)
    }

    /// A descriptor that becomes readable with the wakeup that [`Self::arm`] asks for.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub(crate) fn descriptor(&self) -> Result<OwnedFd, Error> {
        self.rings.descriptor()
    }

    /// Asks the program for a wakeup with the next record. False, and nothing to wait for, where records
    /// are waiting or being written.
    ///
    /// # Errors
    /// The program cannot be asked.
    pub(crate) fn arm(&mut self) -> Result<bool, Error> {
        self.rings.arm()
    }

    /// Prints what the program has logged since the last call, through the `log` facade.
    pub(crate) fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// Reads the counters.
    ///
    /// # Errors
    /// The map cannot be read.
    pub(crate) fn totals(&self) -> Result<Totals, Error> {
        // Before the counters: a miss may be one that the second program is just taking.
        let missed = self.programs.first().map_or(0, recursion_misses);
        let mut totals = Totals::default();
        let mut taken = 0;
        for set in 0..COUNTER_SETS {
            let cpus = self.counters.get(&set, 0).map_err(|source| Error::Kernel {
                action: "read the program's counters",
                reason: source.to_string(),
            })?;
            for PerCpu(cpu) in cpus.iter() {
                let cells = totals.transitions.iter_mut().flatten();
                for (total, count) in cells.zip(cpu.transitions.iter().flatten()) {
                    *total += count;
                }
                totals.lost += cpu.lost;
                totals.ignored += cpu.ignored;
                taken += cpu.nested;
            }
        }
        totals.lost += self.undecodable + missed.saturating_sub(taken);
        Ok(totals)
    }

    /// Time spent in the program, that for nested transitions included, and transitions that were
    /// measured; None while the kernel is not known to measure them (`kernel.bpf_stats_enabled`).
    pub(crate) fn run_time(&self) -> Option<(Duration, u64)> {
        let is_measured = || fs::read(STATS_ENABLED).is_ok_and(|value| value.trim_ascii() == b"1");
        if self.stats.is_none() && !is_measured() {
            return None;
        }
        let infos: Vec<String> = self.programs.iter().filter_map(fdinfo).collect();
        let runs = infos.first().and_then(|info| field(info, "run_cnt:"))?;
        let times = infos
            .iter()
            .filter_map(|info| field(info, "run_time_ns:"))
            .map(Duration::from_nanos);
        Some((times.sum(), runs))
    }
}

/// How often the kernel did not run a program because it was at work on that CPU already
/// (`bpf_prog_show_fdinfo()`, Linux 5.12+; before, 0).
fn recursion_misses(program: &OwnedFd) -> u64 {
    fdinfo(program)
        .and_then(|info| field(&info, "recursion_misses:"))
        .unwrap_or(0)
}

/// What the kernel tells of a program (`bpf_prog_show_fdinfo()` in `kernel/bpf/syscall.c`).
fn fdinfo(program: &OwnedFd) -> Option<String> {
    fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()
}

fn field(info: &str, name: &str) -> Option<u64> {
    let value = info.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_is_shown_never_falls() {
        let reading = |lost, ignored| Totals {
            lost,
            ignored,
            ..Totals::default()
        };
        // A miss is just being taken at the second reading.
        let shown = reading(4, 1).grown_from(&reading(3, 1));
        assert_eq!(shown, reading(4, 1));
        assert_eq!(reading(3, 2).grown_from(&shown), reading(4, 2));
        assert_eq!(reading(5, 2).grown_from(&shown), reading(5, 2));
    }
}
