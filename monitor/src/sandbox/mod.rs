//! What each thread of the daemon may still do once it watches: capabilities, files and system calls.
//! A kernel that cannot enforce a part is no error: the daemon says so, once.
//!
//! Only the threads that enter network namespaces and look at other processes keep capabilities, and
//! those may change no file. They stay outside landlock: inside it the kernel refuses every look at
//! another process (`hook_ptrace_access_check()` in `security/landlock/task.c`, Linux 6.18).

mod calls;
mod capabilities;
mod files;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use capabilities::Kept;
pub(crate) use files::Files;

static IS_ON: AtomicBool = AtomicBool::new(false);
/// What the daemon's main thread may reach, once that is limited.
static SEALED: OnceLock<Files> = OnceLock::new();

/// A thread that needs little.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Duty<'a> {
    /// Uses what is open already.
    Quiet,
    /// Serves HTTP: reads these files again when they change; connects to nobody.
    Server(&'a [PathBuf]),
    /// Pushes to a collector: reads these files again, looks names up, connects.
    Pusher(&'a [PathBuf]),
    /// Appends to this file and rotates it, or writes to stdout.
    Writer(Option<&'a Path>),
}

/// From here on [`confine`] and [`seal`] do what they say. Until then they do nothing: verbs that end
/// soon and tests need no sandbox.
pub(crate) fn turn_on() {
    IS_ON.store(true, Ordering::Relaxed);
}

pub(crate) fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Takes from the calling thread, and from those it starts, what its duty does not need. What the kernel
/// cannot enforce is told by [`seal`].
pub(crate) fn confine(duty: Duty<'_>) {
    if is_on() {
        let _ = try_confine(duty);
    }
}

fn try_confine(duty: Duty<'_>) -> Result<(), String> {
    let by_files = files::confine(duty);
    capabilities::keep(&[])?;
    by_files
}

/// Takes from every thread the calls that a daemon at work has no use for, and from the calling thread,
/// with those it starts from now on, every capability but `kept` and every other file. Returns what is
/// not enforced, and why.
pub(crate) fn seal(reach: Files, kept: &[Kept]) -> Vec<String> {
    if !is_on() {
        return Vec::new();
    }
    let outcomes = [
        calls::forbid_in_all_threads(),
        files::seal(&reach),
        capabilities::keep(kept),
    ];
    let _ = SEALED.set(reach);
    outcomes.into_iter().filter_map(Result::err).collect()
}

/// Leaves the calling thread, which looks at other processes and enters namespaces, what that takes, and
/// forbids it to change any file. Call it after [`seal`]. Returns what is not enforced.
pub(crate) fn keep_looking() -> Vec<String> {
    if !is_on() {
        return Vec::new();
    }
    let outcomes = [
        capabilities::keep(&capabilities::LOOKING),
        calls::forbid_changes(),
    ];
    outcomes.into_iter().filter_map(Result::err).collect()
}

/// The first of the files that [`seal`] has put out of reach.
pub(crate) fn out_of_reach(wanted: &Files) -> Option<PathBuf> {
    SEALED.get()?.lacks(wanted)
}

#[cfg(test)]
mod tests;
