//! Findings as JSON lines, a line for each change, on stdout or in a file that rotates.
//!
//! One thread writes. What cannot be written (the reader of stdout has stopped or gone, the disk is
//! full) is dropped and counted; the log says where that begins and where it ends.

mod file;

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use super::backlog::Backlog;
use super::shared::Shared;
use super::threads::Outlet;
use super::{Error, Findings};
use crate::output::json;
use crate::sandbox::{self, Duty};
use crate::track::Sink;
use file::LogFile;

/// Between two looks whether a reader reads again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug)]
enum Target {
    Stdout,
    File(LogFile),
    /// Nobody reads stdout any more.
    Gone,
}

struct Writer {
    shared: Arc<Shared>,
    backlog: Backlog,
    target: Target,
    line: Vec<u8>,
    is_in_trouble: bool,
    /// Since the trouble began.
    dropped: u64,
}

/// Starts to write.
///
/// # Errors
/// The file cannot be opened.
pub(super) fn start(settings: &Findings, shared: &Arc<Shared>) -> Result<Outlet, Error> {
    let target = match &settings.path {
        None => Target::Stdout,
        Some(path) => {
            let opened = LogFile::open(path, settings.rotate_at, settings.keep);
            Target::File(opened.map_err(|error| Error::FindingsFile {
                path: path.clone(),
                why: advice(&error),
            })?)
        }
    };
    let path = settings.path.clone();
    Outlet::start("findings", |stop| {
        let writer = Writer {
            backlog: Backlog::new(shared.notices(), stop)?,
            shared: Arc::clone(shared),
            target,
            line: Vec::new(),
            is_in_trouble: false,
            dropped: 0,
        };
        Ok(move || {
            sandbox::confine(Duty::Writer(path.as_deref()));
            writer.run();
        })
    })
}

/// Why a file cannot be opened, and what to do.
fn advice(error: &io::Error) -> String {
    let advice = match error.raw_os_error() {
        Some(libc::ENOENT) => "make its directory (mkdir -p), or name another file",
        Some(libc::ELOOP) => "it is a symbolic link; name the file itself",
        Some(libc::EISDIR | libc::ENXIO) => "name a regular file, or stdout",
        None => "name one, or stdout",
        Some(_) => "name another file as [findings] file, or stdout",
    };
    format!("{error}; {advice}")
}

impl Writer {
    fn run(mut self) {
        loop {
            let is_held_up = self.backlog.len() > 0;
            let until = is_held_up.then(|| Instant::now() + LOOK_AGAIN);
            let dropped = self.backlog.wait(until);
            self.note_dropped(dropped);
            self.write();
            if self.backlog.is_over() {
                let lost = self.backlog.len() as u64;
                return self.note_dropped(lost);
            }
        }
    }

    /// Writes what waits, as far as the target takes it.
    fn write(&mut self) {
        while self.backlog.len() > 0 && self.is_ready() {
            let Some(notice) = self.backlog.take(1).next() else {
                return;
            };
            self.line.clear();
            let written = json::write_notice(&mut self.line, self.shared.clock(), &notice)
                .and_then(|()| self.target.write(&self.line));
            match written {
                Ok(()) => self.note_written(),
                Err(error) => {
                    self.note_trouble(&error);
                    self.note_dropped(1);
                }
            }
        }
    }

    /// Whether a write would not hold this thread up. More than a pipe takes at once may still do
    /// so, which harms nobody else.
    fn is_ready(&self) -> bool {
        if !matches!(self.target, Target::Stdout) {
            return true;
        }
        let stdout = io::stdout();
        let mut polled = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::OUT)];
        let ready = retry_on_intr(|| poll(&mut polled, Some(&Timespec::default())));
        ready.is_ok_and(|ready| ready > 0)
    }

    fn note_written(&mut self) {
        self.shared.tallies.note_exported(Sink::Findings, 1);
        if self.is_in_trouble {
            let dropped = self.dropped;
            tracing::info!(dropped, "findings are written again");
        }
        self.is_in_trouble = false;
        self.dropped = 0;
    }

    fn note_dropped(&mut self, number: u64) {
        self.shared.tallies.note_dropped(Sink::Findings, number);
        self.dropped += number;
        if number > 0 && matches!(self.target, Target::Stdout) && !self.is_in_trouble {
            tracing::warn!("findings are dropped: the reader of stdout is too slow");
            self.is_in_trouble = true;
        }
    }

    fn note_trouble(&mut self, error: &io::Error) {
        match &self.target {
            Target::Stdout if error.kind() == io::ErrorKind::BrokenPipe => {
                tracing::warn!("stdout is closed: no more findings are written to it");
                self.target = Target::Gone;
            }
            Target::Gone => {}
            _ if self.is_in_trouble => {}
            Target::Stdout => tracing::warn!("findings are dropped: stdout: {error}"),
            Target::File(file) => {
                let path = file.path().display();
                tracing::warn!(
                    "findings are dropped: {path}: {error}; retrying without further \
                                messages"
                );
            }
        }
        self.is_in_trouble = true;
    }
}

impl Target {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(line)?;
                stdout.flush()
            }
            Self::File(file) => file.append(line),
            Self::Gone => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}
