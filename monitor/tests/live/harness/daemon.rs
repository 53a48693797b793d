//! `tcplinger` as a process: the daemon under test, and one-off commands.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, thread};

use rustix::process::{Pid, Signal, kill_process};

use super::oracle::Status;
use super::{PATIENCE, eventually, output, run};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tcplinger");

/// `tcplinger` with its arguments as one would type them.
pub(crate) fn tcplinger(arguments: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(arguments.split_whitespace())
        .stdin(Stdio::null());
    command
}

/// The same, through a command that ends in an exec of what follows it.
pub(crate) fn tcplinger_through(wrapper: &[&str], arguments: &str) -> Command {
    let Some((program, rest)) = wrapper.split_first() else {
        return tcplinger(arguments);
    };
    let mut command = Command::new(program);
    command
        .args(rest)
        .arg(PROGRAM)
        .args(arguments.split_whitespace())
        .stdin(Stdio::null());
    command
}

/// A directory of its own, removed on drop.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Not below the target directory: a socket's path has 107 bytes at most.
        let path = env::temp_dir().join(format!("tcplinger-live-{}-{number}", process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// A configuration file with this text; its path.
    pub(crate) fn write(&self, config: &str) -> String {
        let path = self.path("config.toml");
        fs::write(&path, config).unwrap();
        path.into_os_string().into_string().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running `tcplinger run` with its defaults, ready to answer; ended on drop, and its log shown if the test failed.
pub(crate) struct Daemon {
    child: Child,
    control: PathBuf,
    log: PathBuf,
    scratch: Option<Scratch>,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// With more arguments to `run`.
    pub(crate) fn with(arguments: &str) -> Self {
        Self::wrapped(&[], arguments)
    }

    /// Through a command that ends in an exec of what follows it (`unshare`, `sh -c`).
    pub(crate) fn wrapped(wrapper: &[&str], arguments: &str) -> Self {
        let scratch = Scratch::new();
        let mut daemon = Self::launch(wrapper, arguments, &scratch.path("control"));
        daemon.scratch = Some(scratch);
        daemon
    }

    /// On a control path that the caller looks after.
    pub(crate) fn on(control: &Path) -> Self {
        Self::launch(&[], "", control)
    }

    fn launch(wrapper: &[&str], arguments: &str, control: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = control.with_extension(format!("log{number}"));
        let words = wrapper
            .iter()
            .copied()
            .chain([PROGRAM, "run"])
            .collect::<Vec<_>>();
        // Many daemons at a time would fight for the default address.
        let off = (!arguments.contains("--listen")).then_some("--listen=off");
        let child = Command::new(words[0])
            .args(&words[1..])
            .arg("--control")
            .arg(control)
            .args(off)
            .args(arguments.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let control = control.to_owned();
        let mut daemon = Self {
            child,
            control,
            log,
            scratch: None,
        };
        daemon.wait_until_ready();
        daemon
    }

    fn wait_until_ready(&mut self) {
        let is_ready = eventually(PATIENCE, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the daemon ended at once: {status}");
            }
            let mut status = self.status_command("daemon");
            output(&mut status).status.success().then_some(())
        });
        assert!(is_ready.is_some(), "the daemon does not answer");
    }

    fn status_command(&self, source: &str) -> Command {
        let mut command = tcplinger("status --format json --source");
        command.arg(source).arg("--control").arg(&self.control);
        command
    }

    /// `tcplinger status`, from the daemon or from the kernel.
    pub(crate) fn status(&self, source: &str) -> Status {
        let json: serde_json::Value =
            serde_json::from_str(&run(&mut self.status_command(source))).unwrap();
        assert_eq!(json["source"], source);
        Status::new(json)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Times that its threads have gone to sleep by themselves: each ends with a wakeup.
    pub(crate) fn sleeps(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let sleeps = tasks.map(|task| {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let mut lines = status.lines();
            let sleeps = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            sleeps.unwrap().trim().parse::<u64>().unwrap()
        });
        sleeps.sum()
    }

    /// Where it answers.
    pub(crate) fn control(&self) -> &Path {
        &self.control
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The URL of its HTTP server, without a slash at the end.
    pub(crate) fn http_address(&self) -> String {
        let told = eventually(PATIENCE, || {
            let log = self.log();
            let (_, rest) = log.split_once("listening on ")?;
            let (url, _) = rest.split_once("/ ")?;
            Some(url.to_owned())
        });
        told.expect("the daemon logs where it listens")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; `None` when it does not come.
    fn wait(&mut self) -> Option<ExitStatus> {
        eventually(Duration::from_secs(5), || self.child.try_wait().unwrap())
    }

    /// Sends a signal that ends it, and waits.
    pub(crate) fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.wait().expect("the daemon ends when it is told to")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            // It may be stopped, and then it would never see the request to end.
            for signal in [Signal::CONT, Signal::TERM] {
                let _ = kill_process(Pid::from_child(&self.child), signal);
            }
            let ended = self.wait();
            if ended.is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            assert!(
                thread::panicking() || ended.is_some_and(|status| status.success()),
                "the daemon did not end cleanly on SIGTERM: {ended:?}\n{}",
                self.log()
            );
        }
        if thread::panicking() {
            eprintln!("--- log of the daemon:\n{}---", self.log());
        }
    }
}
