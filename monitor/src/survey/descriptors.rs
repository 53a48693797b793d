//! What a walk of every descriptor tells that no table does: sockets in `CLOSE`, which are in none, and
//! namespaces that sockets alone keep.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::HolderSource;
use crate::inventory::Namespace;
use crate::probe;
use crate::tcp::{Family, Holder, State};

/// Of one walk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Descriptors {
    /// Sockets in `CLOSE`, IPv4 and IPv6, by namespace.
    closed: BTreeMap<u32, [u64; 2]>,
    /// A socket in each namespace: its process and descriptor.
    ways: BTreeMap<u32, (u32, u32)>,
    /// Namespaces with an MPTCP connection.
    mptcp: BTreeSet<u32>,
    seen: HashSet<u64>,
}

impl Descriptors {
    /// None where only /proc could tell, which knows neither.
    ///
    /// # Errors
    /// The kernel does not finish its walk.
    pub(crate) fn read(holder_source: &HolderSource) -> Option<Result<Self, probe::Error>> {
        let HolderSource::Kernel(holders) = holder_source else {
            return None;
        };
        let mut found = Self::default();
        let walked = holders.read(|holder| found.take(&holder));
        found.seen = HashSet::new();
        Some(walked.map(|()| found))
    }

    fn take(&mut self, holder: &Holder) {
        let way = (holder.pid, holder.fd);
        self.ways.entry(holder.netns).or_insert(way);
        if holder.is_mptcp {
            if holder.state != State::Close {
                self.mptcp.insert(holder.netns);
            }
            return;
        }
        if holder.state != State::Close {
            return;
        }
        // Processes may share one.
        if holder.cookie == 0 || self.seen.insert(holder.cookie) {
            let [ipv4, ipv6] = self.closed.entry(holder.netns).or_default();
            match holder.family {
                Some(Family::Ipv6) => *ipv6 += 1,
                _ => *ipv4 += 1,
            }
        }
    }

    /// Sockets in `CLOSE` that some process has open.
    pub(crate) fn closed(&self, netns: u32, family: Family) -> u64 {
        let [ipv4, ipv6] = self.closed.get(&netns).copied().unwrap_or_default();
        match family {
            Family::Ipv4 => ipv4,
            Family::Ipv6 => ipv6,
        }
    }

    /// Whether some process has an MPTCP connection in that namespace open.
    pub(crate) fn has_mptcp(&self, netns: u32) -> bool {
        self.mptcp.contains(&netns)
    }

    /// Whether some process has a socket in that namespace open.
    pub(crate) fn leads_to(&self, netns: u32) -> bool {
        self.ways.contains_key(&netns)
    }

    /// The namespaces that are none of those `known`, each with a way in.
    pub(crate) fn deleted(&self, is_known: impl Fn(u32) -> bool) -> Vec<Namespace> {
        let unknown = self.ways.iter().filter(|(netns, _)| !is_known(**netns));
        unknown
            .map(|(netns, (pid, fd))| Namespace::of_socket(*netns, *pid, *fd))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_socket_in_close_counts_once_and_every_namespace_has_a_way_in() {
        let holder = |cookie, pid, netns, state| Holder {
            cookie,
            pid,
            fd: 3,
            netns,
            state,
            family: Some(Family::Ipv6),
            is_mptcp: false,
        };
        let mut found = Descriptors::default();
        for holder in [
            holder(1, 10, 1, State::Close),
            holder(1, 11, 1, State::Close),
            holder(2, 11, 1, State::Close),
            holder(3, 12, 2, State::Established),
            holder(4, 13, 2, State::CloseWait),
            Holder {
                is_mptcp: true,
                ..holder(5, 13, 2, State::Close)
            },
        ] {
            found.take(&holder);
        }
        assert_eq!(found.closed(1, Family::Ipv6), 2);
        assert_eq!(found.closed(1, Family::Ipv4), 0);
        assert_eq!(found.closed(2, Family::Ipv6), 0);
        assert!(!found.has_mptcp(2));
        found.take(&Holder {
            is_mptcp: true,
            ..holder(6, 13, 2, State::CloseWait)
        });
        assert!(found.has_mptcp(2) && !found.has_mptcp(1));
        let deleted = found.deleted(|netns| netns == 1);
        assert_eq!(deleted, [Namespace::of_socket(2, 12, 3)]);
        assert!(deleted[0].is_deleted());
    }
}
