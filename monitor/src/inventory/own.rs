//! What this process itself uses.

use std::path::Path;
use std::time::Duration;

use rustix::fs::CWD;
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::namespaces::open_directory;
use super::processes::{open_files, read};

/// What a process uses, and has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    /// User and system, of all threads.
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
    pub(crate) threads: u64,
    pub(crate) open_fds: u64,
    /// None without a limit.
    pub(crate) max_fds: Option<u64>,
    /// When it started, since the epoch. It moves with a clock that is set.
    pub(crate) started: Duration,
}

/// Looks at this process. What may not be read is 0.
pub(crate) fn own() -> Own {
    let directory = open_directory(CWD, Path::new("/proc/self")).ok();
    let stat = directory.as_ref().and_then(|it| read(it, "stat").ok());
    let [threads, began, pages] = parse(&stat.unwrap_or_default()).unwrap_or_default();
    let since_boot = ticks(began);
    let up = now(ClockId::Boottime).saturating_sub(since_boot);
    Own {
        cpu: now(ClockId::ProcessCPUTime),
        resident_bytes: pages.saturating_mul(configured(libc::_SC_PAGESIZE)),
        threads,
        open_fds: directory.as_ref().and_then(open_files).unwrap_or_default(),
        max_fds: getrlimit(Resource::Nofile).current,
        started: now(ClockId::Realtime).saturating_sub(up),
    }
}

/// Raises this process's soft limit on descriptors to the hard one, where that is allowed.
pub(crate) fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Fewer clients find a place then.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Threads, start in clock ticks after boot, resident pages: the 20th, 22nd and 24th field of
/// /proc/pid/stat (`do_task_stat()` in `fs/proc/array.c`). The second may have any text in it.
fn parse(stat: &str) -> Option<[u64; 3]> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let mut next = |skipped| fields.nth(skipped)?.parse().ok();
    Some([next(17)?, next(1)?, next(1)?])
}

fn ticks(ticks: u64) -> Duration {
    let per_second = configured(libc::_SC_CLK_TCK).max(1);
    Duration::from_millis(ticks.saturating_mul(1_000) / per_second)
}

/// A constant of the running system; 0 where it has none.
fn configured(name: libc::c_int) -> u64 {
    // SAFETY: it takes any number, and reads nothing of ours.
    let value = unsafe { libc::sysconf(name) };
    u64::try_from(value).unwrap_or_default()
}

fn now(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn fields_are_counted_from_the_name_on() {
        // Captured on Linux 6.18; the name is made up.
        let stat = "61 (a) S 1 (b) S 0 61 61 0 -1 4194560 9 0 0 0 1 2 0 0 20 0 7 0 4711 6000 321 \
                    18446744073709551615 1";
        assert_eq!(parse(stat), Some([7, 4_711, 321]));
        assert_eq!(parse("61 (a) S 1"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn this_process_is_told() {
        let before = own();
        let files: Vec<File> = (0..100).map(|_| File::open("/dev/null").unwrap()).collect();
        let page = vec![1_u8; 1 << 25];
        let after = own();
        assert!(after.cpu > before.cpu && after.threads > 0);
        // Other tests open and close files, and take memory, meanwhile.
        assert!(after.open_fds + 50 > before.open_fds + files.len() as u64);
        assert!(after.resident_bytes > page.len() as u64);
        assert!(after.max_fds.is_none_or(|most| most > 100));
        let age = now(ClockId::Realtime).saturating_sub(after.started);
        assert!(age < Duration::from_hours(1), "{age:?}");
    }
}
