//! The load: connections over loopback, opened and closed as fast as the kernel does it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use rustix::net::sockopt::set_socket_linger;

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
    let (each, close) = (args.connections / threads, args.close);
    let start = Instant::now();
    let workers: Vec<_> = (0..threads)
        .map(|_| thread::spawn(move || connect(each, close)))
        .collect();
    for worker in workers {
        worker
            .join()
            .map_err(|_| anyhow!("a thread of the load panicked"))??;
    }
    print_rate(f64::from(each * threads) / start.elapsed().as_secs_f64());
    Ok(())
}

fn connect(connections: u32, close: Close) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot listen")?;
    let port = listener.local_addr()?.port();
    for number in 0..connections {
        let [_, _, _, last] = (number % ADDRESSES + 1).to_be_bytes();
        let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port));
        let client = TcpStream::connect(address)
            .with_context(|| format!("connection {number} to {address}"))?;
        let server = listener.accept().context("cannot accept")?;
        if matches!(close, Close::Reset) {
            set_socket_linger(&client, Some(Duration::ZERO))?;
        }
        // The client first: it is the one that goes to `TIME_WAIT`.
        drop(client);
        drop(server);
    }
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "the answer to the process that started the load"
)]
fn print_rate(per_second: f64) {
    println!("{per_second:.1}");
}
