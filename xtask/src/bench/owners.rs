//! What naming the owners of many sockets takes, next to `ss -tanp` on the same sockets.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::exec::{command, exec};
use crate::{build, workspace};

/// Processes that hold them: one may not have that many descriptors.
const HOLDERS: usize = 3;
/// `CLOSE_WAIT` sockets of each.
const HELD: u32 = 19_000;
/// Of the other end's address: each takes the default ephemeral range of ports.
const SERVER: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[derive(clap::Args)]
pub(crate) struct HoldArgs {
    #[arg(long)]
    sockets: u32,
}

#[derive(clap::Args)]
pub(crate) struct OwnersArgs {
    #[arg(long)]
    rounds: u32,
}

/// Opens that many sockets whose peers have closed, says so, and keeps them until stdin ends.
pub(crate) fn hold(args: &HoldArgs) -> Result<()> {
    let listener = TcpListener::bind((SERVER, 0)).context("cannot listen")?;
    let address = listener.local_addr()?;
    let mut held = Vec::new();
    for number in 0..args.sockets {
        drop(TcpStream::connect(address).with_context(|| format!("connection {number}"))?);
        held.push(listener.accept().context("cannot accept")?.0);
    }
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", held.len())?;
    stdout.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Starts the measurement in a network namespace of its own.
pub(super) fn run(rounds: u32) -> Result<()> {
    build::release()?;
    let xtask = std::env::current_exe().context("cannot find this program")?;
    let xtask = xtask.to_str().context("its path is not UTF-8")?;
    let rounds = rounds.to_string();
    let words = ["--net", "--", xtask, "owners", "--rounds", &rounds];
    exec(&mut command("unshare", &words))
}

/// Measures, in turn, in the namespace that [`run`] made.
pub(crate) fn measure(args: &OwnersArgs) -> Result<()> {
    exec(&mut command("ip", &["link", "set", "lo", "up"]))?;
    let holders: Vec<Holder> = (0..HOLDERS)
        .map(|_| Holder::start())
        .collect::<Result<_>>()?;
    let tcplinger = workspace::binary()?;
    let tcplinger = tcplinger.to_str().context("its path is not UTF-8")?;
    let mut peers = [
        (command(tcplinger, &["owners"]), Vec::new()),
        (command("ss", &["-tanp"]), Vec::new()),
    ];
    for _ in 0..args.rounds {
        for (peer, times) in &mut peers {
            times.push(time(peer)?.as_secs_f64());
        }
    }
    let sockets = HOLDERS * HELD as usize;
    eprintln!("\n{sockets} sockets in CLOSE_WAIT, held by {HOLDERS} processes");
    eprintln!("{:<20} {:>26}", "seconds", "minimum median maximum");
    let mut medians = Vec::new();
    for (name, (_, times)) in ["tcplinger owners", "ss -tanp"].into_iter().zip(&mut peers) {
        eprintln!("{name:<20} {:>26}", super::spread(times, 3));
        medians.extend(times.get(times.len() / 2).copied());
    }
    if let [ours, theirs] = medians.as_slice() {
        eprintln!("ss takes {:.0} times as long", theirs / ours);
    }
    drop(holders);
    Ok(())
}

fn time(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    let status = command
        .stdout(Stdio::null())
        .status()
        .context("cannot start it")?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(start.elapsed())
}

/// A process that holds its sockets for as long as this lives.
struct Holder(Child);

impl Holder {
    fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["hold", "--sockets", &HELD.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a holder")?;
        let stdout = child.stdout.take().context("it has no stdout")?;
        let holder = Self(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.trim() == HELD.to_string(), "a holder has no sockets");
        Ok(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It ends with its stdin; waiting is what matters.
        let _ = self.0.wait();
    }
}
