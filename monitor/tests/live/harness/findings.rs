//! `tcplinger stuck` and `tcplinger owners` as an operator calls them, and their answers.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::daemon::{Daemon, Scratch, tcplinger};
use super::netns::Netns;
use super::{PATIENCE, eventually, output, run};

/// Ages are this exact, in seconds.
const EXACT: f64 = 0.05;

/// A moment known to lie between two readings of the monotonic clock.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    after: Instant,
    before: Instant,
}

impl Moment {
    /// When `act` was done, which takes no time to speak of.
    pub(crate) fn of(act: impl FnOnce()) -> Self {
        let after = Instant::now();
        act();
        let before = Instant::now();
        Self { after, before }
    }

    /// Seconds from the one to the other: at least, and at most.
    fn until(&self, later: &Self) -> (f64, f64) {
        let least = later.after.saturating_duration_since(self.before);
        let most = later.before.saturating_duration_since(self.after);
        (least.as_secs_f64(), most.as_secs_f64())
    }

    /// A finding of `list` is as old as the time since then, within 50 ms.
    pub(crate) fn assert_age(&self, list: &List, finding: &Value) {
        let (least, most) = self.until(&list.asked);
        let age = finding["age_seconds"].as_f64().unwrap();
        assert_eq!(finding["age_is_lower_bound"], false, "{finding:#}");
        assert!(
            (least - EXACT..=most + EXACT).contains(&age),
            "{age} s, the truth is {least} s to {most} s: {finding:#}"
        );
    }

    /// So many seconds lie between the two, within 50 ms.
    pub(crate) fn assert_between(&self, later: &Self, seconds: f64) {
        let (least, most) = self.until(later);
        assert!(
            (least - EXACT..=most + EXACT).contains(&seconds),
            "{seconds} s, the truth is {least} s to {most} s"
        );
    }

    /// The age of a finding is marked as a lower bound, and is one.
    pub(crate) fn assert_bound(&self, list: &List, finding: &Value) {
        let (_, most) = self.until(&list.asked);
        let age = finding["age_seconds"].as_f64().unwrap();
        assert_eq!(finding["age_is_lower_bound"], true, "{finding:#}");
        assert!(age <= most, "{age} s, the truth is {most} s: {finding:#}");
    }
}

/// What `stuck --each --format json` listed.
pub(crate) struct List {
    pub(crate) findings: Vec<Value>,
    /// When it was asked.
    asked: Moment,
}

impl List {
    /// Runs the command; its exit code must say whether anything is stuck.
    pub(crate) fn of(command: &mut Command) -> Self {
        let mut answer = None;
        let asked = Moment::of(|| answer = Some(output(command)));
        let answer = answer.unwrap();
        let message = String::from_utf8_lossy(&answer.stderr);
        let findings: Vec<Value> = serde_json::from_slice(&answer.stdout)
            .unwrap_or_else(|error| panic!("{command:?}: {error}: {message}"));
        let is_stuck = findings.iter().any(|finding| finding["severity"] != "none");
        let code = i32::from(is_stuck);
        assert_eq!(answer.status.code(), Some(code), "{command:?}: {message}");
        Self { findings, asked }
    }

    /// The only finding in this state.
    pub(crate) fn only(&self, state: &str) -> &Value {
        let mut found = self.findings.iter().filter(|found| found["state"] == state);
        let only = found.next();
        assert!(found.next().is_none(), "more: {:#?}", self.findings);
        only.unwrap_or_else(|| panic!("no {state}: {:#?}", self.findings))
    }

    /// The finding on the socket with this remote port.
    pub(crate) fn to_port(&self, port: u16) -> &Value {
        let suffix = format!(":{port}");
        let is_it = |found: &&Value| found["remote"].as_str().unwrap().ends_with(&suffix);
        let mut found = self.findings.iter().filter(is_it);
        let only = found.next();
        assert!(found.next().is_none(), "more: {:#?}", self.findings);
        only.unwrap_or_else(|| panic!("nothing to {port}: {:#?}", self.findings))
    }
}

/// The single sockets that are stuck in one namespace, without a daemon.
pub(crate) fn stuck_by_kernel(netns: &Netns, arguments: &str) -> List {
    List::of(&mut tcplinger(&format!(
        "stuck --each --format json --source kernel --netns {} {arguments}",
        netns.inode()
    )))
}

impl Daemon {
    /// With a configuration, given as its text.
    pub(crate) fn configured(config: &str, scratch: &Scratch) -> Self {
        let config = scratch.write(config);
        Self::with(&format!("--config {config}"))
    }

    /// `tcplinger`, this daemon being asked.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = tcplinger(arguments);
        command.arg("--control").arg(self.control());
        command
    }

    /// The single sockets that are stuck in one namespace.
    pub(crate) fn stuck(&self, netns: &Netns, arguments: &str) -> List {
        List::of(&mut self.command(&format!(
            "stuck --each --format json --source daemon --netns {} {arguments}",
            netns.inode()
        )))
    }

    /// `stuck` once it satisfies.
    pub(crate) fn stuck_once(
        &self,
        netns: &Netns,
        arguments: &str,
        is_wanted: impl Fn(&List) -> bool,
    ) -> List {
        let mut last = None;
        eventually(PATIENCE, || {
            let answer = self.stuck(netns, arguments);
            if is_wanted(&answer) {
                return Some(answer);
            }
            last = Some(answer.findings);
            None
        })
        .unwrap_or_else(|| panic!("never as wanted: {last:#?}"))
    }
}

/// `owners --format json` of one namespace.
pub(crate) fn owners(netns: &Netns, arguments: &str) -> Vec<Value> {
    let json = run(&mut tcplinger(&format!(
        "owners --format json --top 0 --netns {} {arguments}",
        netns.inode()
    )));
    serde_json::from_str(&json).unwrap()
}

/// `stuck --watch --format json` of one namespace; stopped on drop.
pub(crate) struct Notices {
    child: Child,
    lines: Receiver<Value>,
}

impl Notices {
    pub(crate) fn of(daemon: &Daemon, netns: &Netns) -> Self {
        let mut child = daemon
            .command(&format!(
                "stuck --watch --interval 100ms --format json --source daemon --netns {}",
                netns.inode()
            ))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sink, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // Nobody listens any more once the test is over.
                let _ = sink.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, lines }
    }

    /// The next one.
    pub(crate) fn next(&self) -> Value {
        self.lines.recv_timeout(PATIENCE).expect("another notice")
    }

    /// None comes within some rounds of the daemon, and of the watching.
    pub(crate) fn assert_silent(&self) {
        let next = self.lines.recv_timeout(Duration::from_secs(1));
        assert!(next.is_err(), "{next:#?}");
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
