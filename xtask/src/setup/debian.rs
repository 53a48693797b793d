//! Debian's compiler, which comes with `core` for BPF ready built.

use anyhow::{Context as _, Result, ensure};

use super::{Toolchain, linker, llvm_version};
use crate::apt::{self, Version};
use crate::exec::{capture, command, exec, find};

/// The name rustup gives to Debian's compiler.
const NAME: &str = "tcplinger-ebpf";
const SYSROOT: &str = "/usr";

/// Packages of one and the same compiler.
struct Family {
    rustc: &'static str,
    core: &'static str,
    clippy: &'static str,
}

/// Debian's own compiler, and the newer one that its stable releases carry for web browsers.
const FAMILIES: [Family; 2] = [
    Family {
        rustc: "rustc",
        core: "libstd-rust-dev-bpf",
        clippy: "rust-clippy",
    },
    Family {
        rustc: "rustc-web",
        core: "libstd-rust-web-dev-bpf",
        clippy: "rust-web-clippy",
    },
];

pub(super) fn ensure() -> Result<Toolchain> {
    ensure!(apt::is_here(), "no apt-get here");
    let family = match first(apt::installed) {
        Some(family) => family,
        None => install()?,
    };
    let llvm = llvm_version(&capture(&mut command("/usr/bin/rustc", &["-vV"]))?)?;
    linker::ensure(llvm)?;
    link()?;
    Ok(Toolchain {
        name: NAME,
        clippy_package: Some(family.clippy),
    })
}

fn install() -> Result<&'static Family> {
    let family = first(apt::candidate)
        .or_else(|| {
            apt::update();
            first(apt::candidate)
        })
        .with_context(|| {
            let wanted = env!("CARGO_PKG_RUST_VERSION");
            format!("apt has no rustc {wanted} with core for BPF")
        })?;
    apt::install(&[family.rustc, family.core])?;
    Ok(family)
}

/// The first family whose packages are there, and new enough, by `version`.
fn first(version: impl Fn(&str) -> Option<Version>) -> Option<&'static Family> {
    let wanted = minimum()?;
    let is_new = |package| version(package).is_some_and(|version| version >= wanted);
    FAMILIES
        .iter()
        .find(|family| is_new(family.rustc) && is_new(family.core))
}

/// The oldest version of Rust that compiles this workspace.
fn minimum() -> Option<Version> {
    apt::version(env!("CARGO_PKG_RUST_VERSION"))
}

/// Makes the compiler known to rustup; where there is no rustup, cargo finds it in `PATH`.
fn link() -> Result<()> {
    if find("rustup").is_none() {
        return Ok(());
    }
    if !is_linked() {
        exec(&mut command(
            "rustup",
            &["toolchain", "link", NAME, SYSROOT],
        ))?;
    }
    // Debian's cargo serves if it is there; otherwise rustup lends one of its own.
    let cargo = capture(&mut command("rustup", &["run", NAME, "cargo", "--version"])).context(
        "the linked compiler has no cargo: type `rustup toolchain install stable --profile minimal`",
    )?;
    let version = cargo.split(' ').nth(1).and_then(apt::version);
    ensure!(
        version >= minimum(),
        "{} is too old for this workspace: remove Debian's package `cargo`",
        cargo.trim()
    );
    Ok(())
}

fn is_linked() -> bool {
    let mut sysroot = command("rustup", &["run", NAME, "rustc", "--print=sysroot"]);
    capture(&mut sysroot).is_ok_and(|path| path.trim() == SYSROOT)
}
