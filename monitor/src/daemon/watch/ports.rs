//! How much of the ephemeral ports and `TIME_WAIT` buckets is in use.

use anyhow::Result;

use super::super::live::{monotonic, nanoseconds};
use super::super::walks::Walker;
use super::{Pays, Watch};
use crate::inventory::{Error, Namespace, StateSet};
use crate::tcp::{Limits, State};
use crate::track::phrase::real;
use crate::track::{PortReport, PortTally};

/// Share of the ephemeral range, or of the `TIME_WAIT` buckets, from which ports are looked at; less
/// where a rule warns earlier.
const MANY: f64 = 0.4;

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
            let many = MANY.min(self.rules.ports.warning);
            let is_raised = || self.pressure.is_raised(namespace.inode);
            sockets > 0 && (real(sockets) >= many * real(least) || is_raised())
        };
        known.iter().filter(is_crowded).cloned().collect()
    }

    pub(super) async fn look_at_ports(
        &mut self,
        walker: &Walker,
        namespaces: &[Namespace],
        pays: Pays,
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
                    self.pressure
                        .take(monotonic(), survey.found, &survey.limits);
                    if pays == Pays::Budget {
                        self.budget.spend(survey.cost.cpu);
                    }
                }
                Err(Error::Stopped) => return Err(Error::Stopped.into()),
                Err(error) => tracing::debug!("cannot survey its ports: {error}"),
            }
        }
        let findings = self.pressure.findings(&self.rules.ports, monotonic());
        self.board
            .update_with(nanoseconds(monotonic()), &findings, |finding| {
                finding.state == State::TimeWait
            });
        Ok(())
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
        self.look_at_ports(walker, known, Pays::Nobody).await?;
        Ok(self.pressure.report())
    }
}
