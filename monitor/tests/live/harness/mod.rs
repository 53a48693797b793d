//! What the live tests stand on: namespaces, sockets, `ss` as the oracle, and the program itself.

mod browser;
pub(crate) mod collector;
mod daemon;
mod events;
mod every_state;
mod findings;
pub(crate) mod http;
mod netns;
mod oracle;
mod program;
pub(crate) mod server;
pub(crate) mod socket;
pub(crate) mod traffic;
mod watch;

use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use browser::Browser;
pub(crate) use daemon::{Daemon, Scratch, tcplinger, tcplinger_through};
pub(crate) use events::EventStream;
pub(crate) use every_state::EveryState;
pub(crate) use findings::{List, Moment, Notices, owners, stuck_by_kernel};
pub(crate) use netns::{Alone, Netns, Veth};
pub(crate) use oracle::{Family, V4, V6, assert_agrees};
pub(crate) use program::Program;
pub(crate) use watch::{Look, Watch, Wrong};

/// Longer than anything here takes, short enough to fail within a test run.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Asks again and again until there is an answer; `None` when `timeout` has passed.
pub(crate) fn eventually<T>(timeout: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        // Looked at before the question: a slow answer still counts once.
        let is_last = Instant::now() >= deadline;
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if is_last {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command to its end, in the calling thread's namespaces.
pub(crate) fn output(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a command that must succeed; its standard output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("output is UTF-8")
}
