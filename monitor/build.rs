//! Builds the eBPF programs and leaves the object in `OUT_DIR` as `monitor-ebpf`; nothing else.

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};

const NAME: &str = "monitor-ebpf";

/// The toolchain that `cargo xtask setup` chose; it stays here wherever `CARGO_TARGET_DIR` points.
const CHOICE: &str = "../target/ebpf-toolchain";

fn main() -> ExitCode {
    let Err(error) = build() else {
        return ExitCode::SUCCESS;
    };
    println!("cargo::error=the eBPF programs do not build: {error:#}");
    println!("cargo::error=if a tool is missing, type `cargo xtask setup`");
    ExitCode::FAILURE
}

fn build() -> Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={CHOICE}");
    if env::var_os("CARGO_CFG_MIRI").is_some() {
        // Miri has no kernel to load an object into: an empty one lets the crate compile.
        let object = Path::new(&env::var("OUT_DIR")?).join(NAME);
        return fs::write(object, []).context("cannot write to OUT_DIR");
    }
    let choice = fs::read_to_string(CHOICE).unwrap_or_default();
    let package = Package {
        name: NAME,
        root_dir: "../monitor-ebpf",
        ..Package::default()
    };
    aya_build::build_ebpf([package], toolchain(choice.trim()))
}

fn toolchain(choice: &str) -> Toolchain<'_> {
    if choice.is_empty() || choice.starts_with("nightly") {
        return Toolchain::Nightly;
    }
    // A stable compiler takes `aya_ebpf`'s intrinsics only when told to. Not `1`: `aya_build` would
    // read that as a wish to build `core` from source.
    // SAFETY: nothing else reads or writes the environment: a build script starts with one thread.
    unsafe { env::set_var("RUSTC_BOOTSTRAP", "aya_ebpf") };
    Toolchain::Custom(choice)
}
