//! rustup's nightly compiler, which builds `core` for BPF from its source.

use anyhow::{Result, ensure};

use super::{Toolchain, linker, llvm_version};
use crate::exec::{capture, command, exec, find};

/// The toolchain that `aya_build` takes by itself.
const NAME: &str = "nightly";

pub(super) fn ensure() -> Result<Toolchain> {
    ensure!(find("rustup").is_some(), "no rustup here");
    if !has_component("rust-src") {
        let install = ["toolchain", "install", NAME, "--profile", "minimal"];
        exec(command("rustup", &install).args(["--component", "rust-src"]))?;
    }
    let rustc = capture(&mut command("rustup", &["run", NAME, "rustc", "-vV"]))?;
    linker::ensure(llvm_version(&rustc)?)?;
    Ok(Toolchain {
        name: NAME,
        clippy_package: None,
    })
}

/// Whether the nightly toolchain is here and has the component.
pub(crate) fn has_component(name: &str) -> bool {
    let list = ["component", "list", "--installed", "--toolchain", NAME];
    capture(&mut command("rustup", &list))
        .is_ok_and(|components| components.lines().any(|line| line.starts_with(name)))
}
