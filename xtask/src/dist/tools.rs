//! What makes the packages: built once, into `target/tools`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::exec::{capture, command, exec};
use crate::workspace;

const TOOLS: [(&str, &str); 3] = [
    ("cargo-deb", "3.8.0"),
    ("cargo-generate-rpm", "0.21.1"),
    ("cargo-cyclonedx", "0.5.9"),
];

/// Builds those that are missing, or of another version.
pub(super) fn ensure() -> Result<()> {
    for (name, version) in TOOLS {
        if is_here(name, version)? {
            continue;
        }
        let mut install = command("cargo", &["install", "--locked", "--force", "--quiet"]);
        install.arg("--root").arg(folder()?);
        exec(install.args([name, "--version", version]))?;
    }
    Ok(())
}

/// The list that cargo keeps of what it installed there.
fn is_here(name: &str, version: &str) -> Result<bool> {
    let mut list = command("cargo", &["install", "--list", "--root"]);
    let installed = capture(list.arg(folder()?)).unwrap_or_default();
    let line = format!("{name} v{version}:");
    Ok(installed.lines().any(|installed| installed == line))
}

pub(super) fn tool(name: &str) -> Result<Command> {
    let mut tool = Command::new(folder()?.join("bin").join(name));
    tool.current_dir(workspace::root()?);
    Ok(tool)
}

fn folder() -> Result<PathBuf> {
    Ok(workspace::root()?.join("target/tools"))
}
