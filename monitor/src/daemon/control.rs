//! The control socket: one daemon per path, and an answer for whoever asks it for the counts.
//!
//! An asker connects, sends nothing, and reads two lines of JSON: who answers, then the counts.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use crate::output::json;
use crate::track::Summary;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// An answer is at most one round away: a walk of a very large table takes a second or two.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes: some hundred thousand namespaces.
const LONGEST_ANSWER: u64 = 1 << 27;

/// Where an answer goes.
pub(super) type Asker = oneshot::Sender<Summary>;

#[derive(Debug, ThisError)]
pub(crate) enum Error {
    #[error(
        "tcplinger is already running (pid {pid}, control socket {}): ask it with tcplinger \
         status, stop it with kill {pid}, or give this one another socket with --control PATH",
        path.display()
    )]
    AlreadyRunning { pid: u32, path: PathBuf },
    #[error(
        "another process holds the lock beside the control socket {}: choose another with \
         --control PATH",
        path.display()
    )]
    Locked { path: PathBuf },
    #[error(
        "cannot use the control socket {}: {reason}; choose another with --control PATH",
        path.display()
    )]
    Path { path: PathBuf, reason: io::Error },
    #[error(
        "no daemon answers at {}: start one with tcplinger run, or leave --source daemon out",
        path.display()
    )]
    NotRunning { path: PathBuf },
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
    /// Locked.
    _lock: File,
}

impl Claim {
    /// Claims `path` for this process, by a lock on the file beside it.
    ///
    /// # Errors
    /// Another daemon holds it, or the files cannot be made.
    pub(crate) fn new(path: &Path) -> Result<Self, Error> {
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
            Err(rustix::io::Errno::WOULDBLOCK) => {
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
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts to listen, for root only. A socket file that a killed daemon left is replaced: the
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
                let there = "something that is no socket is there already";
                return Err(failed(io::Error::other(there)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(&self.path).map_err(failed)?;
        fs::set_permissions(&self.path, Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(listener)
    }
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

/// Answers for ever. One asker at a time: each gets its answer within a round.
pub(super) async fn serve(listener: UnixListener, askers: mpsc::Sender<Asker>) {
    loop {
        let answered = async {
            let (mut stream, _) = listener.accept().await?;
            let (asker, answer) = oneshot::channel();
            if askers.send(asker).await.is_err() {
                return Ok(());
            }
            let Ok(summary) = answer.await else {
                return Ok(());
            };
            let reply = reply(&summary)?;
            tokio::time::timeout(Duration::from_secs(1), stream.write_all(&reply)).await?
        };
        if let Err(error) = answered.await {
            tracing::debug!("control socket: {error}");
            // Out of descriptors, most likely: do not spin.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn reply(summary: &Summary) -> io::Result<Vec<u8>> {
    let hello = Hello {
        version: VERSION.to_owned(),
        pid: std::process::id(),
    };
    let mut reply = serde_json::to_vec(&hello)?;
    reply.push(b'\n');
    json::write_status(&mut reply, summary)?;
    Ok(reply)
}

/// Asks the daemon at `path` for its counts.
///
/// # Errors
/// [`Error::NotRunning`] where nobody listens; the others where somebody does, to no avail.
pub(crate) fn ask(path: &Path) -> Result<Summary, Error> {
    use io::ErrorKind::{ConnectionRefused, NotFound};

    let bad = |reason: String| Error::BadAnswer {
        path: path.to_owned(),
        reason,
    };
    let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
        NotFound | ConnectionRefused => Error::NotRunning {
            path: path.to_owned(),
        },
        _ => Error::Path {
            path: path.to_owned(),
            reason: source,
        },
    })?;
    let mut answer = Vec::new();
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.take(LONGEST_ANSWER).read_to_end(&mut answer))
        .map_err(|error| bad(error.to_string()))?;
    let mut lines = answer.splitn(2, |byte| *byte == b'\n');
    let (Some(hello), Some(status)) = (lines.next(), lines.next()) else {
        return Err(bad("it hung up".to_owned()));
    };
    let hello: Hello = serde_json::from_slice(hello).map_err(|error| bad(error.to_string()))?;
    if hello.version != VERSION {
        return Err(Error::OtherVersion {
            path: path.to_owned(),
            pid: hello.pid,
            theirs: hello.version,
        });
    }
    json::read_status(status).map_err(|error| bad(error.to_string()))
}
