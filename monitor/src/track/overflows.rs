//! Closes that skipped `TIME_WAIT`, from a counter of the kernel that each namespace has of its own: it
//! starts with the namespace, and ends with it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Buckets, TOP};
use crate::tcp::Limits;

/// The overflows of every namespace since the daemon started. Some namespaces have a row of their own,
/// which begins at zero and ends with them; all others are added up. No row ever falls, so that a rate
/// over each of them, and over their sum, is what happened.
///
/// Those of a namespace that was there before the daemon are counted from its first reading on.
#[derive(Debug, Default)]
pub(crate) struct Overflows {
    namespaces: BTreeMap<u32, Counter>,
    other: u64,
    has_begun: bool,
}

#[derive(Debug)]
struct Counter {
    /// None before the first reading of a namespace that is older than this.
    last: Option<u64>,
    /// As last read; None before.
    limit: Option<u64>,
    /// Of its own row; None without one.
    row: Option<u64>,
}

impl Overflows {
    /// These are the namespaces that exist now. True the first time: then all of them should be read,
    /// for numbers are given again, and a new namespace must not pass for an old one.
    pub(crate) fn cover(&mut self, found: &BTreeSet<u32>) -> bool {
        self.namespaces.retain(|netns, _| found.contains(netns));
        for netns in found {
            self.namespaces.entry(*netns).or_insert_with(|| Counter {
                last: self.has_begun.then_some(0),
                limit: None,
                row: None,
            });
        }
        !std::mem::replace(&mut self.has_begun, true)
    }

    /// Takes note of what a namespace's limits are now. One that is not covered yet is left for later.
    pub(crate) fn observe(&mut self, netns: u32, limits: &Limits) {
        let Some(counter) = self.namespaces.get_mut(&netns) else {
            return;
        };
        let now = limits.time_wait_overflows;
        let more = match counter.last {
            None => 0,
            // Another namespace has taken its number.
            Some(last) if now < last => now,
            Some(last) => now - last,
        };
        counter.last = Some(now);
        counter.limit = Some(limits.max_tw_buckets);
        if let Some(row) = &mut counter.row {
            *row += more;
            return;
        }
        self.other += more;
        if self.has_room(more > 0)
            && let Some(counter) = self.namespaces.get_mut(&netns)
        {
            counter.row = Some(0);
        }
    }

    /// Whether there is room for one more row. For a namespace that overflows, one that never did
    /// gives its own up.
    fn has_room(&mut self, is_overflowing: bool) -> bool {
        let rows = self.namespaces.values_mut();
        let mut rows: Vec<_> = rows.map(|counter| &mut counter.row).collect();
        rows.retain(|row| row.is_some());
        if rows.len() < TOP {
            return true;
        }
        let mut idle = rows.into_iter().filter(|row| **row == Some(0));
        match idle.next_back() {
            Some(row) if is_overflowing => {
                *row = None;
                true
            }
            _ => false,
        }
    }

    /// Each namespace whose limit was read.
    pub(crate) fn buckets(&self) -> BTreeMap<u32, Buckets> {
        let row = |(netns, counter): (&u32, &Counter)| {
            let buckets = Buckets {
                limit: counter.limit?,
                overflows: counter.row,
            };
            Some((*netns, buckets))
        };
        self.namespaces.iter().filter_map(row).collect()
    }

    /// Those of the namespaces without a row.
    pub(crate) const fn other(&self) -> u64 {
        self.other
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(overflows: u64) -> Limits {
        Limits {
            max_tw_buckets: 100,
            time_wait_overflows: overflows,
            ..Limits::default()
        }
    }

    /// The rows, and the rest.
    fn told(overflows: &Overflows) -> (Vec<(u32, u64)>, u64) {
        let buckets = overflows.buckets().into_iter();
        let rows = buckets.filter_map(|(netns, buckets)| Some((netns, buckets.overflows?)));
        (rows.collect(), overflows.other())
    }

    #[test]
    fn what_was_before_does_not_count_and_what_is_new_does() {
        let mut overflows = Overflows::default();
        assert!(overflows.cover(&[1, 2].into()));
        overflows.observe(1, &limits(500));
        assert_eq!(told(&overflows), (vec![(1, 0)], 0));
        overflows.observe(1, &limits(507));
        // Its first reading came late.
        overflows.observe(2, &limits(90));
        // It came later: all of it is since the start, and before its row.
        assert!(!overflows.cover(&[1, 2, 3].into()));
        overflows.observe(3, &limits(11));
        overflows.observe(3, &limits(12));
        overflows.observe(4, &limits(1_000));
        assert_eq!(told(&overflows), (vec![(1, 7), (2, 0), (3, 1)], 11));
        assert_eq!(overflows.buckets()[&3].limit, 100);
    }

    #[test]
    fn a_row_ends_with_its_namespace() {
        let mut overflows = Overflows::default();
        overflows.cover(&[1].into());
        overflows.observe(1, &limits(5));
        overflows.observe(1, &limits(8));
        overflows.cover(&[].into());
        assert_eq!(told(&overflows), (vec![], 0));
        // Its number was given to another.
        overflows.cover(&[1].into());
        overflows.observe(1, &limits(2));
        assert_eq!(told(&overflows), (vec![(1, 0)], 2));
    }

    #[test]
    fn one_that_overflows_takes_the_row_of_one_that_never_did() {
        let mut overflows = Overflows::default();
        let most = u32::try_from(TOP).unwrap();
        overflows.cover(&(0..most + 2).collect());
        for netns in 0..most + 2 {
            overflows.observe(netns, &limits(0));
        }
        assert_eq!(told(&overflows).0.len(), TOP);
        let late = most + 1;
        overflows.observe(late, &limits(4));
        overflows.observe(late, &limits(9));
        let (rows, other) = told(&overflows);
        assert_eq!((rows.len(), rows.last(), other), (TOP, Some(&(late, 5)), 4));
    }

    proptest! {
        /// Whatever comes and goes: no row falls, and what they and the rest grow by is what happened.
        #[test]
        fn nothing_is_lost_or_counted_twice(
            steps in prop::collection::vec((0_u32..14, 0_u64..3, any::<bool>()), 0..120)
        ) {
            let mut overflows = Overflows::default();
            overflows.cover(&[].into());
            let mut kernel = BTreeMap::new();
            let mut before: (BTreeMap<u32, u64>, u64) = Default::default();
            for (netns, more, ends) in steps {
                if ends {
                    kernel.remove(&netns);
                } else {
                    *kernel.entry(netns).or_insert(0) += more;
                }
                overflows.cover(&kernel.keys().copied().collect());
                if let Some(counter) = kernel.get(&netns) {
                    overflows.observe(netns, &limits(*counter));
                }
                let (rows, other) = told(&overflows);
                prop_assert!(rows.len() <= TOP && other >= before.1);
                let mut grown = other - before.1;
                for (netns, row) in &rows {
                    // A row that is new begins at zero.
                    let last = before.0.get(netns).copied().unwrap_or_default();
                    prop_assert!(*row >= last);
                    grown += row - last;
                }
                prop_assert_eq!(grown, if ends { 0 } else { more });
                before = (rows.into_iter().collect(), other);
            }
        }
    }
}
