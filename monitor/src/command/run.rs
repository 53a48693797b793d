//! `tcplinger run`: the daemon in the foreground.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::{Abandoned, NO_LOG, logging, runtime, stop_signal};
use crate::cli::{Color, RunArgs};
use crate::daemon::control::Claim;
use crate::publish::Publisher;
use crate::{config, daemon, inventory, probe};

pub(super) fn run(args: &RunArgs, color: Color) -> Result<ExitCode> {
    daemon::keep_small();
    let runtime = runtime()?;
    // Before all else: a signal that comes early waits, where it would end the process.
    let stop = {
        let _inside = runtime.enter();
        ignore_user_signals()?;
        stop_signal(args.duration, Abandoned::DAEMON)?
    };
    let file = config::load(args.config.as_deref())?;
    probe::ensure_privileged()?;
    let settings = config::daemon(args, &file, logging::dropped);
    let claim = Claim::new(&config::control(args.control.as_deref(), &file))?;
    logging::start_detached(config::log_format(args, &file), color).context(NO_LOG)?;
    inventory::raise_file_limit();
    let publisher = Publisher::start(&settings.publish)?;
    let ended = runtime.block_on(daemon::run(settings, claim, publisher, stop));
    // An asker that takes its answer slowly does not hold up the end.
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}

/// They mean nothing here, and would end the process.
fn ignore_user_signals() -> Result<()> {
    for kind in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
        // Once handled, for good.
        drop(signal(kind).context("cannot handle SIGUSR1 and SIGUSR2")?);
    }
    Ok(())
}
