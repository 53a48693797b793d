//! The census against a small model of the kernel: sockets that announce what they do, minisockets
//! that do not, a ring that delivers late, twice or never, and a table walk that takes its time.

use std::collections::VecDeque;
use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::tcp::RawState;

const NETNS: u32 = 4_026_531_840;

/// A way through the states that a real socket can take. `Close` with a handover leaves a
/// minisocket behind.
const LIVES: [&[State]; 6] = {
    use State::{
        Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv,
        SynSent,
    };
    [
        &[Close, SynSent, Established, FinWait1, FinWait2, Close],
        &[Listen, SynRecv, Established, CloseWait, LastAck, Close],
        &[Close, SynSent, Established, FinWait1, Closing, Close],
        &[Close, SynSent, Close],
        &[Close, Listen, Close],
        &[Listen, SynRecv, Established, FinWait1, FinWait2, Close],
    ]
};

#[derive(Clone, Debug)]
enum Step {
    /// A new socket takes its first step.
    Open {
        life: usize,
        is_ipv6: bool,
    },
    /// An open socket takes its next one.
    Move {
        which: usize,
    },
    /// A minisocket expires, or has its FIN_WAIT2 turned into TIME_WAIT: silently.
    Fade {
        which: usize,
    },
    /// The daemon takes some of what waits in the ring.
    Drain {
        events: usize,
    },
    /// The oldest waiting event is lost.
    Lose,
    /// The oldest waiting event comes twice.
    Repeat,
    /// A walk begins, goes on over part of the table, and ends; as much as this still waits in the ring
    /// then.
    Begin,
    Walk {
        rows: usize,
    },
    Finish {
        waiting: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..LIVES.len(), any::<bool>()).prop_map(|(life, is_ipv6)| Step::Open { life, is_ipv6 }),
        12 => any::<usize>().prop_map(|which| Step::Move { which }),
        2 => any::<usize>().prop_map(|which| Step::Fade { which }),
        4 => (0..6_usize).prop_map(|events| Step::Drain { events }),
        1 => Just(Step::Repeat),
        1 => Just(Step::Begin),
        4 => (0..5_usize).prop_map(|rows| Step::Walk { rows }),
        1 => (0..4_usize).prop_map(|waiting| Step::Finish { waiting }),
    ];
    proptest::collection::vec(step, 0..200)
}

fn ends(cookie: u64, family: Family) -> Ends {
    let port = u16::try_from(cookie % 60_000).unwrap() + 1;
    let (local, remote) = match family {
        Family::Ipv4 => ([127, 0, 0, 1].into(), [127, 0, 0, 2].into()),
        Family::Ipv6 => ("::1".parse().unwrap(), "::2".parse().unwrap()),
    };
    Ends::new(
        family,
        SocketAddr::new(local, port),
        SocketAddr::new(remote, 80),
    )
}

fn seen(cookie: u64, family: Family, state: State) -> Seen {
    Seen {
        cookie,
        ends: ends(cookie, family),
        state,
        is_minisocket: state == State::TimeWait,
        is_bound_to_device: false,
        since_ns: 0,
        seconds_left: 0,
    }
}

struct Socket {
    seen: Seen,
    life: &'static [State],
    age: usize,
}

#[derive(Default)]
struct Kernel {
    sockets: Vec<Socket>,
    minisockets: Vec<Seen>,
    ring: VecDeque<Transition>,
    opened: u64,
    now_ns: u64,
}

impl Kernel {
    fn step(&mut self, index: usize) {
        self.now_ns += 1;
        let socket = &mut self.sockets[index];
        let (from, to) = (socket.life[socket.age], socket.life[socket.age + 1]);
        let has_peer_fin = !socket.seen.cookie.is_multiple_of(3);
        let mut transition = transition(&socket.seen, from, to, has_peer_fin);
        transition.ktime_ns = self.now_ns;
        socket.age += 1;
        socket.seen.state = to;
        if to == State::Close {
            let socket = self.sockets.swap_remove(index);
            if let Some(handover) = transition.continues_as() {
                self.minisockets.push(Seen {
                    state: handover.state(),
                    is_minisocket: true,
                    ..socket.seen
                });
            }
        }
        self.ring.push_back(transition);
    }

    fn table(&self) -> Vec<Seen> {
        let full = self.sockets.iter().map(|socket| socket.seen.clone());
        let mut table: Vec<Seen> = full.chain(self.minisockets.iter().cloned()).collect();
        // Some order that has nothing to do with age, as in a hash table.
        table.sort_by_key(|seen| place(seen.cookie));
        table
    }

    fn counts(&self, family: Family) -> Counts {
        let table = self.table().into_iter();
        table
            .filter(|seen| seen.ends.family() == family)
            .map(|seen| seen.state)
            .collect()
    }

    fn figures(&mut self) -> Figures {
        // Beyond what a transition and its figure can be apart.
        self.now_ns += 1_000_000_000;
        let full = |family| {
            let sockets = self.sockets.iter();
            let of_family = sockets.filter(|socket| socket.seen.ends.family() == family);
            of_family.count() as u64
        };
        let in_state = |state| {
            let sockets = self.sockets.iter();
            sockets.filter(|socket| socket.seen.state == state).count() as u64
        };
        Figures {
            full: Family::ALL.map(full),
            minisockets: self.minisockets.len() as u64,
            established_or_close_wait: in_state(State::Established) + in_state(State::CloseWait),
            segments_received: self.opened,
            segments_sent: self.now_ns,
            read_from_ns: self.now_ns,
            read_until_ns: self.now_ns,
        }
    }

    fn reply(&self, question: &Question) -> Reply {
        let table = self.table().into_iter();
        let found = table
            .filter(|seen| seen.ends == question.ends)
            .find(|seen| question.cookie.is_none_or(|cookie| cookie == seen.cookie));
        match found {
            Some(seen) => Reply::Found {
                state: seen.state,
                is_minisocket: seen.is_minisocket,
            },
            None => Reply::Gone,
        }
    }
}

fn place(cookie: u64) -> u64 {
    cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn transition(seen: &Seen, from: State, to: State, has_peer_fin: bool) -> Transition {
    Transition {
        netns: Some(NETNS),
        cookie: Some(seen.cookie),
        family: seen.ends.family(),
        local: seen.ends.local(),
        remote: seen.ends.remote(),
        from: RawState::Known(from),
        to: RawState::Known(to),
        error: Some(0),
        has_peer_fin: Some(has_peer_fin),
        is_orphan: Some(true),
        ..Transition::example()
    }
}

/// A kernel, a census, and the walk between them.
#[derive(Default)]
struct World {
    kernel: Kernel,
    census: Census,
    /// Rows read so far, the place in the table up to which it was read, and when it began.
    walk: Option<(Vec<Seen>, Option<u64>, u64)>,
}

impl World {
    fn new() -> Self {
        let mut world = Self::default();
        world.census.cover(&BTreeSet::from([NETNS]));
        world
    }

    fn drain(&mut self, events: usize) {
        let events = events.min(self.kernel.ring.len());
        for transition in self.kernel.ring.drain(..events) {
            let _: Applied = self.census.apply(&transition);
        }
    }

    fn take(&mut self, step: &Step) {
        let pick = |which: usize, length: usize| (length > 0).then(|| which % length);
        match *step {
            Step::Open { life, is_ipv6 } => {
                self.kernel.opened += 1;
                let family = if is_ipv6 { Family::Ipv6 } else { Family::Ipv4 };
                let seen = seen(self.kernel.opened, family, State::Close);
                let life = LIVES[life];
                self.kernel.sockets.push(Socket { seen, life, age: 0 });
                self.kernel.step(self.kernel.sockets.len() - 1);
            }
            Step::Move { which } => {
                if let Some(index) = pick(which, self.kernel.sockets.len()) {
                    self.kernel.step(index);
                }
            }
            Step::Fade { which } => {
                if let Some(index) = pick(which, self.kernel.minisockets.len()) {
                    let seen = &mut self.kernel.minisockets[index];
                    match seen.state {
                        State::FinWait2 => seen.state = State::TimeWait,
                        _ => drop(self.kernel.minisockets.swap_remove(index)),
                    }
                }
            }
            Step::Drain { events } => self.drain(events),
            Step::Lose => drop(self.kernel.ring.pop_front()),
            Step::Repeat => {
                if let Some(oldest) = self.kernel.ring.front().copied() {
                    self.kernel.ring.insert(
                        1,
                        Transition {
                            is_nested: true,
                            ..oldest
                        },
                    );
                }
            }
            Step::Begin => {
                self.drain(usize::MAX);
                self.census.begin(NETNS);
                self.walk = Some((Vec::new(), None, self.kernel.now_ns + 1));
            }
            Step::Walk { rows } => {
                if let Some((read, at, _)) = &mut self.walk {
                    let table = self.kernel.table().into_iter();
                    let done = *at;
                    let rest = table.filter(|seen| done.is_none_or(|at| place(seen.cookie) > at));
                    read.extend(rest.take(rows));
                    *at = read.last().map(|seen| place(seen.cookie)).or(done);
                }
            }
            Step::Finish { waiting } => self.finish(Scope::ALL, waiting),
        }
    }

    fn finish(&mut self, scope: Scope, waiting: usize) {
        if self.walk.is_some() {
            self.take(&Step::Walk { rows: usize::MAX });
            self.drain(self.kernel.ring.len().saturating_sub(waiting));
        }
        if let Some((read, _, began_ns)) = self.walk.take() {
            let snapshot = Snapshot {
                scope,
                began_ns,
                ..Snapshot::default()
            };
            let is_listed = |seen: &Seen| match seen.state {
                _ if scope == Scope::ALL => true,
                State::FinWait2 => scope.has(Scope::ORPHANS),
                _ => false,
            };
            let read = read.into_iter().filter(is_listed);
            let _: u64 = self.census.finish(NETNS, snapshot, read);
        }
    }

    /// One round of the daemon, as it answers a question.
    fn round(&mut self) {
        self.drain(usize::MAX);
        self.census.mark(NETNS);
        let figures = self.kernel.figures();
        self.census.check(NETNS, &figures);
        self.ask();
        let (need, _) = self.census.need(NETNS, self.kernel.now_ns, true);
        if !need.scope.is_empty() {
            self.take(&Step::Begin);
            self.finish(need.scope, 0);
        }
    }

    fn ask(&mut self) {
        self.kernel.now_ns += 1_000_000_000;
        let questions = self.census.questions(NETNS, self.kernel.now_ns, true);
        self.census.begin_answers(NETNS);
        for question in questions {
            let reply = self.kernel.reply(&question);
            self.census
                .take_reply(NETNS, &question, reply, self.kernel.now_ns);
        }
    }

    fn assert_exact(&self) {
        for family in Family::ALL {
            assert_eq!(
                self.census.counts(NETNS, family),
                self.kernel.counts(family),
                "{family}"
            );
        }
    }

    fn is_exact(&self) -> bool {
        let mut families = Family::ALL.into_iter();
        families.all(|family| self.census.counts(NETNS, family) == self.kernel.counts(family))
    }
}

proptest! {
    /// However events, walks and silent ends interleave, and whatever comes twice, some rounds at rest
    /// set all right.
    #[test]
    fn rounds_at_rest_agree_with_the_kernel(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.finish(Scope::ALL, 0);
        for _ in 0..4 {
            world.round();
        }
        world.take(&Step::Begin);
        world.finish(Scope::ALL, 0);
        world.ask();
        world.assert_exact();
        prop_assert!(!world.census.is_in_doubt());
    }

    /// Without a loss, no snapshot ever finds the full sockets to be other than the events said.
    #[test]
    fn nothing_drifts_without_a_loss(steps in steps()) {
        let mut world = World::new();
        world.round();
        for step in &steps {
            // A held-back event makes a snapshot know better, for a moment.
            match step {
                Step::Finish { .. } => world.take(&Step::Finish { waiting: 0 }),
                step => world.take(step),
            }
        }
        world.finish(Scope::ALL, 0);
        world.round();
        let tally = world.census.tally();
        prop_assert_eq!((tally.corrected, tally.contradicting), (0, 0));
    }

    /// The same with losses, which the daemon always hears of: within two rounds all is right, or in
    /// doubt.
    #[test]
    fn losses_are_made_good(
        steps in steps(),
        losses in proptest::collection::vec(any::<proptest::sample::Index>(), 1..8),
    ) {
        let mut world = World::new();
        let mut steps = steps;
        for loss in losses {
            steps.insert(loss.index(steps.len() + 1), Step::Lose);
        }
        for step in &steps {
            world.take(step);
        }
        world.finish(Scope::ALL, 0);
        world.census.suspect_all(0);
        prop_assert!(world.census.is_in_doubt());
        for _ in 0..4 {
            world.round();
            prop_assert!(world.is_exact() || world.census.is_in_doubt());
        }
        // The families of what ended in silence: an audit.
        world.take(&Step::Begin);
        world.finish(Scope::ALL, 0);
        world.ask();
        world.assert_exact();
    }

    /// Only each socket's own order matters: however the events of several are mixed, the census
    /// is the same.
    #[test]
    fn sockets_do_not_disturb_each_other(
        lives in proptest::collection::vec((0..LIVES.len(), 1..6_usize), 1..12),
        order in proptest::collection::vec(any::<proptest::sample::Index>(), 100),
    ) {
        let queues = || -> Vec<VecDeque<Transition>> {
            let queue = |(index, (life, length)): (usize, &(usize, usize))| {
                let states = LIVES[*life];
                let seen = seen(index as u64 + 1, Family::Ipv4, State::Close);
                let pairs = states.windows(2).take(*length);
                pairs.map(|pair| transition(&seen, pair[0], pair[1], true)).collect()
            };
            lives.iter().enumerate().map(queue).collect()
        };
        let mut one_by_one = Census::default();
        for transition in queues().into_iter().flatten() {
            let _: Applied = one_by_one.apply(&transition);
        }
        let mut mixed = Census::default();
        let mut waiting = queues();
        let mut turns = order.iter().cycle();
        while !waiting.is_empty() {
            let index = turns.next().unwrap().index(waiting.len());
            match waiting[index].pop_front() {
                Some(transition) => drop(mixed.apply(&transition)),
                None => drop(waiting.remove(index)),
            }
        }
        prop_assert_eq!(
            mixed.counts(NETNS, Family::Ipv4),
            one_by_one.counts(NETNS, Family::Ipv4)
        );
    }

    /// Nonsense from the kernel moves no count below zero, and is doubted.
    #[test]
    fn impossible_transitions_are_doubted(from in 1..=11_u8, to: u8) {
        let mut census = known(&[]);
        let seen = seen(1, Family::Ipv4, State::Close);
        let mut nonsense = transition(&seen, State::Established, State::Close, true);
        nonsense.from = RawState::from(from);
        nonsense.to = RawState::from(to);
        let _: Applied = census.apply(&nonsense);
        let total = census.counts(NETNS, Family::Ipv4).total();
        prop_assert!(total <= 2);
        // A child whose birth had no cookie is no nonsense.
        let is_first = nonsense.is_birth() || nonsense.from.is(State::SynRecv);
        let is_closing = nonsense.to.known().is_none_or(|to| to == State::Close);
        prop_assert!(census.is_in_doubt() || (is_first && !is_closing));
    }
}

/// The sockets of a test's namespace, quiet and known; their cookies count from 1.
fn known(counts: &[(State, Family)]) -> Census {
    let mut census = Census::default();
    census.cover(&BTreeSet::from([NETNS]));
    census.begin(NETNS);
    let rows = (1..)
        .zip(counts)
        .map(|(cookie, (state, family))| seen(cookie, *family, *state));
    let snapshot = Snapshot {
        scope: Scope::ALL,
        ..Snapshot::default()
    };
    assert_eq!(census.finish(NETNS, snapshot, rows), 0);
    census.mark(NETNS);
    census
}

fn figures(full: u64, established_or_close_wait: u64, minisockets: u64) -> Figures {
    Figures {
        full: [full, 0],
        minisockets,
        established_or_close_wait,
        read_from_ns: 100_000_000_000,
        read_until_ns: 100_000_000_000,
        ..Figures::default()
    }
}

/// What is walked at the time of [`figures`].
fn need(census: &mut Census) -> Need {
    census.need(NETNS, 100_000_000_000, false).0
}

/// An event that fired before its row was read, but was held back in the ring past the end of the
/// snapshot.
#[test]
fn an_event_that_was_held_back_changes_nothing() {
    let mut census = known(&[(State::Established, Family::Ipv4); 10]);
    let row = |cookie| {
        let state = if cookie == 1 {
            State::CloseWait
        } else {
            State::Established
        };
        seen(cookie, Family::Ipv4, state)
    };
    census.begin(NETNS);
    let snapshot = Snapshot {
        scope: Scope::ALL,
        ..Snapshot::default()
    };
    assert_eq!(census.finish(NETNS, snapshot, (1..=10).map(row)), 1);
    let late = transition(&row(1), State::Established, State::CloseWait, true);
    assert!(census.apply(&late).is_repeated());
    let counts = census.counts(NETNS, Family::Ipv4);
    assert_eq!(counts.get(State::CloseWait), 1);
    assert_eq!(counts.get(State::Established), 9);
    assert_eq!(census.tally().repeated, 1);
}

#[test]
fn what_both_programs_took_is_counted_once() {
    let mut census = known(&[(State::CloseWait, Family::Ipv4); 3]);
    let one = seen(1, Family::Ipv4, State::CloseWait);
    let first = transition(&one, State::CloseWait, State::LastAck, true);
    let second = Transition {
        is_nested: true,
        ..first
    };
    assert!(!census.apply(&first).is_repeated());
    assert!(census.apply(&second).is_repeated());
    let counts = census.counts(NETNS, Family::Ipv4);
    assert_eq!(
        (counts.get(State::CloseWait), counts.get(State::LastAck)),
        (2, 1)
    );
    assert_eq!(census.tally().duplicated, 1);
    assert!(!census.is_in_doubt());
}

/// One transition is missing: nothing but the next one tells, and the kernel is asked.
#[test]
fn a_contradiction_is_settled_by_asking() {
    let mut census = known(&[(State::Established, Family::Ipv4); 3]);
    let one = seen(1, Family::Ipv4, State::Established);
    let next = transition(&one, State::CloseWait, State::LastAck, true);
    let _: Applied = census.apply(&next);
    assert_eq!(census.tally().contradicting, 1);
    assert!(census.is_in_doubt());
    let questions = census.questions(NETNS, 1_000, false);
    assert_eq!(questions.len(), 1);
    let reply = Reply::Gone;
    census.take_reply(NETNS, &questions[0], reply, 1_000);
    let counts = census.counts(NETNS, Family::Ipv4);
    assert_eq!((counts.get(State::Established), counts.total()), (2, 2));
    assert!(!census.is_in_doubt());
}

/// A socket that moved after the kernel was asked is known better from its transition.
#[test]
fn an_old_answer_changes_nothing() {
    let mut census = known(&[(State::Established, Family::Ipv4); 1]);
    let questions = census.audit(&BTreeSet::from([NETNS]));
    let question = &questions[&NETNS][0];
    let one = seen(1, Family::Ipv4, State::Established);
    let mut next = transition(&one, State::Established, State::CloseWait, true);
    next.ktime_ns = 2_000;
    let _: Applied = census.apply(&next);
    let reply = Reply::Found {
        state: State::Established,
        is_minisocket: false,
    };
    census.take_reply(NETNS, question, reply, 1_000);
    assert!(census.holds(1, State::CloseWait));
    census.take_reply(NETNS, question, reply, 3_000);
    assert!(census.holds(1, State::Established));
    assert_eq!(census.tally().corrected, 1);
}

#[test]
fn expired_time_wait_needs_no_walk() {
    let rows = [
        (State::TimeWait, Family::Ipv4),
        (State::TimeWait, Family::Ipv4),
        (State::TimeWait, Family::Ipv6),
    ];
    let mut census = known(&rows);
    census.check(NETNS, &figures(0, 0, 1));
    assert!(need(&mut census).scope.is_empty());
    let left = Family::ALL.map(|family| census.counts(NETNS, family).get(State::TimeWait));
    assert_eq!(left.iter().sum::<u64>(), 1);
}

/// A new connection may take the port of one in TIME_WAIT, and nothing says of which family that was.
#[test]
fn families_of_what_ended_before_its_time_are_in_doubt() {
    let rows = [Family::Ipv4, Family::Ipv6].map(|family| [(State::TimeWait, family); 4]);
    let seconds_left = 55;
    let listed = |cookies: std::ops::RangeInclusive<u64>| {
        cookies
            .zip(rows.concat())
            .map(|(cookie, (state, family))| Seen {
                seconds_left,
                ..seen(cookie, family, state)
            })
    };
    let snapshot = Snapshot {
        scope: Scope::ALL,
        began_ns: 99_000_000_000,
        ..Snapshot::default()
    };
    let mut census = known(&[]);
    census.begin(NETNS);
    census.finish(NETNS, snapshot, listed(1..=8));
    census.mark(NETNS);
    census.check(NETNS, &figures(0, 0, 6));
    // So few may wait for an audit, unless somebody asks.
    assert!(!census.is_in_doubt());
    assert!(need(&mut census).scope.is_empty());
    let (asked, _) = census.need(NETNS, 100_000_000_000, true);
    assert!(asked.scope.has(Scope::TIME_WAIT));
    let (audit, _) = census.need(NETNS, 170_000_000_000, false);
    assert!(audit.scope.has(Scope::TIME_WAIT));

    census.mark(NETNS);
    census.check(NETNS, &figures(0, 0, 5));
    assert_eq!(census.doubt(NETNS).uncertain[&State::TimeWait], 3);
    let need = need(&mut census);
    assert!(need.scope.has(Scope::TIME_WAIT) && need.urgency == Urgency::Audit);
    census.begin(NETNS);
    let snapshot = Snapshot {
        scope: need.scope,
        began_ns: 101_000_000_000,
        ..snapshot
    };
    census.finish(NETNS, snapshot, listed(1..=8).skip(3));
    let left = Family::ALL.map(|family| census.counts(NETNS, family).get(State::TimeWait));
    assert_eq!((left, census.is_in_doubt()), ([1, 4], false));
}

#[test]
fn minisockets_that_nothing_announced_are_in_doubt() {
    let mut census = known(&[(State::TimeWait, Family::Ipv4)]);
    census.check(NETNS, &figures(0, 0, 4));
    let counts = census.counts(NETNS, Family::Ipv4);
    assert_eq!(counts.get(State::TimeWait), 4);
    let doubt = census.doubt(NETNS);
    assert!(doubt.is_in_doubt);
    assert_eq!(doubt.uncertain[&State::FinWait2], 3);
    let need = need(&mut census);
    assert_eq!(need.scope, Scope::ORPHANS.with(Scope::TIME_WAIT));
    census.begin(NETNS);
    let snapshot = Snapshot {
        scope: need.scope,
        began_ns: 101_000_000_000,
        ..Snapshot::default()
    };
    let orphan = Seen {
        is_minisocket: true,
        ..seen(9, Family::Ipv4, State::FinWait2)
    };
    let others = (1..=3).map(|cookie| seen(cookie, Family::Ipv4, State::TimeWait));
    census.finish(NETNS, snapshot, others.chain([orphan]));
    let counts = census.counts(NETNS, Family::Ipv4);
    assert_eq!(
        (counts.get(State::FinWait2), counts.get(State::TimeWait)),
        (1, 3)
    );
    assert!(!census.is_in_doubt());
}

/// The sum falls by one, and only the answer tells which one it was.
#[test]
fn an_orphan_that_a_reset_ends_takes_no_time_wait_of_the_other_family() {
    let rows = [Family::Ipv4, Family::Ipv6].map(|family| (State::FinWait2, family));
    let mut census = known(&rows);
    let one = seen(1, Family::Ipv4, State::FinWait2);
    let _: Applied = census.apply(&transition(&one, State::FinWait2, State::Close, false));
    let two = seen(2, Family::Ipv6, State::FinWait2);
    let _: Applied = census.apply(&transition(&two, State::FinWait2, State::Close, false));
    let split = |census: &Census| {
        let counts = Family::ALL.map(|family| census.counts(NETNS, family));
        counts.map(|counts| (counts.get(State::FinWait2), counts.get(State::TimeWait)))
    };
    let mut fin = transition(&one, State::CloseWait, State::LastAck, true);
    (fin.local, fin.remote) = (fin.remote, fin.local);
    let _: Applied = census.apply(&fin);
    assert_eq!(split(&census), [(0, 1), (1, 0)]);

    census.mark(NETNS);
    let before_its_time = Figures {
        read_from_ns: 5_000_000_000,
        read_until_ns: 5_000_000_000,
        ..figures(0, 0, 1)
    };
    census.check(NETNS, &before_its_time);
    let questions = census.questions(NETNS, 10_000_000_000, false);
    let of_two = questions
        .iter()
        .find(|question| question.cookie == Some(2))
        .unwrap();
    census.begin_answers(NETNS);
    census.take_reply(NETNS, of_two, Reply::Gone, 10_000_000_000);
    assert_eq!(split(&census), [(0, 1), (0, 0)]);
}

/// Rows of `/proc/net` have neither cookies nor ends: each is one socket all the same.
#[test]
fn rows_that_cannot_be_told_apart_are_counted() {
    let mut census = Census::default();
    census.cover(&BTreeSet::from([NETNS]));
    let states = [
        (State::Established, false),
        (State::FinWait2, true),
        (State::TimeWait, true),
        (State::NewSynRecv, false),
    ];
    let rows = states.iter().flat_map(|(state, is_minisocket)| {
        let row = Seen {
            cookie: 0,
            is_minisocket: *is_minisocket,
            ..seen(0, Family::Ipv4, *state)
        };
        [row.clone(), row.clone(), row]
    });
    let snapshot = Snapshot {
        scope: Scope::ALL,
        has_cookies: false,
        ..Snapshot::default()
    };
    for _ in 0..2 {
        census.begin(NETNS);
        census.finish(NETNS, snapshot, rows.clone());
        let counts = census.counts(NETNS, Family::Ipv4);
        for (state, _) in states {
            assert_eq!(counts.get(state), 3, "{state}");
        }
    }
    assert!(!census.is_in_doubt());
    let one = seen(7, Family::Ipv4, State::Established);
    let _: Applied = census.apply(&transition(&one, State::CloseWait, State::LastAck, true));
    assert!(census.is_in_doubt());
    assert!(census.questions(NETNS, 1_000, true).is_empty());
    assert_eq!(need(&mut census).scope, Scope::ALL);
}

/// At the limit of buckets a close looks the same, and leaves nothing.
#[test]
fn what_is_inferred_is_in_doubt_until_the_sum_is_read() {
    let mut census = known(&[(State::Closing, Family::Ipv4); 5]);
    for cookie in 1..=5 {
        let one = seen(cookie, Family::Ipv4, State::Closing);
        let _: Applied = census.apply(&transition(&one, State::Closing, State::Close, true));
    }
    assert_eq!(census.doubt(NETNS).uncertain[&State::TimeWait], 5);
    census.check(NETNS, &figures(0, 0, 2));
    assert_eq!(census.counts(NETNS, Family::Ipv4).get(State::TimeWait), 2);
    assert!(!census.is_in_doubt());
}

/// A difference that what is in flight explains is looked at again when nothing is.
#[test]
fn a_sum_that_is_a_little_off_is_read_again() {
    let mut census = known(&[(State::Closing, Family::Ipv4); 5]);
    let read = figures(0, 0, 2);
    for cookie in 1..=5 {
        let one = seen(cookie, Family::Ipv4, State::Closing);
        let mut close = transition(&one, State::Closing, State::Close, true);
        close.ktime_ns = read.read_from_ns;
        let _: Applied = census.apply(&close);
    }
    census.check(NETNS, &read);
    assert_eq!(census.counts(NETNS, Family::Ipv4).get(State::TimeWait), 5);
    census.mark(NETNS);
    assert!(census.is_active(NETNS, read.read_until_ns));
    census.check(NETNS, &read);
    assert_eq!(census.counts(NETNS, Family::Ipv4).get(State::TimeWait), 2);
    // Nobody knows which of them are left, nor for how long: their end may come at any moment.
    census.mark(NETNS);
    census.check(NETNS, &read);
    assert!(census.is_active(NETNS, read.read_until_ns + 1_000_000_000));
}

/// An orphan counts as FIN_WAIT2 until its peer on this host sends a FIN, or the kernel says that it
/// is something else.
#[test]
fn orphans_leave_fin_wait2_by_their_peers_fin_or_by_the_kernels_word() {
    let mut census = known(&[
        (State::FinWait2, Family::Ipv4),
        (State::FinWait2, Family::Ipv4),
        (State::FinWait2, Family::Ipv4),
    ]);
    for cookie in 1..=3 {
        let one = seen(cookie, Family::Ipv4, State::FinWait2);
        let _: Applied = census.apply(&transition(&one, State::FinWait2, State::Close, false));
    }
    let split = |census: &Census| {
        let counts = census.counts(NETNS, Family::Ipv4);
        (counts.get(State::FinWait2), counts.get(State::TimeWait))
    };
    assert_eq!(split(&census), (3, 0));
    let peer = Seen {
        ends: ends(1, Family::Ipv4).reversed(),
        ..seen(8, Family::Ipv4, State::CloseWait)
    };
    let mut fin = transition(&peer, State::CloseWait, State::LastAck, true);
    fin.ktime_ns = 50;
    let _: Applied = census.apply(&fin);
    assert_eq!(split(&census), (2, 1));
    let questions = census.questions(NETNS, 10_000_000_000, false);
    let orphans = questions
        .iter()
        .filter(|question| question.about == About::Orphan);
    let orphans: Vec<&Question> = orphans.collect();
    assert_eq!(orphans.len(), 3);
    census.begin_answers(NETNS);
    for question in orphans {
        let state = if question.cookie == Some(3) {
            State::FinWait2
        } else {
            State::TimeWait
        };
        let reply = Reply::Found {
            state,
            is_minisocket: true,
        };
        census.take_reply(NETNS, question, reply, 10_000_000_000);
    }
    assert_eq!(split(&census), (1, 2));
    // One of three changed without a word: so may the next.
    assert_eq!(census.take_ended().len(), 0);
}

#[test]
fn an_idle_namespace_with_a_million_sockets_is_not_walked() {
    let rows = vec![(State::Established, Family::Ipv4); 1_000];
    let mut census = known(&rows);
    census.check(NETNS, &figures(1_000, 1_000, 0));
    assert!(need(&mut census).scope.is_empty());
    assert!(!census.is_active(NETNS, 200_000_000_000));
}

#[test]
fn segments_at_a_listener_may_be_requests() {
    let mut census = known(&[(State::Listen, Family::Ipv4)]);
    let busy = Figures {
        segments_received: 1,
        ..figures(1, 0, 0)
    };
    census.check(NETNS, &busy);
    let need = need(&mut census);
    assert_eq!(
        (need.scope, need.urgency),
        (Scope::REQUESTS, Urgency::Audit)
    );
    // Three that nothing had told of: there may be as many again.
    let requests = (1..=3).map(|cookie| seen(cookie, Family::Ipv4, State::NewSynRecv));
    let snapshot = Snapshot {
        scope: Scope::REQUESTS,
        began_ns: 1,
        ..Snapshot::default()
    };
    census.finish(NETNS, snapshot, requests);
    let counts = census.counts(NETNS, Family::Ipv4);
    assert_eq!(counts.get(State::NewSynRecv), 3);
    assert_eq!(census.doubt(NETNS).uncertain[&State::NewSynRecv], 3);
    assert_eq!(census.questions(NETNS, 2_000_000_000, false).len(), 3);
}

#[test]
fn a_figure_that_contradicts_twice_asks_for_a_walk() {
    let mut census = known(&[(State::Established, Family::Ipv4)]);
    census.check(NETNS, &figures(2, 1, 0));
    assert!(!census.is_in_doubt());
    census.mark(NETNS);
    census.check(NETNS, &figures(2, 1, 0));
    assert!(census.is_in_doubt());
    let need = need(&mut census);
    assert_eq!((need.scope, need.urgency), (Scope::ALL, Urgency::Wrong));
}

/// Under load one socket too few is within what is in flight, but not for ever.
#[test]
fn a_small_error_that_stays_asks_for_a_walk() {
    let mut census = known(&[(State::Established, Family::Ipv4)]);
    let figures = figures(2, 2, 0);
    let busy = seen(7, Family::Ipv4, State::Established);
    let needs: Vec<Scope> = (0..20)
        .map(|_| {
            census.mark(NETNS);
            for (from, to) in [
                (State::Close, State::SynSent),
                (State::SynSent, State::Close),
            ] {
                let mut step = transition(&busy, from, to, false);
                step.ktime_ns = figures.read_from_ns;
                let _: Applied = census.apply(&step);
            }
            census.check(NETNS, &figures);
            need(&mut census).scope
        })
        .collect();
    assert_ne!(needs[0], Scope::ALL);
    assert_eq!(needs[19], Scope::ALL);
}

/// Nothing was sent or received meanwhile, so nothing can have been lost there.
#[test]
fn a_loss_elsewhere_leaves_a_quiet_namespace_alone() {
    let mut census = known(&[(State::Established, Family::Ipv4)]);
    census.check(NETNS, &figures(1, 1, 0));
    census.suspect_all(100_000_000_000);
    assert!(census.is_in_doubt());
    census.mark(NETNS);
    census.check(NETNS, &figures(1, 1, 0));
    assert!(!census.is_in_doubt());
    census.suspect_all(100_000_000_000);
    let busy = Figures {
        segments_sent: 1,
        ..figures(1, 1, 0)
    };
    census.check(NETNS, &busy);
    assert!(census.is_in_doubt());
    assert_eq!(need(&mut census).scope, Scope::ALL);
}

#[test]
fn gone_namespaces_are_forgotten_and_new_ones_are_unknown() {
    let mut census = known(&[(State::Listen, Family::Ipv4)]);
    census.cover(&BTreeSet::from([NETNS + 1]));
    assert!(census.namespaces.keys().eq(&[NETNS + 1]));
    assert_eq!(census.sockets().iter().count(), 0);
    census.check(NETNS + 1, &figures(1, 0, 0));
    assert!(census.is_in_doubt());
    let (need, _) = census.need(NETNS + 1, 0, false);
    assert_eq!(need.urgency, Urgency::Wrong);
    // What happens where nothing leads is counted, and in no count.
    let one = seen(1, Family::Ipv4, State::CloseWait);
    let elsewhere = transition(&one, State::CloseWait, State::LastAck, true);
    let _: Applied = census.apply(&elsewhere);
    assert_eq!(census.tally().uncovered, 1);
    census.cover(&BTreeSet::from([NETNS]));
    let _: Applied = census.apply(&elsewhere);
    assert_eq!(census.tally().uncovered, 1);
}

/// All that a new namespace holds announced itself: its figures say so, and no walk is needed.
#[test]
fn a_new_namespace_whose_figures_agree_needs_no_walk() {
    let mut census = Census::default();
    let one = seen(1, Family::Ipv4, State::Listen);
    let _: Applied = census.apply(&transition(&one, State::Close, State::Listen, false));
    assert_eq!(census.take_discovered(), [NETNS]);
    assert!(census.is_in_doubt());
    census.mark(NETNS);
    census.check(NETNS, &figures(1, 0, 0));
    assert!(!census.is_in_doubt());
}

/// The clock stood still meanwhile: a time across it is at least what the clock says.
#[test]
fn no_time_across_a_suspension_is_exact() {
    let mut census = known(&[]);
    let one = seen(1, Family::Ipv4, State::CloseWait);
    let at = |ktime_ns, from, to| Transition {
        ktime_ns,
        ..transition(&one, from, to, true)
    };
    let time = |applied: Applied| applied.after().map(|time| time.as_nanos());
    let _: Applied = census.apply(&at(10, State::SynRecv, State::Established));
    let exact = census.apply(&at(30, State::Established, State::CloseWait));
    assert_eq!(time(exact), Some(20));
    census.note_suspension();
    let evidence = Evidence {
        netns: NETNS,
        cookie: 1,
        state: State::CloseWait,
        ..crate::track::stuck::fixture::evidence(State::CloseWait)
    };
    assert_eq!(census.since(&evidence), Some((30, true)));
    let across = census.apply(&at(50, State::CloseWait, State::LastAck));
    assert_eq!(time(across), None);
    assert_eq!(
        time(census.apply(&at(60, State::LastAck, State::Close))),
        Some(10)
    );
}
