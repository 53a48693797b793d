//! Walks every descriptor of the host from time to time: for sockets in `CLOSE`, and for namespaces that
//! sockets alone keep.

use std::time::Duration;

use super::lookers::Looker;
use crate::clock::monotonic;
use crate::inventory::Meter;
use crate::survey::{Descriptors, HolderSource};
use crate::track::Budget;

/// Between two walks, if the budget allows.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Somebody who waits has a walk unless the last one is as young as this, or took a twentieth of the time
/// since.
const YOUNG: Duration = Duration::from_millis(200);
const SHARE_ASKED: u32 = 20;
/// What is older is no figure any more.
const TOO_OLD: Duration = Duration::from_mins(1);

pub(super) struct DescriptorWatch {
    holder_source: HolderSource,
    looker: Looker,
    budget: Budget,
    spent: Duration,
    /// CPU time of the last walk.
    cost: Duration,
    /// When the last walk began.
    begun: Option<Duration>,
    latest: Option<Descriptors>,
    has_failed: bool,
}

impl DescriptorWatch {
    /// `walk_share` of one CPU, 0 to 1.
    pub(super) fn new(holder_source: HolderSource, looker: Looker, walk_share: f64) -> Self {
        Self {
            holder_source,
            looker,
            budget: Budget::new(walk_share, monotonic()),
            spent: Duration::ZERO,
            cost: Duration::ZERO,
            begun: None,
            latest: None,
            has_failed: false,
        }
    }

    /// What the last walk found; None where there can be none, or none was possible for long.
    pub(super) fn latest(&self) -> Option<&Descriptors> {
        let age = self.age(monotonic());
        self.latest.as_ref().filter(|_| age < TOO_OLD)
    }

    /// CPU time of all walks so far.
    pub(super) const fn spent(&self) -> Duration {
        self.spent
    }

    /// Walks if that is due; for somebody who waits sooner.
    pub(super) async fn refresh(&mut self, is_asked: bool) {
        let now = monotonic();
        let is_due = self.age(now) >= LOOK_EVERY && self.budget.allows(now);
        if is_due || is_asked && self.age(now) >= YOUNG.max(self.cost * SHARE_ASKED) {
            self.walk(now).await;
        }
    }

    /// Walks because the last walk does not tell enough.
    pub(super) async fn renew(&mut self) {
        let now = monotonic();
        if self.age(now) >= self.cost * SHARE_ASKED {
            self.walk(now).await;
        }
    }

    fn age(&self, now: Duration) -> Duration {
        let age = self.begun.map(|begun| now.saturating_sub(begun));
        age.unwrap_or(Duration::MAX)
    }

    async fn walk(&mut self, now: Duration) {
        if !matches!(self.holder_source, HolderSource::Kernel(_)) {
            return;
        }
        self.begun = Some(now);
        let holder_source = self.holder_source.clone();
        let walk = self.looker.start(move || {
            let meter = Meter::start();
            let found = Descriptors::read(&holder_source);
            (found, meter.stop().cpu)
        });
        let (found, cpu) = match walk.await {
            Ok((Some(Ok(found)), cpu)) => (Ok(found), cpu),
            Ok((Some(Err(error)), cpu)) => (Err(error.to_string()), cpu),
            Ok((None, cpu)) => (Err("the kernel has no iterator".to_owned()), cpu),
            Err(error) => (Err(error.to_string()), Duration::ZERO),
        };
        self.spent += cpu;
        self.cost = cpu;
        self.budget.spend(cpu);
        if let Err(error) = &found
            && !self.has_failed
        {
            tracing::warn!("cannot count sockets in CLOSE: {error}");
        }
        self.has_failed = found.is_err();
        self.latest = found.ok();
    }
}
