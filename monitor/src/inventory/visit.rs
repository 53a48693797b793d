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
pub(super) struct Home(OwnedFd);

impl Home {
    pub(super) fn of_this_thread() -> Result<Self, Error> {
        let path = Path::new("/proc/thread-self/ns/net");
        open(path)
            .map(Self)
            .map_err(|errno| Error::reading(path)(errno.into()))
    }

    /// Does `work` in `namespace`, then returns: a thread that stayed would keep it alive.
    pub(super) fn visit<T>(
        &self,
        namespace: &Namespace,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        enter(namespace)?;
        let outcome = work();
        switch(&self.0).map_err(|errno| Error::Return {
            source: errno.into(),
        })?;
        outcome
    }
}

fn enter(namespace: &Namespace) -> Result<(), Error> {
    let inode = namespace.inode;
    let failed = |errno: Errno| match errno {
        Errno::NOENT | Errno::SRCH => Error::Gone { inode },
        Errno::PERM => Error::NotPermitted { inode },
        _ => Error::Enter {
            inode,
            source: io::Error::from(errno),
        },
    };
    let file = open(&namespace.path).map_err(failed)?;
    // The process may have ended and its number gone to another, or the mount been replaced.
    if rustix::fs::fstat(&file).map_err(failed)?.st_ino != u64::from(inode) {
        return Err(Error::Gone { inode });
    }
    switch(&file).map_err(failed)
}

/// Never waits: whatever has taken the path's place may be a FIFO.
fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::empty())
}

fn switch(namespace: impl AsFd) -> Result<(), Errno> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
}
