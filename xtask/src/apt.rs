//! Debian's packages: which are installed, which could be, and installing what is missing.

use std::sync::Once;

use anyhow::{Result, ensure};

use crate::exec::{capture, command, exec, find, privileged};

/// Major and minor number of a version.
pub(crate) type Version = (u32, u32);

pub(crate) fn is_here() -> bool {
    find("apt-get").is_some()
}

fn is_installed(package: &str) -> bool {
    upstream_version(package).is_some()
}

/// The version that is installed, if the package is.
pub(crate) fn installed(package: &str) -> Option<Version> {
    version(&upstream_version(package)?)
}

/// The upstream version of an installed package.
fn upstream_version(package: &str) -> Option<String> {
    let format = "--showformat=${db:Status-Status} ${source:Upstream-Version}";
    let state = capture(&mut command("dpkg-query", &["--show", format, package])).ok()?;
    Some(state.strip_prefix("installed ")?.to_owned())
}

/// The version that would be installed, as far as the package lists at hand know.
pub(crate) fn candidate(package: &str) -> Option<Version> {
    let policy = capture(command("apt-cache", &["policy", package]).env("LC_ALL", "C")).ok()?;
    version(candidate_line(&policy)?)
}

/// The whole version of an installed package; None where it is not installed.
pub(crate) fn full_version(package: &str) -> Option<String> {
    let format = ["--show", "--showformat=${Version}", package];
    let version = capture(&mut command("dpkg-query", &format)).ok()?;
    (!version.is_empty()).then_some(version)
}

/// Installs those of the packages that are missing.
pub(crate) fn install_missing(packages: &[&str]) -> Result<()> {
    let mut missing = packages.to_vec();
    missing.retain(|package| !is_installed(package));
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)
}

/// Installs the packages, or newer versions of them; asks nothing.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    ensure!(
        is_here(),
        "no apt-get here; install the equivalent of Debian's {}",
        packages.join(" ")
    );
    update();
    exec(apt_get(&["install", "--yes", "--no-install-recommends"]).args(packages))
}

/// Fetches the package lists, once per run. A list that cannot be fetched is left as it was: what
/// it should have offered is then reported as missing by name.
pub(crate) fn update() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = exec(&mut apt_get(&["update", "--quiet"])) {
            eprintln!("{error:#}: using the existing package lists");
        }
    });
}

fn apt_get(args: &[&str]) -> std::process::Command {
    let mut apt_get = privileged("env", &["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    apt_get.args(args);
    apt_get
}

fn candidate_line(policy: &str) -> Option<&str> {
    policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
}

/// The first two numbers of a version, whatever follows: `1.96.0+dfsg1-1~deb12u2`.
pub(crate) fn version(text: &str) -> Option<Version> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_read_from_the_policy() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n";
        assert_eq!(candidate_line(policy).and_then(version), Some((1, 96)));
        let nowhere = "rustc-web:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(candidate_line(nowhere).and_then(version), None);
        assert_eq!(candidate_line(""), None);
    }

    #[test]
    fn a_version_starts_with_two_numbers() {
        assert_eq!(version("1.95"), Some((1, 95)));
        assert_eq!(version("1.97.0-nightly"), Some((1, 97)));
        assert_eq!(version("1"), None);
        assert_eq!(version("v1.2"), None);
    }
}
