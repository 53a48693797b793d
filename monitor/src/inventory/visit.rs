//! Entering a network namespace, and coming back.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Error, Namespace};

/// The calling thread's own namespace, to return to.
#[derive(Debug)]
pub(super) struct Home {
    file: OwnedFd,
    inode: u64,
}

impl Home {
    pub(super) fn of_this_thread() -> Result<Self, Error> {
        let path = Path::new("/proc/thread-self/ns/net");
        let home = || {
            let file = open(path)?;
            let inode = rustix::fs::fstat(&file)?.st_ino;
            Ok(Self { file, inode })
        };
        home().map_err(|errno: Errno| Error::reading(path)(errno.into()))
    }

    /// Does `work` in `namespace`, then returns: a thread that stayed would keep it alive. Who is there
    /// already needs no privilege.
    pub(super) fn visit<T>(
        &self,
        namespace: &Namespace,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let there = find(namespace)?;
        if u64::from(namespace.inode) == self.inode {
            return work();
        }
        switch(&there).map_err(failure(namespace.inode))?;
        let outcome = work();
        switch(&self.file).map_err(|errno| Error::Return {
            cause: errno.into(),
        })?;
        outcome
    }
}

fn find(namespace: &Namespace) -> Result<OwnedFd, Error> {
    let inode = namespace.inode;
    let file = open(&namespace.path).map_err(failure(inode))?;
    // The process may have ended and its number gone to another, or the mount been replaced.
    if rustix::fs::fstat(&file).map_err(failure(inode))?.st_ino != u64::from(inode) {
        return Err(Error::Gone { inode });
    }
    Ok(file)
}

/// For `map_err`: what kept us out of a namespace.
fn failure(inode: u32) -> impl FnOnce(Errno) -> Error {
    move |errno| match errno {
        Errno::NOENT | Errno::SRCH => Error::Gone { inode },
        Errno::PERM => Error::NotPermitted { inode },
        _ => Error::Enter {
            inode,
            cause: io::Error::from(errno),
        },
    }
}

/// Never waits: whatever has taken the path's place may be a FIFO.
fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::empty())
}

fn switch(namespace: impl AsFd) -> Result<(), Errno> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
}
