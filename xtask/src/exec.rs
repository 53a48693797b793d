//! Running other programs: a command that changes something is shown before it runs, and named
//! when it fails.

use std::env;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Error, Result, ensure};

/// Runs the command with this terminal's input and output.
pub(crate) fn exec(command: &mut Command) -> Result<()> {
    eprintln!("+ {}", shown(command));
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    ensure!(status.success(), "`{}` failed: {status}", shown(command));
    Ok(())
}

/// Becomes the command, so that signals reach it; returns only where that failed.
pub(crate) fn replace(command: &mut Command) -> Error {
    eprintln!("+ {}", shown(command));
    let error = command.exec();
    Error::new(error).context(format!("cannot start `{}`", shown(command)))
}

/// What the command writes to stdout. For questions only: not shown, and stderr is dropped.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    ensure!(
        output.status.success(),
        "`{}` failed: {}",
        shown(command),
        output.status
    );
    String::from_utf8(output.stdout).with_context(|| format!("output of `{}`", shown(command)))
}

/// A program and its arguments, ready to run.
pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// The same as root: through `sudo` where this process is not, and as it is where there is none.
pub(crate) fn privileged(program: &str, args: &[&str]) -> Command {
    if is_root() || find("sudo").is_none() {
        return command(program, args);
    }
    let mut sudo = command("sudo", &[program]);
    sudo.args(args);
    sudo
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where a program is: in `PATH`, or where administrators' programs are kept.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    let access: io::Result<()> =
        rustix::fs::access(file, rustix::fs::Access::EXEC_OK).map_err(Into::into);
    access.is_ok() && file.is_file()
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| {
        Some(format!(
            "{}={}",
            name.to_string_lossy(),
            quoted(&value?.to_string_lossy())
        ))
    });
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quoted(&word.to_string_lossy()));
    set.chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=+:,@^~".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut build = command("cargo", &["doc", "--no-deps"]);
        build.env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(
            shown(&build),
            "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps"
        );
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn a_failing_command_is_named() {
        let error = exec(&mut command("false", &["--now"])).unwrap_err();
        assert_eq!(error.to_string(), "`false --now` failed: exit status: 1");
        let error = capture(&mut command("/nonexistent/tool", &[])).unwrap_err();
        assert_eq!(error.to_string(), "cannot start `/nonexistent/tool`");
    }

    #[test]
    fn output_is_captured() {
        assert_eq!(capture(&mut command("echo", &["yes"])).unwrap(), "yes\n");
    }
}
