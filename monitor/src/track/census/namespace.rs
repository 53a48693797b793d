//! The counts of one namespace, and what they are held to.

use std::collections::BTreeMap;

use super::minisockets::{Minisockets, Patience};
use super::requests::Requests;
use super::{Figures, Need, Scope, Urgency, family_slot};
use crate::tcp::{Counts, Family, State, Transition};
use crate::track::cookies::{ByCookie, Cookies};

/// A figure that stays on one side of its count for this many readings contradicts it, however little
/// it is off.
const LASTING: i32 = 8;
/// Readings in a row that must contradict the counts: a task that was interrupted between a transition
/// and what the figure counts explains one.
const CONTRADICTIONS: u32 = 2;
/// A transition is announced this long before or after the figures show it, at most.
const SKEW_NS: u64 = 2_000_000;
/// Room for steps that stays between two readings: those of some milliseconds of a busy host.
const STEPS_KEPT: usize = 1 << 12;
/// An orphan or a request is asked about this long after it was last heard of.
pub(super) const ASK_AGAIN_NS: u64 = 900_000_000;

/// Between two walks for requests that are too young to have announced themselves.
const LOOK_FOR_YOUNG_NS: u64 = 30_000_000_000;

/// How far the counts of full sockets can be trusted, best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trust {
    /// As far as every transition since the last snapshot goes.
    Sound,
    /// A transition could not be applied, as it does not name its socket or its namespace.
    Moved,
    /// Transitions were lost, somewhere.
    Suspect,
    /// Sockets may be there that no snapshot has listed yet.
    #[default]
    Unknown,
}

/// One namespace.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Namespace {
    /// Of the table of sockets.
    pub(super) full: [Counts; 2],
    /// Of the last snapshot, where the table cannot be had: without cookies, or without room.
    pub(super) listed: Option<[Counts; 2]>,
    pub(super) minisockets: Minisockets,
    pub(super) requests: Requests,
    /// It was found, and can be entered.
    pub(super) is_covered: bool,
    pub(super) trust: Trust,
    /// Every lingering socket was seen by a survey, which knows the least age of each.
    pub(super) is_surveyed: bool,
    /// Sockets about which the kernel is to be asked, by cookie.
    pub(super) questions: Cookies,
    /// A transition was applied since the figures were last read.
    has_moved: bool,
    /// The figures are being read: [`Self::mark`] was called, and [`Self::check`] not yet.
    is_marked: bool,
    /// Transitions since [`Self::mark`] that the figures count.
    recent: Vec<Step>,
    /// Readings in a row that contradict the counts.
    contradictions: u32,
    /// By family, how many readings in a row the figure was above (or, below zero, under) the count.
    skew: [i32; 2],
    figures: Option<Figures>,
    /// The figures could not be read.
    is_unread: bool,
    /// Segments received by the reading before the last.
    segments_before: Option<u64>,
    /// Transitions were lost, somewhere, since the counts were last settled.
    loss: Option<Loss>,
    /// Since when something of it waits to be asked for or walked, by the clock of the figures.
    pub(super) waiting_since_ns: Option<u64>,
    /// Open while a snapshot is being taken.
    pub(super) window: Option<Window>,
}

/// What is known of the time before transitions were lost.
#[derive(Clone, Copy, Debug)]
struct Loss {
    /// Segments received and sent by then; None where no reading is surely older.
    segments: Option<(u64, u64)>,
}

/// What a transition changes of what the figures count.
#[derive(Clone, Copy, Debug)]
struct Step {
    ktime_ns: u64,
    full: [i8; 2],
    established: i8,
    close_wait: i8,
    minisockets: i8,
}

/// What happened while a snapshot was being taken.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Sockets that moved.
    pub(super) touched: Cookies,
    /// Those that were handed over to a minisocket in TIME_WAIT.
    pub(super) handed_over: ByCookie<Family>,
    /// Something moved that cannot be joined with the snapshot.
    pub(super) has_moved: bool,
}

/// Steps that were taken after a reading, and those around it, which it may have in it or not.
#[derive(Clone, Copy, Debug, Default)]
struct Flight {
    after: Sum,
    around: Sum,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    full: [i64; 2],
    established: i64,
    close_wait: i64,
    minisockets: i64,
}

impl Namespace {
    pub(super) fn counts(&self, family: Family) -> Counts {
        let slot = family_slot(family);
        let full = self.listed.as_ref().unwrap_or(&self.full);
        let mut counts = full.get(slot).copied().unwrap_or_default();
        let of_family = |counts: [u64; 2]| counts.get(slot).copied().unwrap_or_default();
        counts.add(State::FinWait2, of_family(self.minisockets.fin_wait2));
        counts.add(State::TimeWait, of_family(self.minisockets.time_wait));
        counts.add(State::NewSynRecv, of_family(self.requests.counts()));
        counts
    }

    /// States whose count may be off, and by how many sockets at most. Empty while any count may be off, by
    /// no known number.
    pub(super) fn uncertain(&self) -> BTreeMap<State, u64> {
        if self.is_wrong() {
            return BTreeMap::new();
        }
        let minisockets = self.minisockets.uncertain();
        let of_state = [
            (State::FinWait2, minisockets),
            (
                State::TimeWait,
                minisockets + self.minisockets.inferred() + self.minisockets.misplaced(),
            ),
            (State::NewSynRecv, self.requests.uncertain()),
        ];
        of_state.into_iter().filter(|(_, by)| *by > 0).collect()
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.is_wrong() || !self.uncertain().is_empty()
    }

    /// Whether any count may be wrong.
    fn is_wrong(&self) -> bool {
        self.trust > Trust::Sound
            || self.contradictions >= CONTRADICTIONS
            || self.is_unread
            || !self.questions.is_empty()
    }

    pub(super) fn distrust(&mut self, trust: Trust) {
        self.trust = self.trust.max(trust);
    }

    /// Transitions were lost; the last reading that was surely before that was by `clean_until_ns`.
    pub(super) fn note_loss(&mut self, clean_until_ns: u64) {
        if self.loss.is_none() {
            let before = self
                .figures
                .filter(|last| last.read_from_ns <= clean_until_ns);
            let segments = before.map(|last| (last.segments_received, last.segments_sent));
            self.loss = Some(Loss { segments });
        }
        self.distrust(Trust::Suspect);
    }

    /// A transition that says neither whose it is nor what it changes.
    pub(super) fn note_movement(&mut self) {
        self.has_moved = true;
        self.distrust(Trust::Moved);
        if let Some(window) = &mut self.window {
            window.has_moved = true;
        }
    }

    /// A transition moved the table from one state to another, or handed the socket over. What it changes
    /// is remembered only while the figures are being read.
    pub(super) fn note_step(
        &mut self,
        transition: &Transition,
        left: Option<State>,
        entered: Option<State>,
        is_handed_over: bool,
    ) {
        self.has_moved = true;
        if !self.is_marked {
            return;
        }
        let slot = family_slot(transition.family);
        let is = |side: Option<State>, state| i8::from(side == Some(state));
        let mut full = [0; 2];
        if let Some(full) = full.get_mut(slot) {
            *full = i8::from(entered.is_some()) - i8::from(left.is_some());
        }
        let step = Step {
            ktime_ns: transition.ktime_ns,
            full,
            established: is(entered, State::Established) - is(left, State::Established),
            close_wait: is(entered, State::CloseWait) - is(left, State::CloseWait),
            minisockets: i8::from(is_handed_over),
        };
        if step.full != [0; 2] || step.established != 0 || step.close_wait != 0 || is_handed_over {
            self.recent.push(step);
        }
    }

    /// The figures are about to be read.
    pub(super) fn mark(&mut self) {
        self.recent.clear();
        self.is_marked = true;
        self.has_moved = false;
    }

    /// Whether the figures are to be read now, rather than in turn: something moved, waits, or may have
    /// ended in silence.
    pub(super) fn is_active(&self, now_ns: u64) -> bool {
        self.trust > Trust::Sound
            || self.has_moved
            || self.is_unread
            || self.contradictions > 0
            || self.skew != [0; 2]
            || !self.questions.is_empty()
            || !self.requests.is_empty()
            || self.minisockets.may_change(now_ns)
    }

    /// Whether the last reading contradicts the counts, and the one before it did not: another one tells
    /// whether that lasts.
    pub(super) const fn is_first_contradiction(&self) -> bool {
        self.contradictions == 1
    }

    /// When the figures were last read; 0 for never.
    pub(super) fn read_at_ns(&self) -> u64 {
        self.figures.map_or(0, |figures| figures.read_until_ns)
    }

    pub(super) fn note_unread(&mut self) {
        self.is_unread = true;
        self.is_marked = false;
        self.recent.clear();
    }

    /// Holds the counts to figures that were read since [`Self::mark`].
    pub(super) fn check(&mut self, figures: &Figures) {
        let flight = self.flight(figures);
        let (is_off, is_exact) = self.compare(figures, &flight);
        let contradicts = is_off || self.is_lasting(figures, &flight);
        self.contradictions = if contradicts {
            self.contradictions.saturating_add(1)
        } else {
            0
        };
        let (after, around) = (flight.after.minisockets, flight.around.minisockets);
        self.minisockets.set_total(
            figures.minisockets,
            figures.read_until_ns,
            after.max(0).cast_unsigned(),
            around.max(0).cast_unsigned(),
        );
        let segments = (figures.segments_received, figures.segments_sent);
        let is_settled = match self.trust {
            Trust::Sound => false,
            // Every socket that there is, is in the table.
            Trust::Unknown => is_exact && self.loss.is_none(),
            // What moves, sends or receives.
            Trust::Suspect => {
                let loss = self.loss.and_then(|loss| loss.segments);
                is_exact && loss == Some(segments)
            }
            Trust::Moved => figures.full == [0; 2] && is_exact,
        };
        if is_settled && self.listed.is_none() {
            self.trust = Trust::Sound;
            self.loss = None;
        }
        self.segments_before = self.segments_received();
        self.figures = Some(*figures);
        self.is_unread = false;
        self.is_marked = false;
        self.recent.clear();
        self.recent.shrink_to(STEPS_KEPT);
    }

    fn flight(&self, figures: &Figures) -> Flight {
        let mut flight = Flight::default();
        let around = figures.read_from_ns.saturating_sub(SKEW_NS)
            ..=figures.read_until_ns.saturating_add(SKEW_NS);
        for step in &self.recent {
            if step.ktime_ns > figures.read_until_ns {
                flight.after.add(step, i64::from);
            }
            if around.contains(&step.ktime_ns) {
                flight.around.add(step, |by| i64::from(by).abs());
            }
        }
        flight
    }

    /// Whether the figures differ from the counts by more than the transitions in flight explain; and
    /// whether they are the same, with nothing in flight.
    fn compare(&self, figures: &Figures, flight: &Flight) -> (bool, bool) {
        let full = self.listed.as_ref().unwrap_or(&self.full);
        let sum = |state| -> i64 {
            let of_state = full.iter().map(|counts| counts.get(state)).sum::<u64>();
            of_state.cast_signed()
        };
        let (after, around) = (&flight.after, &flight.around);
        let mut is_off = false;
        let mut is_exact = true;
        let mut hold = |count: i64, figure: u64, around: i64| {
            let differs = (figure.cast_signed() - count).abs();
            is_off |= differs > around;
            is_exact &= differs == 0 && around == 0;
        };
        let families = full.iter().zip(figures.full);
        for ((counts, figure), (after, around)) in
            families.zip(after.full.into_iter().zip(around.full))
        {
            hold(counts.total().cast_signed() - after, figure, around);
        }
        let established = sum(State::Established) - after.established;
        let close_wait = sum(State::CloseWait) - after.close_wait;
        let figure = figures.established_or_close_wait;
        // Before Linux 6.11 `CurrEstab` leaves CLOSE_WAIT out (`tcp_set_state()`).
        let without = (figure.cast_signed() - established).abs() <= around.established;
        if !without {
            let around = around.established + around.close_wait;
            hold(established + close_wait, figure, around);
        }
        (is_off, is_exact)
    }

    /// Whether the figures have been on one side of the counts for long.
    fn is_lasting(&mut self, figures: &Figures, flight: &Flight) -> bool {
        let full = self.listed.as_ref().unwrap_or(&self.full);
        let families = full.iter().zip(figures.full).zip(flight.after.full);
        let mut is_lasting = false;
        for (skew, ((counts, figure), after)) in self.skew.iter_mut().zip(families) {
            let side = (figure.cast_signed() - (counts.total().cast_signed() - after)).signum();
            let side = i32::try_from(side).unwrap_or_default();
            *skew = if skew.signum() == side {
                *skew + side
            } else {
                side
            };
            is_lasting |= skew.abs() >= LASTING;
        }
        is_lasting
    }

    /// A snapshot has brought the counts of full sockets up to date.
    pub(super) fn note_settled(&mut self, trust: Trust) {
        self.trust = trust;
        self.contradictions = 0;
        self.skew = [0; 2];
        self.loss = None;
    }

    /// What has to be walked, for want of a better way to know. Who `is_asked` wants even a few to be right.
    pub(super) fn need(&self, now_ns: u64, sees_requests: bool, is_asked: bool) -> Need {
        let asked_by_ns = now_ns.saturating_sub(ASK_AGAIN_NS);
        let mut need = Need::default();
        if self.trust > Trust::Sound || self.contradictions >= CONTRADICTIONS {
            need.add(Scope::ALL, Urgency::Wrong);
        }
        if self.minisockets.needs_walk(asked_by_ns) {
            need.add(Scope::ORPHANS, Urgency::Uncertain);
        }
        if self.minisockets.needs_families(now_ns, is_asked) {
            need.add(Scope::ORPHANS.with(Scope::TIME_WAIT), Urgency::Audit);
        }
        if self.requests.needs_walk() {
            need.add(Scope::REQUESTS, Urgency::Uncertain);
        } else if self.may_have_requests(now_ns, sees_requests) {
            need.add(Scope::REQUESTS, Urgency::Audit);
        }
        need
    }

    /// Whether half-open requests could have been born since the last walk for them. Where those that
    /// last a second announce themselves, that is looked at now and then.
    fn may_have_requests(&self, now_ns: u64, sees_requests: bool) -> bool {
        let is_old = self.requests.walked_ns() + LOOK_FOR_YOUNG_NS <= now_ns;
        let is_quiet = self.segments_before == self.segments_received();
        if sees_requests && (is_quiet || !is_old) {
            return false;
        }
        let full = self.listed.as_ref().unwrap_or(&self.full);
        let has_listener = full.iter().any(|counts| counts.get(State::Listen) > 0);
        let segments = self.segments_received();
        has_listener && segments.is_some_and(|segments| self.requests.may_have_more(segments))
    }

    pub(super) fn segments_received(&self) -> Option<u64> {
        self.figures.map(|figures| figures.segments_received)
    }

    /// Orphans and requests that were last heard of before `before_ns`.
    pub(super) fn silent(
        &self,
        before_ns: u64,
        patience: Patience,
    ) -> impl Iterator<Item = super::Question> + '_ {
        let orphans = self.minisockets.questions(before_ns, patience);
        orphans.chain(self.requests.questions(before_ns))
    }
}

impl Sum {
    fn add(&mut self, step: &Step, by: impl Fn(i8) -> i64) {
        for (sum, full) in self.full.iter_mut().zip(step.full) {
            *sum += by(full);
        }
        self.established += by(step.established);
        self.close_wait += by(step.close_wait);
        self.minisockets += by(step.minisockets);
    }
}
