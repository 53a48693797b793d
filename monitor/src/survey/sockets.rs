//! The sockets of a look, 68 bytes each, and 32 more for IPv6: there may be hundreds of thousands.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::tcp::{Evidence, Family, RawState, State, TcpInfo, Timer};
use crate::track::stuck::{Age, Severity};

/// Marks a socket that is to be left out.
const NO_AGE: u64 = u64::MAX;
/// What `flags` has beside the number of the timer that runs.
const TIMER: u8 = 0b111;
const IS_MINISOCKET: u8 = 1 << 3;
const HAS_INFO: u8 = 1 << 4;
const HAS_WINDOW: u8 = 1 << 5;
const IS_BOUND: u8 = 1 << 6;
const IS_WIDE: u8 = 1 << 7;
/// What `state` has beside the state and its severity: IPv4 addresses as an IPv6 socket shows them.
const IS_MAPPED: u8 = 1 << 7;
const IS_MPTCP: u8 = 1 << 6;

/// The sockets of one namespace. Of an [`Evidence`] they lack what no verdict follows from: `uid`,
/// `cgroup_id`, which interface it is bound to, `unacked` and `total_retransmits`. Times are in
/// milliseconds, as the kernel tells them.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    packed: Vec<Packed>,
    /// Local and remote addresses that are IPv6.
    wide: Vec<[Ipv6Addr; 2]>,
}

/// Numbers of 64 bits stand in two halves, so that none is aligned.
#[derive(Clone, Copy, Debug)]
struct Packed {
    cookie: [u8; 8],
    /// Nanoseconds, and in the lowest bit whether it may be older; or [`NO_AGE`].
    age: [u8; 8],
    /// Or the place in `wide`.
    addresses: [Ipv4Addr; 2],
    ports: [u16; 2],
    inode: u32,
    recv_queue: u32,
    send_queue: u32,
    timer_ms: u32,
    sent_ms: u32,
    received_ms: u32,
    acked_ms: u32,
    rto_us: u32,
    peer_window: u32,
    /// Above it its severity, [`IS_MPTCP`] and [`IS_MAPPED`].
    state: u8,
    retransmits: u8,
    backoff: u8,
    flags: u8,
}

const _: () = assert!(size_of::<Packed>() == 68);

impl Sockets {
    pub(crate) fn push(&mut self, socket: &Evidence) {
        let (timer, expires) = match socket.timer {
            Timer::Off => (0, Duration::ZERO),
            Timer::Retransmit(expires) => (1, expires),
            Timer::Keepalive(expires) => (2, expires),
            Timer::TimeWait(expires) => (3, expires),
            Timer::Probe(expires) => (4, expires),
        };
        let (addresses, mapped, wide) = match [socket.local.ip(), socket.remote.ip()] {
            [IpAddr::V4(local), IpAddr::V4(remote)] => ([local, remote], 0, 0),
            addresses => {
                let [local, remote] = addresses.map(ipv6);
                if let (Some(local), Some(remote)) =
                    (local.to_ipv4_mapped(), remote.to_ipv4_mapped())
                {
                    ([local, remote], IS_MAPPED, 0)
                } else {
                    let at = u32::try_from(self.wide.len()).unwrap_or(u32::MAX);
                    self.wide.push([local, remote]);
                    ([at.into(), Ipv4Addr::UNSPECIFIED], 0, IS_WIDE)
                }
            }
        };
        let info = socket.info.unwrap_or_default();
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        self.packed.push(Packed {
            cookie: socket.cookie.to_ne_bytes(),
            age: NO_AGE.to_ne_bytes(),
            addresses,
            ports: [socket.local.port(), socket.remote.port()],
            inode: socket.inode,
            recv_queue: socket.recv_queue,
            send_queue: socket.send_queue,
            timer_ms: millis(expires),
            sent_ms: millis(info.last_data_sent),
            received_ms: millis(info.last_data_received),
            acked_ms: millis(info.last_ack_received),
            rto_us: u32::try_from(info.rto.as_micros()).unwrap_or(u32::MAX),
            peer_window: info.peer_window.unwrap_or_default(),
            state: socket.state as u8 | mapped | flag(socket.is_mptcp, IS_MPTCP),
            retransmits: socket.retransmits,
            backoff: info.backoff,
            flags: timer
                | wide
                | flag(socket.is_minisocket, IS_MINISOCKET)
                | flag(socket.info.is_some(), HAS_INFO)
                | flag(info.peer_window.is_some(), HAS_WINDOW)
                | flag(socket.interface != 0, IS_BOUND),
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.packed.len()
    }

    /// Those of the namespace `netns`, which is theirs.
    pub(crate) fn iter(&self, netns: u32) -> impl Iterator<Item = Evidence> {
        let all = self.packed.iter();
        all.map(move |packed| self.unpack(netns, packed))
    }

    pub(super) fn get(&self, netns: u32, at: usize) -> Option<Evidence> {
        let packed = self.packed.get(at)?;
        Some(self.unpack(netns, packed))
    }

    /// None where it is to be left out, or has none yet.
    pub(super) fn age(&self, at: usize) -> Option<Age> {
        let age = u64::from_ne_bytes(self.packed.get(at)?.age);
        (age != NO_AGE).then_some(Age {
            span: Duration::from_nanos(age >> 1),
            is_lower_bound: age & 1 != 0,
        })
    }

    pub(super) fn set_age(&mut self, at: usize, age: Option<Age>) {
        let packed = age.map_or(NO_AGE, |age| {
            let nanos = u64::try_from(age.span.as_nanos()).unwrap_or(u64::MAX);
            nanos.min(NO_AGE >> 2) << 1 | u64::from(age.is_lower_bound)
        });
        if let Some(socket) = self.packed.get_mut(at) {
            socket.age = packed.to_ne_bytes();
        }
    }

    pub(super) fn severity(&self, at: usize) -> Severity {
        match self
            .packed
            .get(at)
            .map_or(0, |packed| packed.state >> 4 & 0b11)
        {
            0 => Severity::None,
            1 => Severity::Warning,
            _ => Severity::Critical,
        }
    }

    pub(super) fn set_severity(&mut self, at: usize, severity: Severity) {
        if let Some(packed) = self.packed.get_mut(at) {
            packed.state = packed.state & (IS_MAPPED | IS_MPTCP | 0xF) | (severity as u8) << 4;
        }
    }

    fn unpack(&self, netns: u32, packed: &Packed) -> Evidence {
        let has = |flag: u8| packed.flags & flag != 0;
        let is_mapped = packed.state & IS_MAPPED != 0;
        let [local, remote] = if has(IS_WIDE) {
            let [at, _] = packed.addresses.map(u32::from);
            let at = usize::try_from(at).ok();
            let wide = at.and_then(|at| self.wide.get(at).copied());
            wide.unwrap_or([Ipv6Addr::UNSPECIFIED; 2]).map(IpAddr::V6)
        } else if is_mapped {
            let mapped = packed.addresses.map(|address| address.to_ipv6_mapped());
            mapped.map(IpAddr::V6)
        } else {
            packed.addresses.map(IpAddr::V4)
        };
        let [local_port, remote_port] = packed.ports;
        let expires = Duration::from_millis(packed.timer_ms.into());
        Evidence {
            netns,
            cookie: u64::from_ne_bytes(packed.cookie),
            family: if is_mapped || has(IS_WIDE) {
                Family::Ipv6
            } else {
                Family::Ipv4
            },
            // It was one when it was packed.
            state: RawState::from(packed.state & 0xF)
                .known()
                .unwrap_or(State::Close),
            is_minisocket: has(IS_MINISOCKET),
            is_mptcp: packed.state & IS_MPTCP != 0,
            local: SocketAddr::new(local, local_port),
            remote: SocketAddr::new(remote, remote_port),
            interface: has(IS_BOUND).into(),
            inode: packed.inode,
            uid: 0,
            cgroup_id: None,
            recv_queue: packed.recv_queue,
            send_queue: packed.send_queue,
            timer: match packed.flags & TIMER {
                1 => Timer::Retransmit(expires),
                2 => Timer::Keepalive(expires),
                3 => Timer::TimeWait(expires),
                4 => Timer::Probe(expires),
                _ => Timer::Off,
            },
            retransmits: packed.retransmits,
            info: has(HAS_INFO).then(|| TcpInfo {
                last_data_sent: Duration::from_millis(packed.sent_ms.into()),
                last_data_received: Duration::from_millis(packed.received_ms.into()),
                last_ack_received: Duration::from_millis(packed.acked_ms.into()),
                rto: Duration::from_micros(packed.rto_us.into()),
                backoff: packed.backoff,
                unacked: 0,
                total_retransmits: 0,
                peer_window: has(HAS_WINDOW).then_some(packed.peer_window),
            }),
        }
    }
}

fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}

fn ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis_of(millis: u32) -> Duration {
        Duration::from_millis(millis.into())
    }

    prop_compose! {
        fn any_socket()(
            cookie in any::<u64>(),
            state in proptest::sample::select(State::ALL.to_vec()),
            is_wide in any::<bool>(),
            is_mapped in any::<[bool; 2]>(),
            is_minisocket in any::<bool>(),
            is_mptcp in any::<bool>(),
            wide in any::<[[u16; 8]; 2]>(),
            narrow in any::<[[u8; 4]; 2]>(),
            ports in any::<[u16; 2]>(),
            words in any::<[u32; 9]>(),
            bytes in any::<[u8; 2]>(),
            timer in 0..5_usize,
            has in any::<[bool; 3]>(),
        ) -> Evidence {
            let address = |at: usize| if is_wide && is_mapped[at] {
                IpAddr::V6(Ipv4Addr::from(narrow[at]).to_ipv6_mapped())
            } else if is_wide {
                IpAddr::V6(wide[at].into())
            } else {
                IpAddr::V4(narrow[at].into())
            };
            let expires = millis_of(words[0]);
            Evidence {
                netns: 7,
                cookie,
                family: if is_wide { Family::Ipv6 } else { Family::Ipv4 },
                state,
                is_minisocket,
                is_mptcp,
                local: SocketAddr::new(address(0), ports[0]),
                remote: SocketAddr::new(address(1), ports[1]),
                interface: has[0].into(),
                inode: words[1],
                uid: 0,
                cgroup_id: None,
                recv_queue: words[2],
                send_queue: words[3],
                timer: [
                    Timer::Off,
                    Timer::Retransmit(expires),
                    Timer::Keepalive(expires),
                    Timer::TimeWait(expires),
                    Timer::Probe(expires),
                ][timer],
                retransmits: bytes[0],
                info: has[1].then(|| TcpInfo {
                    last_data_sent: millis_of(words[4]),
                    last_data_received: millis_of(words[5]),
                    last_ack_received: millis_of(words[6]),
                    rto: Duration::from_micros(words[7].into()),
                    backoff: bytes[1],
                    unacked: 0,
                    total_retransmits: 0,
                    peer_window: has[2].then_some(words[8]),
                }),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again(all in prop::collection::vec(any_socket(), 1..9)) {
            let mut sockets = Sockets::default();
            for socket in &all {
                sockets.push(socket);
            }
            prop_assert_eq!(sockets.iter(7).collect::<Vec<_>>(), all);
        }

        #[test]
        fn ages_and_severities_are_kept_beside(
            socket in any_socket(),
            seconds in 0..200_000_000_u64,
            is_lower_bound in any::<bool>(),
        ) {
            let mut sockets = Sockets::default();
            sockets.push(&socket);
            prop_assert_eq!((sockets.age(0), sockets.severity(0)), (None, Severity::None));
            let age = Age { span: Duration::from_secs(seconds), is_lower_bound };
            for severity in [Severity::Critical, Severity::Warning, Severity::None] {
                sockets.set_age(0, Some(age));
                sockets.set_severity(0, severity);
                prop_assert_eq!((sockets.age(0), sockets.severity(0)), (Some(age), severity));
                prop_assert_eq!(sockets.get(7, 0), Some(socket));
            }
            sockets.set_age(0, None);
            prop_assert_eq!((sockets.age(0), sockets.get(7, 0)), (None, Some(socket)));
        }
    }
}
