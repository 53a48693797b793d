//! The census against a small model of the kernel: sockets that announce what they do, minisockets
//! that do not, a ring that delivers late or never, and a table walk that takes its time.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

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
    /// A walk begins, goes on over part of the table, and ends.
    Begin,
    Walk {
        rows: usize,
    },
    Finish,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..LIVES.len(), any::<bool>()).prop_map(|(life, is_ipv6)| Step::Open { life, is_ipv6 }),
        12 => any::<usize>().prop_map(|which| Step::Move { which }),
        2 => any::<usize>().prop_map(|which| Step::Fade { which }),
        4 => (0..6_usize).prop_map(|events| Step::Drain { events }),
        1 => Just(Step::Begin),
        4 => (0..5_usize).prop_map(|rows| Step::Walk { rows }),
        1 => Just(Step::Finish),
    ];
    proptest::collection::vec(step, 0..200)
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
}

impl Kernel {
    fn step(&mut self, index: usize) {
        let socket = &mut self.sockets[index];
        let (from, to) = (socket.life[socket.age], socket.life[socket.age + 1]);
        let has_peer_fin = !socket.seen.cookie.is_multiple_of(3);
        let transition = transition(socket.seen, from, to, has_peer_fin);
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
        let full = self.sockets.iter().map(|socket| socket.seen);
        let mut table: Vec<Seen> = full.chain(self.minisockets.iter().copied()).collect();
        // Some order that has nothing to do with age, as in a hash table.
        table.sort_by_key(|seen| place(seen.cookie));
        table
    }

    fn counts(&self, family: Family) -> Counts {
        let table = self.table().into_iter();
        table
            .filter(|seen| seen.family == family)
            .map(|seen| seen.state)
            .collect()
    }

    fn figures(&self) -> Figures {
        let full = |family| {
            self.sockets
                .iter()
                .filter(|s| s.seen.family == family)
                .count() as u64
        };
        let in_state = |state| {
            self.sockets
                .iter()
                .filter(|s| s.seen.state == state)
                .count() as u64
        };
        Figures {
            full: Family::ALL.map(full),
            minisockets: self.minisockets.len() as u64,
            established_or_close_wait: in_state(State::Established) + in_state(State::CloseWait),
            segments_received: self.opened,
            ..Figures::default()
        }
    }
}

fn place(cookie: u64) -> u64 {
    cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn transition(seen: Seen, from: State, to: State, has_peer_fin: bool) -> Transition {
    Transition {
        netns: Some(NETNS),
        cookie: Some(seen.cookie),
        family: seen.family,
        local: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 1),
        remote: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 2),
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
    /// Rows read so far, and the place in the table up to which it was read.
    walk: Option<(Vec<Seen>, Option<u64>)>,
}

impl World {
    fn new() -> Self {
        let mut world = Self::default();
        world.census.cover(&[NETNS]);
        world
    }

    fn drain(&mut self, events: usize) {
        let events = events.min(self.kernel.ring.len());
        for transition in self.kernel.ring.drain(..events) {
            self.census.apply(&transition);
        }
    }

    fn take(&mut self, step: &Step) {
        let pick = |which: usize, length: usize| (length > 0).then(|| which % length);
        match *step {
            Step::Open { life, is_ipv6 } => {
                self.kernel.opened += 1;
                let family = if is_ipv6 { Family::Ipv6 } else { Family::Ipv4 };
                let seen = Seen {
                    cookie: self.kernel.opened,
                    family,
                    state: State::Close,
                    is_minisocket: false,
                };
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
            Step::Begin => {
                self.census.begin(NETNS);
                self.walk = Some((Vec::new(), None));
            }
            Step::Walk { rows } => {
                if let Some((read, at)) = &mut self.walk {
                    let table = self.kernel.table().into_iter();
                    let done = *at;
                    let rest = table.filter(|seen| done.is_none_or(|at| place(seen.cookie) > at));
                    read.extend(rest.take(rows));
                    *at = read.last().map(|seen| place(seen.cookie)).or(done);
                }
            }
            Step::Finish => self.finish(Scope::ALL),
        }
    }

    fn finish(&mut self, scope: Scope) {
        if self.walk.is_some() {
            self.take(&Step::Walk { rows: usize::MAX });
            self.drain(usize::MAX);
        }
        if let Some((read, _)) = self.walk.take() {
            let snapshot = Snapshot {
                scope,
                has_cookies: true,
            };
            let _: u64 = self.census.finish(NETNS, snapshot, read.into_iter());
        }
    }

    /// One round of the daemon, as it answers a question.
    fn round(&mut self) {
        self.drain(usize::MAX);
        self.census.mark(NETNS);
        let figures = self.kernel.figures();
        let verdict = self.census.check(NETNS, &figures);
        if !verdict.walk.is_empty() {
            self.take(&Step::Begin);
            self.finish(verdict.walk);
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
}

proptest! {
    /// However events, walks and silent ends interleave, one round at rest sets all right; and
    /// without a loss, no snapshot ever finds the full sockets to be other than the events said.
    #[test]
    fn a_round_at_rest_agrees_with_the_kernel(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.finish(Scope::ALL);
        world.round();
        world.assert_exact();
        prop_assert_eq!(world.census.drift(), 0);
    }

    /// The same with losses, which the daemon always hears of.
    #[test]
    fn losses_are_made_good_within_a_round(
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
        world.finish(Scope::ALL);
        world.census.suspect_all();
        world.round();
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
                let seen = Seen {
                    cookie: index as u64 + 1,
                    family: Family::Ipv4,
                    state: State::Close,
                    is_minisocket: false,
                };
                let pairs = states.windows(2).take(*length);
                pairs.map(|pair| transition(seen, pair[0], pair[1], true)).collect()
            };
            lives.iter().enumerate().map(queue).collect()
        };
        let mut one_by_one = Census::default();
        for transition in queues().into_iter().flatten() {
            one_by_one.apply(&transition);
        }
        let mut mixed = Census::default();
        let mut waiting = queues();
        let mut turns = order.iter().cycle();
        while !waiting.is_empty() {
            let index = turns.next().unwrap().index(waiting.len());
            match waiting[index].pop_front() {
                Some(transition) => mixed.apply(&transition),
                None => drop(waiting.remove(index)),
            }
        }
        prop_assert_eq!(
            mixed.counts(NETNS, Family::Ipv4),
            one_by_one.counts(NETNS, Family::Ipv4)
        );
    }

    /// Nonsense from the kernel moves no count below zero, and asks for a snapshot.
    #[test]
    fn impossible_transitions_make_the_counts_suspect(from in 1..=11_u8, to: u8) {
        let mut census = Census::default();
        census.cover(&[NETNS]);
        census.mark(NETNS);
        prop_assert!(census.check(NETNS, &Figures::default()).walk.is_empty());
        let seen = Seen {
            cookie: 1,
            family: Family::Ipv4,
            state: State::Close,
            is_minisocket: false,
        };
        let mut nonsense = transition(seen, State::Established, State::Close, true);
        nonsense.from = RawState::from(from);
        nonsense.to = RawState::from(to);
        census.apply(&nonsense);
        let total = census.counts(NETNS, Family::Ipv4).total();
        prop_assert!(total <= 2);
        let figures = Figures {
            minisockets: 1,
            ..Figures::default()
        };
        let verdict = census.check(NETNS, &figures);
        prop_assert_eq!(verdict.is_urgent, !nonsense.is_birth());
    }
}

/// The fields of a test's namespace, quiet and known.
fn known(counts: &[(State, Family)]) -> Census {
    let mut census = Census::default();
    census.cover(&[NETNS]);
    census.begin(NETNS);
    let seen = counts
        .iter()
        .enumerate()
        .map(|(index, (state, family))| Seen {
            cookie: index as u64 + 1,
            family: *family,
            state: *state,
            is_minisocket: *state == State::TimeWait,
        });
    let snapshot = Snapshot {
        scope: Scope::ALL,
        has_cookies: true,
    };
    assert_eq!(census.finish(NETNS, snapshot, seen), 0);
    census.mark(NETNS);
    census
}

#[test]
fn expired_time_wait_needs_no_walk_where_only_one_kind_can_have_expired() {
    let mut census = known(&[(State::TimeWait, Family::Ipv4); 5]);
    let figures = Figures {
        minisockets: 2,
        ..Figures::default()
    };
    assert_eq!(census.check(NETNS, &figures), Verdict::default());
    assert_eq!(census.counts(NETNS, Family::Ipv4).get(State::TimeWait), 2);
}

#[test]
fn expired_time_wait_of_two_families_needs_one() {
    let mut census = known(&[
        (State::TimeWait, Family::Ipv4),
        (State::TimeWait, Family::Ipv4),
        (State::TimeWait, Family::Ipv6),
    ]);
    let figures = Figures {
        minisockets: 2,
        ..Figures::default()
    };
    let verdict = census.check(NETNS, &figures);
    assert!(verdict.walk.minisockets && !verdict.walk.full && !verdict.is_urgent);
    // Asked again before a walk was affordable, it still wants one.
    assert!(census.check(NETNS, &figures).walk.minisockets);
}

#[test]
fn an_idle_namespace_with_a_million_sockets_is_not_walked() {
    let mut census = known(&[(State::Listen, Family::Ipv4)]);
    let tables = census.namespaces.get_mut(&NETNS).unwrap();
    tables.full[0].add(State::Established, 1_000_000);
    let figures = Figures {
        full: [1_000_001, 0],
        established_or_close_wait: 1_000_000,
        ..Figures::default()
    };
    assert_eq!(census.check(NETNS, &figures), Verdict::default());
    assert!(!census.is_active(NETNS));
    let busy = Figures {
        segments_received: 1,
        ..figures
    };
    let verdict = census.check(NETNS, &busy);
    assert!(verdict.walk.requests && !verdict.walk.full && !verdict.is_urgent);
}

#[test]
fn a_contradicting_figure_asks_for_a_walk() {
    let mut census = known(&[(State::Established, Family::Ipv4)]);
    let figures = Figures {
        full: [2, 0],
        established_or_close_wait: 1,
        ..Figures::default()
    };
    assert_eq!(census.check(NETNS, &figures).walk, Scope::ALL);
}

/// Under load one socket too few is within what is in flight, but not for ever.
#[test]
fn a_small_error_that_stays_asks_for_a_walk() {
    let mut census = known(&[(State::Established, Family::Ipv4)]);
    let busy = Seen {
        cookie: 7,
        family: Family::Ipv4,
        state: State::Established,
        is_minisocket: false,
    };
    let figures = Figures {
        full: [2, 0],
        established_or_close_wait: 2,
        ..Figures::default()
    };
    let walks: Vec<Scope> = (0..20)
        .map(|_| {
            census.mark(NETNS);
            census.apply(&transition(busy, State::Close, State::SynSent, false));
            census.apply(&transition(busy, State::SynSent, State::Close, false));
            census.check(NETNS, &figures).walk
        })
        .collect();
    assert_ne!(walks[0], Scope::ALL);
    assert_eq!(walks[19], Scope::ALL);
}

#[test]
fn gone_namespaces_are_forgotten_and_new_ones_are_unknown() {
    let mut census = known(&[(State::Listen, Family::Ipv4)]);
    census.cover(&[NETNS + 1]);
    assert_eq!(census.namespaces().collect::<Vec<_>>(), [NETNS + 1]);
    let figures = Figures {
        full: [1, 0],
        ..Figures::default()
    };
    assert!(census.check(NETNS + 1, &figures).is_urgent);
}
