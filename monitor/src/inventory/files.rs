//! The small files of one directory of /proc, each read with a single call.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::Error;
use super::namespaces::open_directory;

/// Room for a file at first: most of /proc/net/netstat's need less.
const BUFFER_BYTES: usize = 8 * 1024;

/// An open directory: its files are reached without another walk along its path.
#[derive(Debug)]
pub(super) struct Directory {
    file: OwnedFd,
    path: PathBuf,
}

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = open_directory(CWD, path).map_err(|errno| Error::reading(path)(errno.into()))?;
        let path = path.to_owned();
        Ok(Self { file, path })
    }

    /// What the file holds; none where there is no such file.
    pub(super) fn read<'a>(
        &self,
        name: &'static str,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>, Error> {
        match self.try_read(name, buffer) {
            Ok(length) => Ok(buffer.get(..length)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::reading(&self.path.join(name))(error)),
        }
    }

    /// A second read of a sysctl finds nothing, however much the first left
    /// (`proc_do_large_bitmap()` in `kernel/sysctl.c`, Linux 6.18), and there need be none to find the
    /// end: one that leaves room has reached it.
    fn try_read(&self, name: &str, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&self.file, name, flags, Mode::empty());
        let file = File::from(open().map_err(|errno: Errno| io::Error::from(errno))?);
        buffer.resize(buffer.len().max(BUFFER_BYTES), 0);
        loop {
            let length = file.read_at(buffer, 0)?;
            if length < buffer.len() {
                return Ok(length);
            }
            buffer.resize(buffer.len() * 4, 0);
        }
    }
}

/// The values under `names`, in the two lines that start with `label`: names, then values.
pub(super) fn columns<const N: usize>(
    text: &[u8],
    label: &str,
    names: [&str; N],
) -> [Option<u64>; N] {
    let mut found = [None; N];
    let mut lines = labelled(text, label);
    if let (Some(heads), Some(values)) = (lines.next(), lines.next()) {
        for (head, value) in words(heads).zip(words(values)) {
            if let Some(at) = names.iter().position(|name| name.as_bytes() == head)
                && let Some(slot) = found.get_mut(at)
            {
                *slot = number(value);
            }
        }
    }
    found
}

/// The values after `names`, in the line that starts with `label`.
pub(super) fn pairs<const N: usize>(
    text: &[u8],
    label: &str,
    names: [&str; N],
) -> [Option<u64>; N] {
    let mut found = [None; N];
    let mut words = words(labelled(text, label).next().unwrap_or_default());
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        if let Some(at) = names.iter().position(|wanted| wanted.as_bytes() == name)
            && let Some(slot) = found.get_mut(at)
        {
            *slot = number(value);
        }
    }
    found
}

/// The rest of each line that starts with `label`.
fn labelled<'a>(text: &'a [u8], label: &str) -> impl Iterator<Item = &'a [u8]> {
    text.split(|byte| *byte == b'\n')
        .filter_map(move |line| line.strip_prefix(label.as_bytes()))
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty())
}

fn number(word: &[u8]) -> Option<u64> {
    str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_read_whole_and_a_missing_one_is_none() {
        let name = format!("tcplinger-files-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        let text = vec![b'7'; 3 * BUFFER_BYTES];
        fs::write(path.join("long"), &text).unwrap();
        fs::write(path.join("short"), "7").unwrap();
        let directory = Directory::open(&path).unwrap();
        let mut buffer = Vec::new();
        assert_eq!(directory.read("long", &mut buffer).unwrap(), Some(&*text));
        assert_eq!(
            directory.read("short", &mut buffer).unwrap(),
            Some(&b"7"[..])
        );
        assert_eq!(directory.read("none", &mut buffer).unwrap(), None);
        fs::remove_dir_all(&path).unwrap();
        assert!(matches!(Directory::open(&path), Err(Error::Read { .. })));
    }

    #[test]
    fn values_are_found_under_or_after_their_names() {
        let text = b"Ip: A B\nIp: 1 2\nTcp: A B C\nTcp: 3 -4 5\nTcp: 6 7 8\n";
        let found = columns(text, "Tcp:", ["C", "B", "A", "D"]);
        assert_eq!(found, [Some(5), None, Some(3), None]);
        assert_eq!(columns(b"Tcp: A B\n", "Tcp:", ["A"]), [None]);
        assert_eq!(pairs(b"x\nTCP: a 1 b 2", "TCP:", ["b"]), [Some(2)]);
        assert_eq!(pairs(b"", "TCP:", ["b"]), [None]);
    }
}
