//! Log lines on stderr: the daemon's own, and what the eBPF program says through aya-log. Who reads
//! them may stall: a verb that must not wait has a thread write them, and drops what is too much.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::prelude::*;

use crate::cli::{Color, Format};
use crate::output::Style;
use crate::sandbox::{self, Duty};

/// The program's own lines carry its module path as their target; how much it says is decided
/// before it is loaded.
const PROGRAM: &str = "monitor_ebpf";
/// Lines that wait at most, some hundred bytes each.
const MOST_WAITING: usize = 4_096;
/// For the lines that wait when the process ends.
const LAST_LINES: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(2);

/// Lines that nobody will read: they found no room, or could not be written.
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// Lines that are not written yet.
static WAITING: AtomicU64 = AtomicU64::new(0);

/// Starts logging; a second call changes nothing.
pub(super) fn start(format: Format, color: Color) {
    start_with(format, color, BoxMakeWriter::new(io::stderr));
}

/// Starts logging that never holds up who logs. Call [`finish`] at the end.
///
/// # Errors
/// The system has no room for another thread.
pub(super) fn start_detached(format: Format, color: Color) -> io::Result<()> {
    let lines = Lines::new(unlocked_stderr()?)?;
    start_with(format, color, BoxMakeWriter::new(move || lines.clone()));
    Ok(())
}

/// Lines that were dropped so far.
pub(super) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Waits until every line is written, for a moment at most.
pub(super) fn finish() {
    let until = Instant::now() + LAST_LINES;
    while WAITING.load(Ordering::Acquire) > 0 && Instant::now() < until {
        thread::sleep(LOOK);
    }
}

/// Writes the last words of a process to stderr, and waits for that for a moment at most.
pub(crate) fn say_last(text: String) {
    let (done, is_done) = sync_channel::<()>(1);
    let write = move || {
        // With stderr gone, too, the exit code has to do.
        let _ = writeln!(io::stderr(), "{text}");
        drop(done);
    };
    if thread::Builder::new().spawn(write).is_ok() {
        let _ = is_done.recv_timeout(LAST_LINES);
    }
}

fn start_with(format: Format, color: Color, writer: BoxMakeWriter) {
    let levels = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target(PROGRAM, LevelFilter::TRACE);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let layer = match format {
        Format::Json => layer.json().flatten_event(true).boxed(),
        Format::Text => {
            let is_coloured = super::style(color, &io::stderr()) == Style::Coloured;
            layer.with_target(false).with_ansi(is_coloured).boxed()
        }
    };
    // Fails only where a logger is set already.
    let _ = tracing_subscriber::registry()
        .with(levels)
        .with(layer)
        .try_init();
}

/// Not the one behind the standard library's lock: a thread that waits in a write must not keep the
/// others from it.
fn unlocked_stderr() -> io::Result<File> {
    io::stderr().as_fd().try_clone_to_owned().map(File::from)
}

/// Takes whole lines for a thread of its own; never waits.
#[derive(Clone, Debug)]
struct Lines(SyncSender<Vec<u8>>);

impl Lines {
    fn new(out: File) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(MOST_WAITING);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                sandbox::confine(Duty::Quiet);
                write_all(&receiver, out);
            })?;
        Ok(Self(sender))
    }
}

impl Write for Lines {
    /// Each call brings one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        WAITING.fetch_add(1, Ordering::AcqRel);
        if self.0.try_send(line.to_vec()).is_err() {
            WAITING.fetch_sub(1, Ordering::AcqRel);
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(lines: &Receiver<Vec<u8>>, mut out: File) {
    while let Ok(line) = lines.recv() {
        if write_line(&mut out, &line).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        WAITING.fetch_sub(1, Ordering::AcqRel);
    }
}

fn write_line(out: &mut File, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => line = line.get(written..).unwrap_or_default(),
            // Who shares this descriptor has made it non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(out, PollFlags::OUT)], None)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn who_logs_never_waits_and_what_is_dropped_is_counted() {
        let (reader, writer) = io::pipe().unwrap();
        let mut lines = Lines::new(OwnedFd::from(writer).into()).unwrap();
        // Far more than the pipe and the queue hold.
        let sent = 20_000;
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        let began = Instant::now();
        for _ in 0..sent {
            lines.write_all(&line).unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(5));
        let dropped = usize::try_from(dropped()).unwrap();
        assert!(dropped > sent / 2, "{dropped}");
        drop(lines);
        // What has found room comes, whole, once somebody reads.
        let read = BufReader::new(reader).lines();
        let read = read.inspect(|line| assert_eq!(line.as_ref().unwrap().len(), 99));
        assert_eq!(read.count() + dropped, sent);
        finish();
        assert_eq!(WAITING.load(Ordering::Acquire), 0);
    }
}
