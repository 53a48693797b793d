//! The two ends of a socket, in 16 bytes where they are IPv4: what a table of a million sockets can
//! afford.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Family;

/// Local and remote address and port of one socket. Its variant is its address family: a v4-mapped
/// socket is IPv6.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Ends {
    /// IPv4.
    V4 {
        ports: (u16, u16),
        local: Ipv4Addr,
        remote: Ipv4Addr,
    },
    /// IPv6, local address first.
    V6 {
        ports: (u16, u16),
        addresses: Box<(Ipv6Addr, Ipv6Addr)>,
    },
}

const _: () = assert!(size_of::<Ends>() == 16);

impl Ends {
    /// Of a socket of this family. An address of the other family reads as the unspecified one.
    pub(crate) fn new(family: Family, local: SocketAddr, remote: SocketAddr) -> Self {
        let ports = (local.port(), remote.port());
        match family {
            Family::Ipv4 => Self::V4 {
                ports,
                local: ipv4(local.ip()),
                remote: ipv4(remote.ip()),
            },
            Family::Ipv6 => Self::V6 {
                ports,
                addresses: Box::new((ipv6(local.ip()), ipv6(remote.ip()))),
            },
        }
    }

    pub(crate) const fn family(&self) -> Family {
        match self {
            Self::V4 { .. } => Family::Ipv4,
            Self::V6 { .. } => Family::Ipv6,
        }
    }

    /// Local port, remote port; 0 where none is chosen or there is none.
    pub(crate) const fn ports(&self) -> (u16, u16) {
        match self {
            Self::V4 { ports, .. } | Self::V6 { ports, .. } => *ports,
        }
    }

    pub(crate) fn local(&self) -> SocketAddr {
        let ip = match self {
            Self::V4 { local, .. } => IpAddr::V4(*local),
            Self::V6 { addresses, .. } => IpAddr::V6(addresses.0),
        };
        SocketAddr::new(ip, self.ports().0)
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        let ip = match self {
            Self::V4 { remote, .. } => IpAddr::V4(*remote),
            Self::V6 { addresses, .. } => IpAddr::V6(addresses.1),
        };
        SocketAddr::new(ip, self.ports().1)
    }

    /// The same ends in the other family: IPv4 as v4-mapped, and back; None for plain IPv6.
    pub(crate) fn other_family(&self) -> Option<Self> {
        Some(match self {
            Self::V4 {
                ports,
                local,
                remote,
            } => Self::V6 {
                ports: *ports,
                addresses: Box::new((local.to_ipv6_mapped(), remote.to_ipv6_mapped())),
            },
            Self::V6 { ports, addresses } => Self::V4 {
                ports: *ports,
                local: addresses.0.to_ipv4_mapped()?,
                remote: addresses.1.to_ipv4_mapped()?,
            },
        })
    }

    /// The same connection as its other end sees it.
    pub(crate) fn reversed(&self) -> Self {
        match self {
            Self::V4 {
                ports,
                local,
                remote,
            } => Self::V4 {
                ports: (ports.1, ports.0),
                local: *remote,
                remote: *local,
            },
            Self::V6 { ports, addresses } => Self::V6 {
                ports: (ports.1, ports.0),
                addresses: Box::new((addresses.1, addresses.0)),
            },
        }
    }
}

fn ipv4(ip: IpAddr) -> Ipv4Addr {
    match ip {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

fn ipv6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_keep_their_ends_and_turn_around() {
        for (family, local, remote) in [
            (Family::Ipv4, "10.0.0.1:80", "10.0.0.2:4000"),
            (Family::Ipv6, "[2001:db8::1]:80", "[::ffff:10.0.0.2]:4000"),
        ] {
            let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
            let ends = Ends::new(family, local, remote);
            assert_eq!(
                (ends.family(), ends.local(), ends.remote()),
                (family, local, remote)
            );
            assert_eq!(ends.reversed(), Ends::new(family, remote, local));
        }
        let ends = |family, ip: &str| {
            let end = SocketAddr::new(ip.parse().unwrap(), 80);
            Ends::new(family, end, end)
        };
        let plain = ends(Family::Ipv4, "10.0.0.1");
        let mapped = ends(Family::Ipv6, "::ffff:10.0.0.1");
        assert_eq!(plain.other_family().as_ref(), Some(&mapped));
        assert_eq!(mapped.other_family(), Some(plain));
        assert_eq!(ends(Family::Ipv6, "2001:db8::1").other_family(), None);
    }
}
