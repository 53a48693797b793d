//! What can go wrong while the kernel is asked.

use std::io;
use std::path::{Path, PathBuf};

/// Paths are shown escaped: mount points are named by other processes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },

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

    #[error("cannot enter network namespace {inode}")]
    Enter { inode: u32, source: io::Error },

    #[error("cannot return to the daemon's own network namespace")]
    Return { source: io::Error },

    #[error("sock_diag: cannot {operation}")]
    Netlink {
        operation: &'static str,
        source: io::Error,
    },

    #[error("the kernel has no tcp_diag: load it with `modprobe tcp_diag`")]
    NoTcpDiag { source: io::Error },

    #[error("sock_diag sent a malformed message: {what}")]
    Malformed { what: &'static str },

    #[error("cannot start the inventory thread")]
    Spawn { source: io::Error },

    #[error("the inventory thread has stopped")]
    Stopped,
}

impl Error {
    /// For `map_err`: what failed was reading `path`.
    pub(super) fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read {
            path: path.to_owned(),
            source,
        }
    }

    /// More privilege would help, nothing else will.
    pub(crate) fn is_missing_privilege(&self) -> bool {
        match self {
            Self::NotPermitted { .. } => true,
            Self::Read { source, .. }
            | Self::Enter { source, .. }
            | Self::Netlink { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }
}
