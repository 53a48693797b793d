//! Conditions applied to what is found, as a user narrows a list.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use super::{Endpoint, Finding, Matcher};
use crate::tcp::Family;
use crate::track::Incident;
use crate::track::filter::is_inside;

impl Matcher {
    /// Whether an incident is about sockets that match, by its service or by one of the sockets that it
    /// shows.
    pub(crate) fn admits(&self, incident: &Incident) -> bool {
        let has_ends = self.has_port(incident.local, incident.remote)
            && self.has_net(incident.local, incident.remote)
            || incident.examples.iter().any(|one| self.has_ends(one));
        self.is_about(incident.state)
            && has_ends
            && (self.netns.is_empty() || self.netns.contains(&incident.netns))
            && self.is_held(&incident.owners)
    }

    /// Whether a socket matches.
    pub(crate) fn admits_socket(&self, socket: &Finding) -> bool {
        self.is_about(socket.state)
            && self.has_ends(socket)
            && (self.netns.is_empty() || self.netns.contains(&socket.netns))
            && self.is_held(&socket.owners)
    }

    fn has_ends(&self, socket: &Finding) -> bool {
        let [local, remote] = [socket.local, socket.remote].map(Endpoint::Socket);
        self.has_port(local, remote) && self.has_net(local, remote)
    }

    fn has_port(&self, local: Endpoint, remote: Endpoint) -> bool {
        is_any_port(&self.local_ports, local) && is_any_port(&self.remote_ports, remote)
    }

    fn has_net(&self, local: Endpoint, remote: Endpoint) -> bool {
        is_any_net(&self.local_nets, local) && is_any_net(&self.remote_nets, remote)
    }
}

fn is_any_port(wanted: &[RangeInclusive<u16>], end: Endpoint) -> bool {
    let port = match end {
        Endpoint::Any | Endpoint::Address(_) => return wanted.is_empty(),
        Endpoint::Port(port) => port,
        Endpoint::Socket(address) => address.port(),
    };
    wanted.is_empty() || wanted.iter().any(|ports| ports.contains(&port))
}

fn is_any_net(wanted: &[ipnet::IpNet], end: Endpoint) -> bool {
    let is_in = |address| is_inside(wanted, SocketAddr::new(address, 0));
    wanted.is_empty() || end.address().is_some_and(is_in)
}

impl Endpoint {
    /// Where it is one.
    pub(crate) fn address(self) -> Option<IpAddr> {
        match self {
            Self::Socket(address) => Some(address.ip()),
            Self::Address(address) => Some(address),
            Self::Any | Self::Port(_) => None,
        }
    }

    /// Where it is one.
    pub(crate) const fn port(self) -> Option<u16> {
        match self {
            Self::Socket(address) => Some(address.port()),
            Self::Port(port) => Some(port),
            Self::Any | Self::Address(_) => None,
        }
    }

    /// Of its sockets; None where the address does not tell.
    pub(crate) fn family(self) -> Option<Family> {
        let address = self.address()?;
        Some(if address.is_ipv4() {
            Family::Ipv4
        } else {
            Family::Ipv6
        })
    }
}
