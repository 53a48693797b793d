//! A network namespace by the process that keeps it.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::exec::command;

#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) pid: u32,
    /// The number by which tcplinger and the kernel know it.
    pub(super) inode: u64,
}

impl Place {
    fn path(self) -> String {
        format!("/proc/{}/ns/net", self.pid)
    }

    /// What runs there the program that its arguments name.
    pub(super) fn command(self) -> Command {
        command("nsenter", &[&format!("--net={}", self.path()), "--"])
    }

    /// A thread in it. Sockets that it makes stay there wherever they go.
    pub(super) fn spawn<T: Send + 'static>(
        self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        thread::spawn(move || {
            let path = self.path();
            let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("cannot enter {path}"))?;
            job()
        })
    }
}

/// What a thread came to.
pub(super) fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}
