//! What naming the owners of many sockets takes, next to `ss -tanp` on the same sockets.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::hold::Holder;
use crate::exec::{command, exec};
use crate::{build, workspace};

/// Processes that hold them: one may not have that many descriptors.
const HOLDERS: usize = 3;
/// `CLOSE_WAIT` sockets of each.
const HELD: usize = 19_000;

#[derive(clap::Args)]
pub(crate) struct OwnersArgs {
    #[arg(long)]
    rounds: u32,
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
        .map(|_| Holder::start(&["--connections", &HELD.to_string()]))
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
    let sockets = HOLDERS * HELD;
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
