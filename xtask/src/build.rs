//! `build`: the release binary, `target/release/tcplinger`.

use anyhow::Result;

use crate::exec::{command, exec};
use crate::{setup, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Result<()> {
    setup::ensure()?;
    release()
}

/// Builds what `workspace::binary` names.
pub(crate) fn release() -> Result<()> {
    let build = ["build", "--release", "--package", "monitor"];
    exec(command("cargo", &build).current_dir(workspace::root()?))
}
