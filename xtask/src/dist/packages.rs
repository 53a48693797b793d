//! Packages, image, manifests and the list of parts, each by a tool that is made for it. What is in the
//! packages stands in `monitor/Cargo.toml`.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::Architecture;
use super::tools::tool;
use crate::exec::{command, exec};
use crate::workspace::{self, VERSION};

pub(super) fn deb(architecture: Architecture, folder: &Path) -> Result<()> {
    let mut deb = tool("cargo-deb")?;
    // It has no debug info to take out, and no library to depend on.
    deb.args(["--package", "monitor", "--no-build", "--no-strip"]);
    deb.args(["--target", architecture.target(), "--output"]);
    exec(deb.arg(folder))
}

pub(super) fn rpm(architecture: Architecture, folder: &Path) -> Result<()> {
    let mut rpm = tool("cargo-generate-rpm")?;
    rpm.args(["--package", "monitor", "--target", architecture.target()]);
    rpm.args(["--auto-req", "disabled", "--output"]);
    exec(rpm.arg(folder))
}

/// An image with nothing in it but the binary, as a layout that `skopeo` and `podman` read.
pub(super) fn image(architecture: Architecture, folder: &Path) -> Result<()> {
    let layout = folder.join(format!("tcplinger-{VERSION}-oci"));
    if !layout.exists() {
        exec(command("umoci", &["init", "--layout"]).arg(&layout))?;
    }
    let image = format!("{}:{}", layout.display(), architecture.debian());
    let binary = format!("tcplinger-{VERSION}-{}", architecture.name());
    let binary = folder.join(binary);
    exec(&mut command("umoci", &["new", "--image", &image]))?;
    let mut insert = command("umoci", &["insert", "--rootless", "--image", &image]);
    exec(insert.arg(binary).arg("/usr/bin/tcplinger"))?;
    let mut config = command("umoci", &["config", "--image", &image]);
    config.args(["--architecture", architecture.debian(), "--os", "linux"]);
    config.args(["--config.entrypoint", "/usr/bin/tcplinger"]);
    config.args(["--config.cmd", "run"]);
    let title = "org.opencontainers.image.title=tcplinger";
    let version = format!("org.opencontainers.image.version={VERSION}");
    config.args(["--config.label", title, "--config.label", &version]);
    exec(&mut config)
}

/// Every crate in the binary, with version, licence and checksum.
pub(super) fn parts(architecture: Architecture, folder: &Path) -> Result<()> {
    let name = format!("tcplinger-{VERSION}-{}.cdx", architecture.name());
    let mut list = tool("cargo-cyclonedx")?;
    list.args([
        "cyclonedx",
        "--manifest-path",
        "monitor/Cargo.toml",
        "--format",
        "json",
    ]);
    list.args(["--target", architecture.target(), "--spec-version", "1.5"]);
    exec(list.args(["--override-filename", &name]))?;
    let name = format!("{name}.json");
    // Beside the manifest of each package.
    for package in ["monitor", "monitor-ebpf", "xtask"] {
        let written = workspace::root()?.join(package).join(&name);
        if package == "monitor" {
            fs::copy(&written, folder.join(&name)).context("cargo-cyclonedx wrote no list")?;
        }
        let _ = fs::remove_file(written);
    }
    Ok(())
}

/// The plain manifest, and the chart as Helm installs it.
pub(super) fn manifests(folder: &Path) -> Result<()> {
    let dist = workspace::root()?.join("monitor/dist");
    let manifest = folder.join(format!("tcplinger-{VERSION}-kubernetes.yaml"));
    fs::copy(dist.join("kubernetes/tcplinger.yaml"), manifest)?;
    let chart = folder.join(format!("tcplinger-{VERSION}-chart.tgz"));
    let mut pack = command("tar", &["--create", "--gzip", "--sort=name", "--owner=0"]);
    pack.args(["--group=0", "--numeric-owner", "--file"])
        .arg(chart);
    exec(
        pack.arg("--directory")
            .arg(dist.join("helm"))
            .arg("tcplinger"),
    )
}
