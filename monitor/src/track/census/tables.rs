//! The counts of one namespace, and what they are held to.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::{Figures, Scope, Seen, Snapshot, Verdict};
use crate::tcp::{Counts, Family, Handover, State, Transition};

/// Checks in a row: transitions in flight fall to either side.
const LASTING: i32 = 8;

/// How far the counts of full sockets can be trusted, best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trust {
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
pub(super) struct Tables {
    pub(super) full: [Counts; 2],
    minisockets: [Counts; 2],
    requests: [u64; 2],
    pub(super) trust: Trust,
    /// Minisockets have expired that only a walk can tell apart.
    is_guessed: bool,
    /// Transitions and handovers applied since [`super::Census::mark`].
    pub(super) applied: u64,
    pub(super) handed_over: u64,
    /// By family, how many checks in a row the figure was above (or, below zero, under) the count.
    skew: [i32; 2],
    /// Segments received at the last check, and at the last walk for requests.
    segments_received: u64,
    segments_walked: Option<u64>,
    /// Open while a snapshot is being taken.
    pub(super) window: Option<Window>,
}

/// What happened while a snapshot was being taken.
#[derive(Debug, Default)]
pub(super) struct Window {
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

impl Tables {
    pub(super) fn counts(&self, family: Family) -> Counts {
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

    pub(super) fn distrust(&mut self, trust: Trust) {
        self.trust = self.trust.max(trust);
    }

    /// A transition that says neither whose it is nor what it changes.
    pub(super) fn note_movement(&mut self) {
        self.applied += 1;
        self.distrust(Trust::Moved);
        if let Some(window) = &mut self.window {
            window.has_moved = true;
        }
    }

    pub(super) fn apply(&mut self, transition: &Transition) {
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

    pub(super) fn is_active(&self) -> bool {
        let minisockets: u64 = self.minisockets.iter().map(Counts::total).sum();
        let is_silent = minisockets == 0 && self.requests == [0, 0];
        self.trust > Trust::Sound || self.applied > 0 || !is_silent
    }

    pub(super) fn check(&mut self, figures: &Figures) -> Verdict {
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

    /// Whether the figures differ from the counts by more than the transitions in flight explain,
    /// or by less, but to the same side check after check.
    fn is_contradicted(&mut self, figures: &Figures) -> bool {
        let totals = self.full.iter().map(Counts::total);
        let mut is_lasting = false;
        for ((skew, figure), total) in self.skew.iter_mut().zip(figures.full).zip(totals) {
            let side = match figure.cmp(&total) {
                Ordering::Less => -1,
                Ordering::Equal => 0,
                Ordering::Greater => 1,
            };
            *skew = if skew.signum() == side {
                *skew + side
            } else {
                side
            };
            is_lasting |= skew.abs() >= LASTING;
        }
        is_lasting || self.is_beyond_flight(figures)
    }

    fn is_beyond_flight(&self, figures: &Figures) -> bool {
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
    pub(super) fn finish(&mut self, snapshot: Snapshot, seen: impl Iterator<Item = Seen>) -> u64 {
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
        self.skew = [0; 2];
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
