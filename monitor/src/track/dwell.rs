//! How long each socket had been in the state it leaves.
//!
//! Knows only what it saw: a socket older than the stream, without a cookie, or with a transition
//! missing in between has no known time.

use std::time::Duration;

use super::cookies::ByCookie;
use crate::tcp::{RawState, State, Transition};

/// Most sockets remembered at once: what a hash table of 2^20 slots holds (7/8 of them, 25 bytes
/// each), so the memory stays under 27 MB, and under 40 MB while the table grows.
const MOST_SOCKETS: usize = (1 << 20) / 8 * 7;

/// The last transition seen of every open socket, by cookie.
#[derive(Debug, Default)]
pub(crate) struct Dwell {
    entered: ByCookie<Entered>,
    dropped: u64,
}

/// A state and when it was entered.
#[derive(Clone, Copy, Debug)]
struct Entered {
    ktime_ns: u64,
    state: RawState,
}

impl Dwell {
    /// Takes note of a transition; how long the socket was in `from`, where that is known.
    ///
    /// A time before the last one seen gives `None`, as does a `from` that is not the state last
    /// entered: a transition was lost in between. A socket that is set to the state it is in, as by
    /// `close()` after `shutdown()`, stays in it.
    pub(crate) fn after(&mut self, transition: &Transition) -> Option<Duration> {
        let cookie = transition.cookie?;
        let last = if transition.to.is(State::Close) {
            self.entered.remove(&cookie)
        } else if transition.from == transition.to {
            None
        } else {
            self.remember(cookie, transition)
        };
        let last = last.filter(|last| last.state == transition.from && !transition.is_birth())?;
        let nanoseconds = transition.ktime_ns.checked_sub(last.ktime_ns)?;
        Some(Duration::from_nanos(nanoseconds))
    }

    /// Forgets every socket: after losses, those whose end was missed would stay for ever.
    pub(crate) fn forget_all(&mut self) {
        self.entered.clear();
    }

    /// Gives back the room that a storm took.
    pub(crate) fn shrink(&mut self) {
        if self.entered.len() < self.entered.capacity() / 8 {
            self.entered.shrink_to_fit();
        }
    }

    /// Sockets not remembered because the limit was reached; their next `after` is unknown.
    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }

    fn remember(&mut self, cookie: u64, transition: &Transition) -> Option<Entered> {
        let now = Entered {
            ktime_ns: transition.ktime_ns,
            state: transition.to,
        };
        if self.entered.len() >= MOST_SOCKETS && !self.entered.contains_key(&cookie) {
            self.dropped += 1;
            return None;
        }
        self.entered.insert(cookie, now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    fn step(cookie: Option<u64>, ktime_ns: u64, from: State, to: State) -> Transition {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 80));
        Transition {
            ktime_ns,
            cookie,
            local: anywhere,
            remote: anywhere,
            from: RawState::Known(from),
            to: RawState::Known(to),
            ..Transition::example()
        }
    }

    #[test]
    fn a_life_from_birth_to_close() {
        let mut dwell = Dwell::default();
        let mut after = |at, from, to| dwell.after(&step(Some(1), at, from, to));
        assert_eq!(after(10, State::Close, State::SynSent), None);
        let in_syn_sent = after(25, State::SynSent, State::Established);
        assert_eq!(in_syn_sent, Some(Duration::from_nanos(15)));
        let in_established = after(125, State::Established, State::Close);
        assert_eq!(in_established, Some(Duration::from_nanos(100)));
        assert!(dwell.entered.is_empty());
        // The same socket again: how long it was closed is not asked, and not told.
        let reborn = step(Some(1), 200, State::Close, State::Listen);
        assert_eq!(dwell.after(&reborn), None);
    }

    #[test]
    fn a_close_after_a_shutdown_does_not_split_the_time() {
        let mut dwell = Dwell::default();
        dwell.after(&step(Some(1), 10, State::Established, State::FinWait1));
        for _ in 0..2 {
            let same = step(Some(1), 30, State::FinWait1, State::FinWait1);
            assert_eq!(dwell.after(&same), None);
        }
        let left = step(Some(1), 110, State::FinWait1, State::FinWait2);
        assert_eq!(dwell.after(&left), Some(Duration::from_nanos(100)));
        // Nobody saw this one enter.
        dwell.after(&step(Some(2), 30, State::LastAck, State::LastAck));
        let left = step(Some(2), 40, State::LastAck, State::Close);
        assert_eq!(dwell.after(&left), None);
    }

    #[test]
    fn what_was_not_seen_is_unknown() {
        let mut dwell = Dwell::default();
        let first_sight = step(Some(1), 10, State::Established, State::CloseWait);
        assert_eq!(dwell.after(&first_sight), None);
        let no_cookie = step(None, 20, State::CloseWait, State::LastAck);
        assert_eq!(dwell.after(&no_cookie), None);
        let gap = step(Some(1), 30, State::LastAck, State::Close);
        assert_eq!(dwell.after(&gap), None);

        dwell.after(&step(Some(2), 40, State::SynSent, State::Established));
        dwell.forget_all();
        let after_loss = step(Some(2), 50, State::Established, State::FinWait1);
        assert_eq!(dwell.after(&after_loss), None);
    }

    #[test]
    fn a_full_memory_counts_what_it_drops() {
        let mut dwell = Dwell::default();
        let sockets = MOST_SOCKETS as u64;
        for cookie in 0..sockets + 3 {
            dwell.after(&step(Some(cookie), 1, State::SynSent, State::Established));
        }
        assert_eq!((dwell.entered.len(), dwell.dropped()), (MOST_SOCKETS, 3));
        assert_eq!(dwell.entered.capacity(), MOST_SOCKETS);
        // Those it knows go on.
        let known = step(Some(0), 5, State::Established, State::FinWait1);
        assert_eq!(dwell.after(&known), Some(Duration::from_nanos(4)));
        assert_eq!(dwell.dropped(), 3);
    }

    proptest! {
        /// Against a plain list of everything seen, in any order of times and states.
        #[test]
        fn agrees_with_the_whole_history(
            steps in prop::collection::vec((0_u64..4, 0_u64..50, 0_usize..12, 0_usize..12), 0..60)
        ) {
            let mut dwell = Dwell::default();
            let mut history: Vec<Transition> = Vec::new();
            for (cookie, at, from, to) in steps {
                let now = step(Some(cookie), at, State::ALL[from], State::ALL[to]);
                let last = history.iter().rev().find(|seen| seen.cookie == now.cookie);
                let stays = now.from == now.to && !now.to.is(State::Close);
                let expected = last
                    .filter(|last| last.to == now.from && !now.is_birth() && !stays)
                    .and_then(|last| at.checked_sub(last.ktime_ns))
                    .map(Duration::from_nanos);
                prop_assert_eq!(dwell.after(&now), expected);
                if !stays {
                    history.push(now);
                }
            }
            prop_assert!(dwell.entered.len() <= 4);
        }
    }
}
