//! The network namespaces of this host, found through its processes and its mounts.
//!
//! One that lives on only through a socket somewhere is found by a walk of every descriptor, and entered
//! through one: [`Namespace::of_socket`]. One that only a descriptor of its own keeps is not found. No
//! descriptor is kept, since that would keep a dead namespace alive.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::{Error, visit};

/// The name of the initial namespace, whatever else it is mounted under.
const HOST: &str = "host";
/// `NET_NS_INIT_INO` in `include/uapi/linux/nsfs.h`: the initial namespace since Linux 6.18, even
/// where the first process may not be read.
const INITIAL: u32 = 0xEFFF_FFF9;
/// `PROC_PID_INIT_INO` in `include/linux/proc_ns.h`: the initial pid namespace, where the first process
/// is the host's.
const INITIAL_PIDS: &[u8] = b"pid:[4026531836]";

/// A network namespace and the way into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    pub(crate) inode: u32,
    /// File name of a bind mount (as `ip netns` makes), or `host`. Escape it before it is shown.
    pub(crate) name: Option<String>,
    pub(super) way: Way,
}

/// Where a namespace is entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Path(PathBuf),
    /// A socket in it: process and descriptor.
    Socket(u32, u32),
}

impl Namespace {
    /// One that is known by a socket alone, which that process has open.
    pub(crate) const fn of_socket(inode: u32, pid: u32, fd: u32) -> Self {
        Self {
            inode,
            name: None,
            way: Way::Socket(pid, fd),
        }
    }

    /// No process is in it and it is mounted nowhere: sockets keep it.
    pub(crate) const fn is_deleted(&self) -> bool {
        matches!(self.way, Way::Socket(..))
    }

    /// What stands before a command to run it there, with a space at its end; empty in the host's own, and
    /// where no command can be sure to get there.
    pub(crate) fn enter(&self) -> String {
        let is_plain = |path: &str| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
            !path.is_empty() && path.chars().all(is_plain)
        };
        let Way::Path(path) = &self.way else {
            return String::new();
        };
        let Some(path) = path.to_str().filter(|path| is_plain(path)) else {
            return String::new();
        };
        let of_iproute = ["/run/netns/", "/var/run/netns/"].map(|place| path.strip_prefix(place));
        match of_iproute
            .into_iter()
            .flatten()
            .find(|name| !name.contains('/'))
        {
            _ if self.name.as_deref() == Some(HOST) => String::new(),
            Some(name) => format!("ip netns exec {name} "),
            None => format!("nsenter --net={path} "),
        }
    }

    /// Whether it can still be entered where it was found.
    pub(crate) fn is_there(&self) -> bool {
        visit::find(self).is_ok()
    }
}

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// One look at each process: its main thread's namespace.
    Processes,
    /// Every thread: some move on their own.
    Threads,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Discovery {
    /// Ordered by inode number.
    pub(crate) namespaces: Vec<Namespace>,
    /// Processes and threads whose namespace could not be read, for want of privilege as a rule.
    pub(crate) unreadable: u64,
}

/// Looks for namespaces in `proc_root`. A process that ends meanwhile is passed over.
pub(crate) fn discover(proc_root: &Path, depth: Depth) -> Result<Discovery, Error> {
    let mut scan = Scan {
        proc_root,
        depth,
        found: mounts(proc_root)?,
        firsts: None,
        unreadable: 0,
        link: String::new(),
    };
    scan.processes()
        .map_err(|errno| Error::reading(proc_root)(errno.into()))?;
    scan.name_host();
    Ok(Discovery {
        namespaces: scan.found.into_values().collect(),
        unreadable: scan.unreadable,
    })
}

/// The namespaces mounted by the first process, whose names are the host's; by this one, where its
/// mounts are the same or the first process may not be looked at.
fn mounts(proc_root: &Path) -> Result<BTreeMap<u32, Namespace>, Error> {
    let mountinfo = proc_root.join("self/mountinfo");
    let own = fs::read(&mountinfo).map_err(Error::reading(&mountinfo))?;
    let mut found: BTreeMap<u32, Namespace> =
        mounted(&own).map(|found| (found.inode, found)).collect();
    let mount_namespace = |process| fs::read_link(proc_root.join(process).join("ns/mnt"));
    if let (Ok(own), Ok(first)) = (mount_namespace("self"), mount_namespace("1"))
        && own != first
        && let Ok(mounts) = fs::read(proc_root.join("1/mountinfo"))
    {
        let root = proc_root.join("1/root");
        for mut namespace in mounted(&mounts) {
            let Way::Path(path) = &mut namespace.way else {
                continue;
            };
            *path = root.join(path.strip_prefix("/").unwrap_or(path));
            found.insert(namespace.inode, namespace);
        }
    }
    Ok(found)
}

/// The namespaces bind-mounted somewhere, from a /proc/pid/mountinfo (`man 5 proc_pid_mountinfo`).
fn mounted(mountinfo: &[u8]) -> impl Iterator<Item = Namespace> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut words = line.split(|byte| *byte == b' ');
        let inode = parse_link(words.nth(3)?)?;
        let path = PathBuf::from(unescape(words.next()?));
        words.find(|word| *word == b"-")?;
        // The path of a mount whose file was deleted leads nowhere, or elsewhere.
        if words.next()? != b"nsfs" || path.as_os_str().as_bytes().ends_with(b"//deleted") {
            return None;
        }
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let way = Way::Path(path);
        Some(Namespace { inode, name, way })
    })
}

/// Undoes `mangle_path()` (`fs/seq_file.c`): `\040` is a space.
fn unescape(mut word: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(word.len());
    while let Some((first, rest)) = word.split_first() {
        let digits = rest
            .first_chunk::<3>()
            .and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                plain.push(byte);
                word = rest.get(3..).unwrap_or_default();
            }
            _ => {
                plain.push(*first);
                word = rest;
            }
        }
    }
    OsString::from_vec(plain)
}

/// `net:[4026531840]` as its number.
fn parse_link(link: &[u8]) -> Option<u32> {
    let number = link.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    str::from_utf8(number).ok()?.parse().ok()
}

struct Scan<'a> {
    proc_root: &'a Path,
    depth: Depth,
    found: BTreeMap<u32, Namespace>,
    /// The first process's.
    firsts: Option<u32>,
    unreadable: u64,
    link: String,
}

impl Scan<'_> {
    fn processes(&mut self) -> Result<(), Errno> {
        let root = open_directory(rustix::fs::CWD, self.proc_root)?;
        for_each_number(root.as_fd(), |pid| {
            let unreadable = self.unreadable;
            let inode = self.look(root.as_fd(), pid, |scan| scan.proc_root.join(pid));
            if pid == "1" {
                self.firsts = inode;
            }
            // What may not be read of a process may not be read of its threads.
            if self.depth == Depth::Threads && self.unreadable == unreadable {
                self.threads(root.as_fd(), pid);
            }
        })
    }

    /// Looks at the other threads of a process, the first of which has been looked at.
    fn threads(&mut self, root: BorrowedFd<'_>, pid: &str) {
        /// Links of a directory with one directory in it: `proc_task_getattr()` in
        /// `fs/proc/base.c` (Linux 6.18) counts each thread as one.
        const LINKS_OF_ONE: i128 = 3;
        let path = format!("{pid}/task");
        let links = rustix::fs::statat(root, &*path, AtFlags::empty()).map(|stat| stat.st_nlink);
        // Wider on some architectures than on others.
        if links.is_ok_and(|links| i128::from(links) == LINKS_OF_ONE) {
            return;
        }
        let scanned = open_directory(root, Path::new(&path)).and_then(|tasks| {
            for_each_number(tasks.as_fd(), |tid| {
                if tid == pid {
                    return;
                }
                self.look(tasks.as_fd(), tid, |scan| {
                    scan.proc_root.join(pid).join("task").join(tid)
                });
            })
        });
        if let Err(error) = scanned {
            self.note(error);
        }
    }

    /// Notes the namespace of the task whose directory is `task`, within `parent`.
    fn look(
        &mut self,
        parent: BorrowedFd<'_>,
        task: &str,
        path: impl FnOnce(&Self) -> PathBuf,
    ) -> Option<u32> {
        self.link.clear();
        let mut target = [MaybeUninit::uninit(); 32];
        let read = write!(self.link, "{task}/ns/net")
            .map_err(|_| Errno::INVAL)
            .and_then(|()| rustix::fs::readlinkat_raw(parent, &*self.link, &mut target));
        match read {
            Ok((target, _)) => {
                let inode = parse_link(target);
                match inode {
                    Some(inode) => self.add(inode, path),
                    None => self.unreadable += 1,
                }
                inode
            }
            Err(error) => {
                self.note(error);
                None
            }
        }
    }

    fn add(&mut self, inode: u32, path: impl FnOnce(&Self) -> PathBuf) {
        if !self.found.contains_key(&inode) {
            let way = Way::Path(path(self).join("ns/net"));
            let name = None;
            self.found.insert(inode, Namespace { inode, name, way });
        }
    }

    /// Container engines mount the host's under names of their own (Docker: `default`). In a pid
    /// namespace of our own the first process is a container's: it says nothing of the host.
    fn name_host(&mut self) {
        let host = if self.found.contains_key(&INITIAL) {
            Some(INITIAL)
        } else {
            self.firsts.filter(|_| self.sees_the_hosts_first_process())
        };
        if let Some(host) = host.and_then(|inode| self.found.get_mut(&inode)) {
            host.name = Some(HOST.to_owned());
        }
    }

    fn sees_the_hosts_first_process(&self) -> bool {
        fs::read_link(self.proc_root.join("self/ns/pid"))
            .is_ok_and(|link| link.as_os_str().as_bytes() == INITIAL_PIDS)
    }

    fn note(&mut self, error: Errno) {
        let has_ended = matches!(error, Errno::NOENT | Errno::SRCH);
        self.unreadable += u64::from(!has_ended);
    }
}

pub(super) fn open_directory(parent: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(parent, path, flags, Mode::empty())
}

/// Calls `visit` with every entry of `directory` whose name is a number.
pub(super) fn for_each_number(
    directory: BorrowedFd<'_>,
    mut visit: impl FnMut(&str),
) -> Result<(), Errno> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        match entry.file_name().to_str() {
            Ok(name) if name.bytes().all(|byte| byte.is_ascii_digit()) => visit(name),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    // Captured on Linux 6.18, after `ip netns add "a b"`; the last line is made up.
    const MOUNTINFO: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
67 66 0:4 net:[4026532247] /run/netns/a\\040b rw shared:3 - nsfs nsfs rw
68 66 0:4 mnt:[4026532300] /run/mnt rw - nsfs nsfs rw
69 66 0:4 net:[4026532316] /run/netns/old//deleted rw - nsfs nsfs rw
70 66 0:4 net:[4026532317] /net:[1] rw - tmpfs nsfs rw
";

    /// A /proc of our own, removed when dropped.
    struct Proc(PathBuf);

    impl Proc {
        fn new(test: &str) -> Self {
            let name = format!("tcplinger-{test}-{}", std::process::id());
            let root = std::env::temp_dir().join(name);
            fs::create_dir_all(root.join("self/ns")).unwrap();
            fs::write(root.join("self/mountinfo"), MOUNTINFO).unwrap();
            let proc = Self(root);
            proc.link("self", "pid", "pid:[4026531836]");
            proc
        }

        fn link(&self, process: &str, kind: &str, target: &str) {
            let ns = self.0.join(process).join("ns");
            fs::create_dir_all(&ns).unwrap();
            drop(fs::remove_file(ns.join(kind)));
            symlink(target, ns.join(kind)).unwrap();
        }

        fn task(&self, path: &str, inode: u32) {
            self.link(path, "net", &format!("net:[{inode}]"));
        }

        fn names(&self, depth: Depth) -> Vec<(u32, Option<String>)> {
            let found = discover(&self.0, depth).unwrap().namespaces;
            found.into_iter().map(|one| (one.inode, one.name)).collect()
        }
    }

    impl Drop for Proc {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn mounts_and_processes_are_merged() {
        let proc = Proc::new("merged");
        proc.task("1", 50);
        proc.task("7", 4_026_532_247);
        proc.task("12", 40);
        proc.task("12/task/12", 40);
        proc.task("12/task/13", 60);
        let mut expected = vec![
            (40, None),
            (50, Some("host".to_owned())),
            (4_026_532_247, Some("a b".to_owned())),
        ];
        assert_eq!(proc.names(Depth::Processes), expected);
        expected.insert(2, (60, None));
        assert_eq!(proc.names(Depth::Threads), expected);
    }

    #[test]
    fn the_hosts_own_is_called_host_whatever_else_mounts_it() {
        let proc = Proc::new("host");
        proc.task("1", 4_026_532_247);
        let expected = vec![(4_026_532_247, Some("host".to_owned()))];
        assert_eq!(proc.names(Depth::Processes), expected);
    }

    #[test]
    fn the_initial_namespace_alone_is_the_host() {
        let proc = Proc::new("initial");
        proc.task("1", 50);
        proc.task("2", INITIAL);
        let mut names = proc.names(Depth::Processes);
        names.retain(|(_, name)| name.as_deref() == Some(HOST));
        assert_eq!(names, [(INITIAL, Some(HOST.to_owned()))]);
    }

    #[test]
    fn the_first_process_of_a_container_is_not_the_hosts() {
        let proc = Proc::new("container");
        proc.link("self", "pid", "pid:[4026532300]");
        proc.task("1", 50);
        assert!(proc.names(Depth::Threads).contains(&(50, None)));
        proc.task("1", 4_026_532_247);
        let expected = [(4_026_532_247, Some("a b".to_owned()))];
        assert_eq!(proc.names(Depth::Threads), expected);
    }

    #[test]
    fn mounts_of_the_first_process_are_reached_through_it() {
        let proc = Proc::new("mounts");
        proc.task("1", 50);
        let hosts = "\
67 66 0:4 net:[60] /run/netns/blue rw - nsfs nsfs rw
68 66 0:4 net:[4026532247] /run/netns/hosts rw - nsfs nsfs rw
";
        fs::write(proc.0.join("1/mountinfo"), hosts).unwrap();
        proc.link("self", "mnt", "mnt:[7]");
        proc.link("1", "mnt", "mnt:[7]");
        assert_eq!(proc.names(Depth::Processes).len(), 2);

        proc.link("1", "mnt", "mnt:[8]");
        let found = discover(&proc.0, Depth::Processes).unwrap().namespaces;
        let found: Vec<_> = found
            .into_iter()
            .map(|one| (one.name.unwrap(), one.way))
            .collect();
        let expected = [
            ("host".to_owned(), Way::Path(proc.0.join("1/ns/net"))),
            (
                "blue".to_owned(),
                Way::Path(proc.0.join("1/root/run/netns/blue")),
            ),
            (
                "hosts".to_owned(),
                Way::Path(proc.0.join("1/root/run/netns/hosts")),
            ),
        ];
        assert_eq!(found, expected);

        fs::remove_file(proc.0.join("1/mountinfo")).unwrap();
        let names = proc.names(Depth::Processes);
        assert!(names.contains(&(4_026_532_247, Some("a b".to_owned()))));
    }

    #[test]
    fn each_namespace_has_a_way_in() {
        let proc = Proc::new("paths");
        proc.task("5", 50);
        proc.task("12/task/12", 50);
        proc.task("12/task/13", 60);
        let found = discover(&proc.0, Depth::Threads).unwrap().namespaces;
        let paths: Vec<_> = found.into_iter().map(|one| one.way).collect();
        let expected = [
            proc.0.join("5/ns/net"),
            proc.0.join("12/task/13/ns/net"),
            PathBuf::from("/run/netns/a b"),
        ]
        .map(Way::Path);
        assert_eq!(paths, expected);
    }

    #[test]
    fn the_vanished_are_passed_over_and_the_unreadable_counted() {
        let proc = Proc::new("unreadable");
        fs::create_dir_all(proc.0.join("8")).unwrap();
        fs::create_dir_all(proc.0.join("9/ns")).unwrap();
        fs::write(proc.0.join("9/ns/net"), "no link").unwrap();
        let found = discover(&proc.0, Depth::Threads).unwrap();
        assert_eq!((found.namespaces.len(), found.unreadable), (1, 1));
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(br"/a\040\134\9\04"), r"/a \\9\04");
        assert_eq!(parse_link(b"net:[4026531840]"), Some(4_026_531_840));
        assert_eq!(parse_link(b"net:[99999999999]"), None);
        assert_eq!(parse_link(b"mnt:[4026531840]"), None);
    }
}
