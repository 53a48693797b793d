//! Conditions applied to findings, as a user narrows a list.

use std::net::{IpAddr, SocketAddr};

use super::{Endpoint, Finding, Matcher};
use crate::tcp::{Family, State};
use crate::track::filter::is_inside;

impl Matcher {
    /// Whether a finding is about sockets that match. A group's open ends match no port and no
    /// network that is asked for.
    pub(crate) fn admits(&self, finding: &Finding) -> bool {
        self.is_about(finding.state)
            && (self.local_ports.is_empty() || has_port(&self.local_ports, finding.local))
            && (self.remote_ports.is_empty() || has_port(&self.remote_ports, finding.remote))
            && (self.local_nets.is_empty() || has_net(&self.local_nets, finding.local))
            && (self.remote_nets.is_empty() || has_net(&self.remote_nets, finding.remote))
            && (self.netns.is_empty() || self.netns.contains(&finding.netns))
            && self.is_held(&finding.owners)
    }
}

fn has_port(wanted: &[std::ops::RangeInclusive<u16>], end: Endpoint) -> bool {
    let port = match end {
        Endpoint::Any | Endpoint::Address(_) => return false,
        Endpoint::Port(port) => port,
        Endpoint::Socket(address) => address.port(),
    };
    wanted.iter().any(|ports| ports.contains(&port))
}

fn has_net(wanted: &[ipnet::IpNet], end: Endpoint) -> bool {
    address(end).is_some_and(|address| is_inside(wanted, SocketAddr::new(address, 0)))
}

fn address(end: Endpoint) -> Option<IpAddr> {
    match end {
        Endpoint::Socket(address) => Some(address.ip()),
        Endpoint::Address(address) => Some(address),
        Endpoint::Any | Endpoint::Port(_) => None,
    }
}

impl Finding {
    /// Whether it is about a group of sockets, and not about one.
    pub(crate) fn is_group(&self) -> bool {
        let is_one = address(self.local).is_some() && address(self.remote).is_some();
        self.state == State::TimeWait || !is_one
    }

    /// Of its sockets; None for a group whose ends do not tell.
    pub(crate) fn family(&self) -> Option<Family> {
        let address = address(self.local).or_else(|| address(self.remote))?;
        Some(if address.is_ipv4() {
            Family::Ipv4
        } else {
            Family::Ipv6
        })
    }
}
