//! The control socket: one daemon per path, and an answer for whoever asks it.
//!
//! An asker connects and sends a line of JSON, the [`Question`]; then it reads two: who answers, and
//! the answer.

mod ask;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixListener as Listener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FlockOperation, Gid, Mode, chmodat, chownat, fchmod, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use super::memory;
use crate::publish::{Place, Places};
pub(crate) use ask::{ask, bad_answer, greet};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Who asks waits for this long at most for a sign of life.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two signs of life (a space, which JSON skips) while an answer takes its time.
const SIGN_EVERY: Duration = Duration::from_secs(1);
/// For an answer to begin: the lists of several who ask at once are written one after the other.
const ANSWERED_WITHIN: Duration = Duration::from_mins(1);
/// Connections at a time; when all are taken, the user with most of them loses the oldest.
const CALLERS: usize = 32;
/// Lists of what is stuck that are written at a time: each may be long.
const LOOKS: usize = 8;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1_024;
/// Without descriptors nothing can be accepted for a while.
const BACK_OFF: Duration = Duration::from_millis(10);
/// Bytes.
const LONGEST_QUESTION: u64 = 1 << 16;
/// For a question to arrive, and for an answer to be taken.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole answer to be taken: the time that is spent waiting for the asker.
const TAKING: Duration = Duration::from_mins(1);

/// What a daemon can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Question {
    /// Which version it is: every answer begins with that.
    Version,
    /// The counts.
    Status,
    /// What is stuck.
    Stuck {
        /// Single sockets in place of incidents.
        each: bool,
        /// Every lingering socket, those without a verdict, too.
        all: bool,
        /// Of this network namespace only.
        netns: Option<u32>,
        /// The notices after the first so many ever given.
        known: u64,
    },
    /// Ephemeral ports and `TIME_WAIT` buckets in use.
    Ports,
}

/// A question, and where the answer goes: a line of JSON.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) question: Question,
    pub(super) reply: Reply,
}

/// Takes an answer in pieces, so that a long one is never in memory as a whole. Write it on a thread
/// that may wait: the asker sets the pace.
#[derive(Debug)]
pub(super) struct Reply {
    pieces: mpsc::Sender<Vec<u8>>,
    piece: Vec<u8>,
}

impl Reply {
    const PIECE: usize = 1 << 14;

    fn new() -> (Self, mpsc::Receiver<Vec<u8>>) {
        let (pieces, receiver) = mpsc::channel(2);
        let piece = Vec::with_capacity(Self::PIECE);
        (Self { pieces, piece }, receiver)
    }

    /// Writes the answer on another thread, and gives back the memory that took.
    pub(super) fn send(mut self, write: impl FnOnce(&mut Self) -> io::Result<()> + Send + 'static) {
        spawn_blocking(move || {
            if let Err(error) = write(&mut self).and_then(|()| self.flush()) {
                // An asker that has gone away needs no answer.
                tracing::debug!("control socket: {error}");
            }
            drop(self);
            memory::return_freed();
        });
    }
}

impl io::Write for Reply {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() + bytes.len() > Self::PIECE {
            self.flush()?;
        }
        self.piece.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(Self::PIECE));
        let is_gone = |_| io::ErrorKind::BrokenPipe.into();
        self.pieces.blocking_send(piece).map_err(is_gone)
    }
}

#[derive(Debug, ThisError)]
pub(crate) enum Error {
    #[error(
        "tcplinger is already running (pid {pid}, control socket {}): query it with tcplinger \
         status, stop it with kill {pid}, or use another socket with --control PATH",
        path.display()
    )]
    AlreadyRunning { pid: u32, path: PathBuf },
    #[error(
        "another process holds the lock of the control socket {}: use another socket with \
         --control PATH",
        path.display()
    )]
    Locked { path: PathBuf },
    #[error(
        "cannot use the control socket {}: {reason}; use another socket with --control PATH",
        path.display()
    )]
    Path { path: PathBuf, reason: io::Error },
    #[error(
        "no daemon answers at {}: start one with tcplinger run, or omit --source daemon",
        path.display()
    )]
    NotRunning { path: PathBuf },
    #[error(
        "the daemon of the control socket {} is gone; it crashed or was killed: start one with \
         tcplinger run, or use --source kernel",
        path.display()
    )]
    Stale { path: PathBuf },
    #[error(
        "the daemon at {} is version {theirs} (pid {pid}), this is {VERSION}: restart it, or use \
         --source kernel",
        path.display()
    )]
    OtherVersion {
        path: PathBuf,
        pid: u32,
        theirs: String,
    },
    #[error(
        "no permission for the control socket {}: run this as root, or as a member of the \
         daemon's [daemon] group",
        path.display()
    )]
    NoRight { path: PathBuf },
    #[error(
        "the daemon at {}{} does not answer within 5 s: {what}, or ask the kernel with --source \
         kernel",
        path.display(),
        pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
    )]
    Hung {
        path: PathBuf,
        pid: Option<u32>,
        /// What it is doing, and what to type.
        what: String,
    },
    #[error(
        "[daemon] group: no group {group:?} in /etc/group; name one that is in it, or give the \
         number of a group kept elsewhere"
    )]
    NoGroup { group: String },
    #[error("the daemon at {} gave no usable answer: {reason}; use --source kernel", path.display())]
    BadAnswer { path: PathBuf, reason: String },
}

/// The first line of an answer.
#[derive(Debug, Deserialize, Serialize)]
struct Hello {
    version: String,
    pid: u32,
}

/// The right to listen at a path, held until the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    /// Its members may ask, beside root.
    group: Option<u32>,
    /// Locked.
    _lock: File,
}

impl Claim {
    /// Claims `path` for this process, by a lock on the file beside it. Root may ask there, and members of
    /// that group.
    ///
    /// # Errors
    /// Another daemon holds it, or the files cannot be made.
    pub(crate) fn new(path: &Path, group: Option<u32>) -> Result<Self, Error> {
        let failed = |reason| Error::Path {
            path: path.to_owned(),
            reason,
        };
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&lock_path)
            .map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                (&lock).take(16).read_to_string(&mut pid).map_err(failed)?;
                let path = path.to_owned();
                return Err(match pid.trim().parse() {
                    Ok(pid) => Error::AlreadyRunning { pid, path },
                    Err(_) => Error::Locked { path },
                });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        lock.set_len(0).map_err(failed)?;
        lock.rewind().map_err(failed)?;
        writeln!(lock, "{}", std::process::id()).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            group,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts to listen, for nobody else from the first moment. A socket file that a killed daemon left is replaced: the
    /// lock tells that nobody listens there.
    pub(super) fn listen(&self) -> Result<UnixListener, Error> {
        let failed = |reason| Error::Path {
            path: self.path.clone(),
            reason,
        };
        match fs::symlink_metadata(&self.path) {
            Ok(found) if found.file_type().is_socket() => {
                fs::remove_file(&self.path).map_err(failed)?;
            }
            Ok(_) => {
                let there = "a file that is not a socket is in the way";
                return Err(failed(io::Error::other(there)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let open = || {
            let listener = open(&self.path)?;
            if let Some(group) = self.group {
                // Its members come in last: the file is another group's until then.
                let group = Gid::from_raw(group);
                chownat(
                    CWD,
                    &self.path,
                    None,
                    Some(group),
                    AtFlags::SYMLINK_NOFOLLOW,
                )?;
                let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP;
                chmodat(CWD, &self.path, mode, AtFlags::empty())?;
            }
            Ok(listener)
        };
        let listener = open().map_err(|errno: Errno| failed(errno.into()))?;
        UnixListener::from_std(listener).map_err(failed)
    }
}

/// A socket that listens at `path`, which nothing may be at.
fn open(path: &Path) -> Result<Listener, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file that bind makes takes the mode of the socket, so that it is closed to others even
    // before anybody could change it (`unix_bind_bsd()` in `net/unix/af_unix.c`, Linux 6.18).
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

impl Drop for Claim {
    fn drop(&mut self) {
        let is_socket = |found: fs::Metadata| found.file_type().is_socket();
        if fs::symlink_metadata(&self.path).is_ok_and(is_socket) {
            // Gone by now, perhaps: either way nothing is left to do.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Answers for ever.
pub(super) async fn serve(listener: UnixListener, askers: mpsc::Sender<Asker>) {
    let places = Arc::new(Places::default());
    let looks = Arc::new(Semaphore::new(LOOKS));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let user = stream.peer_cred().ok().map(|peer| peer.uid());
                let place = places.enter(user, (), CALLERS);
                let (askers, looks) = (askers.clone(), Arc::clone(&looks));
                drop(tokio::spawn(async move {
                    let answered = tokio::select! {
                        answered = answer(stream, askers, &looks, &place) => answered,
                        () = place.lost() => Err(io::Error::other("closed to make room for \
                                                                   another client")),
                    };
                    if let Err(error) = answered {
                        tracing::debug!("control socket: {error}");
                    }
                }));
            }
            Err(error) => {
                tracing::debug!("control socket: {error}");
                // Out of descriptors, most likely: do not spin.
                if !places.give_way(()) {
                    sleep(BACK_OFF).await;
                }
            }
        }
        // Who made room is closed, and who came is heard, before the next one comes.
        yield_now().await;
    }
}

async fn answer(
    mut stream: tokio::net::UnixStream,
    askers: mpsc::Sender<Asker>,
    looks: &Semaphore,
    place: &Place<Option<u32>, ()>,
) -> io::Result<()> {
    let mut line = Vec::new();
    let (receiver, mut sender) = stream.split();
    timeout(
        EXCHANGE_TIMEOUT,
        receiver.take(LONGEST_QUESTION).read_to_end(&mut line),
    )
    .await??;
    // Told first, so that another version learns why it gets no answer.
    timeout(EXCHANGE_TIMEOUT, sender.write_all(&hello()?)).await??;
    let question = serde_json::from_slice(&line)?;
    if question == Question::Version {
        return Ok(());
    }
    place.set_busy(true);
    let _look = match question {
        Question::Stuck { .. } => looks.acquire().await.ok(),
        _ => None,
    };
    let (reply, mut pieces) = Reply::new();
    if askers.send(Asker { question, reply }).await.is_err() {
        return Ok(());
    }
    let mut first = None;
    let began = Instant::now();
    let mut signs = interval_at(began + SIGN_EVERY, SIGN_EVERY);
    signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while first.is_none() {
        tokio::select! {
            biased;
            piece = pieces.recv() => match piece {
                Some(piece) => first = Some(piece),
                None => return Ok(()),
            },
            _ = signs.tick() => {
                timeout(EXCHANGE_TIMEOUT, sender.write_all(b" ")).await??;
                if began.elapsed() > ANSWERED_WITHIN {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
    }
    let mut waited = Duration::ZERO;
    let mut next = first;
    while let Some(piece) = next {
        let began = Instant::now();
        timeout(EXCHANGE_TIMEOUT, sender.write_all(&piece)).await??;
        waited += began.elapsed();
        if waited > TAKING {
            return Err(io::ErrorKind::TimedOut.into());
        }
        next = pieces.recv().await;
    }
    Ok(())
}

fn hello() -> io::Result<Vec<u8>> {
    let hello = Hello {
        version: VERSION.to_owned(),
        pid: std::process::id(),
    };
    let mut line = serde_json::to_vec(&hello)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// It takes longer than an asker waits for a sign of life.
    #[test]
    fn who_takes_its_time_is_not_said_to_hang() {
        let path = std::env::temp_dir().join(format!("tcplinger-slow-{}", std::process::id()));
        let claim = Claim::new(&path, None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let answer = runtime.block_on(async {
            let (sender, mut askers) = mpsc::channel(1);
            let server = tokio::spawn(serve(claim.listen().unwrap(), sender));
            let asked = path.clone();
            let asking = thread::spawn(move || ask(&asked, Question::Status));
            let Asker { question, reply } = askers.recv().await.unwrap();
            assert_eq!(question, Question::Status);
            sleep(PATIENCE + 2 * SIGN_EVERY).await;
            reply.send(|reply| reply.write_all(b"{}\n"));
            let answer = spawn_blocking(|| asking.join().unwrap()).await.unwrap();
            server.abort();
            answer
        });
        drop(claim);
        let lock = format!("{}.lock", path.display());
        fs::remove_file(lock).unwrap();
        assert_eq!(answer.unwrap().trim_ascii_start(), b"{}\n");
    }
}
