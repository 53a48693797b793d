//! The census: how many sockets are in which state, per network namespace and family.
//!
//! Transitions move it, snapshots and the kernel's own O(1) figures correct it. Full sockets
//! announce every change, so their counts are exact between snapshots. Minisockets (TIME_WAIT and
//! orphaned FIN_WAIT2) appear by inference and vanish in silence, and half-open requests say
//! nothing at all: those are held to the kernel's figures, and walked for when that is not enough.

use std::collections::{BTreeMap, HashMap};

use crate::tcp::{Counts, Family, Handover, State, Transition};

/// A socket in a snapshot of the kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) cookie: u64,
    pub(crate) family: Family,
    pub(crate) state: State,
    pub(crate) is_minisocket: bool,
}

/// What the kernel counts by itself, for one namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Full sockets by family (`sockstat`, `sockstat6`: `inuse`).
    pub(crate) full: [u64; 2],
    /// Minisockets of both families (`sockstat`: `tw`).
    pub(crate) minisockets: u64,
    /// ESTABLISHED and CLOSE_WAIT of both families (`snmp`: `CurrEstab`).
    pub(crate) established_or_close_wait: u64,
    /// Segments received so far (`snmp`: `InSegs`): without one, no request can be born.
    pub(crate) segments_received: u64,
}

/// Which sockets a snapshot is to cover; false everywhere means that none is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Full sockets.
    pub(crate) full: bool,
    pub(crate) minisockets: bool,
    pub(crate) requests: bool,
}

impl Scope {
    pub(crate) const ALL: Self = Self {
        full: true,
        minisockets: true,
        requests: true,
    };

    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// What a snapshot covers, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) scope: Scope,
    /// Its sockets carry cookies.
    pub(crate) has_cookies: bool,
}

/// What the kernel's figures say about a namespace's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// What has to be walked to be sure again.
    pub(crate) walk: Scope,
    /// The counts are known to be wrong or unknown: do not wait for the budget.
    pub(crate) is_urgent: bool,
}

/// The counts of every namespace.
#[derive(Debug, Default)]
pub(crate) struct Census {
    namespaces: BTreeMap<u32, Tables>,
    drift: u64,
}

/// How far the counts of full sockets can be trusted, best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Trust {
    /// As far as every transition since the last snapshot goes.
    Sound,
    /// A transition could not be applied, as it does not name its socket or its namespace.
    Moved,
    /// An event was lost, or contradicted the counts.
    Suspect,
    /// No snapshot was taken yet, and no figure said that there is nothing to see.
    #[default]
    Unknown,
}

/// One namespace.
#[derive(Debug, Default)]
struct Tables {
    full: [Counts; 2],
    minisockets: [Counts; 2],
    requests: [u64; 2],
    trust: Trust,
    /// Minisockets have expired that only a walk can tell apart.
    is_guessed: bool,
    /// Transitions and handovers applied since [`Census::mark`].
    applied: u64,
    handed_over: u64,
    /// Segments received at the last check, and at the last walk for requests.
    segments_received: u64,
    segments_walked: Option<u64>,
    /// Open while a snapshot is being taken.
    window: Option<Window>,
}

/// What happened while a snapshot was being taken.
#[derive(Debug, Default)]
struct Window {
    /// The last word of each socket, by cookie.
    words: HashMap<u64, LastWord>,
    /// Something moved that cannot be joined with the snapshot.
    has_moved: bool,
}

#[derive(Clone, Copy, Debug)]
struct LastWord {
    family: Family,
    /// None once closed.
    state: Option<State>,
    handover: Option<Handover>,
}

const fn slot(family: Family) -> usize {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 1,
    }
}

impl Census {
    /// Sockets by which snapshots have corrected the event-driven counts of full sockets so far.
    pub(crate) const fn drift(&self) -> u64 {
        self.drift
    }

    /// Counts of one namespace and family, every state.
    pub(crate) fn counts(&self, netns: u32, family: Family) -> Counts {
        self.namespaces
            .get(&netns)
            .map(|tables| tables.counts(family))
            .unwrap_or_default()
    }

    /// Namespaces that spoke or were declared, and are still there.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = u32> + '_ {
        self.namespaces.keys().copied()
    }

    /// Makes the census cover exactly these namespaces: others are forgotten, new ones unwalked.
    pub(crate) fn cover(&mut self, found: &[u32]) {
        self.namespaces.retain(|netns, _| found.contains(netns));
        for netns in found {
            self.namespaces.entry(*netns).or_default();
        }
    }

    /// Applies a transition. One whose namespace is new makes that namespace known as unwalked;
    /// one that names no namespace or no socket (old kernels) only asks for a snapshot.
    pub(crate) fn apply(&mut self, transition: &Transition) {
        match transition.netns {
            Some(netns) => self.namespaces.entry(netns).or_default().apply(transition),
            None => self.disturb(None),
        }
    }

    /// Transitions were lost: no count is to be trusted until its next snapshot.
    pub(crate) fn suspect_all(&mut self) {
        for tables in self.namespaces.values_mut() {
            tables.distrust(Trust::Suspect);
        }
    }

    /// The kernel's figures are about to be read, and every transition so far was applied: what is
    /// applied from here on may or may not be in them.
    pub(crate) fn mark(&mut self, netns: u32) {
        if let Some(tables) = self.namespaces.get_mut(&netns) {
            tables.applied = 0;
            tables.handed_over = 0;
        }
    }

    /// Holds the counts to figures read since [`Self::mark`], after every transition up to their
    /// reading was applied.
    pub(crate) fn check(&mut self, netns: u32, figures: &Figures) -> Verdict {
        self.namespaces
            .get_mut(&netns)
            .map(|tables| tables.check(figures))
            .unwrap_or_default()
    }

    /// A snapshot starts: from here to [`Self::finish`] the last word of every socket is kept.
    pub(crate) fn begin(&mut self, netns: u32) {
        if let Some(tables) = self.namespaces.get_mut(&netns) {
            tables.window = Some(Window::default());
        }
    }

    /// The snapshot failed; the counts stay as the transitions left them, and suspect.
    pub(crate) fn abandon(&mut self, netns: u32) {
        if let Some(tables) = self.namespaces.get_mut(&netns) {
            tables.window = None;
            tables.distrust(Trust::Suspect);
        }
    }

    /// Takes a snapshot over. Every transition that fired before the snapshot ended must have
    /// been applied; those that fired since may have been. A snapshot without cookies cannot be
    /// joined with them: what moved meanwhile then asks for the next one.
    ///
    /// Returns by how many full sockets the counts had been off.
    pub(crate) fn finish(
        &mut self,
        netns: u32,
        snapshot: Snapshot,
        seen: impl Iterator<Item = Seen>,
    ) -> u64 {
        let tables = self.namespaces.get_mut(&netns);
        let correction = tables.map_or(0, |tables| tables.finish(snapshot, seen));
        self.drift += correction;
        correction
    }

    /// Whether the counts of any namespace are known to be wrong, or not known.
    pub(crate) fn is_in_doubt(&self) -> bool {
        let mut all = self.namespaces.values();
        all.any(|tables| tables.trust >= Trust::Suspect)
    }

    /// Transitions that cannot be applied, as they do not name their sockets: they ask for a
    /// snapshot of their namespace, or of all.
    pub(crate) fn disturb(&mut self, netns: Option<u32>) {
        match netns {
            Some(netns) => self.namespaces.entry(netns).or_default().note_movement(),
            None => self.namespaces.values_mut().for_each(Tables::note_movement),
        }
    }

    /// Whether anything in this namespace may have changed since its last check.
    pub(crate) fn is_active(&self, netns: u32) -> bool {
        self.namespaces.get(&netns).is_none_or(Tables::is_active)
    }
}

impl Tables {
    fn counts(&self, family: Family) -> Counts {
        let (Some(full), Some(minisockets), Some(requests)) = (
            self.full.get(slot(family)),
            self.minisockets.get(slot(family)),
            self.requests.get(slot(family)),
        ) else {
            return Counts::default();
        };
        let mut counts = *full;
        counts += *minisockets;
        counts.add(State::NewSynRecv, *requests);
        counts
    }

    fn distrust(&mut self, trust: Trust) {
        self.trust = self.trust.max(trust);
    }

    /// A transition that says neither whose it is nor what it changes.
    fn note_movement(&mut self) {
        self.applied += 1;
        self.distrust(Trust::Moved);
        if let Some(window) = &mut self.window {
            window.has_moved = true;
        }
    }

    fn apply(&mut self, transition: &Transition) {
        let family = transition.family;
        let to = transition.to.known().filter(|state| *state != State::Close);
        let handover = transition.continues_as();
        // Before Linux 6.15 a child has no cookie of its own when it is born.
        if transition.cookie.is_none() && !transition.is_birth() {
            self.note_movement();
            return;
        }
        self.applied += 1;
        self.handed_over += u64::from(handover.is_some());
        if let (Some(window), Some(cookie)) = (&mut self.window, transition.cookie) {
            let word = LastWord {
                family,
                state: to,
                handover,
            };
            window.words.insert(cookie, word);
        }
        let (Some(full), Some(minisockets)) = (
            self.full.get_mut(slot(family)),
            self.minisockets.get_mut(slot(family)),
        ) else {
            return;
        };
        if !transition.is_birth() {
            let is_counted = transition.from.known().is_some_and(|from| full.take(from));
            if !is_counted {
                self.trust = self.trust.max(Trust::Suspect);
            }
        }
        if let Some(to) = to {
            full.add(to, 1);
        }
        if let Some(handover) = handover {
            minisockets.add(handover.state(), 1);
        }
    }

    fn is_active(&self) -> bool {
        let minisockets: u64 = self.minisockets.iter().map(Counts::total).sum();
        let is_silent = minisockets == 0 && self.requests == [0, 0];
        self.trust > Trust::Sound || self.applied > 0 || !is_silent
    }

    fn check(&mut self, figures: &Figures) -> Verdict {
        let is_empty = figures.full == [0, 0] && figures.minisockets == 0;
        if is_empty && self.full.iter().all(|counts| counts.total() == 0) {
            self.trust = Trust::Sound;
        }
        self.segments_received = figures.segments_received;
        let is_urgent = self.trust >= Trust::Suspect;
        let walk = if self.trust > Trust::Sound || self.is_contradicted(figures) {
            Scope::ALL
        } else {
            Scope {
                full: false,
                minisockets: self.hold_minisockets_to(figures.minisockets),
                requests: self.may_have_requests(),
            }
        };
        Verdict { walk, is_urgent }
    }

    /// Whether the figures differ from the counts by more than the transitions in flight explain.
    fn is_contradicted(&self, figures: &Figures) -> bool {
        let differs = |count: u64, figure: u64| count.abs_diff(figure) > self.applied;
        let sum = |state| {
            self.full
                .iter()
                .map(|counts| counts.get(state))
                .sum::<u64>()
        };
        let established = sum(State::Established);
        // Before Linux 6.11 `CurrEstab` leaves CLOSE_WAIT out (`tcp_set_state()`).
        let with_close_wait = established + sum(State::CloseWait);
        let figure = figures.established_or_close_wait;
        let mut by_family = self.full.iter().zip(figures.full);
        (differs(established, figure) && differs(with_close_wait, figure))
            || by_family.any(|(counts, figure)| differs(counts.total(), figure))
    }

    /// Takes away as many minisockets as have expired in silence. True where only a walk can tell
    /// which they were, or where there are more than were ever announced.
    fn hold_minisockets_to(&mut self, total: u64) -> bool {
        let known: u64 = self.minisockets.iter().map(Counts::total).sum();
        let at_reading = known.saturating_sub(self.handed_over);
        let mut expired = at_reading.saturating_sub(total);
        let mut classes: Vec<(u64, State, usize)> = Vec::with_capacity(4);
        for (index, counts) in self.minisockets.iter().enumerate() {
            classes.extend(
                counts
                    .iter()
                    .map(|(state, sockets)| (sockets, state, index)),
            );
        }
        classes.retain(|(sockets, ..)| *sockets > 0);
        self.is_guessed |= expired > 0 && classes.len() > 1;
        // An orphaned FIN_WAIT2 also turns into TIME_WAIT without a word.
        let is_unstable = classes
            .iter()
            .any(|(_, state, _)| *state == State::FinWait2);
        classes.sort_unstable_by(|a, b| b.cmp(a));
        for (sockets, state, index) in classes {
            let gone = sockets.min(expired);
            expired -= gone;
            if let Some(counts) = self.minisockets.get_mut(index) {
                counts.set(state, sockets - gone);
            }
        }
        self.is_guessed || is_unstable || total > known
    }

    /// Whether half-open requests are known, or could have been born since the last walk.
    fn may_have_requests(&self) -> bool {
        let has_listener = self.full.iter().any(|counts| counts.get(State::Listen) > 0);
        let is_news = self.segments_walked != Some(self.segments_received);
        self.requests != [0, 0] || (has_listener && is_news)
    }

    /// Returns by how many full sockets the counts were off.
    fn finish(&mut self, snapshot: Snapshot, seen: impl Iterator<Item = Seen>) -> u64 {
        let scope = snapshot.scope;
        let Window {
            mut words,
            mut has_moved,
        } = self.window.take().unwrap_or_default();
        if !snapshot.has_cookies {
            has_moved |= !words.is_empty();
            words.clear();
        }
        let mut full = [Counts::default(); 2];
        let mut minisockets = [Counts::default(); 2];
        let mut requests = [0; 2];
        for socket in seen {
            let index = slot(socket.family);
            if socket.is_minisocket {
                tally(&mut minisockets, index, socket.state);
                if let Some(word) = words.get_mut(&socket.cookie) {
                    word.handover = None;
                }
            } else if socket.state == State::NewSynRecv {
                if let Some(count) = requests.get_mut(index) {
                    *count += 1;
                }
            } else if !words.contains_key(&socket.cookie) {
                tally(&mut full, index, socket.state);
            }
        }
        for word in words.values() {
            if let Some(state) = word.state {
                tally(&mut full, slot(word.family), state);
            }
            if let Some(handover) = word.handover {
                tally(&mut minisockets, slot(word.family), handover.state());
            }
        }
        if scope.minisockets {
            self.minisockets = minisockets;
            self.is_guessed = false;
        }
        if scope.requests {
            self.requests = requests;
            self.segments_walked = Some(self.segments_received);
        }
        if !scope.full {
            return 0;
        }
        let correction: u64 = self
            .full
            .iter()
            .zip(&full)
            .map(|(before, after)| before.distance(after))
            .sum();
        self.full = full;
        let trust = if has_moved {
            Trust::Moved
        } else {
            Trust::Sound
        };
        match std::mem::replace(&mut self.trust, trust) {
            Trust::Sound | Trust::Suspect => correction,
            Trust::Moved | Trust::Unknown => 0,
        }
    }
}

fn tally(counts: &mut [Counts; 2], index: usize, state: State) {
    if let Some(counts) = counts.get_mut(index) {
        counts.add(state, 1);
    }
}

#[cfg(test)]
mod tests;
