//! Flags of `check`, and the exit code that monitoring systems expect of its wrong usage.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use super::{NETNS, Netns, SourceArgs, value};

pub(super) const HELP: &str = "\
Example:
  tcplinger check --warning 10 --critical 1 --timeout 5s

Prints one line with performance data for each state: the number of sockets,
as `ss` counts them, and how many of them are stuck.

Exit codes:
  0  OK
  1  WARNING   at least -w stuck sockets and other incidents (leaks, ports, ...)
  2  CRITICAL  at least -c of them are critical
  3  UNKNOWN   wrong usage, invalid configuration, no privilege, no answer in time";

/// Exit code of a plugin that could not look.
const UNKNOWN: i32 = 3;

/// Flags of `check`.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// WARNING at N stuck sockets and other incidents (leaks, ports, ...)
    #[arg(
        short,
        long,
        value_name = "N",
        default_value = "1",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) warning: u64,
    /// CRITICAL at N critical ones
    #[arg(
        short,
        long,
        value_name = "N",
        default_value = "1",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) critical: u64,
    #[arg(long, value_name = "NAME|INODE", value_parser = value::netns, help = NETNS)]
    pub(crate) netns: Option<Netns>,
    /// UNKNOWN if it takes longer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = value::duration)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// The exit code of a command line that was refused: plugins have their own for wrong usage, where
/// 2 would read as CRITICAL.
pub(super) fn usage_exit_code(error: &clap::Error, line: impl Iterator<Item = OsString>) -> i32 {
    match error.exit_code() {
        2 if verb(line).is_some_and(|verb| verb == "check") => UNKNOWN,
        code => code,
    }
}

/// The first word that is neither a flag nor the value of the one flag that may come before it.
/// Clap has no answer where that flag is what it refused.
fn verb(line: impl Iterator<Item = OsString>) -> Option<OsString> {
    let mut words = line.skip(1);
    loop {
        let word = words.next()?;
        if word == "--color" {
            words.next();
        } else if !word.as_encoded_bytes().starts_with(b"-") {
            return Some(word);
        }
    }
}
