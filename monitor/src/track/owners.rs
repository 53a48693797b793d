//! Who holds most sockets, by the name that an operator knows an owner by.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::{OwnerName, Owners, TOP};
use crate::tcp::{Counts, Holder, Process, State};

/// Processes that are told by name: those with most sockets. Each takes some reading in /proc.
const MOST_NAMED: usize = 512;

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

impl Owners {
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
        holders.sort_unstable();
        // Two descriptors of one process are still one socket.
        holders.dedup_by(|a, b| a.cookie != 0 && (a.cookie, a.pid) == (b.cookie, b.pid));
        let (owners, owner_of) = named(&holders, name);
        let mut sums = vec![Counts::default(); owners.len()];
        let (mut other, mut held) = (Counts::default(), Counts::default());
        let mut places: Vec<Option<usize>> = Vec::new();
        for socket in holders.chunk_by(|a, b| a.cookie != 0 && a.cookie == b.cookie) {
            let Some(first) = socket.first() else {
                continue;
            };
            held.add(first.state, 1);
            places.clear();
            places.extend(
                socket
                    .iter()
                    .map(|holder| owner_of.get(&holder.pid).copied()),
            );
            places.sort_unstable();
            places.dedup();
            for place in &places {
                let sum = place.and_then(|place| sums.get_mut(place));
                sum.unwrap_or(&mut other).add(first.state, 1);
            }
        }
        let mut leaders: Vec<(OwnerName, Counts)> = owners.into_iter().zip(sums).collect();
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

/// The owners that are told by name, and the place of each named process's among them.
fn named(
    holders: &[Holder],
    mut name: impl FnMut(u32) -> Option<OwnerName>,
) -> (Vec<OwnerName>, HashMap<u32, usize>) {
    let mut sockets: HashMap<u32, u64> = HashMap::new();
    for holder in holders {
        *sockets.entry(holder.pid).or_default() += 1;
    }
    let mut most_first: Vec<(u64, u32)> = sockets.into_iter().map(|(pid, n)| (n, pid)).collect();
    most_first.sort_unstable_by(|a, b| b.cmp(a));
    let mut owner_of = HashMap::new();
    let mut places: BTreeMap<OwnerName, usize> = BTreeMap::new();
    for (_, pid) in most_first.into_iter().take(MOST_NAMED) {
        if let Some(owner) = name(pid) {
            let next = places.len();
            owner_of.insert(pid, *places.entry(owner).or_insert(next));
        }
    }
    let mut owners: Vec<(usize, OwnerName)> = places.into_iter().map(|(a, b)| (b, a)).collect();
    owners.sort_unstable();
    (
        owners.into_iter().map(|(_, owner)| owner).collect(),
        owner_of,
    )
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
        let owners = Owners::add_up(Duration::from_secs(9), holders, &all, name);
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
        let owners = Owners::add_up(
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
        let owners = Owners::add_up(Duration::ZERO, holders, &all, |pid| {
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
