//! bpf-linker, which turns LLVM's bitcode into an eBPF object.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::apt;
use crate::exec::{capture, command, exec, find};

const PROGRAM: &str = "bpf-linker";
const VERSION: &str = "0.13.0";
/// Majors of LLVM that this version can be built for.
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// Builds the linker where it is missing, or reads only bitcode older than the compiler's.
pub(super) fn ensure(llvm: u32) -> Result<()> {
    if is_installed(llvm) {
        return Ok(());
    }
    ensure!(
        LLVM.contains(&llvm),
        "{PROGRAM} {VERSION} cannot be built for LLVM {llvm}"
    );
    if apt::is_here() {
        apt::install_missing(&[&format!("llvm-{llvm}-dev")])?;
    }
    let feature = format!("llvm-{llvm}");
    let mut install = command("cargo", &["install", PROGRAM, "--version", VERSION]);
    install.args(["--locked", "--force", "--no-default-features"]);
    install.args(["--features", &feature]);
    let prefix = PathBuf::from("/usr/lib").join(feature);
    if prefix.is_dir() {
        install.env("LLVM_PREFIX", prefix);
    }
    exec(&mut install)?;
    ensure!(
        is_installed(llvm),
        "{PROGRAM} {VERSION} is installed but not in PATH: add cargo's bin folder"
    );
    Ok(())
}

fn is_installed(llvm: u32) -> bool {
    try_version().is_ok_and(|(version, linked)| {
        version == VERSION && linked.is_none_or(|linked| linked >= llvm)
    })
}

/// The linker's version, and the LLVM it is linked to; none where that is part of the program.
fn try_version() -> Result<(String, Option<u32>)> {
    let path = find(PROGRAM).context("not in PATH")?;
    let path = path.to_str().context("not UTF-8")?;
    let version = capture(&mut command(path, &["--version"]))?;
    let version = version.trim().trim_start_matches(PROGRAM).trim_start();
    let libraries = capture(&mut command("ldd", &[path])).unwrap_or_default();
    Ok((version.to_owned(), linked_llvm(&libraries)))
}

/// The major in the name of LLVM's library: `libLLVM-16.so.1`, `libLLVM.so.22.1`.
fn linked_llvm(libraries: &str) -> Option<u32> {
    let (_, name) = libraries.split_once("libLLVM")?;
    let mut digits = name.split(|c: char| !c.is_ascii_digit());
    digits.find_map(|number| number.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linked_llvm_is_read_from_the_librarys_name() {
        let new = "\tlibLLVM.so.22.1 => /lib/libLLVM.so.22.1 (0x7f)\n\tlibc.so.6 => /lib/libc.so.6";
        assert_eq!(linked_llvm(new), Some(22));
        assert_eq!(
            linked_llvm("\tlibLLVM-16.so.1 => /lib/libLLVM-16.so.1"),
            Some(16)
        );
        assert_eq!(linked_llvm("\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n"), None);
    }
}
