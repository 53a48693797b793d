//! What /proc tells of a process that holds sockets.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::cgroup::Place;
use super::namespaces::{for_each_number, open_directory};
use crate::tcp::Process;

/// Looks at a process in `proc_root`; none where it is gone. What may not be read stays unknown.
pub(crate) fn process(proc_root: &Path, pid: u32) -> Option<Process> {
    let root = open_directory(rustix::fs::CWD, proc_root).ok()?;
    // All is read through this one directory: it never comes to show another process.
    let directory = open_directory(&root, Path::new(&pid.to_string())).ok()?;
    let comm = read(&directory, "comm").ok()?;
    let status = read(&directory, "status").unwrap_or_default();
    let limits = read(&directory, "limits").unwrap_or_default();
    let place = Place::parse(&read(&directory, "cgroup").unwrap_or_default());
    let exe = rustix::fs::readlinkat(&directory, "exe", Vec::new()).ok();
    Some(Process {
        pid,
        comm: comm.strip_suffix('\n').unwrap_or(&comm).to_owned(),
        exe: exe.map(|path| path.to_string_lossy().into_owned()),
        uid: effective_uid(&status),
        unit: place.unit,
        container: place.container,
        pod: place.pod,
        open_files: open_files(&directory),
        file_limit: file_limit(&limits),
    })
}

/// A process with nothing but its name, unit, container and pod; none where it is gone.
pub(crate) fn process_name(proc_root: &Path, pid: u32) -> Option<Process> {
    let root = open_directory(rustix::fs::CWD, proc_root).ok()?;
    let directory = open_directory(&root, Path::new(&pid.to_string())).ok()?;
    let comm = read(&directory, "comm").ok()?;
    let place = Place::parse(&read(&directory, "cgroup").unwrap_or_default());
    Some(Process {
        pid,
        comm: comm.strip_suffix('\n').unwrap_or(&comm).to_owned(),
        unit: place.unit,
        container: place.container,
        pod: place.pod,
        ..Process::default()
    })
}

pub(super) fn read(directory: &OwnedFd, name: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let mut bytes = Vec::new();
    File::from(file).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// From `Uid:`, real, effective, saved and file system id. A newline in the name is escaped there.
fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The soft limit; none where there is no limit.
fn file_limit(limits: &str) -> Option<u64> {
    let mut lines = limits.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Since Linux 6.2 the directory's size is their number, before it was 0
/// (`proc_fd_getattr()` in `fs/proc/fd.c`).
pub(super) fn open_files(directory: &OwnedFd) -> Option<u64> {
    let descriptors = open_directory(directory, Path::new("fd")).ok()?;
    let size = rustix::fs::fstat(&descriptors).ok()?.st_size;
    match u64::try_from(size) {
        Ok(0) | Err(_) => {
            let mut files = 0;
            for_each_number(descriptors.as_fd(), |_| files += 1).ok()?;
            Some(files)
        }
        size => size.ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    const STATUS: &str = "\
Name:\tnginx\\nUid:\t7
State:\tS (sleeping)
Uid:\t0\t33\t0\t0
Gid:\t0\t0\t0\t0
";
    const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max processes             96365                96365                processes 
Max open files            1024                 524288               files     
";

    /// A /proc of our own, removed when dropped.
    struct Proc(PathBuf);

    impl Proc {
        fn new(test: &str) -> Self {
            let name = format!("tcplinger-process-{test}-{}", std::process::id());
            let root = std::env::temp_dir().join(name);
            fs::create_dir_all(root.join("12/fd")).unwrap();
            Self(root)
        }

        fn write(&self, name: &str, text: &[u8]) {
            fs::write(self.0.join("12").join(name), text).unwrap();
        }
    }

    impl Drop for Proc {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn everything_known_is_told() {
        let proc = Proc::new("all");
        proc.write("comm", b"ng\xffi\nx\n");
        proc.write("status", STATUS.as_bytes());
        proc.write("limits", LIMITS.as_bytes());
        proc.write("cgroup", b"0::/system.slice/nginx.service\n");
        symlink("/usr/sbin/nginx (deleted)", proc.0.join("12/exe")).unwrap();
        let mut found = process(&proc.0, 12).unwrap();
        // Another file system's directory has a size of its own.
        assert!(found.open_files.take().is_some());
        let expected = Process {
            pid: 12,
            comm: "ng\u{fffd}i\nx".to_owned(),
            exe: Some("/usr/sbin/nginx (deleted)".to_owned()),
            uid: Some(33),
            unit: Some("nginx.service".to_owned()),
            file_limit: Some(1024),
            ..Process::default()
        };
        assert_eq!(found, expected);
        let named = Process {
            exe: None,
            uid: None,
            file_limit: None,
            ..expected
        };
        assert_eq!(process_name(&proc.0, 12), Some(named));
    }

    #[test]
    fn what_may_not_be_read_is_unknown_and_the_gone_are_none() {
        let proc = Proc::new("little");
        assert_eq!(process(&proc.0, 12), None);
        assert_eq!(process(&proc.0, 13), None);
        proc.write("comm", b"\n");
        fs::remove_dir(proc.0.join("12/fd")).unwrap();
        let expected = Process {
            pid: 12,
            ..Process::default()
        };
        assert_eq!(process(&proc.0, 12), Some(expected));
    }

    #[test]
    fn no_limit_is_none() {
        assert_eq!(file_limit(LIMITS), Some(1024));
        assert_eq!(file_limit(&LIMITS.replace("1024", "unlimited")), None);
    }

    #[test]
    fn this_process_is_found() {
        let found = process(Path::new("/proc"), std::process::id()).unwrap();
        let exe = std::env::current_exe().unwrap();
        assert_eq!(found.exe.as_deref(), exe.to_str());
        assert_eq!(found.uid, Some(rustix::process::geteuid().as_raw()));
        let before = found.open_files.unwrap();
        let files: Vec<File> = (0..100).map(|_| File::open("/dev/null").unwrap()).collect();
        let after = process(Path::new("/proc"), std::process::id()).unwrap();
        // Other tests open and close files meanwhile.
        assert!(after.open_files.unwrap() + 50 > before + files.len() as u64);
    }
}
