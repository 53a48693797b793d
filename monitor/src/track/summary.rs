//! The counts at one moment, as every output shows them.

use crate::tcp::Counts;

/// Where the counts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A running daemon's census.
    Daemon,
    /// The kernel's tables, walked once for this answer.
    Kernel,
}

/// Transitions that reached userspace, and those that did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventTotals {
    /// Transitions that the program in the kernel counted.
    pub(crate) counted: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    /// Calls of the tracepoint for other protocols (MPTCP, SCTP, DCCP).
    pub(crate) ignored: u64,
}

/// Sockets of one network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamespaceSummary {
    /// Inode number of the namespace.
    pub(crate) netns: u32,
    /// Its name (a bind mount's file name, or `host` for the initial one), where it has one.
    pub(crate) name: Option<String>,
    pub(crate) ipv4: Counts,
    pub(crate) ipv6: Counts,
}

impl NamespaceSummary {
    /// Both families together.
    pub(crate) fn sockets(&self) -> Counts {
        let mut sockets = self.ipv4;
        sockets += self.ipv6;
        sockets
    }
}

/// The counts of the whole host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) source: Source,
    /// Ordered by inode number.
    pub(crate) namespaces: Vec<NamespaceSummary>,
    pub(crate) events: EventTotals,
    /// Sockets by which snapshots have corrected the event-driven counts so far.
    pub(crate) drift: u64,
}

impl Summary {
    /// All namespaces together.
    pub(crate) fn sockets(&self) -> Counts {
        self.namespaces
            .iter()
            .fold(Counts::default(), |mut all, namespace| {
                all += namespace.sockets();
                all
            })
    }
}
