//! `tcplinger run`: the daemon in the foreground.

use std::process::ExitCode;

use anyhow::Result;

use super::{logging, runtime, stop_signal};
use crate::cli::{Color, RunArgs};
use crate::daemon::control::Claim;
use crate::publish::Publisher;
use crate::{config, daemon, inventory, probe};

pub(super) fn run(args: &RunArgs, color: Color) -> Result<ExitCode> {
    let file = config::load(args.config.as_deref())?;
    probe::ensure_privileged()?;
    let settings = config::daemon(args, &file);
    let claim = Claim::new(&config::control(args.control.as_deref(), &file))?;
    logging::start(config::log_format(args, &file), color);
    daemon::keep_small();
    inventory::raise_file_limit();
    let publisher = Publisher::start(&settings.publish)?;
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let stop = stop_signal(args.duration)?;
        daemon::run(settings, claim, publisher, stop).await
    });
    // An asker that takes its answer slowly does not hold up the end.
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}
