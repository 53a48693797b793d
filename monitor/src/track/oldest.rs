//! The oldest socket in each lingering state, as of any moment.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Sockets;
use crate::tcp::State;

/// Remembers which socket is the oldest: the table is gone through only when one of them has left.
#[derive(Debug, Default)]
pub(crate) struct Oldest {
    /// Its cookie, and when it entered its state (`CLOCK_MONOTONIC`, nanoseconds).
    known: BTreeMap<State, (u64, u64)>,
    /// When the table was last gone through: a survey may have found an older one since.
    scanned: Option<Duration>,
}

/// The table is gone through again after this time, whoever has left.
const SCANNED_FOR: Duration = Duration::from_secs(10);

impl Oldest {
    /// When the oldest socket in each lingering state entered it; `has` tells whether a state that none is
    /// known in has any.
    pub(crate) fn since(
        &mut self,
        sockets: &Sockets,
        has: impl Fn(State) -> bool,
        now: Duration,
    ) -> BTreeMap<State, Duration> {
        let is_there = |state: State| match self.known.get(&state) {
            Some((cookie, since_ns)) => sockets
                .get(*cookie)
                .is_some_and(|socket| socket.state == state && socket.since_ns == *since_ns),
            None => !has(state),
        };
        let is_old = |scanned| now.saturating_sub(scanned) >= SCANNED_FOR;
        if self.scanned.is_none_or(is_old) || !State::LINGERING.into_iter().all(is_there) {
            self.scan(sockets);
            self.scanned = Some(now);
        }
        let known = self.known.iter();
        known
            .map(|(state, (_, since_ns))| (*state, Duration::from_nanos(*since_ns)))
            .collect()
    }

    fn scan(&mut self, sockets: &Sockets) {
        self.known.clear();
        for (cookie, socket) in sockets.iter() {
            if socket.state.is_lingering() {
                let oldest = self.known.entry(socket.state);
                let oldest = oldest.or_insert((cookie, socket.since_ns));
                if socket.since_ns < oldest.1 {
                    *oldest = (cookie, socket.since_ns);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::{Ends, Family};
    use crate::track::sockets::{News, Socket};

    fn socket(state: State, seconds: u64) -> Socket {
        let ends = Ends::new(
            Family::Ipv4,
            ([10, 0, 0, 1], 80).into(),
            ([10, 0, 0, 2], 9).into(),
        );
        Socket::listed(7, ends, state, 1_000_000_000 * seconds)
    }

    #[test]
    fn the_oldest_is_as_of_now_and_one_that_left_makes_way() {
        let mut sockets = Sockets::default();
        let at = Duration::from_secs;
        let mut oldest = Oldest::default();
        let has = |_: State| true;
        assert_eq!(oldest.since(&sockets, has, at(100)), BTreeMap::new());
        let _ = sockets.set(1, socket(State::CloseWait, 90), News::Expected);
        let _ = sockets.set(2, socket(State::CloseWait, 95), News::Expected);
        let _ = sockets.set(3, socket(State::Established, 1), News::Expected);
        let of = |seconds| BTreeMap::from([(State::CloseWait, at(seconds))]);
        assert_eq!(oldest.since(&sockets, has, at(100)), of(90));
        // It left its state, and at once another is the oldest.
        let _ = sockets.set(1, socket(State::LastAck, 101), News::Expected);
        let both = BTreeMap::from([(State::CloseWait, at(95)), (State::LastAck, at(101))]);
        assert_eq!(oldest.since(&sockets, has, at(101)), both);
    }
}
