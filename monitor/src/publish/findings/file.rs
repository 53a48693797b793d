//! A file that lines are appended to: rotated by size, and opened anew where someone moved it away.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    /// Bytes that a file may have.
    rotate_at: u64,
    /// Rotated files kept.
    keep: u32,
    /// None while it cannot be opened.
    file: Option<File>,
    is_rotation_failing: bool,
}

impl LogFile {
    /// # Errors
    /// It cannot be opened, or is no regular file.
    pub(super) fn open(path: &Path, rotate_at: u64, keep: u32) -> io::Result<Self> {
        Ok(Self {
            file: Some(open(path)?),
            path: path.to_owned(),
            rotate_at,
            keep,
            is_rotation_failing: false,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line as a whole, or not at all.
    ///
    /// # Errors
    /// It cannot be opened or written.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.has_moved() {
            self.file = None;
        }
        let size = self.size()?;
        if size > 0 && size.saturating_add(line.len() as u64) > self.rotate_at {
            self.rotate();
        }
        // After a rotation it is another one.
        let size = self.size()?;
        let mut file = self.opened()?;
        let written = match file.write(line) {
            Ok(bytes) if bytes == line.len() => Ok(()),
            // A disk that becomes full takes a part.
            Ok(_) => Err(io::ErrorKind::StorageFull.into()),
            Err(error) => Err(error),
        };
        if written.is_err() {
            let _ = file.set_len(size);
        }
        written
    }

    fn opened(&mut self) -> io::Result<&File> {
        match &mut self.file {
            Some(file) => Ok(file),
            closed => Ok(closed.insert(open(&self.path)?)),
        }
    }

    /// Someone else may have cut it.
    fn size(&mut self) -> io::Result<u64> {
        Ok(self.opened()?.metadata()?.len())
    }

    /// Whether what is under that name is not what is open: `logrotate` has been here.
    fn has_moved(&self) -> bool {
        let Some(open) = self.file.as_ref().and_then(|file| file.metadata().ok()) else {
            return true;
        };
        let named = fs::symlink_metadata(&self.path);
        !named.is_ok_and(|named| (named.dev(), named.ino()) == (open.dev(), open.ino()))
    }

    /// Where that fails the old file grows on.
    fn rotate(&mut self) {
        match self.shift() {
            Ok(()) => {
                self.file = None;
                self.is_rotation_failing = false;
            }
            Err(error) if !self.is_rotation_failing => {
                let path = self.path.display();
                tracing::warn!("cannot rotate {path}: {error}; it keeps growing");
                self.is_rotation_failing = true;
            }
            Err(_) => {}
        }
    }

    /// Makes room at `.1` and moves the file there. Nothing is moved beyond the first gap, so that
    /// attempts that fail in the end do not push out one old file after another.
    fn shift(&self) -> io::Result<()> {
        let is_free = |number: &u32| fs::symlink_metadata(self.rotated(*number)).is_err();
        let free = (1..=self.keep).find(is_free).unwrap_or(self.keep);
        for number in (1..free).rev() {
            fs::rename(self.rotated(number), self.rotated(number + 1))?;
        }
        fs::rename(&self.path, self.rotated(1))
    }

    fn rotated(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// A symbolic link is refused: where others may write in the directory, root would write where they
/// point to.
fn open(path: &Path) -> io::Result<File> {
    // A FIFO without a reader must not hold up the daemon's start.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    end_line(&file, found.len())?;
    Ok(file)
}

/// A power failure may have left half a line.
fn end_line(mut file: &File, size: u64) -> io::Result<()> {
    let mut last = [b'\n'];
    if let Some(at) = size.checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    if last == [b'\n'] {
        return Ok(());
    }
    file.write_all(b"\n")
}

#[cfg(test)]
mod tests;
