//! The lingering table: every socket in a state that it should soon leave, and when it entered it.
//!
//! Established sockets are not in it, and cost nothing. Transitions keep it; a survey of the
//! kernel's tables brings in what is older than the stream, and what a lost event left wrong.

use std::collections::{BTreeSet, HashSet, VecDeque};

use super::cookies::ByCookie;
use crate::tcp::{Evidence, Handover, State, Transition};

/// Most sockets remembered at once: what a hash table of 2^20 slots holds, 33 bytes each. Others
/// have an age only as far as the kernel knows one.
const MOST_SOCKETS: usize = (1 << 20) / 8 * 7;
/// Most orphans in `FIN_WAIT2` remembered after their full socket is gone, 16 bytes each. They end
/// in silence within a minute as a rule, so the oldest make room.
const MOST_ORPHANS: usize = 1 << 14;

/// A lingering state, and since when a socket is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entered {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub(crate) since_ns: u64,
    /// Inode number of the namespace.
    pub(crate) netns: u32,
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
    pub(crate) state: State,
    /// Nobody saw it enter: it did so then or earlier.
    pub(crate) is_lower_bound: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Lingering {
    sockets: ByCookie<Entered>,
    /// Cookie and entry time of orphans in `FIN_WAIT2` that live on as minisockets.
    orphans: VecDeque<(u64, u64)>,
    /// Sockets that left the table while a survey was under way.
    left: Option<HashSet<u64>>,
    /// Namespaces surveyed since the last lost event, and whose table is complete.
    complete: BTreeSet<u32>,
    dropped: u64,
}

impl Lingering {
    /// Takes note of a transition. One that names no socket changes nothing.
    pub(crate) fn apply(&mut self, transition: &Transition) {
        let (Some(cookie), Some(netns)) = (transition.cookie, transition.netns) else {
            return;
        };
        let entered = transition.to.known().filter(|state| state.is_lingering());
        if let Some(state) = entered {
            // `close()` after `shutdown()` sets the state that the socket is in.
            let was_there = transition.from == transition.to;
            if was_there && self.holds(cookie, state) {
                return;
            }
            let entered = Entered {
                since_ns: transition.ktime_ns,
                netns,
                local_port: transition.local.port(),
                remote_port: transition.remote.port(),
                state,
                is_lower_bound: was_there,
            };
            self.remember(cookie, entered);
        } else if transition.from.known().is_some_and(State::is_lingering) {
            let last = self.sockets.remove(&cookie);
            if let Some(left) = &mut self.left {
                left.insert(cookie);
            }
            let is_kept = transition.continues_as() == Some(Handover::FinWait2);
            if let Some(last) = last.filter(|last| is_kept && !last.is_lower_bound) {
                if self.orphans.len() >= MOST_ORPHANS {
                    self.orphans.pop_front();
                }
                self.orphans.push_back((cookie, last.since_ns));
            }
        }
    }

    fn remember(&mut self, cookie: u64, entered: Entered) {
        if self.sockets.len() >= MOST_SOCKETS && !self.sockets.contains_key(&cookie) {
            self.dropped += 1;
            self.complete.remove(&entered.netns);
            return;
        }
        self.sockets.insert(cookie, entered);
    }

    /// Every full socket in the table.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entered> {
        self.sockets.values()
    }

    /// Whether a full socket is known to be in this state.
    pub(crate) fn holds(&self, cookie: u64, state: State) -> bool {
        self.sockets
            .get(&cookie)
            .is_some_and(|entered| entered.state == state)
    }

    /// Sockets not remembered because the limit was reached.
    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// What is known of the sockets that a survey saw.
    pub(crate) fn known(&self) -> Known<'_> {
        Known {
            table: self,
            // Of several with one cookie, the last is the one that is there.
            orphans: self.orphans.iter().copied().collect(),
        }
    }

    /// Namespaces that are gone take their sockets with them.
    pub(crate) fn forget(&mut self, gone: &[u32]) {
        self.sockets
            .retain(|_, entered| !gone.contains(&entered.netns));
        self.complete.retain(|netns| !gone.contains(netns));
    }

    /// Gives back the room that a storm took.
    pub(crate) fn shrink(&mut self) {
        if self.sockets.len() < self.sockets.capacity() / 8 {
            self.sockets.shrink_to_fit();
        }
    }

    /// Whether every lingering socket of a namespace is known.
    pub(crate) fn is_complete(&self, netns: u32) -> bool {
        self.complete.contains(&netns)
    }

    /// Transitions were lost: sockets may have entered and left unseen.
    pub(crate) fn suspect_all(&mut self) {
        self.complete.clear();
    }

    /// The counts of a namespace were wrong, so its sockets here may be: until its next survey, or,
    /// where nothing lingers there now, at once.
    pub(crate) fn suspect(&mut self, netns: u32, lingering: u64) {
        if lingering == 0 {
            self.forget(&[netns]);
        }
        self.complete.remove(&netns);
    }

    /// A survey starts. Every transition up to now has been applied.
    pub(crate) fn begin(&mut self) {
        self.left = Some(HashSet::new());
    }

    /// A survey of a namespace has ended, and every transition up to its end has been applied.
    /// `found` are the full sockets in lingering states that it saw, each with the latest time at
    /// which it can have entered its state.
    ///
    /// Where events were lost, those that were in the table when the survey began, at `began_ns`, and
    /// that it did not see are gone. Elsewhere they stay: a survey can miss a socket.
    pub(crate) fn finish(
        &mut self,
        netns: u32,
        began_ns: u64,
        found: impl Iterator<Item = (u64, Entered)>,
    ) {
        let left = self.left.take().unwrap_or_default();
        let dropped = self.dropped;
        let mut seen = HashSet::new();
        for (cookie, entered) in found {
            seen.insert(cookie);
            let is_known = self
                .sockets
                .get(&cookie)
                .is_some_and(|known| known.state == entered.state || known.since_ns >= began_ns);
            if !is_known && !left.contains(&cookie) {
                self.remember(cookie, entered);
            }
        }
        let is_short = self.dropped > dropped;
        if !is_short && self.complete.insert(netns) {
            self.sockets.retain(|cookie, entered| {
                entered.netns != netns || entered.since_ns >= began_ns || seen.contains(cookie)
            });
        }
    }

    /// The survey failed, and tells nothing.
    pub(crate) fn abandon(&mut self) {
        self.left = None;
    }
}

/// The lingering table, ready to be asked about many sockets.
pub(crate) struct Known<'a> {
    table: &'a Lingering,
    orphans: ByCookie<u64>,
}

impl Known<'_> {
    /// Since when a socket is in the state that a survey saw it in, and whether that is a lower
    /// bound; None where nothing is known.
    pub(crate) fn since(&self, socket: &Evidence) -> Option<(u64, bool)> {
        if socket.is_minisocket {
            let since_ns = self.orphans.get(&socket.cookie)?;
            return Some((*since_ns, false));
        }
        let entered = self.table.sockets.get(&socket.cookie)?;
        (entered.state == socket.state).then_some((entered.since_ns, entered.is_lower_bound))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::tcp::RawState;
    use crate::track::stuck::fixture::evidence;

    const NETNS: u32 = 7;

    fn step(cookie: u64, ktime_ns: u64, from: State, to: State) -> Transition {
        Transition {
            ktime_ns,
            netns: Some(NETNS),
            cookie: Some(cookie),
            local: SocketAddr::from(([127, 0, 0, 1], 80)),
            remote: SocketAddr::from(([127, 0, 0, 1], 4000)),
            from: RawState::Known(from),
            to: RawState::Known(to),
            error: Some(0),
            has_peer_fin: Some(false),
            is_orphan: Some(true),
            ..Transition::example()
        }
    }

    fn row(cookie: u64, state: State) -> Evidence {
        Evidence {
            cookie,
            ..evidence(state)
        }
    }

    fn found(cookie: u64, since_ns: u64, state: State) -> (u64, Entered) {
        let entered = Entered {
            since_ns,
            netns: NETNS,
            local_port: 80,
            remote_port: 4000,
            state,
            is_lower_bound: true,
        };
        (cookie, entered)
    }

    #[test]
    fn where_nothing_lingers_nothing_is_kept() {
        let mut table = Lingering::default();
        table.begin();
        table.finish(NETNS, 0, std::iter::empty());
        table.apply(&step(1, 10, State::Established, State::FinWait1));
        table.suspect(NETNS, 1);
        assert_eq!(table.iter().count(), 1);
        assert!(!table.is_complete(NETNS));
        table.suspect(NETNS, 0);
        assert_eq!(table.iter().count(), 0);
    }

    #[test]
    fn ages_count_from_the_transition_into_the_state() {
        let mut table = Lingering::default();
        table.apply(&step(1, 10, State::SynSent, State::Established));
        assert_eq!(table.iter().count(), 0);
        table.apply(&step(1, 20, State::Established, State::CloseWait));
        assert_eq!(
            table.known().since(&row(1, State::CloseWait)),
            Some((20, false))
        );
        // The kernel's row may be newer or older than the last transition that was read.
        assert_eq!(table.known().since(&row(1, State::LastAck)), None);
        table.apply(&step(1, 30, State::CloseWait, State::LastAck));
        assert_eq!(
            table.known().since(&row(1, State::LastAck)),
            Some((30, false))
        );
        table.apply(&step(1, 40, State::LastAck, State::Close));
        assert_eq!(table.iter().count(), 0);
    }

    #[test]
    fn a_close_after_a_shutdown_makes_no_socket_younger() {
        let mut table = Lingering::default();
        table.apply(&step(1, 10, State::FinWait1, State::FinWait2));
        let same = |cookie| step(cookie, 20, State::FinWait2, State::FinWait2);
        table.apply(&same(1));
        let since = |table: &Lingering, cookie| table.known().since(&row(cookie, State::FinWait2));
        assert_eq!(since(&table, 1), Some((10, false)));
        // Nobody saw this one enter.
        table.apply(&same(2));
        assert_eq!(since(&table, 2), Some((20, true)));
    }

    #[test]
    fn an_orphan_keeps_its_age_when_the_full_socket_goes() {
        let mut table = Lingering::default();
        table.apply(&step(1, 10, State::FinWait1, State::FinWait2));
        table.apply(&step(1, 20, State::FinWait2, State::Close));
        let mut orphan = row(1, State::FinWait2);
        assert_eq!(table.known().since(&orphan), None);
        orphan.is_minisocket = true;
        assert_eq!(table.known().since(&orphan), Some((10, false)));
        for cookie in 2..=MOST_ORPHANS as u64 + 1 {
            table.apply(&step(cookie, 10, State::FinWait1, State::FinWait2));
            table.apply(&step(cookie, 20, State::FinWait2, State::Close));
        }
        assert_eq!(table.known().since(&orphan), None);
        assert_eq!(table.orphans.len(), MOST_ORPHANS);
    }

    #[test]
    fn a_survey_brings_in_what_is_older_as_a_lower_bound() {
        let mut table = Lingering::default();
        assert!(!table.is_complete(NETNS));
        table.begin();
        // Entered, and left, while the survey was under way.
        table.apply(&step(2, 105, State::Established, State::CloseWait));
        table.apply(&step(3, 105, State::CloseWait, State::LastAck));
        table.apply(&step(3, 106, State::LastAck, State::Close));
        let seen = [
            found(1, 50, State::CloseWait),
            found(2, 90, State::CloseWait),
            found(3, 60, State::CloseWait),
        ];
        table.finish(NETNS, 100, seen.into_iter());
        assert!(table.is_complete(NETNS));
        assert_eq!(
            table.known().since(&row(1, State::CloseWait)),
            Some((50, true))
        );
        assert_eq!(
            table.known().since(&row(2, State::CloseWait)),
            Some((105, false))
        );
        assert_eq!(table.known().since(&row(3, State::CloseWait)), None);
        // The next survey, a second later, must not make it younger.
        table.begin();
        table.finish(NETNS, 200, [found(1, 150, State::CloseWait)].into_iter());
        assert_eq!(
            table.known().since(&row(1, State::CloseWait)),
            Some((50, true))
        );
    }

    #[test]
    fn what_a_survey_misses_goes_only_after_a_loss() {
        let mut table = Lingering::default();
        table.begin();
        table.finish(NETNS, 5, std::iter::empty());
        table.apply(&step(1, 10, State::Established, State::CloseWait));
        table.begin();
        table.finish(NETNS, 100, std::iter::empty());
        assert!(table.holds(1, State::CloseWait));
        table.suspect_all();
        table.begin();
        table.apply(&step(2, 210, State::Established, State::CloseWait));
        table.finish(NETNS, 200, std::iter::empty());
        assert!(!table.holds(1, State::CloseWait));
        assert!(table.holds(2, State::CloseWait));
        table.forget(&[NETNS]);
        assert_eq!(table.iter().count(), 0);
        assert!(!table.is_complete(NETNS));
    }

    proptest! {
        /// Against the last word of each socket.
        #[test]
        fn holds_every_lingering_socket_and_no_other(
            steps in prop::collection::vec((1_u64..6, 0_usize..12, 0_usize..12), 0..60)
        ) {
            let mut table = Lingering::default();
            let mut last = BTreeMap::new();
            for (at, (cookie, from, to)) in (1..).zip(steps) {
                // What a socket leaves is what it entered.
                let from = last.get(&cookie).map_or(State::ALL[from], |(_, _, state)| *state);
                let to = State::ALL[to];
                table.apply(&step(cookie, at, from, to));
                if from != to || !last.contains_key(&cookie) {
                    last.insert(cookie, (at, from == to, to));
                }
            }
            last.retain(|_, (.., state)| state.is_lingering());
            prop_assert_eq!(table.iter().count(), last.len());
            for (cookie, (at, is_lower_bound, state)) in last {
                let since = table.known().since(&row(cookie, state));
                prop_assert_eq!(since, Some((at, is_lower_bound)));
            }
        }
    }
}
