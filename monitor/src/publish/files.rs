//! Files that outlets read, and read again when they change: tokens and certificates are renewed while
//! the daemon runs.

use std::fmt::{self, Display};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

/// Bytes; a chain of certificates has some thousands, a system's authorities some hundred thousands.
const LONGEST: u64 = 1 << 20;

/// What some files say, looked at when it is asked for.
#[derive(Debug)]
pub(super) struct Watched<T, E> {
    paths: Vec<PathBuf>,
    read: fn(&[PathBuf]) -> Result<T, E>,
    /// Between two looks at the files.
    every: Duration,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    value: Arc<T>,
    /// Of each file when it was read last; None where it was not there.
    stamps: Vec<Option<Stamp>>,
    /// Why the last reading failed, which was told.
    failure: Option<String>,
    looked: Instant,
}

impl<T, E: Display> Watched<T, E> {
    /// # Errors
    /// Those of `read`.
    pub(super) fn open(
        paths: Vec<PathBuf>,
        read: fn(&[PathBuf]) -> Result<T, E>,
        every: Duration,
        now: Instant,
    ) -> Result<Self, E> {
        // Before the reading: what changes in between is seen at the next look.
        let stamps = stamps(&paths);
        let state = State {
            value: Arc::new(read(&paths)?),
            stamps,
            failure: None,
            looked: now,
        };
        Ok(Self {
            paths,
            read,
            every,
            state: Mutex::new(state),
        })
    }

    /// What the files say; what they said before where they are no longer any good.
    pub(super) fn current(&self, now: Instant) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(state.looked) >= self.every {
            state.looked = now;
            let stamps = stamps(&self.paths);
            if stamps != state.stamps {
                self.reread(&mut state, stamps);
            }
        }
        Arc::clone(&state.value)
    }

    fn reread(&self, state: &mut State<T>, stamps: Vec<Option<Stamp>>) {
        match (self.read)(&self.paths) {
            Ok(value) => {
                (state.value, state.stamps, state.failure) = (Arc::new(value), stamps, None);
                let file = self.paths.first().map(|path| path.display().to_string());
                tracing::info!(file, "reread after a change");
            }
            // The next look reads again: it may become good without another change.
            Err(error) => {
                let failure = Some(error.to_string());
                if state.failure != failure {
                    tracing::warn!("{error}; the old content stays in use");
                    state.failure = failure;
                }
            }
        }
    }
}

/// What is shown to prove who asks.
pub(super) struct Token(Vec<u8>);

impl Token {
    /// # Errors
    /// It is no single word of printable ASCII.
    pub(super) fn new(text: &[u8]) -> Result<Self, &'static str> {
        let token = text.trim_ascii();
        if token.is_empty() {
            Err("it is empty")
        } else if !token.iter().all(u8::is_ascii_graphic) {
            Err("it has spaces, more than one line or characters that are not ASCII")
        } else {
            Ok(Self(token.to_owned()))
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// In the same time for every wrong one of the right length.
    pub(super) fn is(&self, token: &[u8]) -> bool {
        let differing = self.0.iter().zip(token);
        let difference = differing.fold(0, |all, (one, other)| all | (one ^ other));
        self.0.len() == token.len() && std::hint::black_box(difference) == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The bytes of a regular file. Others who may read a `secret` are worth a word.
///
/// # Errors
/// It cannot be read, is no regular file or is larger than any such file should be.
pub(super) fn read(path: &Path, secret: Option<&str>) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    if let Some(role) = secret
        && file.metadata()?.mode() & 0o004 != 0
    {
        tracing::warn!(
            file = %path.display(),
            "everyone on this host can read {role}; fix that with chmod o-r"
        );
    }
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(bytes)
}

/// Opens a regular file: a pipe that nobody writes to must not hold up who opens it.
fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// Changes when a file is written or replaced.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds; a rename keeps the first and changes the second.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(file: Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            length: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// Of each file; None where it is not there.
pub(super) fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| path.metadata().ok().map(Stamp::from);
    paths.iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    fn number(paths: &[PathBuf]) -> io::Result<u32> {
        let bytes = read(&paths[0], None)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.parse()
            .map_err(|_| io::Error::other("it is no number"))
    }

    #[test]
    fn what_changes_is_read_again_and_what_is_bad_is_not_taken() {
        let name = format!("tcplinger-watched-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, "1").unwrap();
        let start = Instant::now();
        let later = |looks: u32| start + EVERY * looks;
        let watched = Watched::open(vec![path.clone()], number, EVERY, start).unwrap();
        let at = |now| *watched.current(now);
        fs::write(&path, "22").unwrap();
        assert_eq!(at(start + EVERY / 2), 1, "not looked at too often");
        assert_eq!(at(later(1)), 22);
        fs::write(&path, "none").unwrap();
        assert_eq!(at(later(2)), 22);
        fs::remove_file(&path).unwrap();
        assert_eq!(at(later(3)), 22);
        fs::write(&path, "333").unwrap();
        assert_eq!(at(later(4)), 333);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_cannot_be_read_for_a_moment_is_read_later() {
        static IS_BUSY: AtomicBool = AtomicBool::new(false);
        fn read_unless_busy(paths: &[PathBuf]) -> io::Result<u32> {
            if IS_BUSY.load(Ordering::Relaxed) {
                return Err(io::Error::other("busy"));
            }
            number(paths)
        }
        let name = format!("tcplinger-busy-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, "1").unwrap();
        let start = Instant::now();
        let watched = Watched::open(vec![path.clone()], read_unless_busy, EVERY, start).unwrap();
        fs::write(&path, "22").unwrap();
        for (look, is_busy, value) in [(1, true, 1), (2, true, 1), (3, false, 22)] {
            IS_BUSY.store(is_busy, Ordering::Relaxed);
            assert_eq!(*watched.current(start + EVERY * look), value);
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_no_file_is_refused() {
        for path in ["/nonexistent", "/dev/zero", "/"] {
            read(Path::new(path), Some("a token")).unwrap_err();
        }
    }
}
