//! `setup`: a compiler and a linker for the eBPF programs, by the first route that works here.
//!
//! The choice is one line in a file that `monitor/build.rs` reads. A second run changes nothing.

mod debian;
mod linker;
pub(crate) mod nightly;

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::exec::{command, find};
use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct Args {}

/// What compiles the eBPF programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// As rustup knows it.
    pub(crate) name: &'static str,
    /// Debian's package of clippy for the same compiler; none where rustup has it.
    pub(crate) clippy_package: Option<&'static str>,
}

impl Toolchain {
    /// A program of this toolchain, allowed to compile what `monitor/build.rs` compiles.
    pub(crate) fn command(self, program: &str) -> Command {
        let mut command = if find("rustup").is_some() {
            command("rustup", &["run", self.name, program])
        } else {
            command(program, &[])
        };
        if self.clippy_package.is_some() {
            command.env("RUSTC_BOOTSTRAP", "aya_ebpf");
        }
        command
    }
}

const MANUAL: &str = "no toolchain for the eBPF programs. Either of these gives one:
  Debian:    apt-get update && apt-get install rustc-web libstd-rust-web-dev-bpf
  elsewhere: rustup toolchain install nightly --profile minimal --component rust-src
             and LLVM's development files, of the version that `rustc +nightly -vV` names
then type `cargo xtask setup` again";

pub(crate) fn run(_: &Args) -> Result<()> {
    let toolchain = ensure()?;
    eprintln!(
        "ready: the toolchain {} builds the eBPF programs",
        toolchain.name
    );
    Ok(())
}

/// Installs what is missing and records the choice.
pub(crate) fn ensure() -> Result<Toolchain> {
    let by_debian = match debian::ensure() {
        Ok(toolchain) => return record(toolchain),
        Err(error) => error,
    };
    eprintln!("not by Debian's packages: {by_debian:#}");
    match nightly::ensure() {
        Ok(toolchain) => record(toolchain),
        Err(by_nightly) => {
            bail!("{MANUAL}\n(by Debian's packages: {by_debian:#}; by nightly: {by_nightly:#})")
        }
    }
}

/// Leaves a file that says the same alone: its age decides whether cargo builds again.
fn record(toolchain: Toolchain) -> Result<Toolchain> {
    let path = workspace::toolchain_choice()?;
    let line = format!("{}\n", toolchain.name);
    if fs::read_to_string(&path).is_ok_and(|text| text == line) {
        return Ok(toolchain);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(&path, line).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(toolchain)
}

/// The major version of LLVM in what `rustc -vV` prints.
fn llvm_version(verbose: &str) -> Result<u32> {
    verbose
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))
        .and_then(|version| version.split('.').next()?.parse().ok())
        .with_context(|| format!("rustc does not name its LLVM: {verbose:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_is_read_from_the_compilers_version() {
        let verbose = "rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(llvm_version(verbose).unwrap(), 22);
        assert!(llvm_version("rustc 1.96.0\n").is_err());
    }
}
