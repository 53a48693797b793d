//! Debian's kernels: which, and how to come by them without installing anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::exec::{capture, command, exec};

/// Versions, and the release of Debian that each comes with.
pub(super) const KERNELS: [(&str, &str); 4] = [
    ("5.10", "bullseye"),
    ("6.1", "bookworm"),
    ("6.12", "trixie"),
    ("7", "sid"),
];

const METAPACKAGE: &str = "linux-image-cloud-amd64";
/// What starts the names of the packages with the kernel and its modules.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Downloads and unpacks a kernel, once; tells where its files are.
pub(super) fn fetch(suite: &str, folder: &Path) -> Result<PathBuf> {
    let files = folder.join("files");
    if files.exists() {
        return Ok(files);
    }
    configure(suite, folder)?;
    exec(&mut private(folder, "apt-get", &["update", "--quiet"]))?;
    let depends = ["depends", "--recurse", "--important", METAPACKAGE];
    let depends = capture(&mut private(folder, "apt-cache", &depends))?;
    let packages = depends.lines().filter(|name| is_part(name));
    let mut download = private(folder, "apt-get", &["download", "--quiet"]);
    exec(download.args(packages))?;
    let unpack =
        "for deb in *.deb; do dpkg -x $deb unpacking; done && mv unpacking files; rm *.deb";
    exec(command("sh", &["-c", unpack]).current_dir(folder))?;
    Ok(files)
}

fn is_part(package: &str) -> bool {
    let version = PARTS.iter().find_map(|part| package.strip_prefix(part));
    version.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

/// apt's own configuration stays as it is: lists and sources of another release are kept apart.
fn configure(suite: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("lists/partial"))?;
    let at = folder.display();
    let configuration = format!(
        r#"Dir::Etc::sourcelist "{at}/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "{at}/lists";
Dir::State::status "/dev/null";
Dir::Cache "{at}/cache";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
"#
    );
    fs::write(folder.join("apt.conf"), configuration)?;
    let source = format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror()?);
    Ok(fs::write(folder.join("sources.list"), source)?)
}

/// The mirror of Debian that this machine is set up with.
fn mirror() -> Result<String> {
    let format = ["--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"];
    let sources = capture(command("apt-get", &["indextargets"]).args(format))?;
    let mirror = sources
        .lines()
        .find_map(|line| line.strip_prefix("Debian "));
    Ok(mirror.context("apt has no source of Debian's")?.to_owned())
}

/// apt with the configuration in the folder.
fn private(folder: &Path, program: &str, args: &[&str]) -> Command {
    let mut apt = command(program, args);
    apt.env("APT_CONFIG", folder.join("apt.conf"));
    apt.current_dir(folder);
    apt
}

/// The one file below a folder whose name starts like this.
pub(super) fn find(folder: &Path, start: &str) -> Result<PathBuf> {
    let mut find = command("find", &[]);
    find.arg(folder).args(["-name", &format!("{start}*")]);
    let found = capture(&mut find)?;
    let first = found.lines().next().map(PathBuf::from);
    first.with_context(|| format!("no {start} in {}", folder.display()))
}
