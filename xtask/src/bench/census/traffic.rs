//! What goes on in the namespaces while the daemon is looked at.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, listen, socket_with};

use crate::bench::load::{Close, End, address, on_every_core};
use crate::bench::place::{Place, join};
use crate::exec::capture;

/// Leaves that many sockets in `TIME_WAIT`; connections made.
pub(super) fn fill(place: Place, time_wait: u32) -> JoinHandle<Result<u32>> {
    place.spawn(move || {
        let threads = u32::try_from(std::thread::available_parallelism()?.get())?;
        on_every_core(End::After(time_wait / threads), Close::Fin)
    })
}

/// Connects and closes on every core, as fast as the kernel does it; connections made.
pub(super) fn storm(place: Place, time: Duration) -> Result<u32> {
    let end = Instant::now() + time;
    join(place.spawn(move || on_every_core(End::At(end), Close::Fin)))
}

/// Closes that the peer answers with its own only later: until then an orphan waits in `FIN_WAIT2`.
#[derive(Clone, Copy)]
pub(super) struct Orphans {
    pub(super) per_second: u32,
    pub(super) peer_closes_after: Duration,
}

impl Orphans {
    /// For that long; closes made.
    pub(super) fn start(self, place: Place, time: Duration) -> JoinHandle<Result<u32>> {
        place.spawn(move || self.run(time))
    }

    fn run(self, time: Duration) -> Result<u32> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot listen")?;
        let port = listener.local_addr()?.port();
        let begun = Instant::now();
        let mut peers: VecDeque<(Instant, TcpStream)> = VecDeque::new();
        let mut closes = 0;
        while begun.elapsed() < time {
            let address = address(closes, port);
            drop(TcpStream::connect(address).with_context(|| format!("close {closes}"))?);
            peers.push_back((
                Instant::now() + self.peer_closes_after,
                listener.accept()?.0,
            ));
            while peers.front().is_some_and(|(due, _)| *due <= Instant::now()) {
                peers.pop_front();
            }
            closes += 1;
            let due = begun + Duration::from_secs(1) / self.per_second * closes;
            sleep(due.saturating_duration_since(Instant::now()));
        }
        for (due, peer) in peers {
            sleep(due.saturating_duration_since(Instant::now()));
            drop(peer);
        }
        Ok(closes)
    }
}

/// Requests that stay half-open, for their clients never see the answer.
pub(super) struct HalfOpen {
    _listener: TcpListener,
    _clients: Vec<OwnedFd>,
}

/// Drops the answers to all requests in that namespace.
pub(super) fn drop_answers(place: Place) -> Result<()> {
    let rule = "table inet loss { chain input { type filter hook input priority filter; \
                tcp flags & (syn | ack) == (syn | ack) drop; }; }";
    capture(place.command().args(["nft", rule]))?;
    Ok(())
}

impl HalfOpen {
    /// Where answers are dropped.
    pub(super) fn start(place: Place, requests: u32) -> Result<Self> {
        join(place.spawn(move || Self::connect(requests)))
    }

    fn connect(requests: u32) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
        listen(&listener, i32::try_from(requests)?)?;
        let address: SocketAddr = listener.local_addr()?;
        let clients = (0..requests).map(|_| {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let client = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
            match connect(&client, &address) {
                Err(error) if error != Errno::INPROGRESS => Err(error),
                _ => Ok(client),
            }
        });
        Ok(Self {
            _clients: clients.collect::<Result<_, Errno>>()?,
            _listener: listener,
        })
    }
}
