//! `check`: everything that can be said about the code without running it.

use std::process::Command;

use anyhow::Result;

use crate::exec::{capture, command, exec};
use crate::setup::{self, Toolchain};
use crate::{apt, imports, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also check the dependencies for known vulnerabilities; downloads the list
    #[arg(long)]
    advisories: bool,
}

const CARGO_DENY: &str = "^0.20";

pub(crate) fn run(args: &Args) -> Result<()> {
    cargo(&["fmt", "--all", "--check"], &[])?;
    imports::check(workspace::root()?)?;
    let toolchain = setup::ensure()?;
    let deny_warnings = ["--", "-D", "warnings"];
    cargo(&["clippy", "--workspace", "--all-targets"], &deny_warnings)?;
    clippy_for_bpf(toolchain, &deny_warnings)?;
    doc()?;
    deny(args.advisories)
}

fn cargo(args: &[&str], more: &[&str]) -> Result<()> {
    exec(in_workspace(&mut command("cargo", args))?.args(more))
}

fn in_workspace(command: &mut Command) -> Result<&mut Command> {
    Ok(command.current_dir(workspace::root()?))
}

/// The same lints on what runs in the kernel, by the compiler that builds it.
fn clippy_for_bpf(toolchain: Toolchain, deny_warnings: &[&str]) -> Result<()> {
    let mut clippy = toolchain.command("cargo");
    clippy.args(["clippy", "--package", "monitor-ebpf", "--lib", "--bins"]);
    clippy.args(["--release", "--target", "bpfel-unknown-none"]);
    match toolchain.clippy_package {
        Some(package) => apt::install_missing(&[package])?,
        None => drop(clippy.arg("-Zbuild-std=core")),
    }
    exec(in_workspace(&mut clippy)?.args(deny_warnings))
}

fn doc() -> Result<()> {
    let mut doc = command("cargo", &["doc", "--workspace", "--no-deps"]);
    doc.arg("--document-private-items");
    exec(in_workspace(&mut doc)?.env("RUSTDOCFLAGS", "-D warnings"))
}

/// Licences, sources and duplicates of the dependencies.
fn deny(advisories: bool) -> Result<()> {
    if capture(&mut command("cargo", &["deny", "--version"])).is_err() {
        cargo(
            &["install", "--locked", "cargo-deny"],
            &["--version", CARGO_DENY],
        )?;
    }
    cargo(&["deny", "check", "bans", "licenses", "sources"], &[])?;
    if advisories {
        cargo(&["deny", "check", "advisories"], &[])?;
    }
    Ok(())
}
