//! Traffic that keeps a namespace busy.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::netns::Netns;
use super::server::Load;

/// Addresses to connect to, so that ports in `TIME_WAIT` do not run out: each takes 28,232
/// connections, the default range.
const ADDRESSES: u32 = 16;

fn address(number: u32, port: u16) -> SocketAddr {
    let [_, _, _, last] = (number % ADDRESSES + 1).to_be_bytes();
    (Ipv4Addr::new(127, 0, 0, last), port).into()
}

fn listen_everywhere() -> TcpListener {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap()
}

/// Opens and closes connections on every core for a time, so many a second all told at most;
/// connections made. Each leaves a socket in `TIME_WAIT`.
pub(crate) fn storm(netns: &Netns, time: Duration, per_second: u32) -> u32 {
    let threads = thread::available_parallelism().unwrap().get();
    let per_second = per_second / u32::try_from(threads).unwrap();
    netns.enter(|| {
        thread::scope(|scope| {
            // A new thread is in the namespace of the one that makes it.
            let made = (0..threads).map(|_| scope.spawn(|| churn(time, per_second)));
            let made: Vec<_> = made.collect();
            made.into_iter().map(|made| made.join().unwrap()).sum()
        })
    })
}

fn churn(time: Duration, per_second: u32) -> u32 {
    let listener = listen_everywhere();
    let port = listener.local_addr().unwrap().port();
    let begun = Instant::now();
    let mut made = 0;
    while begun.elapsed() < time {
        let client = TcpStream::connect(address(made, port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        // The client first: it is the one that goes to `TIME_WAIT`.
        drop(client);
        drop(server);
        made += 1;
        if made.is_multiple_of(50) {
            let due = Duration::from_secs(1) * made / per_second;
            thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    made
}

/// Closes, so many a second, that the peer answers with its own only one to two seconds later: until
/// then an orphan waits in `FIN_WAIT2`.
pub(crate) fn orphans(netns: &Netns, per_second: u32) -> Load {
    let listener = netns.enter(listen_everywhere);
    let port = listener.local_addr().unwrap().port();
    let mut peers: Vec<(Instant, TcpStream)> = Vec::new();
    let mut made = 0;
    Load::start(netns, per_second, move || {
        drop(TcpStream::connect(address(made, port)).unwrap());
        let after = Duration::from_millis(1_000 + u64::from(made) * 377 % 1_000);
        let now = Instant::now();
        peers.push((now + after, listener.accept().unwrap().0));
        peers.retain(|(due, _)| *due > now);
        made += 1;
        true
    })
}
