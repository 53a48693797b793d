//! The load: connections over loopback, opened and closed as fast as the kernel does it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::net::sockopt::set_socket_linger;

use super::place::join;
use crate::exec::{command, exec};

/// Addresses of this host to connect to, so that ports in `TIME_WAIT` do not run out: each takes
/// 28,232 connections, the default ephemeral range.
const ADDRESSES: u32 = 16;

/// How the client closes.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Close {
    Reset,
    Fin,
}

#[derive(clap::Args)]
pub(crate) struct LoadArgs {
    #[arg(long)]
    pub(super) connections: u32,
    #[arg(long)]
    pub(super) close: Close,
}

/// Prints the rate in connections a second. Expects a network namespace of its own.
///
/// A thread a core, each both client and server of its own connections: over loopback the kernel
/// does the other side's work inside the system call, so no core ever waits for another.
pub(crate) fn run(args: &LoadArgs) -> Result<()> {
    exec(&mut command("ip", &["link", "set", "lo", "up"]))?;
    let threads = u32::try_from(thread::available_parallelism()?.get())?;
    let start = Instant::now();
    let connections = on_every_core(End::After(args.connections / threads), args.close)?;
    print_rate(f64::from(connections) / start.elapsed().as_secs_f64());
    Ok(())
}

/// When a thread has done enough.
#[derive(Clone, Copy)]
pub(super) enum End {
    After(u32),
    At(Instant),
}

impl End {
    fn has_come(self, connections: u32) -> bool {
        match self {
            Self::After(enough) => connections >= enough,
            Self::At(time) => Instant::now() >= time,
        }
    }
}

/// Connections made, those of all threads.
pub(super) fn on_every_core(end: End, close: Close) -> Result<u32> {
    let workers: Vec<_> = (0..thread::available_parallelism()?.get())
        .map(|_| thread::spawn(move || connect(end, close)))
        .collect();
    workers.into_iter().map(join).sum()
}

fn connect(end: End, close: Close) -> Result<u32> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot listen")?;
    let port = listener.local_addr()?.port();
    let mut number = 0;
    while !end.has_come(number) {
        let address = address(number, port);
        let client = TcpStream::connect(address)
            .with_context(|| format!("connection {number} to {address}"))?;
        let server = listener.accept().context("cannot accept")?;
        if matches!(close, Close::Reset) {
            set_socket_linger(&client, Some(Duration::ZERO))?;
        }
        // The client first: it is the one that goes to `TIME_WAIT`.
        drop(client);
        drop(server);
        number += 1;
    }
    Ok(number)
}

/// Where the connection of that number goes.
pub(super) fn address(number: u32, port: u16) -> SocketAddr {
    let [_, _, _, last] = (number % ADDRESSES + 1).to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port))
}

#[expect(
    clippy::print_stdout,
    reason = "the answer to the process that started the load"
)]
fn print_rate(per_second: f64) {
    println!("{per_second:.1}");
}
