//! Entering a network namespace, and coming back.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::namespaces::Way;
use super::{Error, Namespace};

/// `include/uapi/linux/sockios.h`: the namespace of a socket, as a descriptor. It needs `CAP_NET_ADMIN`
/// in there.
const SIOCGSKNS: libc::Ioctl = 0x894C;

/// Each way back is tried this often: a want of memory may pass.
const RETURNS: u32 = 5;
const BETWEEN_RETURNS: Duration = Duration::from_millis(20);

/// The calling thread's own namespace, to return to.
#[derive(Debug)]
pub(super) struct Home {
    file: OwnedFd,
    inode: u64,
    /// Why the thread could not return: it is in a foreign namespace, for good.
    lost: Cell<Option<Errno>>,
}

impl Home {
    pub(super) fn of_this_thread() -> Result<Self, Error> {
        let path = Path::new("/proc/thread-self/ns/net");
        let home = || {
            let file = open(path)?;
            let inode = rustix::fs::fstat(&file)?.st_ino;
            Ok(Self {
                file,
                inode,
                lost: Cell::new(None),
            })
        };
        home().map_err(|errno: Errno| Error::reading(path)(errno.into()))
    }

    /// Does `work` in `namespace`, then returns: a thread that stayed would keep it alive. Who is there
    /// already needs no privilege. After a visit that could not return, every other fails alike.
    pub(super) fn visit<T>(
        &self,
        namespace: &Namespace,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        if let Some(errno) = self.lost.get() {
            return Err(not_returned(errno));
        }
        let there = find(namespace)?;
        if u64::from(namespace.inode) == self.inode {
            return work();
        }
        switch(&there).map_err(failure(namespace.inode))?;
        let outcome = work();
        if let Err(errno) = self.go_back() {
            self.lost.set(Some(errno));
            return Err(not_returned(errno));
        }
        outcome
    }

    /// No visit works any more: what it would find belongs to another namespace.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    fn go_back(&self) -> Result<(), Errno> {
        let mut outcome = switch(&self.file);
        for _ in 1..RETURNS {
            if outcome.is_ok() {
                break;
            }
            sleep(BETWEEN_RETURNS);
            outcome = switch(&self.file);
        }
        outcome
    }
}

fn not_returned(errno: Errno) -> Error {
    Error::Return {
        cause: errno.into(),
    }
}

pub(super) fn find(namespace: &Namespace) -> Result<OwnedFd, Error> {
    let inode = namespace.inode;
    let file = match &namespace.way {
        Way::Path(path) => open(path),
        Way::Socket(pid, fd) => of_socket(*pid, *fd),
    };
    let file = file.map_err(failure(inode))?;
    // The process may have ended and its number gone to another, or the mount been replaced.
    if rustix::fs::fstat(&file).map_err(failure(inode))?.st_ino != u64::from(inode) {
        return Err(Error::Gone { inode });
    }
    Ok(file)
}

/// For `map_err`: what kept us out of a namespace.
fn failure(inode: u32) -> impl FnOnce(Errno) -> Error {
    move |errno| match errno {
        // The last is a descriptor that was closed.
        Errno::NOENT | Errno::SRCH | Errno::BADF => Error::Gone { inode },
        Errno::PERM => Error::NotPermitted { inode },
        _ => Error::Enter {
            inode,
            cause: io::Error::from(errno),
        },
    }
}

/// The namespace of a socket that a process has open.
fn of_socket(pid: u32, fd: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = pidfd_open(pid.ok_or(Errno::SRCH)?, PidfdFlags::empty())?;
    let fd = fd.try_into().map_err(|_| Errno::BADF)?;
    let file = pidfd_getfd(process, fd, PidfdGetfdFlags::empty())?;
    // A FIFO or a device may have taken its place, and takes this for a request of another kind.
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::Socket {
        return Err(Errno::NOENT);
    }
    // SAFETY: it takes no argument, and the descriptor is open.
    let namespace = unsafe { libc::ioctl(file.as_raw_fd(), SIOCGSKNS) };
    if namespace < 0 {
        let errno = io::Error::last_os_error();
        return Err(Errno::from_io_error(&errno).unwrap_or(Errno::INVAL));
    }
    // SAFETY: the kernel made it for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}

/// Never waits: whatever has taken the path's place may be a FIFO.
fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::empty())
}

fn switch(namespace: impl AsFd) -> Result<(), Errno> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;
    use std::sync::mpsc;
    use std::thread;

    use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};

    use super::*;

    impl Home {
        /// A home to which no way leads back.
        pub(in super::super) fn without_return() -> Self {
            let mut home = Self::of_this_thread().unwrap();
            home.file = open(Path::new("/dev/null")).unwrap();
            home
        }
    }

    /// A namespace that lives as long as the sender beside it; none without the privilege.
    pub(in super::super) fn another_namespace() -> Option<(Namespace, mpsc::Sender<()>)> {
        let (keep, end) = mpsc::channel::<()>();
        let (found, there) = mpsc::channel();
        thread::spawn(move || {
            // SAFETY: only what the thread sees of the network changes.
            let entered = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
            let task = gettid().as_raw_nonzero();
            let path = PathBuf::from(format!("/proc/self/task/{task}/ns/net"));
            let inode = rustix::fs::stat(&path).unwrap().st_ino;
            let namespace = entered.ok().map(|()| Namespace {
                inode: u32::try_from(inode).unwrap(),
                name: None,
                way: Way::Path(path),
            });
            found.send(namespace).unwrap();
            for () in end {}
        });
        Some((there.recv().unwrap()?, keep))
    }

    #[test]
    fn after_a_visit_that_cannot_return_nothing_is_done_in_a_foreign_namespace() {
        let Some((namespace, _keep)) = another_namespace() else {
            return;
        };
        thread::spawn(move || {
            let home = Home::of_this_thread().unwrap();
            home.visit(&namespace, || Ok(())).unwrap();
            assert!(!home.is_lost());
            let home = Home::without_return();
            let outcome = home.visit(&namespace, || Ok(()));
            assert!(matches!(outcome, Err(Error::Return { .. })));
            assert!(home.is_lost());
            let outcome = home.visit::<()>(&namespace, || panic!("it is done there"));
            assert!(matches!(outcome, Err(Error::Return { .. })));
        })
        .join()
        .unwrap();
    }
}
