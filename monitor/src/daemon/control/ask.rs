//! The asker's side of the control socket. A daemon that hangs is told from one that takes its time:
//! that one gives a sign of life each second.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::{Error, Hello, PATIENCE, Question, VERSION};

/// Bytes: some hundred thousand findings.
const LONGEST_ANSWER: u64 = 1 << 28;

/// Asks the daemon at `path`; its answer, a line of JSON.
///
/// # Errors
/// [`Error::NotRunning`] or [`Error::Stale`] where nobody listens; the others where somebody does,
/// to no avail.
pub(crate) fn ask(path: &Path, question: Question) -> Result<Vec<u8>, Error> {
    let line = converse(path, question)?;
    // A whole answer ends its line.
    if line.last() == Some(&b'\n') {
        Ok(line)
    } else {
        Err(bad_answer(
            path,
            &io::Error::other("it closed the connection"),
        ))
    }
}

/// Whether a daemon of this version answers at `path`.
///
/// # Errors
/// Those of [`ask`].
pub(crate) fn greet(path: &Path) -> Result<(), Error> {
    converse(path, Question::Version).map(drop)
}

/// What follows the first line of an answer, which tells the version.
fn converse(path: &Path, question: Question) -> Result<Vec<u8>, Error> {
    let bad = |error: io::Error| bad_answer(path, &error);
    let mut stream = open(path)?;
    let pid = pid(&stream);
    // The kernel says EAGAIN where a time runs out.
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock => hung(path, pid),
        _ => bad(error),
    };
    let mut answer = serde_json::to_vec(&question).map_err(|error| bad(error.into()))?;
    stream
        .write_all(&answer)
        .and_then(|()| stream.shutdown(Shutdown::Write))
        .map_err(failed)?;
    answer.clear();
    stream
        .take(LONGEST_ANSWER)
        .read_to_end(&mut answer)
        .map_err(failed)?;
    let Some(end) = answer.iter().position(|byte| *byte == b'\n') else {
        return Err(bad(io::Error::other("it closed the connection")));
    };
    let rest = answer.split_off(end + 1);
    let hello: Hello = serde_json::from_slice(&answer).map_err(|error| bad(error.into()))?;
    if hello.version == VERSION {
        Ok(rest)
    } else {
        Err(Error::OtherVersion {
            path: path.to_owned(),
            pid: hello.pid,
            theirs: hello.version,
        })
    }
}

/// What came from the daemon at `path` is no answer.
pub(crate) fn bad_answer(path: &Path, reason: &dyn std::error::Error) -> Error {
    Error::BadAnswer {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// A connection on which nothing waits for longer than [`PATIENCE`], the connecting included: where
/// nobody accepts, that waits for room in the listener's queue.
fn open(path: &Path) -> Result<UnixStream, Error> {
    let connected = || {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        for timeout in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, timeout, Some(PATIENCE))?;
        }
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    };
    connected().map(UnixStream::from).map_err(|errno: Errno| {
        let path = path.to_owned();
        match errno {
            Errno::NOENT => Error::NotRunning { path },
            Errno::CONNREFUSED => Error::Stale { path },
            Errno::ACCESS | Errno::PERM => Error::NoRight { path },
            Errno::AGAIN => hung(&path, None),
            errno => Error::Path {
                path,
                reason: errno.into(),
            },
        }
    })
}

/// The process that listens at the other end.
fn pid(stream: &UnixStream) -> Option<u32> {
    let peer = socket_peercred(stream).ok()?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
}

/// No sign of life came.
fn hung(path: &Path, pid: Option<u32>) -> Error {
    let state = pid.and_then(state);
    Error::Hung {
        path: path.to_owned(),
        pid,
        what: match (state, pid) {
            (Some('T'), Some(pid)) => {
                format!("it is stopped; continue it with kill -CONT {pid}")
            }
            (Some('t'), _) => "a debugger has stopped it; continue it there".to_owned(),
            (Some('D'), Some(pid)) => {
                format!("it waits in the kernel; see /proc/{pid}/stack")
            }
            (Some('Z' | 'X') | None, _) => "it hangs; restart it".to_owned(),
            (Some(_), _) => "it hangs; read its log and restart it".to_owned(),
        },
    }
}

/// What /proc calls the state of a process (`task_state_array` in `fs/proc/array.c`, Linux 6.18).
fn state(pid: u32) -> Option<char> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name before it may have any text in it.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    use super::*;

    #[test]
    fn one_that_accepts_nobody_is_said_to_hang() {
        let path = std::env::temp_dir().join(format!("tcplinger-hung-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let began = Instant::now();
        let refused = greet(&path).unwrap_err();
        let took = began.elapsed();
        fs::remove_file(&path).unwrap();
        drop(listener);
        assert!(took >= PATIENCE && took < 2 * PATIENCE, "{took:?}");
        let pid = std::process::id();
        assert!(
            matches!(&refused, Error::Hung { pid: Some(it), .. } if *it == pid),
            "{refused}"
        );
    }

    #[test]
    fn this_process_runs() {
        assert!(matches!(state(std::process::id()), Some('R' | 'S')));
        assert_eq!(state(0), None);
    }
}
