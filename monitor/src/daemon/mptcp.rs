//! Lists the MPTCP connections of the namespaces that have any. That looks through the kernel's whole
//! table of them, some milliseconds each, so it is done nowhere else.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::walks::Walker;
use crate::clock::{monotonic, nanoseconds};
use crate::inventory::{Error, Namespace};
use crate::survey::Descriptors;
use crate::tcp::{Counts, Evidence, State};
use crate::track::{Budget, Mptcp};

#[derive(Debug)]
pub(super) struct MptcpWatch {
    budget: Budget,
    spent: Duration,
    known: BTreeMap<u32, Mptcp>,
    /// The kernel lists none, or the namespaces with some are not known.
    is_blind: bool,
}

impl MptcpWatch {
    /// `walk_share` of one CPU, 0 to 1.
    pub(super) fn new(walk_share: f64) -> Self {
        Self {
            budget: Budget::new(walk_share, monotonic()),
            spent: Duration::ZERO,
            known: BTreeMap::new(),
            is_blind: true,
        }
    }

    /// CPU time of all looks so far.
    pub(super) const fn spent(&self) -> Duration {
        self.spent
    }

    /// Looks again if the budget allows, or somebody waits.
    ///
    /// # Errors
    /// The inventory thread is gone.
    pub(super) async fn refresh(
        &mut self,
        walker: &Walker,
        namespaces: &[Namespace],
        descriptors: Option<&Descriptors>,
        is_asked: bool,
    ) -> Result<()> {
        let Some(descriptors) = descriptors else {
            self.is_blind = true;
            self.known.clear();
            return Ok(());
        };
        // A connection that was closed may live on without a descriptor.
        let has_some = |netns: u32| {
            let listed = self.known.get(&netns);
            descriptors.has_mptcp(netns) || listed.is_some_and(|last| last.counts().total() > 0)
        };
        let due = namespaces.iter().filter(|known| has_some(known.inode));
        let due: Vec<Namespace> = due.cloned().collect();
        self.known
            .retain(|netns, _| due.iter().any(|due| due.inode == *netns));
        self.is_blind &= !due.is_empty();
        if due.is_empty() || !(self.budget.allows(monotonic()) || is_asked) {
            return Ok(());
        }
        let (listed, cost) = walker.mptcp(due).await?;
        self.spent += cost;
        self.budget.spend(cost);
        let now_ns = nanoseconds(monotonic());
        for (netns, outcome) in listed {
            match outcome {
                Ok(Some(listed)) => self.known.entry(netns).or_default().take(listed, now_ns),
                Ok(None) => self.is_blind = true,
                Err(Error::Stopped) => return Err(Error::Stopped.into()),
                Err(error) => {
                    tracing::debug!(netns, "cannot list MPTCP connections: {error}");
                    self.known.remove(&netns);
                }
            }
        }
        Ok(())
    }

    pub(super) fn counts(&self, netns: u32) -> Counts {
        if self.is_blind {
            return Counts::unknown();
        }
        let known = self.known.get(&netns);
        known.map(|known| *known.counts()).unwrap_or_default()
    }

    /// Those of a namespace that should soon leave their state.
    pub(super) fn lingering(&self, netns: u32) -> &[Evidence] {
        self.known.get(&netns).map_or(&[], Mptcp::lingering)
    }

    /// Namespaces with such a connection.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = u32> {
        let lingers = self
            .known
            .iter()
            .filter(|(_, known)| !known.lingering().is_empty());
        lingers.map(|(netns, _)| *netns)
    }

    /// Since when a connection is in that state, at the latest; None where it is not.
    pub(super) fn since(&self, netns: u32, cookie: u64, state: State) -> Option<u64> {
        self.known.get(&netns)?.since(cookie, state)
    }
}
