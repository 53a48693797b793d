//! Who holds lingering sockets.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::LingeringSockets;
use crate::inventory;
use crate::probe::{self, Holders};
use crate::tcp::{Evidence, Holder, Process, State};
use crate::track::OwnerName;
use crate::track::stuck::Owner;

const PROC: &str = "/proc";
/// Marks the name of a socket that is its inode number: /proc/net tells no cookie.
const NO_COOKIE: u64 = 1 << 63;

/// Inode, namespace and state of a socket.
pub(crate) type Place = (u32, u32, State);
/// Places of sockets, by [`id_of`].
pub(crate) type SocketPlaces = HashMap<u64, Place>;

/// The way to see who holds what.
#[derive(Clone)]
pub(crate) enum HolderSource {
    /// The kernel's own walk of every descriptor.
    Kernel(Arc<Holders>),
    /// Links in /proc, and why not the other.
    Proc { reason: String },
}

impl HolderSource {
    /// The best that this kernel allows.
    pub(crate) fn open() -> Self {
        match Holders::load() {
            Ok(holders) => Self::Kernel(Arc::new(holders)),
            Err(error) => Self::Proc {
                reason: error.to_string(),
            },
        }
    }

    /// Every holder of every socket; None where only /proc could tell.
    ///
    /// # Errors
    /// The kernel does not finish its walk.
    pub(crate) fn look_at_all(&self) -> Option<Result<Vec<Holder>, probe::Error>> {
        let Self::Kernel(kernel) = self else {
            return None;
        };
        let mut holders = Vec::new();
        let walked = kernel.read(|holder| holders.push(holder));
        Some(walked.map(|()| holders))
    }

    /// Every holder of a socket in `CLOSE`, which no table lists; None where only /proc could tell.
    ///
    /// # Errors
    /// The kernel does not finish its walk.
    pub(crate) fn closed(&self) -> Option<Result<Vec<Holder>, probe::Error>> {
        let Self::Kernel(kernel) = self else {
            return None;
        };
        let mut holders = Vec::new();
        let walked = kernel.read(|holder| {
            if holder.state == State::Close && !holder.is_mptcp {
                holders.push(holder);
            }
        });
        Some(walked.map(|()| holders))
    }

    /// What is to be kept of every holder of each of these sockets, which come with what [`id_of`]
    /// says. They are listed anew for each pass: there may be very many.
    pub(crate) fn look<I: Iterator<Item = (u64, Place)>, T>(
        &self,
        wanted: impl Fn() -> I,
        keep: fn(Holder) -> T,
    ) -> Vec<T> {
        let mut holders = Vec::new();
        let mut is_seen: fn(u64) -> bool = |_| false;
        if let Self::Kernel(kernel) = self {
            match kernel_look(kernel, &wanted, keep) {
                Ok(found) => {
                    holders = found;
                    is_seen = |id| id & NO_COOKIE == 0;
                }
                Err(error) => tracing::debug!("cannot read owners from /proc: {error}"),
            }
        }
        let unseen = wanted().filter(|(id, _)| !is_seen(*id));
        let inodes: HashMap<u32, (u64, u32, State)> = unseen
            .map(|(id, (inode, netns, state))| (inode, (id, netns, state)))
            .collect();
        if !inodes.is_empty() {
            let found = inventory::fallback_holders(Path::new(PROC), &inodes);
            holders.extend(found.into_iter().map(keep));
        }
        holders
    }
}

/// Holders by the kernel's walk, of all that have a cookie.
fn kernel_look<I: Iterator<Item = (u64, Place)>, T>(
    kernel: &Holders,
    wanted: impl Fn() -> I,
    keep: fn(Holder) -> T,
) -> Result<Vec<T>, probe::Error> {
    let mut ids: Vec<u64> = wanted().map(|(id, _)| id).collect();
    ids.sort_unstable();
    let mut holders = Vec::new();
    let mut of_mptcp = Vec::new();
    kernel.read(|holder| {
        if ids.binary_search(&holder.cookie).is_ok() {
            holders.push(keep(holder));
        } else if holder.is_mptcp {
            of_mptcp.push(holder);
        }
    })?;
    if of_mptcp.is_empty() {
        return Ok(holders);
    }
    let mut found = HashSet::new();
    kernel.read(|holder| {
        if !holder.is_mptcp {
            found.insert(holder.cookie);
        }
    })?;
    let mut subflows: HashMap<u32, Vec<(u64, State)>> = HashMap::new();
    for (id, (inode, _, state)) in wanted().filter(|(id, _)| !found.contains(id)) {
        subflows.entry(inode).or_default().push((id, state));
    }
    for holder in of_mptcp {
        let inode = inventory::socket_inode(Path::new(PROC), holder.pid, holder.fd);
        let below = inode.and_then(|inode| subflows.get(&inode));
        let below = below.into_iter().flatten().map(|(cookie, state)| Holder {
            cookie: *cookie,
            state: *state,
            ..holder
        });
        holders.extend(below.map(keep));
    }
    Ok(holders)
}

/// One of the descriptors of a socket: what is kept of each of hundreds of thousands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    /// As [`id_of`] says.
    id: u64,
    pid: u32,
    fd: u32,
}

impl From<Holder> for Held {
    fn from(holder: Holder) -> Self {
        Self {
            id: holder.cookie,
            pid: holder.pid,
            fd: holder.fd,
        }
    }
}

/// The holders of some sockets, and the processes behind them.
#[derive(Debug, Default)]
pub(crate) struct SocketOwners {
    /// In order.
    held: Vec<Held>,
    processes: HashMap<u32, Arc<Process>>,
}

impl SocketOwners {
    /// Looks for the holders of the lingering sockets, and of the listeners they wait at.
    pub(crate) fn of(lingering: &LingeringSockets, holder_source: &HolderSource) -> Self {
        let wanted = || {
            let all = lingering.sockets().flat_map(|socket| {
                let waits_at = lingering.waits_at(&socket).copied();
                let mut all: Vec<Evidence> = waits_at.collect();
                all.push(socket);
                all
            });
            let open = all.filter(|socket| socket.inode != 0);
            open.map(|socket| (id_of(&socket), (socket.inode, socket.netns, socket.state)))
        };
        if wanted().next().is_none() {
            return Self::default();
        }
        Self::new(holder_source.look(wanted, Held::from))
    }

    fn new(mut held: Vec<Held>) -> Self {
        held.sort_unstable();
        // A rare cookie has the mark of a socket without one, and is looked for in both ways.
        held.dedup();
        let pids: HashSet<u32> = held.iter().map(|held| held.pid).collect();
        let known = pids
            .into_iter()
            .filter_map(|pid| Some((pid, process(pid)?)));
        Self {
            processes: known.collect(),
            held,
        }
    }

    /// Every holder of a socket. One whose process has ended since is no longer one.
    pub(crate) fn owners(&self, socket: &Evidence) -> Vec<Owner> {
        if socket.inode == 0 {
            return Vec::new();
        }
        let id = id_of(socket);
        let start = self.held.partition_point(|held| held.id < id);
        let held = self.held.get(start..).unwrap_or_default();
        held.iter()
            .take_while(|held| held.id == id)
            .filter_map(|held| {
                Some(Owner {
                    process: Arc::clone(self.processes.get(&held.pid)?),
                    fd: Some(held.fd),
                })
            })
            .collect()
    }

    /// Every process that could accept from these listeners, once.
    pub(super) fn owners_of_listeners<'a>(
        &self,
        listeners: impl Iterator<Item = &'a Evidence>,
    ) -> Vec<Owner> {
        let mut owners: Vec<Owner> = Vec::new();
        for owner in listeners.flat_map(|listener| self.owners(listener)) {
            let is_new = |known: &Owner| known.process.pid != owner.process.pid;
            if owners.iter().all(is_new) {
                owners.push(Owner { fd: None, ..owner });
            }
        }
        owners
    }
}

/// A process that holds sockets; None where it has ended.
pub(crate) fn process(pid: u32) -> Option<Arc<Process>> {
    inventory::process(Path::new(PROC), pid).map(Arc::new)
}

/// What an operator knows a process by; None where it has ended.
pub(crate) fn owner_name(pid: u32) -> Option<OwnerName> {
    inventory::process_name(Path::new(PROC), pid).map(|process| OwnerName::of(&process))
}

/// What names a socket here: its cookie, or its inode where there is none.
pub(crate) fn id_of(socket: &Evidence) -> u64 {
    match socket.cookie {
        0 => u64::from(socket.inode) | NO_COOKIE,
        cookie => cookie,
    }
}
