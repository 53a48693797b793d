//! The half-open requests of one namespace (NEW_SYN_RECV). They announce neither birth nor end.
//!
//! A request that lasts a second has its SYN-ACK retransmitted, which a program tells of; a walk finds
//! those that are younger. Each one that is known is asked about until it is gone.

use std::collections::{HashMap, HashSet};

use super::{About, Question, Reply, family_slot};
use crate::tcp::{Ends, State};

/// Most requests remembered for one namespace: as many as sixteen listeners' backlogs of 4,096.
const MOST_REQUESTS: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct Requests {
    /// When the kernel last said that it is there.
    known: HashMap<Ends, u64>,
    counts: [u64; 2],
    /// Requests that the last walk found, and nothing had told of: as many may be there by now.
    surprises: u64,
    /// One found no room.
    is_overfull: bool,
    /// Segments that the namespace had received by the last walk.
    walked_at_segment: Option<u64>,
    /// When that walk began.
    walked_ns: u64,
}

impl Requests {
    pub(super) const fn counts(&self) -> [u64; 2] {
        self.counts
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// By how many the count may be off. One or two are handshakes under way, as there always are.
    pub(super) const fn uncertain(&self) -> u64 {
        if self.surprises > 2 {
            self.surprises
        } else {
            0
        }
    }

    /// Whether only a walk can tell how many there are.
    pub(super) const fn needs_walk(&self) -> bool {
        self.uncertain() > 0 || self.is_overfull
    }

    /// When the last walk began; 0 for never.
    pub(super) const fn walked_ns(&self) -> u64 {
        self.walked_ns
    }

    /// Whether one may have been born since the last walk: none is without a segment.
    pub(super) fn may_have_more(&self, segments_received: u64) -> bool {
        self.walked_at_segment != Some(segments_received)
    }

    /// A request is there at `at_ns`.
    pub(super) fn note(&mut self, ends: Ends, at_ns: u64) {
        if self.known.len() >= MOST_REQUESTS && !self.known.contains_key(&ends) {
            self.is_overfull = true;
            return;
        }
        let slot = family_slot(ends.family());
        if self.known.insert(ends, at_ns).is_none()
            && let Some(count) = self.counts.get_mut(slot)
        {
            *count += 1;
        }
    }

    /// A request became a socket, or is gone.
    pub(super) fn remove(&mut self, ends: &Ends) {
        if self.known.remove(ends).is_some()
            && let Some(count) = self.counts.get_mut(family_slot(ends.family()))
        {
            *count = count.saturating_sub(1);
        }
    }

    /// Requests that were asked about last before `before_ns`.
    pub(super) fn questions(&self, before_ns: u64) -> impl Iterator<Item = Question> + '_ {
        let due = self
            .known
            .iter()
            .filter(move |(_, at_ns)| **at_ns < before_ns);
        due.map(|(ends, _)| Question {
            about: About::Request,
            cookie: None,
            ends: ends.clone(),
        })
    }

    pub(super) fn take_reply(&mut self, ends: &Ends, reply: Reply, at_ns: u64) {
        let is_there = matches!(
            reply,
            Reply::Found {
                state: State::NewSynRecv,
                ..
            }
        );
        match reply {
            _ if is_there => self.note(ends.clone(), at_ns),
            Reply::Unclear => self.is_overfull = true,
            Reply::Found { .. } | Reply::Gone => self.remove(ends),
        }
    }

    /// A walk listed so many, by family, and does not tell one from another.
    pub(super) fn set_counts(&mut self, listed: [u64; 2]) {
        self.known.clear();
        self.counts = listed;
        self.surprises = 0;
        self.is_overfull = false;
        // As nothing tells of their end, they are walked for again.
        self.walked_at_segment = None;
        self.walked_ns = 0;
    }

    /// A walk that began at `began_ns`, when the namespace had received so many segments, listed these
    /// requests, and no others.
    pub(super) fn take_walk(
        &mut self,
        listed: impl Iterator<Item = Ends>,
        began_ns: u64,
        segments_received: Option<u64>,
    ) {
        let mut seen = HashSet::new();
        self.surprises = 0;
        self.is_overfull = false;
        for ends in listed {
            self.surprises += u64::from(!self.known.contains_key(&ends));
            self.note(ends.clone(), began_ns);
            seen.insert(ends);
        }
        let is_gone = |(ends, at_ns): &(&Ends, &u64)| **at_ns < began_ns && !seen.contains(*ends);
        let gone: Vec<Ends> = self
            .known
            .iter()
            .filter(is_gone)
            .map(|(ends, _)| ends.clone())
            .collect();
        for ends in &gone {
            self.remove(ends);
        }
        self.walked_at_segment = segments_received;
        self.walked_ns = began_ns;
    }
}
