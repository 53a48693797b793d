//! `run`: builds the release binary and becomes it, as root.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::exec::{command, exec, find, is_root, replace};
use crate::{build, setup, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Flags for `tcplinger run`, after `--`
    #[arg(last = true)]
    args: Vec<OsString>,
}

const TRACEFS: &str = "/sys/kernel/tracing";

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure_root_is_possible()?;
    setup::ensure()?;
    build::release()?;
    mount_tracefs()?;
    let binary = workspace::binary()?;
    let binary = binary.to_str().context("the target folder is not UTF-8")?;
    let words = ["run", "--transitions", "--summary-every", "1s"];
    let mut tcplinger = if is_root() {
        command(binary, &words)
    } else {
        let mut sudo = command("sudo", &["-E", binary]);
        sudo.args(words);
        sudo
    };
    Err(replace(tcplinger.args(&args.args)))
}

/// Loading a program into the kernel takes root.
pub(crate) fn ensure_root_is_possible() -> Result<()> {
    ensure!(
        is_root() || find("sudo").is_some(),
        "this needs root and there is no sudo: run the same command as root"
    );
    Ok(())
}

/// Kernels without BTF are read through the classic tracepoint, whose format tracefs tells.
pub(crate) fn mount_tracefs() -> Result<()> {
    // Only root may look inside.
    if !is_root() || Path::new(TRACEFS).join("events").exists() {
        return Ok(());
    }
    exec(&mut command(
        "mount",
        &["-t", "tracefs", "tracefs", TRACEFS],
    ))
}
