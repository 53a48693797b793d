//! Who holds how many sockets in which state.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::tcp::{Counts, Holder, Process, State};

/// What sockets are added up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grouping {
    Process,
    Unit,
    Container,
}

/// The sockets of one owner. A socket that several processes share counts for each of them, and
/// once for a unit or a container.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Holding {
    pub(crate) owner: Holdership,
    pub(crate) sockets: Counts,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Holdership {
    Process(Arc<Process>),
    /// A systemd unit; None for processes in none.
    Unit(Option<String>),
    /// A container by its id, likewise.
    Container(Option<String>),
    /// No process has them open: minisockets, half-open requests, orphans, and connections that
    /// nobody has accepted yet.
    Nobody,
}

/// Adds up the sockets of each owner. `sockets` are all there are, by cookie, in the order of their
/// cookies; those that nobody holds are added up last.
pub(crate) fn holdings(
    grouping: Grouping,
    mut holders: Vec<Holder>,
    sockets: impl Iterator<Item = (u64, State)>,
    mut process: impl FnMut(u32) -> Option<Arc<Process>>,
) -> Vec<Holding> {
    holders.sort_unstable();
    // Two descriptors of one process are still one socket.
    holders.dedup_by_key(|holder| (holder.cookie, holder.pid));
    let mut processes: BTreeMap<u32, Option<Arc<Process>>> = BTreeMap::new();
    for holder in &holders {
        let pid = holder.pid;
        processes.entry(pid).or_insert_with(|| process(pid));
    }
    let known = |holder: &Holder| processes.get(&holder.pid).cloned().flatten();
    let mut found: Vec<Holding> = match grouping {
        Grouping::Process => {
            let mut counts: BTreeMap<u32, Counts> = BTreeMap::new();
            for holder in &holders {
                counts.entry(holder.pid).or_default().add(holder.state, 1);
            }
            let held = counts.into_iter().filter_map(|(pid, sockets)| {
                let process = processes.get(&pid)?.clone()?;
                let owner = Holdership::Process(process);
                Some(Holding { owner, sockets })
            });
            held.collect()
        }
        Grouping::Unit => by_name(&holders, Holdership::Unit, |holder| {
            known(holder)?.unit.clone()
        }),
        Grouping::Container => by_name(&holders, Holdership::Container, |holder| {
            known(holder)?.container.clone()
        }),
    };
    let held = holders.iter().map(|holder| holder.cookie);
    let nobody = unheld(held, sockets);
    if nobody.total() > 0 {
        found.push(Holding {
            owner: Holdership::Nobody,
            sockets: nobody,
        });
    }
    found
}

/// Each socket once for each name: `holders` are in the order of their cookies.
fn by_name(
    holders: &[Holder],
    owner: fn(Option<String>) -> Holdership,
    name: impl Fn(&Holder) -> Option<String>,
) -> Vec<Holding> {
    let mut counts: BTreeMap<Option<String>, Counts> = BTreeMap::new();
    for socket in holders.chunk_by(|a, b| a.cookie == b.cookie) {
        let mut names: Vec<Option<String>> = socket.iter().map(&name).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let state = socket.first().map(|holder| holder.state);
            counts
                .entry(name)
                .or_default()
                .add(state.unwrap_or(State::Close), 1);
        }
    }
    let held = counts.into_iter().map(|(name, sockets)| Holding {
        owner: owner(name),
        sockets,
    });
    held.collect()
}

/// The sockets that are not among `held`; both in the order of their cookies.
fn unheld(held: impl Iterator<Item = u64>, sockets: impl Iterator<Item = (u64, State)>) -> Counts {
    let mut held = held.peekable();
    let mut counts = Counts::default();
    for (cookie, state) in sockets {
        while held.next_if(|next| *next < cookie).is_some() {}
        if held.peek() != Some(&cookie) || is_never_held(state) {
            counts.add(state, 1);
        }
    }
    counts
}

/// A minisocket can share its cookie with a socket that was connected anew and is held.
const fn is_never_held(state: State) -> bool {
    matches!(state, State::TimeWait | State::NewSynRecv)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(cookie: u64, pid: u32, fd: u32, state: State) -> Holder {
        Holder {
            cookie,
            pid,
            fd,
            netns: 1,
            state,
            family: None,
            is_mptcp: false,
        }
    }

    fn process(pid: u32) -> Option<Arc<Process>> {
        let unit = (pid < 20).then(|| "web.service".to_owned());
        (pid != 99).then(|| {
            Arc::new(Process {
                pid,
                unit,
                ..Process::default()
            })
        })
    }

    fn shown(grouping: Grouping) -> Vec<(String, u64)> {
        let wait = State::CloseWait;
        let holders = vec![
            holder(5, 10, 4, wait),
            // Shared after fork, and twice in the first.
            holder(1, 10, 3, wait),
            holder(1, 10, 7, wait),
            holder(1, 11, 3, wait),
            holder(2, 30, 3, State::Listen),
            // Its process has ended.
            holder(6, 99, 3, wait),
        ];
        let sockets = [
            (1, wait),
            (2, State::Listen),
            (3, State::TimeWait),
            (4, State::LastAck),
            (5, State::TimeWait),
            (5, wait),
            (6, wait),
        ];
        holdings(grouping, holders, sockets.into_iter(), process)
            .into_iter()
            .map(|holding| {
                let name = match holding.owner {
                    Holdership::Process(process) => process.pid.to_string(),
                    Holdership::Unit(name) | Holdership::Container(name) => {
                        name.unwrap_or_else(|| "none".to_owned())
                    }
                    Holdership::Nobody => "nobody".to_owned(),
                };
                (name, holding.sockets.total())
            })
            .collect()
    }

    fn named(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
        let owned = expected.iter().map(|(name, n)| ((*name).to_owned(), *n));
        owned.collect()
    }

    #[test]
    fn a_shared_socket_counts_for_each_process_and_once_for_a_unit() {
        let processes = named(&[("10", 2), ("11", 1), ("30", 1), ("nobody", 3)]);
        assert_eq!(shown(Grouping::Process), processes);
        let units = named(&[("none", 2), ("web.service", 2), ("nobody", 3)]);
        assert_eq!(shown(Grouping::Unit), units);
        assert_eq!(
            shown(Grouping::Container),
            named(&[("none", 4), ("nobody", 3)])
        );
    }
}
