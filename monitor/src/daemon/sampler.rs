//! Takes the sample that is published.

use std::cell::RefCell;
use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use super::live::Live;
use super::owners::OwnerWatch;
use super::reconcile::SAMPLE_EVERY;
use super::watch::Watch;
use crate::clock::{monotonic, realtime_minus_monotonic_ns};
use crate::inventory::own;
use crate::publish::Publisher;
use crate::tcp::{Family, State};
use crate::track::{Cost, Oldest, Sample, Summary};

#[derive(Debug)]
pub(super) struct Sampler {
    ring_bytes: u64,
    /// When this process started, since the epoch, by the clock of that time.
    started: Duration,
    latest: Option<Sample>,
    oldest: Oldest,
}

impl Sampler {
    pub(super) fn new(ring_bytes: u32) -> Self {
        Self {
            ring_bytes: ring_bytes.into(),
            started: own().started,
            latest: None,
            oldest: Oldest::default(),
        }
    }

    /// Publishes while a round or an answer takes long: what the stream tells is new, the rest is as it
    /// was last.
    pub(super) async fn keep_fresh(
        sampler: &RefCell<Self>,
        live: &RefCell<Live>,
        publisher: &Publisher,
    ) -> Infallible {
        loop {
            sleep(SAMPLE_EVERY).await;
            let sample = sampler.borrow_mut().refresh(&mut live.borrow_mut());
            if let Some(sample) = sample {
                publisher.publish(sample);
            }
        }
    }

    fn refresh(&mut self, live: &mut Live) -> Option<Sample> {
        let mut sample = self.latest.take()?;
        live.read_totals();
        for namespace in &mut sample.summary.namespaces {
            for (counts, family) in [
                (&mut namespace.ipv4, Family::Ipv4),
                (&mut namespace.ipv6, Family::Ipv6),
            ] {
                let mut fresh = live.census.counts(namespace.netns, family);
                // The census does not know of it.
                fresh.copy(State::Close, counts);
                *counts = fresh;
            }
            namespace.doubt = live.census.doubt(namespace.netns);
        }
        sample.summary.events = live.totals();
        sample.summary.tally = live.census.tally();
        sample.taken = monotonic();
        sample.realtime_minus_monotonic_ns = realtime_minus_monotonic_ns();
        sample.is_in_doubt = live.census.is_in_doubt();
        sample.transitions = live.transitions();
        sample.activity = live.activity();
        sample.cost = self.cost(live, sample.cost.walks);
        self.settle(live, &mut sample);
        self.latest = Some(sample.clone());
        Some(sample)
    }

    /// The figures of this moment. `walked` is the CPU time of walks for the counts so far.
    pub(super) fn sample(
        &mut self,
        live: &Live,
        watch: &mut Watch,
        owners: &OwnerWatch,
        summary: Summary,
        walked: Duration,
    ) -> Sample {
        let walks = [walked, watch.spent(), owners.spent()];
        let mut sample = Sample {
            taken: monotonic(),
            realtime_minus_monotonic_ns: realtime_minus_monotonic_ns(),
            summary,
            is_in_doubt: live.census.is_in_doubt(),
            transitions: live.transitions(),
            activity: live.activity(),
            owners: owners.latest(),
            cost: self.cost(live, walks),
            ..Sample::default()
        };
        watch.fill(&mut sample);
        self.settle(live, &mut sample);
        self.latest = Some(sample.clone());
        sample
    }

    /// Takes the ages as of now, and makes the rest agree with the counts.
    fn settle(&mut self, live: &Live, sample: &mut Sample) {
        let all = sample.summary.sockets();
        let sockets = live.census.sockets();
        sample.oldest_since = self
            .oldest
            .since(sockets, |state| all.get(state) > 0, sample.taken);
        sample.checked.clone_from(live.census.checked());
        sample.settle();
    }

    fn cost(&self, live: &Live, walks: [Duration; 3]) -> Cost {
        let own = own();
        let probe = live.probe();
        Cost {
            cpu: own.cpu,
            resident_bytes: own.resident_bytes,
            open_fds: own.open_fds,
            max_fds: own.max_fds,
            threads: own.threads,
            started: self.started,
            walks,
            program: probe.run_time(),
            ring_bytes: self.ring_bytes,
            attached: probe.capabilities().program,
            untracked: live.untracked(),
        }
    }
}
