//! Who has how many sockets in which state: each process, unit or container, and those that have most.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::TOP;
use crate::tcp::{Counts, Holder, OwnerKind, Process, State};

/// Processes that are told by name: those with most sockets. Each takes some reading in /proc.
const MOST_NAMED: usize = 512;

/// The sockets of one owner. A socket that several processes share counts for each of them, and
/// once for a unit or a container.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OwnedSockets {
    pub(crate) owner: SocketOwner,
    pub(crate) sockets: Counts,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SocketOwner {
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
pub(crate) fn owned_sockets(
    kind: OwnerKind,
    mut holders: Vec<Holder>,
    sockets: impl Iterator<Item = (u64, State)>,
    mut process: impl FnMut(u32) -> Option<Arc<Process>>,
) -> Vec<OwnedSockets> {
    drop_repeated(&mut holders);
    let mut processes: BTreeMap<u32, Option<Arc<Process>>> = BTreeMap::new();
    for holder in &holders {
        let pid = holder.pid;
        processes.entry(pid).or_insert_with(|| process(pid));
    }
    let of = |holder: &Holder| processes.get(&holder.pid)?.as_ref();
    let mut owners = match kind {
        OwnerKind::Process => rows(sum_by(&holders, |holder| holder.pid), |pid| {
            Some(SocketOwner::Process(processes.get(&pid)?.clone()?))
        }),
        OwnerKind::Unit => rows(
            sum_by(&holders, |holder| of(holder)?.unit.as_ref()),
            |name| Some(SocketOwner::Unit(name.cloned())),
        ),
        OwnerKind::Container => rows(
            sum_by(&holders, |holder| of(holder)?.container.as_ref()),
            |name| Some(SocketOwner::Container(name.cloned())),
        ),
    };
    let nobody = unheld(holders.iter().map(|holder| holder.cookie), sockets);
    if nobody.total() > 0 {
        owners.push(OwnedSockets {
            owner: SocketOwner::Nobody,
            sockets: nobody,
        });
    }
    owners
}

fn rows<K>(
    sums: BTreeMap<K, Counts>,
    owner: impl Fn(K) -> Option<SocketOwner>,
) -> Vec<OwnedSockets> {
    let rows = sums.into_iter().filter_map(|(key, sockets)| {
        let owner = owner(key)?;
        Some(OwnedSockets { owner, sockets })
    });
    rows.collect()
}

/// Two descriptors of one process are still one socket.
fn drop_repeated(holders: &mut Vec<Holder>) {
    holders.sort_unstable();
    holders.dedup_by(|a, b| a.cookie != 0 && (a.cookie, a.pid) == (b.cookie, b.pid));
}

/// Holders by socket; one without a cookie is a socket of its own.
fn by_socket(holders: &[Holder]) -> impl Iterator<Item = &[Holder]> {
    holders.chunk_by(|a, b| a.cookie != 0 && a.cookie == b.cookie)
}

/// The sockets of each owner. One counts once for each owner.
fn sum_by<'a, K: Ord>(
    holders: &'a [Holder],
    owner_of: impl Fn(&'a Holder) -> K,
) -> BTreeMap<K, Counts> {
    let mut sums: BTreeMap<K, Counts> = BTreeMap::new();
    for socket in by_socket(holders) {
        let mut owners: Vec<K> = socket.iter().map(&owner_of).collect();
        owners.sort_unstable();
        owners.dedup();
        // All see one state, but for one that changes meanwhile.
        let state = socket.first().map_or(State::Close, |holder| holder.state);
        for owner in owners {
            sums.entry(owner).or_default().add(state, 1);
        }
    }
    sums
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

/// Who holds most sockets, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct TopOwners {
    /// `CLOCK_MONOTONIC`; None before the first look, and where the last one failed.
    pub(crate) taken: Option<Duration>,
    /// [`TOP`] at most, those with most first.
    pub(crate) leaders: Vec<(OwnerName, Counts)>,
    /// All other owners together.
    pub(crate) other: Counts,
    /// What no process holds.
    pub(crate) nobody: Counts,
}

/// An owner as it is told: another's choice of text, to be escaped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum OwnerName {
    /// systemd unit.
    Unit(String),
    /// Container id, in full.
    Container(String),
    /// Command name.
    Process(String),
}

impl OwnerName {
    /// Its container where it is in one, else its unit, else its own name.
    pub(crate) fn of(process: &Process) -> Self {
        match (&process.container, &process.unit) {
            (Some(container), _) => Self::Container(container.clone()),
            (None, Some(unit)) => Self::Unit(unit.clone()),
            (None, None) => Self::Process(process.comm.clone()),
        }
    }
}

impl TopOwners {
    /// Adds up every socket that somebody holds, once for each owner. `all` are the sockets of the host,
    /// held or not; `name` has none for a process that has ended.
    ///
    /// A holder without a cookie is a socket of its own. An MPTCP connection stands for its subflows, of
    /// which there is one as a rule.
    pub(crate) fn add_up(
        taken: Duration,
        mut holders: Vec<Holder>,
        all: &Counts,
        name: impl FnMut(u32) -> Option<OwnerName>,
    ) -> Self {
        // One that was never connected has no subflow to stand for.
        holders.retain(|holder| !(holder.is_mptcp && holder.state == State::Close));
        drop_repeated(&mut holders);
        let names = names(&holders, name);
        let mut held = Counts::default();
        for holder in by_socket(&holders).filter_map(<[Holder]>::first) {
            held.add(holder.state, 1);
        }
        let mut sums = sum_by(&holders, |holder| names.get(&holder.pid));
        let mut other = sums.remove(&None).unwrap_or_default();
        let mut leaders: Vec<(OwnerName, Counts)> = sums
            .into_iter()
            .filter_map(|(name, sockets)| Some((name?.clone(), sockets)))
            .collect();
        leaders.sort_by(|a, b| (b.1.total(), &a.0).cmp(&(a.1.total(), &b.0)));
        for (_, counts) in leaders.drain(TOP.min(leaders.len())..) {
            other += counts;
        }
        let mut nobody = Counts::default();
        for (state, sockets) in all.iter() {
            match sockets {
                // Only descriptors tell of these.
                Some(_) if state == State::Close => {}
                Some(sockets) => nobody.set(state, sockets.saturating_sub(held.get(state))),
                None => {
                    let known = leaders.iter_mut().map(|(_, counts)| counts);
                    for counts in known.chain([&mut other, &mut nobody]) {
                        counts.set_unknown(state);
                    }
                }
            }
        }
        Self {
            taken: Some(taken),
            leaders,
            other,
            nobody,
        }
    }
}

/// What the processes with most sockets are told by.
fn names(
    holders: &[Holder],
    mut name: impl FnMut(u32) -> Option<OwnerName>,
) -> HashMap<u32, OwnerName> {
    let mut sockets: HashMap<u32, u64> = HashMap::new();
    for holder in holders {
        *sockets.entry(holder.pid).or_default() += 1;
    }
    let mut most_first: Vec<(u64, u32)> = sockets.into_iter().map(|(pid, n)| (n, pid)).collect();
    most_first.sort_unstable_by(|a, b| b.cmp(a));
    let most = most_first.into_iter().take(MOST_NAMED);
    most.filter_map(|(_, pid)| Some((pid, name(pid)?)))
        .collect()
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

    fn shown(kind: OwnerKind) -> Vec<(String, u64)> {
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
        owned_sockets(kind, holders, sockets.into_iter(), process)
            .into_iter()
            .map(|owned| {
                let name = match owned.owner {
                    SocketOwner::Process(process) => process.pid.to_string(),
                    SocketOwner::Unit(name) | SocketOwner::Container(name) => {
                        name.unwrap_or_else(|| "none".to_owned())
                    }
                    SocketOwner::Nobody => "nobody".to_owned(),
                };
                (name, owned.sockets.total())
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
        assert_eq!(shown(OwnerKind::Process), processes);
        let units = named(&[("none", 2), ("web.service", 2), ("nobody", 3)]);
        assert_eq!(shown(OwnerKind::Unit), units);
        assert_eq!(
            shown(OwnerKind::Container),
            named(&[("none", 4), ("nobody", 3)])
        );
    }

    fn unit(name: &str) -> OwnerName {
        OwnerName::Unit(name.to_owned())
    }

    fn counts(states: &[(State, u64)]) -> Counts {
        let mut counts = Counts::default();
        for (state, sockets) in states {
            counts.add(*state, *sockets);
        }
        counts
    }

    #[test]
    fn a_shared_socket_counts_once_for_each_owner() {
        let (wait, listen) = (State::CloseWait, State::Listen);
        let holders = vec![
            // Three workers of one unit, one of them twice, and a stranger.
            holder(1, 10, 3, listen),
            holder(1, 10, 4, listen),
            holder(1, 11, 3, listen),
            holder(1, 12, 3, listen),
            holder(1, 20, 9, listen),
            holder(2, 11, 5, wait),
            // It has ended.
            holder(3, 99, 3, wait),
            // Without cookies.
            holder(0, 20, 7, State::Established),
            holder(0, 20, 8, State::Established),
            // Fresh from socket().
            holder(5, 20, 6, State::Close),
            Holder {
                is_mptcp: true,
                ..holder(7, 20, 10, State::Close)
            },
        ];
        let all = counts(&[
            (listen, 1),
            (wait, 2),
            (State::Established, 1),
            (State::TimeWait, 7),
        ]);
        let name = |pid: u32| match pid {
            10..=12 => Some(unit("web.service")),
            20 => Some(OwnerName::Process("x".to_owned())),
            _ => None,
        };
        let owners = TopOwners::add_up(Duration::from_secs(9), holders, &all, name);
        assert_eq!(owners.taken, Some(Duration::from_secs(9)));
        let expected = [
            (
                OwnerName::Process("x".to_owned()),
                counts(&[(listen, 1), (State::Established, 2), (State::Close, 1)]),
            ),
            (unit("web.service"), counts(&[(listen, 1), (wait, 1)])),
        ];
        assert_eq!(owners.leaders, expected);
        assert_eq!(owners.other, counts(&[(wait, 1)]));
        // Never below zero.
        assert_eq!(owners.nobody, counts(&[(State::TimeWait, 7)]));
    }

    #[test]
    fn what_nobody_could_count_is_unknown_of_every_owner() {
        let mut all = counts(&[(State::Listen, 3)]);
        all.set_unknown(State::Close);
        let name = |_| Some(unit("x"));
        let owners = TopOwners::add_up(
            Duration::ZERO,
            vec![holder(1, 1, 3, State::Listen)],
            &all,
            name,
        );
        let (_, of_unit) = owners.leaders[0];
        for counts in [of_unit, owners.other, owners.nobody] {
            assert_eq!(counts.known(State::Close), None);
        }
        assert_eq!((of_unit.total(), owners.nobody.total()), (1, 2));
    }

    #[test]
    fn ten_thousand_processes_are_ten_leaders_and_the_rest() {
        let state = State::Established;
        let mut holders = Vec::new();
        for pid in 0..10_000 {
            // The last have most: up to 3 sockets each.
            let sockets = 1 + pid / 4_000;
            holders
                .extend((0..sockets).map(|fd| holder(u64::from(pid * 4 + fd + 1), pid, fd, state)));
        }
        let held = holders.len() as u64;
        let all = counts(&[(state, held + 5)]);
        let mut asked = 0;
        let owners = TopOwners::add_up(Duration::ZERO, holders, &all, |pid| {
            asked += 1;
            Some(unit(&pid.to_string()))
        });
        assert_eq!((asked, owners.leaders.len()), (MOST_NAMED, TOP));
        assert!(owners.leaders.iter().all(|(_, counts)| counts.total() == 3));
        let led: u64 = owners
            .leaders
            .iter()
            .map(|(_, counts)| counts.total())
            .sum();
        assert_eq!(led + owners.other.total(), held);
        assert_eq!(owners.nobody, counts(&[(state, 5)]));
    }

    #[test]
    fn a_container_says_more_than_a_unit_and_that_more_than_a_name() {
        let mut process = Process {
            comm: "nginx".to_owned(),
            ..Process::default()
        };
        assert_eq!(
            OwnerName::of(&process),
            OwnerName::Process("nginx".to_owned())
        );
        process.unit = Some("docker.service".to_owned());
        assert_eq!(OwnerName::of(&process), unit("docker.service"));
        process.container = Some("ab12".to_owned());
        assert_eq!(
            OwnerName::of(&process),
            OwnerName::Container("ab12".to_owned())
        );
    }
}
