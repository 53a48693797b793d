//! Sockets that listen, with limits on what the kernel keeps for a client.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use super::{Error, slow_client};

/// Connections that the kernel has accepted and we have not: a crowd of scrapers at one moment.
const BACKLOG: i32 = 4_096;
/// Bytes that the kernel keeps of answers and of requests, for each client; it doubles them. Left to
/// itself it would let a client that does not read pin megabytes.
const SEND_BUFFER: usize = 128 << 10;
const RECEIVE_BUFFER: usize = 16 << 10;
/// The kernel ends what does not acknowledge for so long, also once we have closed it.
const UNACKNOWLEDGED: Duration = slow_client::STALL;

/// Listens at an address; its port may be 0, for any.
///
/// # Errors
/// The address is taken, not of this host or not permitted.
pub(super) fn open(address: SocketAddr) -> Result<TcpListener, Error> {
    try_open(address).map_err(|errno| Error::listening(address, errno))
}

fn try_open(address: SocketAddr) -> Result<TcpListener, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // `[::]` beside `0.0.0.0` is no conflict then.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // Accepted sockets inherit these.
    sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER)?;
    sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
    let unacknowledged_ms = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(&socket, unacknowledged_ms)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
