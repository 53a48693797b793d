//! Which ephemeral ports are taken, towards each destination, in one walk of one namespace.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use crate::tcp::{Evidence, Limits, State, Timer, TwReuse};

/// Destinations counted apart: what a hash table of 2^16 slots holds, 6 MB with one socket each. The
/// kernel's tables hold sockets in the order of a hash, so one that has thousands of them comes up
/// long before so many others did.
const MOST_DESTINATIONS: usize = (1 << 16) / 8 * 7;

/// Destinations in a result: those with the fewest ports left.
const MOST_SHOWN: usize = 64;

/// `TCP_TIMEWAIT_LEN` (`include/net/tcp.h`, Linux 6.18): how long `TIME_WAIT` lasts.
const TIME_WAIT_MS: u16 = 60_000;

/// What the rate at which ports enter `TIME_WAIT` is taken over, if that began so long ago.
const RECENT_MS: u64 = 30_000;
/// A rate over less is noise.
const SHORTEST_MS: u64 = 1_000;

/// Use of the ephemeral ports towards one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortUse {
    /// Inode number.
    pub(crate) netns: u32,
    pub(crate) local: IpAddr,
    pub(crate) remote: SocketAddr,
    /// Ports of `ip_local_port_range` that are not reserved.
    pub(crate) capacity: u32,
    /// Those that `connect()` to there cannot take: at most `capacity`.
    pub(crate) used: u32,
    /// Those of `used` in `TIME_WAIT`.
    pub(crate) time_wait: u32,
    /// Ports in `TIME_WAIT` that `tcp_tw_reuse` lets `connect()` take again; none of `used`.
    pub(crate) reusable: u32,
    /// What `used` tends to while ports enter `TIME_WAIT` as fast as of late and no others are taken:
    /// once the first of them leave it, as many leave as enter. May be above `capacity`.
    pub(crate) settles_at: u32,
    /// `tcp_tw_reuse` is on for this destination; it has an effect only with timestamps.
    pub(crate) has_reuse: bool,
    /// `tcp_timestamps` is on.
    pub(crate) has_timestamps: bool,
}

/// Use of the ephemeral ports of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortUsage {
    /// Inode number.
    pub(crate) netns: u32,
    /// Destinations with a socket on an ephemeral port.
    pub(crate) destinations: usize,
    /// Sockets towards destinations beyond the first [`MOST_DESTINATIONS`]; counted nowhere else.
    pub(crate) uncounted: u64,
    /// Minisockets of the namespace, whatever they are towards.
    pub(crate) minisockets: u64,
    /// Those of them in `TIME_WAIT`.
    pub(crate) time_wait: u64,
    /// The destinations with the most ports used, most first; [`MOST_SHOWN`] at most.
    pub(crate) top: Vec<PortUse>,
}

/// Adds up the sockets of one namespace, of every state.
///
/// A socket costs 4 bytes, and so does a minisocket: 131,072 of them towards one peer are 1 MB.
/// Sockets of a service cost nothing where its listener came first, as it does in a `sock_diag` dump
/// (`inet_diag_dump_icsk()` in `net/ipv4/inet_diag.c`, Linux 6.18).
#[derive(Debug)]
pub(crate) struct PortTally {
    netns: u32,
    listeners: HashSet<u16>,
    ports: HashMap<Destination, Vec<Taken>>,
    uncounted: u64,
    minisockets: u64,
    time_wait: u64,
}

/// What makes a 4-tuple unique, but for the local port. Addresses of IPv4 that an IPv6 socket uses
/// are those of IPv4: their sockets are in each other's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Destination {
    local: IpAddr,
    remote: IpAddr,
    port: u16,
}

/// A local port and how it is held. Should a torn walk have shown a port twice, the greater decides:
/// a full socket, or the younger minisocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Taken {
    port: u16,
    /// Until `TIME_WAIT` ends; [`Self::HELD`] in any other state.
    left_ms: u16,
}

impl Taken {
    const HELD: u16 = u16::MAX;

    fn of(socket: &Evidence) -> Self {
        let left_ms = match (socket.state, socket.timer) {
            (State::TimeWait, Timer::TimeWait(left)) => {
                u16::try_from(left.as_millis()).map_or(TIME_WAIT_MS, |left| left.min(TIME_WAIT_MS))
            }
            (State::TimeWait, _) => TIME_WAIT_MS,
            _ => Self::HELD,
        };
        Self {
            port: socket.local.port(),
            left_ms,
        }
    }

    const fn is_time_wait(self) -> bool {
        self.left_ms != Self::HELD
    }

    /// Milliseconds in `TIME_WAIT`; none in any other state.
    fn age_ms(self) -> u64 {
        TIME_WAIT_MS.saturating_sub(self.left_ms).into()
    }
}

impl PortTally {
    pub(crate) fn new(netns: u32) -> Self {
        Self {
            netns,
            listeners: HashSet::new(),
            ports: HashMap::new(),
            uncounted: 0,
            minisockets: 0,
            time_wait: 0,
        }
    }

    pub(crate) fn take(&mut self, socket: &Evidence) {
        self.minisockets += u64::from(socket.is_minisocket);
        self.time_wait += u64::from(socket.state == State::TimeWait);
        let port = socket.local.port();
        match socket.state {
            // Has no destination.
            State::Close => return,
            State::Listen => {
                self.listeners.insert(port);
                return;
            }
            _ => {}
        }
        if port == 0 || socket.remote.port() == 0 || self.listeners.contains(&port) {
            return;
        }
        let destination = Destination {
            local: socket.local.ip().to_canonical(),
            remote: socket.remote.ip().to_canonical(),
            port: socket.remote.port(),
        };
        if let Some(ports) = self.ports.get_mut(&destination) {
            ports.push(Taken::of(socket));
        } else if self.ports.len() < MOST_DESTINATIONS {
            self.ports.insert(destination, vec![Taken::of(socket)]);
        } else {
            self.uncounted += 1;
        }
    }

    /// The use under the limits of that namespace.
    ///
    /// `connect()` leaves out every port with a listener, whatever its address, as every other that
    /// was bound explicitly (`__inet_hash_connect()` in `net/ipv4/inet_hashtables.c`, Linux 6.18):
    /// listeners count towards every destination; other explicit binds cannot be told apart, and
    /// count towards their own.
    pub(crate) fn finish(mut self, limits: &Limits) -> PortUsage {
        let is_ephemeral = |port: &u16| is_ephemeral(*port, limits);
        let capacity = count(limits.ephemeral_ports.clone().filter(is_ephemeral));
        let listening = count(self.listeners.iter().filter(|port| is_ephemeral(port)));
        let listeners = &self.listeners;
        let is_client = |port: u16| is_ephemeral(&port) && !listeners.contains(&port);
        let use_of = |(destination, taken): (&Destination, &mut Vec<Taken>)| {
            settle(taken, is_client);
            let is_reusable = |taken: &&Taken| destination.lets_reuse(**taken, limits);
            let reusable = count(taken.iter().filter(is_reusable));
            let time_wait = count(taken.iter().filter(|taken| taken.is_time_wait()));
            let held = count(taken.iter()) - time_wait + listening;
            (!taken.is_empty()).then(|| PortUse {
                netns: self.netns,
                local: destination.local,
                remote: SocketAddr::new(destination.remote, destination.port),
                capacity,
                used: held + time_wait - reusable,
                time_wait: time_wait - reusable,
                reusable,
                settles_at: held.saturating_add(destination.settles_at(taken, limits)),
                has_reuse: destination.has_reuse(limits),
                has_timestamps: limits.has_timestamps,
            })
        };
        let mut top: Vec<PortUse> = self.ports.iter_mut().filter_map(use_of).collect();
        let destinations = top.len();
        top.sort_unstable_by_key(|port| {
            let most_first = (u32::MAX - port.used, u32::MAX - port.reusable);
            (most_first, port.local, port.remote)
        });
        top.truncate(MOST_SHOWN);
        PortUsage {
            netns: self.netns,
            destinations,
            uncounted: self.uncounted,
            minisockets: self.minisockets,
            time_wait: self.time_wait,
            top,
        }
    }
}

impl Destination {
    /// Whether `connect()` may take a port from `TIME_WAIT`: `tcp_twsk_unique()` in
    /// `net/ipv4/tcp_ipv4.c` (Linux 6.18). That compares with the last timestamp that the peer sent,
    /// which is its FIN's or its last acknowledgement's: `TIME_WAIT` began with it. Nothing tells
    /// whether the connection had timestamps; it did if both ends have them on.
    fn lets_reuse(&self, taken: Taken, limits: &Limits) -> bool {
        taken.is_time_wait() && taken.age_ms() > self.lasts_ms(limits)
    }

    fn has_reuse(&self, limits: &Limits) -> bool {
        match limits.tw_reuse {
            TwReuse::Never => false,
            TwReuse::Always => true,
            TwReuse::Loopback => self.local.is_loopback() || self.remote.is_loopback(),
        }
    }

    /// Milliseconds for which `TIME_WAIT` keeps a port from `connect()`.
    fn lasts_ms(&self, limits: &Limits) -> u64 {
        let until_reuse = u64::try_from(limits.tw_reuse_delay.as_millis()).unwrap_or(u64::MAX);
        let whole = u64::from(TIME_WAIT_MS);
        if self.has_reuse(limits) && limits.has_timestamps {
            until_reuse.min(whole)
        } else {
            whole
        }
    }

    /// Ports that `TIME_WAIT` will keep at once, if they go on entering it as of late.
    fn settles_at(&self, taken: &[Taken], limits: &Limits) -> u32 {
        let ages = || {
            let time_wait = taken.iter().filter(|taken| taken.is_time_wait());
            time_wait.map(|taken| taken.age_ms())
        };
        let oldest = ages().max().unwrap_or(0);
        let span = oldest.clamp(SHORTEST_MS, RECENT_MS);
        let recent = ages().filter(|age| *age <= span).count() as u64;
        let settled = recent * self.lasts_ms(limits) / span;
        u32::try_from(settled).unwrap_or(u32::MAX)
    }
}

/// Leaves each port that a client holds once.
fn settle(taken: &mut Vec<Taken>, is_client: impl Fn(u16) -> bool) {
    taken.retain(|taken| is_client(taken.port));
    taken.sort_unstable_by(|a, b| b.cmp(a));
    taken.dedup_by_key(|taken| taken.port);
}

fn is_ephemeral(port: u16, limits: &Limits) -> bool {
    let reserved = &limits.reserved_ports;
    let next = reserved.partition_point(|range| *range.end() < port);
    limits.ephemeral_ports.contains(&port)
        && !reserved
            .get(next)
            .is_some_and(|range| range.contains(&port))
}

/// Of ports, of which there are 65,536 at most.
fn count(ports: impl Iterator) -> u32 {
    u32::try_from(ports.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
