//! The load: one thread connects and closes, another accepts, over loopback.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use rustix::net::sockopt::set_socket_linger;

use crate::exec::{command, exec};

/// Addresses of this host to connect to, so that ports in TIME_WAIT do not run out: each takes
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
    connections: u32,
    #[arg(long)]
    close: Close,
}

/// Prints the rate in connections a second. Expects a network namespace of its own.
pub(crate) fn run(args: &LoadArgs) -> Result<()> {
    exec(&mut command("ip", &["link", "set", "lo", "up"]))?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot listen")?;
    let port = listener.local_addr()?.port();
    let (connections, close) = (args.connections, args.close);
    let server = thread::spawn(move || accept(&listener, connections, close));
    let start = Instant::now();
    for number in 0..connections {
        let [_, _, _, last] = (number % ADDRESSES + 1).to_be_bytes();
        let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port));
        let stream = TcpStream::connect(address)
            .with_context(|| format!("connection {number} to {address}"))?;
        if matches!(close, Close::Reset) {
            set_socket_linger(&stream, Some(Duration::ZERO))?;
        }
    }
    let accepted = server.join().map_err(|_| anyhow!("the server panicked"))?;
    accepted.context("the server failed")?;
    print_rate(f64::from(connections) / start.elapsed().as_secs_f64());
    Ok(())
}

fn accept(listener: &TcpListener, connections: u32, close: Close) -> io::Result<()> {
    for _ in 0..connections {
        let (mut stream, _) = listener.accept()?;
        if matches!(close, Close::Fin) {
            // The end of the stream: the client is the one that closes first.
            let _: usize = stream.read(&mut [0])?;
        }
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
