//! Where things are in this workspace.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Of every package of the workspace.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The workspace's top folder.
pub(crate) fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask has no folder above it")
}

/// The file that tells `monitor/build.rs` the toolchain; always under `target`, which git ignores,
/// wherever `CARGO_TARGET_DIR` points.
pub(crate) fn toolchain_choice() -> Result<PathBuf> {
    Ok(root()?.join("target/ebpf-toolchain"))
}

/// The release binary.
pub(crate) fn binary() -> Result<PathBuf> {
    binary_of("release")
}

/// The binary that a profile leaves.
pub(crate) fn binary_of(profile: &str) -> Result<PathBuf> {
    let target = match env::var_os("CARGO_TARGET_DIR") {
        Some(target) => env::current_dir()?.join(target),
        None => root()?.join("target"),
    };
    Ok(target.join(profile).join("tcplinger"))
}
