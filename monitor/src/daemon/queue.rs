//! Which namespaces are asked and walked, and when: who is known to be wrong and has waited longest
//! comes first, so that none can take what the others need.

use std::cmp::Reverse;
use std::time::Duration;

use crate::track::{Budget, Need, Scope, Urgency};

/// What one exact request costs with its answer, about; measured as 1.3 to 2.5 us.
pub(super) const REQUEST: Duration = Duration::from_micros(2);
/// What is known to be wrong may cost this many times the share of what is not.
const URGENT: f64 = 5.0;
/// Before the first walk has told: 100,000 sockets.
const FIRST_GUESS: Duration = Duration::from_millis(10);

/// Whose turn it is, and what it may cost.
#[derive(Debug)]
pub(super) struct Queue {
    /// For what may be wrong.
    urgent: Budget,
    /// For what nothing says is wrong.
    audits: Budget,
    /// CPU time of one walk, lately. Every walk looks at the whole host's table.
    walk: Duration,
    /// CPU time of all walks and requests so far.
    spent: Duration,
}

/// A namespace that needs a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) netns: u32,
    pub(super) need: Need,
    pub(super) since_ns: u64,
}

impl Queue {
    /// `share` of one CPU, 0 to 1; `now` on `CLOCK_MONOTONIC`.
    pub(super) const fn new(share: f64, now: Duration) -> Self {
        Self {
            urgent: Budget::new(share * URGENT, now),
            audits: Budget::new(share, now),
            walk: FIRST_GUESS,
            spent: Duration::ZERO,
        }
    }

    /// In the order of their turns.
    pub(super) fn order(mut waiting: Vec<Waiting>) -> Vec<Waiting> {
        waiting.retain(|waiting| !waiting.need.scope.is_empty());
        waiting.sort_by_key(|waiting| {
            (
                Reverse(waiting.need.urgency),
                waiting.since_ns,
                waiting.netns,
            )
        });
        waiting
    }

    /// Whether a need as urgent as this may be met now.
    pub(super) fn allows(&mut self, urgency: Urgency, now: Duration) -> bool {
        match urgency {
            Urgency::Audit => self.audits.allows(now),
            Urgency::Uncertain | Urgency::Wrong => self.urgent.allows(now),
        }
    }

    /// Takes note of what meeting a need has cost.
    pub(super) fn spend(&mut self, urgency: Urgency, cpu: Duration) {
        self.spent += cpu;
        match urgency {
            Urgency::Audit => self.audits.spend(cpu),
            Urgency::Uncertain | Urgency::Wrong => self.urgent.spend(cpu),
        }
    }

    /// Takes note of what a walk has cost; its rows cost, too, so a small scope tells the price of
    /// looking through the table.
    pub(super) fn note_walk(&mut self, scope: Scope, cpu: Duration) {
        if scope != Scope::ALL || cpu < self.walk {
            self.walk = (self.walk * 3 + cpu) / 4;
        }
    }

    /// How many requests cost as much as a walk.
    pub(super) fn requests_per_walk(&self) -> usize {
        let requests = self.walk.as_nanos() / REQUEST.as_nanos();
        usize::try_from(requests).unwrap_or(usize::MAX).max(64)
    }

    /// CPU time of all walks and requests so far.
    pub(super) const fn spent(&self) -> Duration {
        self.spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(netns: u32, urgency: Urgency, since_ns: u64) -> Waiting {
        let need = Need {
            scope: Scope::ALL,
            urgency,
        };
        Waiting {
            netns,
            need,
            since_ns,
        }
    }

    #[test]
    fn who_is_wrong_and_has_waited_longest_comes_first() {
        let nothing = Waiting {
            need: Need::default(),
            ..waiting(9, Urgency::Wrong, 0)
        };
        let order = Queue::order(vec![
            waiting(1, Urgency::Audit, 10),
            nothing,
            waiting(2, Urgency::Wrong, 30),
            waiting(3, Urgency::Uncertain, 5),
            waiting(4, Urgency::Wrong, 20),
        ]);
        let order: Vec<u32> = order.iter().map(|waiting| waiting.netns).collect();
        assert_eq!(order, [4, 2, 3, 1]);
    }

    #[test]
    fn audits_leave_room_for_what_is_wrong() {
        let second = Duration::from_secs(1);
        let mut queue = Queue::new(0.01, Duration::ZERO);
        queue.spend(Urgency::Audit, second);
        assert!(!queue.allows(Urgency::Audit, second));
        assert!(queue.allows(Urgency::Wrong, second));
        queue.spend(Urgency::Wrong, second);
        assert!(!queue.allows(Urgency::Uncertain, second));
    }

    #[test]
    fn a_walk_of_a_large_table_is_worth_many_requests() {
        let mut queue = Queue::new(0.01, Duration::ZERO);
        let before = queue.requests_per_walk();
        for _ in 0..20 {
            queue.note_walk(Scope::ORPHANS, Duration::from_millis(100));
        }
        assert!(queue.requests_per_walk() > 5 * before);
    }
}
