//! A snapshot being taken over into the table of sockets and the counts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::minisockets::TIME_WAIT_SECONDS;
use super::namespace::{Namespace, Trust, Window};
use super::{Scope, Seen, Snapshot, family_slot};
use crate::tcp::{Counts, Ends, Family, State};
use crate::track::sockets::{News, Socket, Sockets};

/// A snapshot being taken over.
#[derive(Default)]
pub(super) struct Merge {
    netns: u32,
    snapshot: Snapshot,
    number: u16,
    window: Window,
    /// Full sockets of which the table had something else.
    corrected: u64,
    /// Full sockets by family.
    listed: [Counts; 2],
    orphans: Vec<Seen>,
    /// By the second in which they began, and by family.
    time_wait: BTreeMap<u64, [u64; 2]>,
    requests: Vec<Ends>,
    /// A socket was not listed, and cannot be asked about.
    is_incomplete: bool,
    /// The table had no room for a socket.
    is_crowded: bool,
}

impl Merge {
    /// Of one namespace. `number` marks what the snapshot lists, `window` is what happened meanwhile.
    pub(super) fn new(netns: u32, snapshot: Snapshot, number: u16, window: Window) -> Self {
        Self {
            netns,
            snapshot,
            number,
            window,
            ..Self::default()
        }
    }

    /// Full sockets of which the table had something else.
    pub(super) const fn corrected(&self) -> u64 {
        self.corrected
    }

    pub(super) fn take(&mut self, seen: Seen, sockets: &mut Sockets, namespace: &mut Namespace) {
        let slot = family_slot(seen.ends.family());
        match (seen.is_minisocket, seen.state) {
            (true, State::FinWait2) => self.orphans.push(seen),
            (true, _) => {
                self.window.handed_over.remove(&seen.cookie);
                let began = self.snapshot.began_ns / 1_000_000_000 + u64::from(seen.seconds_left);
                let began = match seen.seconds_left {
                    0 => 0,
                    _ => began.saturating_sub(TIME_WAIT_SECONDS),
                };
                self.count_time_wait(began, seen.ends.family());
            }
            (false, State::NewSynRecv) => self.requests.push(seen.ends),
            (false, state) => {
                if let Some(counts) = self.listed.get_mut(slot) {
                    counts.add(state, 1);
                }
                let is_joined = self.snapshot.has_cookies && self.snapshot.scope.covers(state);
                if is_joined && !self.window.touched.contains(&seen.cookie) {
                    self.take_full(seen, sockets, namespace);
                }
            }
        }
    }

    fn count_time_wait(&mut self, began: u64, family: Family) {
        let counts = self.time_wait.entry(began).or_default();
        if let Some(count) = counts.get_mut(family_slot(family)) {
            *count += 1;
        }
    }

    fn take_full(&mut self, seen: Seen, sockets: &mut Sockets, namespace: &mut Namespace) {
        let family = seen.ends.family();
        let known = sockets.get_mut(seen.cookie);
        let known = known.filter(|known| known.netns == self.netns);
        if let Some(known) = known
            && known.state == seen.state
        {
            known.note_listed(self.number, seen.ends, seen.since_ns);
            return;
        }
        let mut socket = Socket::listed(self.netns, seen.ends.clone(), seen.state, seen.since_ns);
        socket.set_bound_to_device(seen.is_bound_to_device);
        socket.note_listed(self.number, seen.ends, seen.since_ns);
        let applied = sockets.set(seen.cookie, socket, News::Expected);
        if applied.news == News::Unplaced {
            self.is_crowded = true;
            return;
        }
        self.corrected += 1;
        namespace.recount(family, applied.left, applied.entered);
    }

    /// Sockets that should have been listed and were not: a walk can miss a socket, so the kernel is asked
    /// about each. One that cannot be asked about is gone when two walks in a row miss it.
    pub(super) fn note_unlisted(&mut self, sockets: &mut Sockets, namespace: &mut Namespace) {
        let scope = self.snapshot.scope;
        if self.has_as_many(namespace) {
            return;
        }
        for cookie in sockets.unlisted(self.netns, self.number, |state| scope.covers(state)) {
            let socket = sockets.get_mut(cookie);
            let is_touched = self.window.touched.contains(&cookie);
            let Some(socket) = socket.filter(|_| !is_touched) else {
                continue;
            };
            let is_alone = self.snapshot.is_alone;
            if !is_alone && socket.is_askable() && socket.state != State::Listen {
                namespace.questions.insert(cookie);
            } else if is_alone || socket.note_missed() {
                let (family, state) = (socket.ends.family(), socket.state);
                sockets.remove(cookie);
                namespace.recount(family, Some(state), None);
                self.corrected += 1;
            } else {
                self.is_incomplete = true;
                namespace.distrust(Trust::Suspect);
            }
        }
    }

    /// Takes over what does not announce itself; how long orphans that are gone had been in FIN_WAIT2.
    pub(super) fn take_silent(&mut self, namespace: &mut Namespace) -> Vec<Duration> {
        let Snapshot {
            scope, began_ns, ..
        } = self.snapshot;
        let mut ended = Vec::new();
        let has_cookies = self.snapshot.has_cookies;
        if scope.has(Scope::ORPHANS) {
            let orphans = std::mem::take(&mut self.orphans).into_iter();
            if has_cookies {
                ended = namespace.minisockets.take_orphans(orphans, began_ns);
            } else {
                let families = orphans.map(|orphan| orphan.ends.family());
                namespace.minisockets.set_fin_wait2(by_family(families));
            }
        }
        if scope.has(Scope::TIME_WAIT) {
            for family in std::mem::take(&mut self.window.handed_over).into_values() {
                self.count_time_wait(began_ns / 1_000_000_000, family);
            }
            namespace.minisockets.set_time_wait(&self.time_wait);
        }
        if scope.has(Scope::REQUESTS) {
            let segments = namespace.segments_received();
            let requests = std::mem::take(&mut self.requests).into_iter();
            if has_cookies {
                namespace.requests.take_walk(requests, began_ns, segments);
            } else {
                let families = requests.map(|ends| ends.family());
                namespace.requests.set_counts(by_family(families));
            }
        }
        ended
    }

    /// Every full socket was listed; whether what was corrected is drift, and not the first look.
    pub(super) fn settle(&self, namespace: &mut Namespace) -> bool {
        if self.corrected > 0 {
            namespace.is_surveyed = false;
        }
        let is_joined = self.snapshot.has_cookies && !self.is_crowded;
        namespace.listed = (!is_joined).then_some(self.listed);
        let has_moved = self.window.has_moved || !self.window.touched.is_empty();
        let trust = if self.is_incomplete {
            Trust::Suspect
        } else if has_moved && (self.snapshot.is_alone || !is_joined) {
            Trust::Moved
        } else {
            Trust::Sound
        };
        let before = namespace.trust;
        namespace.note_settled(trust);
        matches!(before, Trust::Sound | Trust::Suspect)
    }

    /// Whether as many sockets are listed as the table has, of those that a walk covers.
    fn has_as_many(&self, namespace: &Namespace) -> bool {
        let scope = self.snapshot.scope;
        let total = |counts: &[Counts; 2]| -> u64 {
            let all = counts.iter().flat_map(Counts::iter);
            let covered = all.filter(|(state, _)| scope.covers(*state));
            covered.filter_map(|(_, sockets)| sockets).sum()
        };
        total(&namespace.full) == total(&self.listed)
    }
}

fn by_family(families: impl Iterator<Item = Family>) -> [u64; 2] {
    let mut counts = [0; 2];
    for family in families {
        if let Some(count) = counts.get_mut(family_slot(family)) {
            *count += 1;
        }
    }
    counts
}
