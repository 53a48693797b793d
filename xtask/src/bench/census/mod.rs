//! Are the counts right? What the daemon publishes under load, next to what the kernel has.
//!
//! Each scene makes its load in network namespaces of its own, starts a daemon, looks at both once a
//! second, and ends in targets that are met or missed. The daemon counts the whole host: what else
//! goes on here costs it time.

mod daemon;
mod kernel;
mod scenes;
mod traffic;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{apt, build, setup, workspace};

#[derive(clap::Args)]
pub(crate) struct CensusArgs {
    /// Check the daemon's counts against the kernel's under load instead
    #[arg(long)]
    pub(super) census: bool,
    /// One scene [default: all, about 20 minutes]
    #[arg(long, requires = "census")]
    scene: Option<Scene>,
    /// Storms in the scene of that name
    #[arg(long, default_value_t = 20, requires = "census")]
    storms: u32,
    /// A tcplinger binary to use instead of building one
    #[arg(long, value_name = "FILE", requires = "census")]
    binary: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Scene {
    /// Nothing happens
    Idle,
    /// Half-open requests, behind a busy namespace
    Starve,
    /// Closes that pass through `FIN_WAIT2` as orphans
    Orphans,
    /// Connections opened and closed at full speed, again and again
    Storms,
    /// Sockets in `CLOSE_WAIT` in 300 namespaces become stuck, beside 100,000 sockets
    Verdicts,
    /// 1,000 namespaces
    Namespaces,
    /// As many sockets as fit, up to a million
    Million,
}

/// What the scenes are told.
struct Plan {
    binary: PathBuf,
    seconds: Option<u64>,
    storms: u32,
}

impl Plan {
    /// How long to watch, where nothing else was asked for.
    fn time(&self, seconds: u64) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(seconds))
    }
}

/// What a scene was to show, and whether it did.
struct Target {
    what: String,
    is_met: bool,
}

impl Target {
    fn at_most(limit: f64, value: f64, what: &str) -> Self {
        Self {
            what: format!("{what}: {value:.2}, at most {limit}"),
            is_met: value <= limit,
        }
    }
}

pub(super) fn run(args: &CensusArgs, seconds: Option<u64>) -> Result<()> {
    // For `nft`.
    apt::install_missing(&["nftables"])?;
    let binary = if let Some(binary) = &args.binary {
        binary.clone()
    } else {
        setup::ensure()?;
        build::release()?;
        workspace::binary()?
    };
    allow_descriptors()?;
    let plan = Plan {
        binary,
        seconds,
        storms: args.storms,
    };
    let every = Scene::value_variants();
    let scenes = args.scene.as_ref().map_or(every, std::slice::from_ref);
    let missed: usize = scenes.iter().map(|scene| scene.show(&plan)).sum();
    ensure!(missed == 0, "{missed} missed");
    Ok(())
}

/// As many as this process, and those it starts, may have.
fn allow_descriptors() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    Ok(setrlimit(Resource::Nofile, limit)?)
}

impl Scene {
    /// Targets missed; a scene that fails misses one.
    fn show(self, plan: &Plan) -> usize {
        if let Some(value) = self.to_possible_value() {
            let help = value.get_help().map(ToString::to_string);
            eprintln!("\n{}: {}", value.get_name(), help.unwrap_or_default());
        }
        match self.play(plan) {
            Ok(targets) => {
                for Target { what, is_met } in &targets {
                    eprintln!("{} {what}", if *is_met { "pass" } else { "FAIL" });
                }
                targets.iter().filter(|target| !target.is_met).count()
            }
            Err(error) => {
                eprintln!("FAIL {error:#}");
                1
            }
        }
    }

    fn play(self, plan: &Plan) -> Result<Vec<Target>> {
        match self {
            Self::Idle => scenes::idle(plan),
            Self::Starve => scenes::starve(plan),
            Self::Orphans => scenes::orphans(plan),
            Self::Storms => scenes::storms(plan),
            Self::Verdicts => scenes::verdicts(plan),
            Self::Namespaces => scenes::namespaces(plan),
            Self::Million => scenes::million(plan),
        }
    }
}
