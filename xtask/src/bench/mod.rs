//! `bench`: what watching costs, next to not watching and to another tool, in one interleaved run.
//!
//! The load is connections over the loopback of a network namespace of its own. The meter is the
//! kernel's own: `kernel.bpf_stats_enabled`, read through bpftool.

mod census;
mod hold;
mod http;
mod load;
mod owners;
mod place;
mod scrape;
mod watcher;

use anyhow::{Context as _, Result, ensure};

use crate::exec::{capture, command, is_root};
use crate::{build, setup, workspace};
pub(crate) use load::{Close, LoadArgs};
use watcher::Watcher;

pub(crate) use hold::{HoldArgs, hold};
pub(crate) use load::run as run_load;
pub(crate) use owners::{OwnersArgs, measure as run_owners};
pub(crate) use scrape::{ScrapeArgs, measure as run_scrape};

/// Scrapes of each exporter, if the time suffices.
const SCRAPES: u32 = 300;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Connections in each measurement
    #[arg(long, default_value_t = 200_000)]
    connections: u32,
    /// Rounds; each measures every watcher once, in turn
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How the client closes: by reset, or by FIN, which leaves TIME_WAIT behind
    #[arg(long, default_value = "reset")]
    close: Close,
    /// Measure finding the owners of 57,000 sockets instead, next to `ss -tanp`
    #[arg(long)]
    owners: bool,
    /// Measure a scrape under full load instead, next to `node_exporter`
    #[arg(long)]
    scrape: bool,
    #[command(flatten)]
    census: census::CensusArgs,
    /// Seconds to watch a scene of the census
    #[arg(long)]
    seconds: Option<u64>,
}

/// One watcher's figures, a value a round.
#[derive(Default)]
struct Figures {
    per_second: Vec<f64>,
    /// Share of the unwatched rate of the same round.
    kept: Vec<f64>,
    cost_ns: Vec<f64>,
    events: u64,
    lost: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(is_root(), "the bench needs root: it loads eBPF programs");
    if args.census.census {
        return census::run(&args.census, args.seconds);
    }
    setup::ensure()?;
    if args.owners {
        return owners::run(args.rounds);
    }
    if args.scrape {
        return scrape::run(SCRAPES);
    }
    build::release()?;
    let watchers = Watcher::available(workspace::binary()?);
    let mut results: Vec<(&Watcher, Figures)> = watchers
        .iter()
        .map(|watcher| (watcher, Figures::default()))
        .collect();
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        let mut unwatched = None;
        for (watcher, figures) in &mut results {
            let running = watcher.start()?;
            let per_second = measure(args)?;
            let stats = Stats::on()?;
            measure(args)?;
            let cost = running.stop()?;
            drop(stats);
            let unwatched = *unwatched.get_or_insert(per_second);
            figures.per_second.push(per_second);
            figures.kept.push(100.0 * per_second / unwatched);
            figures.cost_ns.extend(cost.ns_per_event);
            figures.events += cost.events;
            figures.lost += cost.lost;
        }
    }
    report(&mut results);
    Ok(())
}

/// Connections a second, in a namespace that is gone afterwards.
fn measure(args: &Args) -> Result<f64> {
    let xtask = std::env::current_exe().context("cannot find this program")?;
    let xtask = xtask.to_str().context("its path is not UTF-8")?;
    let connections = args.connections.to_string();
    let close = match args.close {
        Close::Reset => "reset",
        Close::Fin => "fin",
    };
    let words = [
        "--net",
        "--",
        xtask,
        "load",
        "--connections",
        &connections,
        "--close",
        close,
    ];
    let printed = capture(&mut command("unshare", &words))?;
    printed.trim().parse().context("the load printed no rate")
}

fn report(results: &mut [(&Watcher, Figures)]) {
    eprintln!();
    eprintln!(
        "{:<22} {:>26} {:>22} {:>22} {:>20}",
        "minimum median maximum",
        "connections/s",
        "rate kept %",
        "ns a transition",
        "lost of events"
    );
    for (watcher, figures) in results {
        eprintln!(
            "{:<22} {:>26} {:>22} {:>22} {:>20}",
            watcher.name(),
            spread(&mut figures.per_second, 0),
            spread(&mut figures.kept, 1),
            spread(&mut figures.cost_ns, 0),
            format!("{} of {}", figures.lost, figures.events),
        );
    }
}

fn spread(values: &mut [f64], digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    match (values.first(), values.get(values.len() / 2), values.last()) {
        (Some(least), Some(median), Some(most)) => {
            format!("{least:.digits$} {median:.digits$} {most:.digits$}")
        }
        _ => "-".to_owned(),
    }
}

/// The kernel's run-time accounting of eBPF programs, on while this lives. It costs time itself,
/// so rates are measured without it.
struct Stats;

impl Stats {
    fn on() -> Result<Self> {
        capture(&mut command(
            "sysctl",
            &["-q", "-w", "kernel.bpf_stats_enabled=1"],
        ))?;
        Ok(Self)
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        if let Err(error) = capture(&mut command(
            "sysctl",
            &["-q", "-w", "kernel.bpf_stats_enabled=0"],
        )) {
            eprintln!("{error:#}");
        }
    }
}
