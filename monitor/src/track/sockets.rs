//! The table of full sockets: which state each is in, and since when. Transitions and snapshots keep
//! it; every count of full sockets follows from it.

use std::collections::hash_map::Entry;
use std::time::Duration;

use super::cookies::ByCookie;
use crate::tcp::{Ends, State, Transition};

/// Most sockets remembered at once: what a hash table of 2^22 slots holds (7/8 of them, 41 bytes
/// each). Those beyond are counted by snapshots only.
const MOST_SOCKETS: usize = (1 << 22) / 8 * 7;

/// Nobody saw it enter its state: it did so at `since_ns` or earlier.
const LOWER_BOUND: u8 = 1 << 0;
/// It is bound to a device, so its addresses alone do not find it.
const BOUND_TO_DEVICE: u8 = 1 << 1;
/// The last snapshot that should have listed it did not.
const MISSED: u8 = 1 << 2;

/// One full socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    /// When it entered its state, `CLOCK_MONOTONIC`, nanoseconds.
    pub(crate) since_ns: u64,
    /// The local port is 0 while the kernel has not chosen one.
    pub(crate) ends: Ends,
    /// Inode number of its network namespace.
    pub(crate) netns: u32,
    /// The snapshot that last listed it, see [`Sockets::next_snapshot`].
    snapshot: u16,
    pub(crate) state: State,
    flags: u8,
}

const _: () = assert!(size_of::<Socket>() == 32);

impl Socket {
    /// As a snapshot lists it: it entered its state at `since_ns` or earlier.
    pub(crate) const fn listed(netns: u32, ends: Ends, state: State, since_ns: u64) -> Self {
        Self {
            since_ns,
            ends,
            netns,
            snapshot: 0,
            state,
            flags: LOWER_BOUND,
        }
    }

    /// As a transition announces it.
    fn announced(transition: &Transition, netns: u32, state: State) -> Self {
        let flags = if transition.is_bound_to_device {
            BOUND_TO_DEVICE
        } else {
            0
        };
        Self {
            since_ns: transition.ktime_ns,
            ends: Ends::new(transition.family, transition.local, transition.remote),
            netns,
            snapshot: 0,
            state,
            flags,
        }
    }

    pub(super) const fn set_bound_to_device(&mut self, is_bound: bool) {
        if is_bound {
            self.flags |= BOUND_TO_DEVICE;
        } else {
            self.flags &= !BOUND_TO_DEVICE;
        }
    }

    /// Whether it entered its state at `since_ns` or earlier, not just then.
    pub(crate) const fn is_lower_bound(&self) -> bool {
        self.flags & LOWER_BOUND != 0
    }

    /// Whether an exact request finds it: its local port is known, and its addresses suffice.
    pub(crate) const fn is_askable(&self) -> bool {
        self.flags & BOUND_TO_DEVICE == 0 && self.ends.ports().0 != 0
    }

    /// Takes note that a snapshot should have listed it and did not; true when the one before did not,
    /// either.
    pub(super) const fn note_missed(&mut self) -> bool {
        let again = self.flags & MISSED != 0;
        self.flags |= MISSED;
        again
    }
}

/// No duration is as long: 584 years.
const UNKNOWN: u64 = u64::MAX;

/// What a transition did to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    /// How long the socket had been in the state it left, nanoseconds; [`UNKNOWN`] where nobody knows.
    after_ns: u64,
    /// What the table had it in, and has no longer.
    pub(super) left: Option<State>,
    /// What the table has it in now, and had not before.
    pub(super) entered: Option<State>,
    pub(super) news: News,
}

// Two registers hold it. By way of memory it is written in pieces and read as a whole, for which the
// processor waits.
const _: () = assert!(size_of::<Applied>() == 16);

/// How a transition fits what the table had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It starts where the last one ended, or begins a socket's life.
    Expected,
    /// It says what the table has already: a snapshot was ahead of it, or it came twice.
    Repeated,
    /// The table did not have the socket, or had it in another state.
    Contradicting,
    /// It names no socket, or there was no room for it.
    Unplaced,
}

impl Applied {
    /// How long the socket had been in the state it left, where that is known.
    pub(crate) fn after(&self) -> Option<Duration> {
        (self.after_ns != UNKNOWN).then_some(Duration::from_nanos(self.after_ns))
    }

    /// Whether the table had all of it already, so that it is to be counted nowhere.
    pub(crate) fn is_repeated(&self) -> bool {
        self.news == News::Repeated
    }

    pub(super) const fn unplaced() -> Self {
        Self::nothing(News::Unplaced)
    }

    const fn nothing(news: News) -> Self {
        Self {
            after_ns: UNKNOWN,
            left: None,
            entered: None,
            news,
        }
    }
}

/// Every full socket, by cookie.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    table: ByCookie<Socket>,
    dropped: u64,
    snapshot: u16,
}

impl Sockets {
    /// Takes note of a transition.
    pub(crate) fn apply(&mut self, transition: &Transition) -> Applied {
        let Some(cookie) = transition.cookie else {
            return Applied::unplaced();
        };
        match transition.to.known().filter(|to| *to != State::Close) {
            None => self.close(cookie, transition),
            // `close()` after `shutdown()` sets the state that the socket is in.
            Some(to) if transition.from == transition.to => self.stay(cookie, to, transition),
            Some(to) => self.enter(cookie, to, transition),
        }
    }

    fn close(&mut self, cookie: u64, transition: &Transition) -> Applied {
        let Some(last) = self.table.remove(&cookie) else {
            // Of a close that both programs took the second finds nothing.
            return Applied::nothing(if transition.is_nested {
                News::Repeated
            } else {
                News::Contradicting
            });
        };
        Applied {
            after_ns: time_in(&last, transition),
            left: Some(last.state),
            entered: None,
            news: if transition.from.is(last.state) {
                News::Expected
            } else {
                News::Contradicting
            },
        }
    }

    fn stay(&mut self, cookie: u64, to: State, transition: &Transition) -> Applied {
        let known = self.table.get(&cookie).map(|last| last.state);
        if known == Some(to) {
            return Applied::nothing(News::Expected);
        }
        let mut socket = Socket::announced(transition, transition.netns.unwrap_or_default(), to);
        socket.flags |= LOWER_BOUND;
        self.set(cookie, socket, News::Contradicting)
    }

    fn enter(&mut self, cookie: u64, to: State, transition: &Transition) -> Applied {
        let netns = transition.netns.unwrap_or_default();
        let is_full = self.table.len() >= MOST_SOCKETS;
        let last = match self.table.entry(cookie) {
            Entry::Occupied(last) => last.into_mut(),
            Entry::Vacant(_) if is_full => {
                self.dropped += 1;
                return Applied::unplaced();
            }
            Entry::Vacant(place) => {
                place.insert(Socket::announced(transition, netns, to));
                // Before Linux 6.15 a child has no cookie of its own when it is born.
                let is_first = transition.is_birth() || transition.from.is(State::SynRecv);
                return Applied {
                    after_ns: UNKNOWN,
                    left: None,
                    entered: Some(to),
                    news: if is_first {
                        News::Expected
                    } else {
                        News::Contradicting
                    },
                };
            }
        };
        if last.state == to {
            return Applied::nothing(News::Repeated);
        }
        let is_expected = transition.from.is(last.state) && !transition.is_birth();
        let applied = Applied {
            after_ns: time_in(last, transition),
            left: Some(last.state),
            entered: Some(to),
            news: if is_expected {
                News::Expected
            } else {
                News::Contradicting
            },
        };
        // A socket that connects anew has other ends.
        let ports = (transition.local.port(), transition.remote.port());
        if transition.is_birth() || last.ends.ports() != ports {
            *last = Socket::announced(transition, netns, to);
        } else {
            last.since_ns = transition.ktime_ns;
            last.state = to;
            last.flags &= !(LOWER_BOUND | MISSED);
        }
        applied
    }

    /// Sets what is known of a socket.
    pub(super) fn set(&mut self, cookie: u64, socket: Socket, news: News) -> Applied {
        if self.table.len() >= MOST_SOCKETS && !self.table.contains_key(&cookie) {
            self.dropped += 1;
            return Applied::unplaced();
        }
        let entered = Some(socket.state);
        let last = self.table.insert(cookie, socket);
        Applied {
            after_ns: UNKNOWN,
            left: last.map(|last| last.state),
            entered,
            news,
        }
    }

    pub(super) fn remove(&mut self, cookie: u64) -> Option<Socket> {
        self.table.remove(&cookie)
    }

    pub(crate) fn get(&self, cookie: u64) -> Option<&Socket> {
        self.table.get(&cookie)
    }

    pub(super) fn get_mut(&mut self, cookie: u64) -> Option<&mut Socket> {
        self.table.get_mut(&cookie)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Socket)> {
        self.table.iter().map(|(cookie, socket)| (*cookie, socket))
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Socket) -> bool) {
        self.table.retain(|_, socket| keep(socket));
    }

    /// The system was suspended, and its clock stood still: what is in its state since before that is
    /// so for longer than the clock says.
    pub(crate) fn note_suspension(&mut self) {
        for socket in self.table.values_mut() {
            socket.flags |= LOWER_BOUND;
        }
    }

    /// Forgets every socket: after losses, those whose end was missed would stay for ever.
    pub(crate) fn forget_all(&mut self) {
        self.table.clear();
    }

    /// Gives back the room that a storm took.
    pub(crate) fn shrink(&mut self) {
        if self.table.len() < self.table.capacity() / 8 {
            self.table.shrink_to_fit();
        }
    }

    /// Sockets that found no room so far.
    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// A number for the snapshot that is being taken over: [`Socket::note_listed`] marks with it.
    pub(super) const fn next_snapshot(&mut self) -> u16 {
        self.snapshot = self.snapshot.wrapping_add(1);
        self.snapshot
    }

    /// Sockets of a namespace, that `is_covered`, which snapshot `snapshot` did not list.
    pub(super) fn unlisted(
        &self,
        netns: u32,
        snapshot: u16,
        is_covered: impl Fn(State) -> bool,
    ) -> Vec<u64> {
        let all = self.table.iter();
        let unlisted = all.filter(|(_, socket)| {
            socket.netns == netns && socket.snapshot != snapshot && is_covered(socket.state)
        });
        unlisted.map(|(cookie, _)| *cookie).collect()
    }
}

impl Socket {
    /// Snapshot `number` lists it, in the state it is known to be in since `since_ns` at the latest.
    pub(super) fn note_listed(&mut self, number: u16, ends: Ends, since_ns: u64) {
        self.snapshot = number;
        self.flags &= !MISSED;
        if self.ends.ports().0 == 0 {
            self.ends = ends;
        }
        if self.is_lower_bound() {
            self.since_ns = self.since_ns.min(since_ns);
        }
    }
}

/// How long a socket was in the state that this transition says it leaves, nanoseconds. [`UNKNOWN`]
/// where another transition was lost in between, where nobody saw it enter, and where time went back.
fn time_in(last: &Socket, transition: &Transition) -> u64 {
    if last.is_lower_bound() || !transition.from.is(last.state) || transition.is_birth() {
        return UNKNOWN;
    }
    let nanoseconds = transition.ktime_ns.checked_sub(last.since_ns);
    nanoseconds.unwrap_or(UNKNOWN)
}
