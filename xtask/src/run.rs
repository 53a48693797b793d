//! `run`: builds in the quickest way and becomes the daemon, as root. What it sees is shown once it
//! watches, by a process beside it.

use std::ffi::OsString;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};

use crate::exec::{command, exec, find, is_root, replace};
use crate::{setup, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Further flags for `tcplinger run`, after `--`
    #[arg(last = true)]
    args: Vec<OsString>,
}

/// Of the process that shows what the daemon sees.
#[derive(clap::Args)]
pub(crate) struct ShowArgs {
    binary: String,
    /// When `run` was typed, in milliseconds since 1970.
    began_ms: u64,
    #[arg(last = true)]
    args: Vec<String>,
}

const TRACEFS: &str = "/sys/kernel/tracing";
/// No link-time optimization, many codegen units: see `Cargo.toml`.
const PROFILE: &str = "quick";
const PAGE: &str = "127.0.0.1:9817";
/// For the daemon to answer.
const PATIENCE: Duration = Duration::from_mins(1);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Looks, for a transition to be shown.
const FEW_SECONDS: u32 = 100;

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure_root_is_possible()?;
    let began = SystemTime::now();
    step("the eBPF compiler and linker", setup::ensure)?;
    step(
        "tcplinger itself, without the release build's optimization",
        build,
    )?;
    mount_tracefs()?;
    let binary = workspace::binary_of(PROFILE)?;
    let binary = binary.to_str().context("the target folder is not UTF-8")?;
    start_show(binary, began, &args.args)?;
    let mut tcplinger = as_root(binary, &["run"]);
    Err(replace(tcplinger.args(&args.args)))
}

/// Does something and says what it took.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = SystemTime::now();
    eprintln!("== {what}");
    let done = work()?;
    let took = began.elapsed().unwrap_or_default();
    eprintln!("== {what}: {:.1} s", took.as_secs_f64());
    Ok(done)
}

fn build() -> Result<()> {
    let build = ["build", "--profile", PROFILE, "--package", "monitor"];
    exec(command("cargo", &build).current_dir(workspace::root()?))
}

/// The daemon takes the place of this process, so that signals reach it: another one shows.
fn start_show(binary: &str, began: SystemTime, args: &[OsString]) -> Result<()> {
    let began_ms = began.duration_since(UNIX_EPOCH)?.as_millis().to_string();
    let mut show = Command::new(std::env::current_exe()?);
    show.args(["show", binary, &began_ms, "--"]).args(args);
    show.stdin(Stdio::null());
    show.spawn().context("cannot show what the daemon sees")?;
    Ok(())
}

/// Waits until the daemon answers, and shows the counts, what is stuck, and where the page is.
pub(crate) fn show(args: &ShowArgs) -> Result<()> {
    let control = value_of(&args.args, "--control");
    let ask = |words: &[&str]| {
        let mut ask = as_root(&args.binary, words);
        ask.args(["--source", "daemon"]);
        if let Some(control) = control {
            ask.args(["--control", control]);
        }
        ask
    };
    let began = SystemTime::now();
    while !is_answering(&mut ask(&["status"])) {
        if began.elapsed().unwrap_or_default() > PATIENCE {
            return Ok(());
        }
        sleep(LOOK_AGAIN);
    }
    let typed = UNIX_EPOCH + Duration::from_millis(args.began_ms);
    let took = typed.elapsed().unwrap_or_default();
    eprintln!(
        "\n== tcplinger watches, {:.1} s after the command",
        took.as_secs_f64()
    );
    // What is stuck gives an exit code of its own.
    ask(&["status"]).status()?;
    eprintln!();
    ask(&["stuck", "--top", "10"]).status()?;
    let page = value_of(&args.args, "--listen").unwrap_or(PAGE);
    if page != "off" {
        eprintln!("\n== the page: http://{page}/   metrics: http://{page}/metrics");
    }
    eprintln!("== the first transition, of many (tcplinger events):");
    show_transition(&args.binary)
}

/// One transition as it happens, of a connection that is made for it.
fn show_transition(binary: &str) -> Result<()> {
    let mut events = as_root(binary, &["events", "--count", "1"]).spawn()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    for _ in 0..FEW_SECONDS {
        if events.try_wait()?.is_some() {
            return Ok(());
        }
        drop(TcpStream::connect(listener.local_addr()?));
        sleep(LOOK_AGAIN);
    }
    events.kill()?;
    events.wait()?;
    Ok(())
}

fn is_answering(status: &mut Command) -> bool {
    let quiet = status.stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// `--flag VALUE` or `--flag=VALUE`.
fn value_of<'a>(args: &'a [String], flag: &str) -> Option<&'a str> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.strip_prefix(flag) {
            Some("") => return args.next().map(String::as_str),
            Some(value) if value.starts_with('=') => return value.strip_prefix('='),
            _ => {}
        }
    }
    None
}

fn as_root(binary: &str, words: &[&str]) -> Command {
    if is_root() {
        return command(binary, words);
    }
    let mut sudo = command("sudo", &["-E", binary]);
    sudo.args(words);
    sudo
}

/// Loading a program into the kernel takes root.
pub(crate) fn ensure_root_is_possible() -> Result<()> {
    ensure!(
        is_root() || find("sudo").is_some(),
        "this needs root, and there is no sudo: type the same command as root"
    );
    Ok(())
}

/// Kernels without BTF are read through the classic tracepoint, whose format tracefs tells.
pub(crate) fn mount_tracefs() -> Result<()> {
    // Only root may look inside.
    if !is_root() || Path::new(TRACEFS).join("events").exists() {
        return Ok(());
    }
    exec(&mut command(
        "mount",
        &["-t", "tracefs", "tracefs", TRACEFS],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_found_in_both_forms() {
        let args: Vec<String> = ["--control", "/a", "--listen=[::1]:80"]
            .map(str::to_owned)
            .into();
        assert_eq!(value_of(&args, "--control"), Some("/a"));
        assert_eq!(value_of(&args, "--listen"), Some("[::1]:80"));
        assert_eq!(value_of(&args, "--duration"), None);
    }
}
