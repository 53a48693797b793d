//! `vm`: boots other kernels in an emulator and holds the release binary to what each can do.
//!
//! Debian's kernels for x86-64, in QEMU without the help of the processor: slow, but it runs
//! anywhere. Every kernel is booted once in each lockdown mode.

mod kernel;
mod verdict;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use clap::builder::PossibleValuesParser;

use crate::dist::{self, Architecture};
use crate::exec::{command, exec};
use crate::{apt, setup, workspace};
use kernel::KERNELS;
use verdict::Report;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which kernels, by version [default: all]
    #[arg(value_parser = PossibleValuesParser::new(KERNELS.map(|(version, _)| version)))]
    kernels: Vec<String>,
}

const PACKAGES: [&str; 3] = ["qemu-system-x86", "busybox-static", "cpio"];
const MODES: [&str; 3] = ["", "lockdown=integrity", "lockdown=confidentiality"];

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    apt::install_missing(&PACKAGES)?;
    // They need no library of the guest's.
    let binaries = dist::build(Architecture::X86_64, &["monitor", "xtask"])?;
    let mut failures = Vec::new();
    for (version, suite) in KERNELS {
        if !args.kernels.is_empty() && !args.kernels.iter().any(|wanted| wanted == version) {
            continue;
        }
        let folder = workspace::root()?.join("target/vm").join(version);
        let files = kernel::fetch(suite, &folder)?;
        pack(&binaries, &files, &folder)?;
        for mode in MODES {
            let report = boot(&files, mode, &folder)?;
            let complaints = verdict::judge(version, mode, &report);
            let named = |complaint| format!("Linux {version} {mode}: {complaint}");
            failures.extend(complaints.into_iter().map(named));
        }
    }
    ensure!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

/// Makes the guest's file system.
fn pack(binaries: &Path, files: &Path, folder: &Path) -> Result<()> {
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::create_dir_all(root.join("bin"))?;
    fs::write(root.join("init"), include_str!("init.sh"))?;
    let mut cp = command("cp", &["/bin/busybox"]);
    cp.args(["tcplinger", "xtask"].map(|program| binaries.join(program)));
    for module in ["inet_diag.ko", "tcp_diag.ko"] {
        cp.arg(kernel::find(files, module)?);
    }
    exec(cp.arg(root.join("bin")))?;
    let archive = "chmod +x init; find . | cpio --quiet --create --format=newc >../initramfs";
    exec(command("sh", &["-c", archive]).current_dir(&root))
}

/// Runs the guest until it powers itself off, and shows what it reported, without the JSON.
fn boot(files: &Path, mode: &str, folder: &Path) -> Result<Report> {
    let append = format!("console=ttyS0 panic=-1 {mode}");
    let mut qemu = command("timeout", &["300", "qemu-system-x86_64", "-nodefaults"]);
    // QEMU 7.2 now and then spoils the flags after a `cmpxchg16b`, and the guest dies of it.
    let processor = ["-cpu", "max,-cx16", "-smp", "2", "-m", "512"];
    qemu.args(["-accel", "tcg,thread=multi"]).args(processor);
    qemu.args(["-display", "none", "-no-reboot"]);
    qemu.arg("-kernel").arg(kernel::find(files, "vmlinuz")?);
    qemu.args(["-initrd", "initramfs", "-append", &append]);
    qemu.args(["-serial", "file:console.log", "-serial", "file:report.log"]);
    exec(qemu.current_dir(folder))?;
    let report = fs::read(folder.join("report.log")).context("no report.log")?;
    let report = String::from_utf8_lossy(&report);
    let console = folder.join("console.log");
    ensure!(
        report.contains("=== end 0"),
        "the guest stopped early; see {}",
        console.display()
    );
    for line in report.lines().filter(|line| !line.starts_with('{')) {
        eprintln!("{line}");
    }
    Ok(Report::parse(&report))
}
