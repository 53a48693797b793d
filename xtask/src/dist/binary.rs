//! Static, stripped binaries for this architecture and, with Debian's cross compiler, for another.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::apt;
use crate::exec::{command, exec};
use crate::workspace;

/// What a binary runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Architecture {
    #[value(name = "x86_64")]
    X86_64,
    #[value(name = "aarch64")]
    Aarch64,
}

impl Architecture {
    /// As the kernel and RPM call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As Debian and image registries call it.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    pub(crate) const fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    fn is_native(self) -> bool {
        self.name() == std::env::consts::ARCH
    }

    /// Of a variable that cargo reads for this target.
    fn variable(self, name: &str) -> String {
        let target = self.target().replace('-', "_").to_uppercase();
        format!("CARGO_TARGET_{target}_{name}")
    }
}

/// `-C strip` and not the profile's: that would reach the eBPF programs, whose BTF is debug info.
const FLAGS: &str = "-C target-feature=+crt-static -C strip=symbols";
const CROSS: &str = "aarch64-linux-gnu-gcc";

/// Builds packages of the workspace as release; tells where the binaries are.
pub(crate) fn build(architecture: Architecture, packages: &[&str]) -> Result<PathBuf> {
    let mut cargo = command("cargo", &["build", "--release"]);
    cargo.args(["--target", architecture.target()]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    let mut flags = FLAGS.to_owned();
    if !architecture.is_native() {
        let sysroot = cross_sysroot()?;
        flags = format!("{FLAGS} --sysroot {}", sysroot.display());
        // The compiler whose standard library Debian has for other architectures.
        cargo.env("RUSTC", "/usr/bin/rustc");
        cargo.env(architecture.variable("LINKER"), CROSS);
        cargo.env("CC_aarch64_unknown_linux_gnu", CROSS);
    }
    cargo.env(architecture.variable("RUSTFLAGS"), flags);
    exec(cargo.current_dir(workspace::root()?))?;
    let binary = workspace::binary()?;
    let target = binary.ancestors().nth(2).context("no target folder")?;
    Ok(target.join(architecture.target()).join("release"))
}

/// Debian's standard library for arm64, unpacked and not installed; made once.
fn cross_sysroot() -> Result<PathBuf> {
    apt::install_missing(&["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"])?;
    let folder = workspace::root()?.join("target/arm64");
    let sysroot = folder.join("usr");
    if sysroot.exists() {
        return Ok(sysroot);
    }
    let lists = folder.join("lists");
    fs::create_dir_all(lists.join("partial"))?;
    let package = standard_library()?;
    let mut update = apt_for_arm64(&lists);
    exec(update.args(["update", "--quiet"]))?;
    let mut download = apt_for_arm64(&lists);
    download.args(["download", "--quiet", &package]);
    exec(download.current_dir(&folder))?;
    let unpack = "for deb in *.deb; do dpkg -x $deb unpacking; done && mv unpacking/usr usr";
    exec(command("sh", &["-c", unpack]).current_dir(&folder))?;
    Ok(sysroot)
}

/// The package beside the installed compiler: of the same version, or the two do not fit.
fn standard_library() -> Result<String> {
    let families = ["libstd-rust-web-dev", "libstd-rust-dev"];
    let installed = families
        .into_iter()
        .find_map(|package| Some((package, apt::full_version(package)?)));
    let (package, version) = installed.context(
        "no libstd-rust-web-dev here: type `apt-get install rustc-web libstd-rust-web-dev`",
    )?;
    Ok(format!("{package}={version}"))
}

/// The host's own configuration stays as it is.
fn apt_for_arm64(lists: &Path) -> std::process::Command {
    let mut apt = command("apt-get", &["-o", "APT::Architecture=arm64"]);
    apt.args(["-o", "APT::Architectures=arm64"]);
    apt.args(["-o", "Dir::State::status=/dev/null"]);
    apt.arg("-o")
        .arg(format!("Dir::State::lists={}", lists.display()));
    apt.arg("-o").arg(format!("Dir::Cache={}", lists.display()));
    apt
}
