//! How much of the ephemeral ports and `TIME_WAIT` buckets is in use.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::super::walks::Walker;
use super::{ChargedTo, Watch};
use crate::clock::{monotonic, nanoseconds};
use crate::inventory::{Error, Namespace, StateSet};
use crate::tcp::Limits;
use crate::track::phrase::real;
use crate::track::{PortReport, PortTally};

/// Share of the ephemeral range, or of the `TIME_WAIT` buckets, from which ports are looked at; less
/// where a rule warns earlier.
const MANY: f64 = 0.4;

/// Between two looks at the ports of a namespace that has many sockets, and uses few ports.
const LOOK_AT_LEADERS: Duration = Duration::from_secs(30);

impl Watch {
    /// Namespaces that use many ephemeral ports, or many buckets.
    pub(super) fn crowded(&self, known: &[Namespace]) -> Vec<Namespace> {
        let live = self.live.borrow();
        let usual = Limits::default();
        let is_crowded = |namespace: &&Namespace| {
            let limits = self.limits.get(&namespace.inode);
            let limits = limits.map_or(&usual, |(limits, _)| limits);
            let ports = limits.ephemeral_ports.len() as u64;
            let least = ports.min(limits.max_tw_buckets);
            let sockets = live.census.total(namespace.inode);
            let many = MANY.min(self.rules.ports.warning) * real(least);
            is_crowded(sockets, many, || self.pressure.is_raised(namespace.inode))
        };
        known.iter().filter(is_crowded).cloned().collect()
    }

    pub(super) async fn look_at_ports(
        &mut self,
        walker: &Walker,
        namespaces: &[Namespace],
        charged_to: ChargedTo,
    ) -> Result<()> {
        for namespace in namespaces {
            let taken = walker
                .survey(
                    namespace.clone(),
                    StateSet::ALL.plain(),
                    PortTally::new(namespace.inode),
                    PortTally::take,
                )
                .await;
            match taken {
                Ok(survey) => {
                    self.overflows.observe(namespace.inode, &survey.limits);
                    self.pressure
                        .take(monotonic(), survey.found, &survey.limits);
                    self.spend(survey.cost.cpu, charged_to);
                }
                Err(Error::Stopped) => return Err(Error::Stopped.into()),
                Err(error) => tracing::debug!("cannot check its ports: {error}"),
            }
        }
        self.judge_ports(monotonic());
        Ok(())
    }

    /// Holds what is known of the ports to the rules.
    pub(super) fn judge_ports(&mut self, now: Duration) {
        let incidents = self.pressure.incidents(&self.rules.ports, &self.names);
        self.active.update(nanoseconds(now), incidents, |incident| {
            incident.kind.is_of_ports()
        });
        self.ports = Arc::new(self.pressure.report(&self.rules.ports).named(&self.names));
    }

    /// Looks at the ports of one of the namespaces with most sockets, for those who want to see how
    /// much is in use before it is much.
    pub(super) async fn look_at_leaders_ports(
        &mut self,
        walker: &Walker,
        known: &[Namespace],
        now: Duration,
    ) -> Result<()> {
        // A look that fails is one, too.
        let tried = |netns: &u32| {
            self.pressure
                .looked(*netns)
                .max(self.tried.get(netns).copied())
        };
        let is_due = |netns: &&u32| {
            tried(netns).is_none_or(|tried| now.saturating_sub(tried) >= LOOK_AT_LEADERS)
        };
        let due = self
            .leaders
            .iter()
            .filter(is_due)
            .min_by_key(|netns| tried(netns));
        let due = due.and_then(|netns| known.iter().find(|known| known.inode == *netns));
        let (Some(due), true) = (due, self.leaders_budget.allows(now)) else {
            return Ok(());
        };
        self.tried.insert(due.inode, now);
        self.look_at_ports(walker, std::slice::from_ref(due), ChargedTo::LeadersBudget)
            .await
    }

    /// How much of the ports and buckets is in use.
    ///
    /// # Errors
    /// The inventory thread is gone.
    pub(in crate::daemon) async fn ports(
        &mut self,
        walker: &Walker,
        known: &[Namespace],
    ) -> Result<PortReport> {
        self.look_at_ports(walker, known, ChargedTo::Nobody).await?;
        Ok(PortReport::clone(&self.ports))
    }
}

/// Whether a namespace's ports need looks: it has `many` sockets, or a finding that only a look can end,
/// even where no socket is left.
fn is_crowded(sockets: u64, many: f64, is_raised: impl FnOnce() -> bool) -> bool {
    (sockets > 0 && real(sockets) >= many) || is_raised()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_looked_at_until_it_ends() {
        assert!(is_crowded(400, 400.0, || false));
        assert!(!is_crowded(399, 400.0, || false));
        // No port may be chosen, and none is in use.
        assert!(!is_crowded(0, 0.0, || false));
        for sockets in [0, 1, 399] {
            assert!(is_crowded(sockets, 400.0, || true), "{sockets}");
        }
    }
}
