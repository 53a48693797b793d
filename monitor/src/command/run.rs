//! `tcplinger run`: the daemon in the foreground.

use std::process::ExitCode;

use anyhow::Result;

use super::{logging, runtime, stop_signal};
use crate::cli::{Color, RunArgs};
use crate::daemon::control::Claim;
use crate::{config, daemon, probe};

pub(super) fn run(args: &RunArgs, color: Color) -> Result<ExitCode> {
    probe::ensure_privileged()?;
    let settings = config::daemon(args);
    let claim = Claim::new(&args.control)?;
    logging::start(args.log_format, color);
    runtime()?.block_on(async {
        let stop = stop_signal(args.duration)?;
        daemon::run(settings, claim, stop).await
    })?;
    Ok(ExitCode::SUCCESS)
}
