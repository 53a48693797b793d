//! Who holds the sockets of a scene.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::Scene;
use crate::inventory;
use crate::probe::{self, Holders};
use crate::tcp::{Evidence, Holder, Process, State};
use crate::track::OwnerName;
use crate::track::stuck::Owner;

const PROC: &str = "/proc";
/// Marks the name of a socket that is its inode number: /proc/net tells no cookie.
const NO_COOKIE: u64 = 1 << 63;

/// Inode, namespace and state of sockets, by [`id_of`].
pub(crate) type Wanted = HashMap<u64, (u32, u32, State)>;

/// The way to see who holds what.
#[derive(Clone)]
pub(crate) enum Eyes {
    /// The kernel's own walk of every descriptor.
    Kernel(Arc<Holders>),
    /// Links in /proc, and why not the other.
    Proc { reason: String },
}

impl Eyes {
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

    /// Every holder of each of these sockets.
    pub(crate) fn look(&self, wanted: &Wanted) -> Vec<Holder> {
        let mut holders = Vec::new();
        let mut is_seen: fn(u64) -> bool = |_| false;
        if let Self::Kernel(kernel) = self {
            match kernel_look(kernel, wanted) {
                Ok(found) => {
                    holders = found;
                    is_seen = |id| id & NO_COOKIE == 0;
                }
                Err(error) => tracing::debug!("owners from /proc: {error}"),
            }
        }
        let unseen = wanted.iter().filter(|(id, _)| !is_seen(**id));
        let inodes: HashMap<u32, (u64, u32, State)> = unseen
            .map(|(id, (inode, netns, state))| (*inode, (*id, *netns, *state)))
            .collect();
        if !inodes.is_empty() {
            holders.extend(inventory::fallback_holders(Path::new(PROC), &inodes));
        }
        holders
    }
}

/// Holders by the kernel's walk, of all that have a cookie.
fn kernel_look(kernel: &Holders, wanted: &Wanted) -> Result<Vec<Holder>, probe::Error> {
    let mut holders = Vec::new();
    let mut of_mptcp = Vec::new();
    kernel.read(|holder| {
        if wanted.contains_key(&holder.cookie) {
            holders.push(holder);
        } else if holder.is_mptcp {
            of_mptcp.push(holder);
        }
    })?;
    if of_mptcp.is_empty() {
        return Ok(holders);
    }
    let found: HashSet<u64> = holders.iter().map(|holder| holder.cookie).collect();
    let mut subflows: HashMap<u32, Vec<(u64, State)>> = HashMap::new();
    for (id, (inode, _, state)) in wanted.iter().filter(|(id, _)| !found.contains(id)) {
        subflows.entry(*inode).or_default().push((*id, *state));
    }
    for holder in of_mptcp {
        let inode = inventory::socket_inode(Path::new(PROC), holder.pid, holder.fd);
        let below = inode.and_then(|inode| subflows.get(&inode));
        holders.extend(below.into_iter().flatten().map(|(cookie, state)| Holder {
            cookie: *cookie,
            state: *state,
            ..holder
        }));
    }
    Ok(holders)
}

/// The holders of some sockets, and the processes behind them.
#[derive(Debug, Default)]
pub(crate) struct People {
    /// In order.
    holders: Vec<Holder>,
    processes: HashMap<u32, Arc<Process>>,
}

impl People {
    /// Looks for the holders of the scene's sockets, and of the listeners they wait at.
    pub(crate) fn of(scene: &Scene, eyes: &Eyes) -> Self {
        let mut wanted = Wanted::new();
        for socket in &scene.sockets {
            for socket in scene.waits_at(socket).chain([socket]) {
                if socket.inode != 0 {
                    let place = (socket.inode, socket.netns, socket.state);
                    wanted.insert(id_of(socket), place);
                }
            }
        }
        if wanted.is_empty() {
            return Self::default();
        }
        Self::new(eyes.look(&wanted))
    }

    fn new(mut holders: Vec<Holder>) -> Self {
        holders.sort_unstable();
        // A rare cookie has the mark of a socket without one, and is looked for in both ways.
        holders.dedup();
        let pids: HashSet<u32> = holders.iter().map(|holder| holder.pid).collect();
        let known = pids
            .into_iter()
            .filter_map(|pid| Some((pid, process(pid)?)));
        Self {
            processes: known.collect(),
            holders,
        }
    }

    /// Every holder of a socket. One whose process has ended since is no longer one.
    pub(crate) fn owners(&self, socket: &Evidence) -> Vec<Owner> {
        if socket.inode == 0 {
            return Vec::new();
        }
        let id = id_of(socket);
        let start = self.holders.partition_point(|holder| holder.cookie < id);
        let holders = self.holders.get(start..).unwrap_or_default();
        holders
            .iter()
            .take_while(|holder| holder.cookie == id)
            .filter_map(|holder| {
                Some(Owner {
                    process: Arc::clone(self.processes.get(&holder.pid)?),
                    fd: Some(holder.fd),
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
