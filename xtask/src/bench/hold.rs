//! Processes that hold sockets, or a network namespace, until they are let go.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::place::Place;
use crate::exec::{capture, command};

/// Of the other end's address: each takes the default ephemeral range of ports.
const SERVER: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[derive(clap::Args)]
pub(crate) struct HoldArgs {
    #[arg(long)]
    connections: u32,
    /// Keep the client's end open, too; else it is closed, and the other one is in `CLOSE_WAIT`
    #[arg(long)]
    established: bool,
    /// Beside them: a connection now and one every so many seconds, each ends in `TIME_WAIT`
    #[arg(long, value_name = "SECONDS")]
    time_wait_every: Option<u64>,
}

/// Opens that many connections, says so, and keeps what is left of them until stdin ends.
pub(crate) fn hold(args: &HoldArgs) -> Result<()> {
    capture(&mut command("ip", &["link", "set", "lo", "up"]))?;
    let listener = TcpListener::bind((SERVER, 0)).context("cannot listen")?;
    let address = listener.local_addr()?;
    let mut held = Vec::new();
    for number in 0..args.connections {
        let (client, server) =
            connect(&listener, address).with_context(|| format!("connection {number}"))?;
        held.push(server);
        if args.established {
            held.push(client);
        }
    }
    if let Some(seconds) = args.time_wait_every {
        let listener = listener.try_clone()?;
        connect(&listener, address)?;
        // Ends with the process.
        thread::spawn(move || -> Result<()> {
            loop {
                thread::sleep(Duration::from_secs(seconds));
                connect(&listener, address)?;
            }
        });
    }
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", args.connections)?;
    stdout.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The client's end first: dropped in that order, it is the one that goes to `TIME_WAIT`.
fn connect(listener: &TcpListener, address: SocketAddr) -> Result<(TcpStream, TcpStream)> {
    let client = TcpStream::connect(address)?;
    let (server, _) = listener.accept().context("cannot accept")?;
    Ok((client, server))
}

/// A process that holds its sockets for as long as this lives.
pub(super) struct Holder {
    child: Child,
    inode: u64,
}

impl Holder {
    /// In the network namespace of this thread.
    pub(super) fn start(arguments: &[&str]) -> Result<Self> {
        Self::launch(Command::new(std::env::current_exe()?), arguments)
    }

    /// In a network namespace of its own, which lasts as long as this.
    pub(super) fn apart(arguments: &[&str]) -> Result<Self> {
        let mut unshare = command("unshare", &["--net", "--"]);
        unshare.arg(std::env::current_exe()?);
        Self::launch(unshare, arguments)
    }

    /// In a network namespace that is there.
    pub(super) fn within(place: Place, arguments: &[&str]) -> Result<Self> {
        let mut enter = place.command();
        enter.arg(std::env::current_exe()?);
        Self::launch(enter, arguments)
    }

    fn launch(mut command: Command, arguments: &[&str]) -> Result<Self> {
        let mut child = command
            .arg("hold")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a holder")?;
        let stdout = child.stdout.take().context("it has no stdout")?;
        let mut holder = Self { child, inode: 0 };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(!line.is_empty(), "a holder has no sockets");
        holder.inode = fs::metadata(format!("/proc/{}/ns/net", holder.child.id()))?.ino();
        Ok(holder)
    }

    /// Where it is.
    pub(super) fn place(&self) -> Place {
        Place {
            pid: self.child.id(),
            inode: self.inode,
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends with its stdin; waiting is what matters.
        let _ = self.child.wait();
    }
}
