//! `test`: every test, as root: unit and property tests, and the black-box tests that run the
//! program on the live kernel, in network namespaces of their own.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::exec::{capture, command, exec, find, is_root};
use crate::{apt, build, run, setup, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Arguments for the test runner, after `--`: a filter, `--nocapture`
    #[arg(last = true)]
    args: Vec<String>,
}

/// What the tests call, and the Debian package that has it.
const PROGRAMS: [(&str, &str); 16] = [
    ("bpftool", "bpftool"),
    ("capsh", "libcap2-bin"),
    ("chromedriver", "chromium-driver"),
    ("chromium", "chromium"),
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("openssl", "openssl"),
    ("prometheus-alertmanager", "prometheus-alertmanager"),
    ("promtool", "prometheus"),
    ("python3", "python3"),
    ("redis-server", "redis-server"),
    ("ss", "iproute2"),
    ("systemd-analyze", "systemd"),
    ("unshare", "util-linux"),
];

/// The modules that decode what the kernel wrote; Miri watches their tests' every read.
const DECODERS: [&str; 2] = ["probe::record", "inventory::wire"];

pub(crate) fn run(args: &Args) -> Result<()> {
    run::ensure_root_is_possible()?;
    setup::ensure()?;
    install_programs()?;
    run::mount_tracefs()?;
    build::release()?;
    exec(as_root(&mut cargo(&["test", "--workspace", "--"])?)?.args(&args.args))?;
    miri()
}

fn install_programs() -> Result<()> {
    let missing: Vec<&str> = PROGRAMS
        .into_iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| package)
        .collect();
    apt::install_missing(&missing)
}

fn cargo(args: &[&str]) -> Result<Command> {
    let mut cargo = command("cargo", args);
    cargo.current_dir(workspace::root()?);
    Ok(cargo)
}

/// Has cargo start the tests through sudo where this is not root, and build them as who this is.
fn as_root(cargo: &mut Command) -> Result<&mut Command> {
    if !is_root() {
        cargo.env(
            runner_variable(&capture(&mut command("rustc", &["-vV"]))?)?,
            "sudo -E",
        );
    }
    Ok(cargo)
}

/// The variable that names cargo's runner for this host, from what `rustc -vV` prints.
fn runner_variable(verbose: &str) -> Result<String> {
    let host = verbose
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc does not name its host")?;
    let host = host.to_uppercase().replace(['-', '.'], "_");
    Ok(format!("CARGO_TARGET_{host}_RUNNER"))
}

fn miri() -> Result<()> {
    if !["miri", "rust-src"]
        .into_iter()
        .all(setup::nightly::has_component)
    {
        eprintln!(
            "skipped Miri: not installed; `rustup toolchain install nightly --component miri --component rust-src` installs it"
        );
        return Ok(());
    }
    let mut miri = cargo(&["+nightly", "miri", "test", "--package", "monitor", "--bins"])?;
    miri.arg("--").args(DECODERS);
    // Property tests look for a file of earlier failures, and Miri is a hundred times slower.
    miri.env("MIRIFLAGS", "-Zmiri-disable-isolation");
    exec(miri.env("PROPTEST_CASES", "8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runner_is_named_after_the_host() {
        let verbose = "rustc 1.95.0\nhost: x86_64-unknown-linux-gnu\n";
        assert_eq!(
            runner_variable(verbose).unwrap(),
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER"
        );
        assert!(runner_variable("").is_err());
    }
}
