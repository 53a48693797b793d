//! What can go wrong while the kernel is asked.

use std::io;
use std::path::{Path, PathBuf};

/// Each says its cause itself, so that a line in the log is whole. Paths are shown escaped: mount points are named by other processes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {path:?}: {cause}")]
    Read { path: PathBuf, cause: io::Error },

    #[error("{file} has no number for {field}")]
    Parse {
        file: &'static str,
        field: &'static str,
    },

    /// Normal life: it ended between its discovery and the visit.
    #[error("network namespace {inode} is gone")]
    Gone { inode: u32 },

    #[error("not permitted to enter network namespace {inode}: run as root, or with CAP_SYS_ADMIN")]
    NotPermitted { inode: u32 },

    #[error("cannot enter network namespace {inode}: {cause}")]
    Enter { inode: u32, cause: io::Error },

    #[error("cannot return to the daemon's own network namespace: {cause}")]
    Return { cause: io::Error },

    #[error("sock_diag: cannot {operation}: {cause}")]
    Netlink {
        operation: &'static str,
        cause: io::Error,
    },

    #[error("the kernel has no tcp_diag: load it with `modprobe tcp_diag` ({cause})")]
    NoTcpDiag { cause: io::Error },

    #[error("sock_diag sent a malformed message: {what}")]
    Malformed { what: &'static str },

    #[error("cannot start the inventory thread: {cause}")]
    Spawn { cause: io::Error },

    #[error("the inventory thread has stopped")]
    Stopped,
}

impl Error {
    /// For `map_err`: what failed was reading `path`.
    pub(super) fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Read {
            path: path.to_owned(),
            cause,
        }
    }

    /// Nothing can be asked of the kernel any more: the inventory thread has stopped, or is about to.
    pub(crate) const fn is_fatal(&self) -> bool {
        matches!(self, Self::Stopped | Self::Return { .. })
    }

    /// More privilege would help, nothing else will.
    pub(crate) fn is_missing_privilege(&self) -> bool {
        match self {
            Self::NotPermitted { .. } => true,
            Self::Read { cause, .. } | Self::Enter { cause, .. } | Self::Netlink { cause, .. } => {
                cause.kind() == io::ErrorKind::PermissionDenied
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_its_cause() {
        let cause = io::Error::from_raw_os_error(libc::EMFILE);
        let error = Error::reading(Path::new("/proc/1/a b"))(cause);
        let expected = "cannot read \"/proc/1/a b\": Too many open files (os error 24)";
        assert_eq!(error.to_string(), expected);
    }
}
