//! Files that are read again when they change: tokens and certificates are renewed while the daemon
//! runs.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Error;
use crate::publish::files::{Stamp, open_regular, stamps};

/// Between two looks at the files.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// Bytes; a chain of certificates has some thousands.
const LONGEST: u64 = 1 << 20;

/// What some files say.
#[derive(Debug)]
pub(super) struct Watched<T> {
    paths: Vec<PathBuf>,
    read: fn(&[PathBuf]) -> Result<T, Error>,
    value: Arc<T>,
    /// Of each file when it was read last, for good or ill; None where it was not there.
    stamps: Vec<Option<Stamp>>,
    /// At the last look.
    is_unreadable: bool,
    checked: Instant,
}

impl<T> Watched<T> {
    /// # Errors
    /// Those of `read`.
    pub(super) fn open(
        paths: Vec<PathBuf>,
        read: fn(&[PathBuf]) -> Result<T, Error>,
        now: Instant,
    ) -> Result<Self, Error> {
        // Before the reading: what changes in between is seen at the next look.
        let stamps = stamps(&paths);
        Ok(Self {
            value: Arc::new(read(&paths)?),
            paths,
            read,
            stamps,
            is_unreadable: false,
            checked: now,
        })
    }

    /// What the files say; what they said before where they are no longer any good.
    pub(super) fn current(&mut self, now: Instant) -> Arc<T> {
        if now.saturating_duration_since(self.checked) >= CHECK_EVERY {
            self.checked = now;
            let stamps = stamps(&self.paths);
            if stamps == self.stamps {
                self.is_unreadable = false;
            } else {
                self.reread(stamps);
            }
        }
        Arc::clone(&self.value)
    }

    fn reread(&mut self, stamps: Vec<Option<Stamp>>) {
        let read = (self.read)(&self.paths);
        let was_unreadable = self.is_unreadable;
        self.is_unreadable = matches!(read, Err(Error::Unreadable { .. }));
        if !self.is_unreadable {
            // It may become readable without another change.
            self.stamps = stamps;
        }
        match read {
            Ok(value) => {
                self.value = Arc::new(value);
                let file = self.paths.first().map(|path| path.display().to_string());
                tracing::info!(file, "read again: it has changed");
            }
            Err(_) if was_unreadable && self.is_unreadable => {}
            Err(error) => tracing::warn!("{error}; what was there before stays in use"),
        }
    }
}

/// The bytes of a file that `is_secret` or not. Others who may read a secret are worth a word.
///
/// # Errors
/// It cannot be read, is no regular file or is larger than any such file should be.
pub(super) fn read(path: &Path, role: &'static str, is_secret: bool) -> Result<Vec<u8>, Error> {
    let unreadable = |reason| Error::Unreadable {
        role,
        path: path.to_owned(),
        reason,
    };
    let file = open_regular(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    if is_secret && found.mode() & 0o004 != 0 {
        tracing::warn!(
            file = %path.display(),
            "everyone on this host may read {role}; change that with chmod o-r"
        );
    }
    let mut bytes = Vec::new();
    let mut file = file.take(LONGEST + 1);
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(unreadable(io::Error::other("it is larger than 1 MiB")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn number(paths: &[PathBuf]) -> Result<u32, Error> {
        let bytes = read(&paths[0], "a number", false)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.parse().map_err(|_| Error::Token {
            path: paths[0].clone(),
            what: "it is no number",
        })
    }

    #[test]
    fn what_changes_is_read_again_and_what_is_bad_is_not_taken() {
        let name = format!("tcplinger-watched-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, "1").unwrap();
        let start = Instant::now();
        let later = |looks: u32| start + CHECK_EVERY * looks;
        let mut watched = Watched::open(vec![path.clone()], number, start).unwrap();
        let mut at = |now| *watched.current(now);
        fs::write(&path, "22").unwrap();
        assert_eq!(at(start + CHECK_EVERY / 2), 1, "not looked at too often");
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
        fn read_unless_busy(paths: &[PathBuf]) -> Result<u32, Error> {
            if IS_BUSY.load(Ordering::Relaxed) {
                return Err(Error::Unreadable {
                    role: "a number",
                    path: paths[0].clone(),
                    reason: io::Error::other("busy"),
                });
            }
            number(paths)
        }
        let name = format!("tcplinger-busy-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, "1").unwrap();
        let start = Instant::now();
        let mut watched = Watched::open(vec![path.clone()], read_unless_busy, start).unwrap();
        fs::write(&path, "22").unwrap();
        for (look, is_busy, value) in [(1, true, 1), (2, true, 1), (3, false, 22)] {
            IS_BUSY.store(is_busy, Ordering::Relaxed);
            assert_eq!(*watched.current(start + CHECK_EVERY * look), value);
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_no_file_is_refused() {
        for path in ["/nonexistent", "/dev/zero", "/"] {
            let refused = read(Path::new(path), "a token", true).unwrap_err();
            assert!(refused.to_string().contains(path), "{refused}");
        }
    }
}
