//! MPTCP connections: no transition of theirs is followed, only what each look at the kernel lists.

use std::collections::HashMap;

use crate::tcp::{Counts, Evidence, State};

/// The MPTCP connections of one namespace, as the last look saw them.
#[derive(Debug, Default)]
pub(crate) struct Mptcp {
    counts: Counts,
    lingering: Vec<Evidence>,
    /// By cookie: the state, and when the first look saw it (`CLOCK_MONOTONIC`, nanoseconds).
    since: HashMap<u64, (State, u64)>,
}

impl Mptcp {
    /// Takes over what a look that ended at `now_ns` has listed.
    pub(crate) fn take(&mut self, listed: Vec<Evidence>, now_ns: u64) {
        self.counts = listed.iter().map(|socket| socket.state).collect();
        let before = std::mem::take(&mut self.since);
        self.since = listed
            .iter()
            .map(|socket| {
                let known = before.get(&socket.cookie);
                let known = known.filter(|(state, _)| *state == socket.state);
                let since_ns = known.map_or(now_ns, |(_, since_ns)| *since_ns);
                (socket.cookie, (socket.state, since_ns))
            })
            .collect();
        self.lingering = listed;
        self.lingering.retain(|socket| socket.state.is_lingering());
    }

    pub(crate) const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Those that should soon leave their state.
    pub(crate) fn lingering(&self) -> &[Evidence] {
        &self.lingering
    }

    /// Since when a connection is in that state, at the latest; None where it is not.
    pub(crate) fn since(&self, cookie: u64, state: State) -> Option<u64> {
        let (known, since_ns) = self.since.get(&cookie)?;
        (*known == state).then_some(*since_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::stuck::fixture::evidence;

    #[test]
    fn an_age_counts_from_the_first_look_that_saw_the_state() {
        let one = |cookie, state| Evidence {
            cookie,
            is_mptcp: true,
            ..evidence(state)
        };
        let mut mptcp = Mptcp::default();
        mptcp.take(
            vec![one(1, State::Established), one(2, State::CloseWait)],
            10,
        );
        mptcp.take(vec![one(1, State::CloseWait), one(2, State::CloseWait)], 20);
        assert_eq!(mptcp.since(1, State::CloseWait), Some(20));
        assert_eq!(mptcp.since(2, State::CloseWait), Some(10));
        assert_eq!(mptcp.since(2, State::Established), None);
        assert_eq!(mptcp.counts().get(State::CloseWait), 2);
        assert_eq!(mptcp.lingering().len(), 2);
        mptcp.take(vec![one(1, State::Established)], 30);
        assert_eq!(
            (mptcp.since(2, State::CloseWait), mptcp.lingering()),
            (None, &[][..])
        );
        assert_eq!(mptcp.counts().total(), 1);
    }
}
