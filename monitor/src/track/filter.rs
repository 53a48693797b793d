//! Which transitions the user asked for.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::tcp::{Family, Handover, State, Transition};

/// Conditions on a transition: every one that is set must hold; an empty list is not set.
///
/// No transition of the kernel's enters `TIME_WAIT`. Here a close that continues as it does, by
/// inference: who asks for that state would wait for ever otherwise. None is seen leaving it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// On either side of the transition.
    pub(crate) states: Vec<State>,
    pub(crate) from: Vec<State>,
    pub(crate) to: Vec<State>,
    pub(crate) local_ports: Vec<RangeInclusive<u16>>,
    pub(crate) remote_ports: Vec<RangeInclusive<u16>>,
    pub(crate) local_nets: Vec<IpNet>,
    pub(crate) remote_nets: Vec<IpNet>,
    pub(crate) family: Option<Family>,
    /// Inode number; a transition whose namespace is unknown is not in it.
    pub(crate) netns: Option<u32>,
}

impl Filter {
    /// A state that is asked for and that no transition has: the kernel enters and leaves it in
    /// silence.
    pub(crate) fn silent_state(&self) -> Option<State> {
        let is_silent = |state: &State| *state == State::NewSynRecv;
        let left = self
            .from
            .iter()
            .find(|state| is_silent(state) || **state == State::TimeWait);
        let entered = self
            .states
            .iter()
            .chain(&self.to)
            .find(|state| is_silent(state));
        left.or(entered).copied()
    }

    pub(crate) fn matches(&self, transition: &Transition) -> bool {
        let is_left = |state| transition.from.is(state);
        let is_entered = |state| transition.to.is(state) || is_inferred(transition, state);
        is_any(&self.states, |state| is_left(state) || is_entered(state))
            && is_any(&self.from, is_left)
            && is_any(&self.to, is_entered)
            && has_port(&self.local_ports, transition.local)
            && has_port(&self.remote_ports, transition.remote)
            && is_inside(&self.local_nets, transition.local)
            && is_inside(&self.remote_nets, transition.remote)
            && self.family.is_none_or(|family| family == transition.family)
            && self
                .netns
                .is_none_or(|netns| transition.netns == Some(netns))
    }
}

fn is_any(wanted: &[State], holds: impl Fn(State) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().copied().any(holds)
}

fn is_inferred(transition: &Transition, state: State) -> bool {
    state == State::TimeWait && transition.continues_as() == Some(Handover::TimeWait)
}

pub(super) fn has_port(wanted: &[RangeInclusive<u16>], endpoint: SocketAddr) -> bool {
    wanted.is_empty() || wanted.iter().any(|ports| ports.contains(&endpoint.port()))
}

/// A v4-mapped address (an IPv4 peer of an IPv6 socket) is inside its IPv4 network too.
pub(super) fn is_inside(wanted: &[IpNet], endpoint: SocketAddr) -> bool {
    let address = endpoint.ip();
    let mapped = match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map(IpAddr::V4),
        IpAddr::V4(_) => None,
    };
    let contains =
        |net: &IpNet| net.contains(&address) || mapped.is_some_and(|v4| net.contains(&v4));
    wanted.is_empty() || wanted.iter().any(contains)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_that_the_kernel_never_announces_are_told() {
        let filter = |from: &[State], to: &[State]| Filter {
            from: from.to_vec(),
            to: to.to_vec(),
            ..Filter::default()
        };
        let silent = |from, to| filter(from, to).silent_state();
        assert_eq!(silent(&[State::TimeWait], &[]), Some(State::TimeWait));
        assert_eq!(silent(&[], &[State::NewSynRecv]), Some(State::NewSynRecv));
        assert_eq!(silent(&[State::Listen], &[State::TimeWait]), None);
    }
    use crate::tcp::RawState;

    fn transition(local: &str, remote: &str) -> Transition {
        let local: SocketAddr = local.parse().unwrap();
        Transition {
            netns: Some(7),
            family: if local.is_ipv4() {
                Family::Ipv4
            } else {
                Family::Ipv6
            },
            local,
            remote: remote.parse().unwrap(),
            from: RawState::Known(State::FinWait2),
            to: RawState::Known(State::Close),
            ..Transition::example()
        }
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn nothing_asked_is_everything() {
        assert!(Filter::default().matches(&transition("10.0.0.1:80", "10.0.0.2:4000")));
    }

    #[test]
    fn states_match_by_side() {
        let seen = transition("10.0.0.1:80", "10.0.0.2:4000");
        let either = |state| Filter {
            states: vec![state],
            ..Filter::default()
        };
        assert!(either(State::FinWait2).matches(&seen) && either(State::Close).matches(&seen));
        assert!(!either(State::Listen).matches(&seen));
        let from = Filter {
            from: vec![State::Close, State::FinWait2],
            ..Filter::default()
        };
        let to = Filter {
            to: vec![State::FinWait2],
            ..Filter::default()
        };
        assert!(from.matches(&seen) && !to.matches(&seen));
        let unknown = Transition {
            from: RawState::Unknown(13),
            ..seen
        };
        assert!(!from.matches(&unknown));
    }

    #[test]
    fn a_close_that_continues_as_time_wait_enters_it() {
        let time_wait = vec![State::TimeWait];
        let either = Filter {
            states: time_wait.clone(),
            ..Filter::default()
        };
        let to = Filter {
            to: time_wait.clone(),
            ..Filter::default()
        };
        let from = Filter {
            from: time_wait,
            ..Filter::default()
        };
        let unknown = transition("10.0.0.1:80", "10.0.0.2:4000");
        let handover = Transition {
            error: Some(0),
            has_peer_fin: Some(true),
            is_orphan: Some(true),
            ..unknown
        };
        let orphan = Transition {
            has_peer_fin: Some(false),
            is_orphan: Some(true),
            ..handover
        };
        assert!(either.matches(&handover) && to.matches(&handover) && !from.matches(&handover));
        assert!(!either.matches(&unknown) && !to.matches(&orphan));
        let to_close = Filter {
            to: vec![State::Close],
            ..Filter::default()
        };
        assert!(to_close.matches(&handover));
    }

    #[test]
    fn conditions_add_up() {
        let seen = transition("10.0.0.1:80", "192.0.2.2:4000");
        let mut filter = Filter {
            local_ports: vec![443..=443, 70..=80],
            remote_nets: nets(&["192.0.2.0/24"]),
            ..Filter::default()
        };
        assert!(filter.matches(&seen));
        filter.remote_ports = vec![80..=80];
        assert!(!filter.matches(&seen));
        filter.remote_ports = vec![4000..=4000];
        filter.local_nets = nets(&["10.0.0.2/32", "fd00::/8"]);
        assert!(!filter.matches(&seen));
    }

    #[test]
    fn a_mapped_address_is_in_both_its_networks() {
        let seen = transition("[::ffff:10.1.2.3]:80", "[2001:db8::1]:4000");
        for (net, expected) in [
            ("10.0.0.0/8", true),
            ("::ffff:0:0/96", true),
            ("11.0.0.0/8", false),
            ("2001:db8::/32", false),
        ] {
            let filter = Filter {
                local_nets: nets(&[net]),
                ..Filter::default()
            };
            assert_eq!(filter.matches(&seen), expected, "{net}");
        }
        let plain = transition("10.1.2.3:80", "10.0.0.1:1");
        let mapped_net = Filter {
            local_nets: nets(&["::ffff:0:0/96"]),
            ..Filter::default()
        };
        assert!(!mapped_net.matches(&plain));
        let v4_only = Filter {
            family: Some(Family::Ipv4),
            ..Filter::default()
        };
        assert!(v4_only.matches(&plain) && !v4_only.matches(&seen));
    }

    #[test]
    fn an_unknown_namespace_is_in_none() {
        let seen = transition("10.0.0.1:80", "10.0.0.2:1");
        let inside = Filter {
            netns: Some(7),
            ..Filter::default()
        };
        assert!(inside.matches(&seen));
        assert!(!inside.matches(&Transition {
            netns: Some(8),
            ..seen
        }));
        assert!(!inside.matches(&Transition {
            netns: None,
            ..seen
        }));
    }
}
