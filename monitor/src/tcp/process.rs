//! Who holds a socket: descriptors, and the processes behind them.

use super::{Family, State};

/// A descriptor of a TCP socket. A socket shared after `fork()` has several holders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    /// Cookie of the socket; 0 where none was drawn yet.
    pub(crate) cookie: u64,
    /// Process id (thread group, initial pid namespace).
    pub(crate) pid: u32,
    /// Descriptor number in that process.
    pub(crate) fd: u32,
    /// Inode number of the socket's network namespace.
    pub(crate) netns: u32,
    /// The socket's state when it was looked at.
    pub(crate) state: State,
    /// None where only /proc told of it.
    pub(crate) family: Option<Family>,
    /// An MPTCP connection, which stands for the TCP sockets that share its inode.
    pub(crate) is_mptcp: bool,
}

/// A process that holds sockets. Every text is another process's choice: escape it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Command name; bytes that are not UTF-8 are replaced.
    pub(crate) comm: String,
    /// Path of the executable, where it may be read.
    pub(crate) exe: Option<String>,
    /// Effective user id.
    pub(crate) uid: Option<u32>,
    /// systemd unit, from the cgroup path: `nginx.service`, `nginx.service of user 1000`,
    /// `nginx.service of container 3f4f8a3e`. A unit's own name has no space.
    pub(crate) unit: Option<String>,
    /// Container id as its engine writes it, in full.
    pub(crate) container: Option<String>,
    /// Kubernetes pod uid, with dashes.
    pub(crate) pod: Option<String>,
    /// Open descriptors.
    pub(crate) open_files: Option<u64>,
    /// Soft limit of open descriptors (`RLIMIT_NOFILE`).
    pub(crate) file_limit: Option<u64>,
}

/// What counts as one owner of sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnerKind {
    Process,
    Unit,
    Container,
}

impl OwnerKind {
    pub(crate) const ALL: [Self; 3] = [Self::Process, Self::Unit, Self::Container];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Unit => "unit",
            Self::Container => "container",
        }
    }
}
