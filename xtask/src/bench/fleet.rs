//! What a fleet costs a Prometheus: so many simulated hosts, each with an exposition of its own, served
//! by this process and scraped by one real Prometheus for a bounded time.

mod exposition;
mod hosts;
mod prometheus;
mod queries;

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};

use crate::apt;
use crate::exec::find;
use exposition::Exposition;
use hosts::Hosts;
use prometheus::{Prometheus, Usage};
use queries::Times;

/// Between two scrapes of a host. What counts is how many there are: 120 of them fill the chunk of
/// a series, which takes two hours at one a minute.
const SCRAPE_EVERY: Duration = Duration::from_secs(5);
/// Queries of a kind that are shown one by one.
const SHOWN: usize = 14;
/// The fleet that the figures are carried over to.
const FLEET: f64 = 10_000.0;
/// Between two scrapes there.
const FLEET_SCRAPE_SECONDS: f64 = 60.0;
/// What Prometheus' manual gives for a sample on disk, at the most.
const BYTES_ON_DISK: f64 = 2.0;

#[derive(clap::Args)]
pub(crate) struct FleetArgs {
    /// Measure what a fleet costs a real Prometheus instead
    #[arg(long)]
    pub(super) fleet: bool,
    /// Exposition of one host, in Prometheus text format [default: from a daemon started for it]
    #[arg(long, value_name = "FILE", requires = "fleet")]
    exposition: Option<PathBuf>,
    /// Hosts to simulate
    #[arg(long, default_value_t = 200, requires = "fleet")]
    hosts: usize,
}

pub(super) fn run(args: &FleetArgs, seconds: u64) -> Result<()> {
    ensure!(
        args.hosts > 0 && seconds >= 60,
        "--hosts must be 1 or more, and --seconds 60 or more: rates need a minute"
    );
    if find("prometheus").is_none() {
        apt::install_missing(&["prometheus"])?;
    }
    let exposition = match &args.exposition {
        Some(file) => {
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
        }
        None => exposition::of_a_daemon()?,
    };
    let exposition = Exposition::parse(&exposition)?;
    eprintln!("{} series in the exposition", exposition.series());
    measure(args.hosts, Duration::from_secs(seconds), exposition)
}

fn measure(count: usize, time: Duration, exposition: Exposition) -> Result<()> {
    let scratch = Scratch::new()?;
    let prometheus = Prometheus::start(scratch.path())?;
    let empty = prometheus.usage()?;
    let hosts = Hosts::serve(exposition)?;
    prometheus.scrape(hosts.address(), count, SCRAPE_EVERY)?;
    wait(time);
    let full = prometheus.usage()?;
    ensure!(
        full.hosts_up == count,
        "only {} of {} hosts are up",
        full.hosts_up,
        count
    );
    report(count, &empty, &full);
    for (title, queries) in queries::all()? {
        let asked: Result<Vec<Times>> = queries
            .into_iter()
            .map(|query| prometheus.time(query, time))
            .collect();
        tell(title, &mut asked?);
    }
    Ok(())
}

fn wait(time: Duration) {
    let end = Instant::now() + time;
    while let left = end.saturating_duration_since(Instant::now())
        && !left.is_zero()
    {
        eprintln!("{} s to go", left.as_secs());
        sleep(left.min(Duration::from_mins(1)));
    }
}

fn report(hosts: usize, empty: &Usage, full: &Usage) {
    #[expect(clippy::cast_precision_loss, reason = "a number of hosts")]
    let count = hosts as f64;
    let each = (full.resident_bytes - empty.resident_bytes) / full.series;
    let per_host = full.series / count;
    for (value, digits, meaning) in [
        (count, 0, "hosts"),
        (full.samples / count, 0, "samples from each at a scrape"),
        (full.series, 0, "series, recorded ones included"),
        (per_host, 1, "series a host"),
        (
            full.samples / SCRAPE_EVERY.as_secs_f64(),
            0,
            "samples/s taken in",
        ),
        (empty.resident_bytes / 1e6, 1, "MB resident, empty"),
        (full.resident_bytes / 1e6, 1, "MB resident, full"),
        (each, 0, "bytes a series, without what an empty one takes"),
        (full.cpu_percent, 1, "% of one CPU, all told"),
        (
            full.rules_seconds * 1e3,
            1,
            "ms for all rules, the last time",
        ),
    ] {
        eprintln!("{value:>12.digits$} {meaning}");
    }
    let series = per_host * FLEET;
    let samples = series / FLEET_SCRAPE_SECONDS;
    eprintln!(
        "\nAt that rate {FLEET:.0} hosts are {:.1} million series and {:.0} GB of memory; scraped every \
         {FLEET_SCRAPE_SECONDS:.0} s they are {samples:.0} samples/s and at most {:.0} GB of disk a day.",
        series / 1e6,
        series * each / 1e9,
        samples * BYTES_ON_DISK * 86_400.0 / 1e9,
    );
}

/// The slowest ones, and how the others compare.
fn tell(title: &str, times: &mut [Times]) {
    times.sort_by(|one, other| other.quantile(0.5).total_cmp(&one.quantile(0.5)));
    eprintln!(
        "\n{title:<60} {:>9} {:>9} {:>8}",
        "p50 ms", "p99 ms", "series"
    );
    for time in times.iter().take(SHOWN) {
        let name: String = time.query.name.chars().take(60).collect();
        let (p50, p99) = (time.quantile(0.5) * 1e3, time.quantile(0.99) * 1e3);
        eprintln!("{name:<60} {p50:>9.1} {p99:>9.1} {:>8}", time.series);
    }
    let mut medians: Vec<f64> = times.iter().map(|time| time.quantile(0.5) * 1e3).collect();
    eprintln!(
        "{:<60} {}",
        format!("all {}: minimum median maximum of the p50", times.len()),
        super::spread(&mut medians, 1)
    );
}

/// A folder of its own, gone with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("tcplinger-fleet-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}
