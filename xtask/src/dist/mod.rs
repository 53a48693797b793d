//! `dist`: what is handed to others, in `target/dist`: static binaries, packages for Debian and Fedora, an
//! image, manifests for Kubernetes, a list of the parts, checksums.

mod binary;
mod packages;
mod tools;

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::exec::{command, exec};
use crate::{apt, setup, workspace};
pub(crate) use binary::{Architecture, build};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// For this architecture alone [default: both]
    #[arg(long = "arch", value_name = "ARCH", value_enum)]
    architectures: Vec<Architecture>,
}

/// Debian's packages with what writes man pages' archives, images and checksums.
const PACKAGES: [&str; 1] = ["umoci"];

pub(crate) fn run(args: &Args) -> Result<()> {
    let began = Instant::now();
    setup::ensure()?;
    apt::install_missing(&PACKAGES)?;
    tools::ensure()?;
    let root = workspace::root()?;
    let folder = root.join("target/dist");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    documents()?;
    let wanted: &[Architecture] = match &*args.architectures {
        [] => &[Architecture::X86_64, Architecture::Aarch64],
        some => some,
    };
    for architecture in wanted {
        let binary = build(*architecture, &["monitor"])?.join("tcplinger");
        let name = format!("tcplinger-{}-{}", workspace::VERSION, architecture.name());
        fs::copy(&binary, folder.join(name)).context("cannot copy the binary")?;
        packages::deb(*architecture, &folder)?;
        packages::rpm(*architecture, &folder)?;
        packages::image(*architecture, &folder)?;
        packages::parts(*architecture, &folder)?;
    }
    packages::manifests(&folder)?;
    sums(&folder)?;
    eprintln!("target/dist is complete, after {:.0?}", began.elapsed());
    Ok(())
}

/// Man pages and completions, from the types that read the command line.
fn documents() -> Result<()> {
    let folder = workspace::root()?.join("target/documents");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let mut write = command("cargo", &["test", "--quiet", "--package", "monitor"]);
    write.args(["--bins", "--", "cli::documents"]);
    write.env("TCPLINGER_DOCUMENTS", &folder);
    exec(write.current_dir(workspace::root()?))?;
    let compress = "gzip --best --no-name man/*.1";
    exec(command("sh", &["-c", compress]).current_dir(&folder))
}

/// Checksums of every file, and their sizes for the reader.
fn sums(folder: &Path) -> Result<()> {
    let sums = "sha256sum $(find . -maxdepth 1 -type f ! -name SHA256SUMS | sort) >SHA256SUMS && \
                du --apparent-size --human-readable -- *";
    exec(command("sh", &["-c", sums]).current_dir(folder))
}
