//! Sockets in the shapes the scenarios need. Everything here runs in the caller's namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

use super::netns::Netns;

/// A connection with both ends in hand, and the listener it came through.
pub(crate) struct Pair {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
}

/// A listener on an address such as `127.0.0.1:0`, in a namespace.
pub(crate) fn listen_in(netns: &Netns, address: &str) -> TcpListener {
    netns.enter(|| TcpListener::bind(address).unwrap())
}

impl Pair {
    /// Connects from a namespace to the listener, wherever that one is.
    pub(crate) fn new(from: &Netns, listener: &TcpListener) -> Self {
        Self::to(from, listener, listener.local_addr().unwrap())
    }

    /// Connects to `address`, where the listener is to be found under another name.
    pub(crate) fn to(from: &Netns, listener: &TcpListener, address: SocketAddr) -> Self {
        let client = from.enter(|| TcpStream::connect(address).unwrap());
        let (server, _) = listener.accept().unwrap();
        Self { client, server }
    }

    /// Sends a byte from the client and returns once it lies unread at the server.
    pub(crate) fn leave_unread(&mut self) {
        self.client.write_all(b"x").unwrap();
        assert_eq!(self.server.peek(&mut [0; 1]).unwrap(), 1);
    }
}

/// Reads the peer's FIN.
pub(crate) fn read_end(stream: &mut TcpStream) {
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}

/// A close that resets: `SO_LINGER` with no time to linger.
pub(crate) fn reset(socket: impl Into<OwnedFd>) {
    let socket = socket.into();
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
}

/// A socket bound to an address, also while an earlier connection of it is in `TIME_WAIT`.
pub(crate) fn bound(address: SocketAddr) -> OwnedFd {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    bind(&socket, &address).unwrap();
    socket
}

/// A connection from a chosen address.
pub(crate) fn connect_from(local: SocketAddr, remote: SocketAddr) -> TcpStream {
    let socket = bound(local);
    connect(&socket, &remote).unwrap();
    socket.into()
}

/// A connection that is only begun: returns while the SYN is under way.
pub(crate) fn begin_connect(from: &Netns, remote: SocketAddr) -> TcpStream {
    let any = match remote {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    let socket = from.enter(|| bound(any.parse().unwrap()));
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(true).unwrap();
    assert_eq!(connect(stream.as_fd(), &remote), Err(Errno::INPROGRESS));
    stream
}

/// A socket connected to itself: a simultaneous open, and at its end a simultaneous close.
pub(crate) fn self_connected(address: SocketAddr) -> TcpStream {
    connect_from(address, address)
}
