use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, process};

use super::*;

/// A directory of its own, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("tcplinger-file-{}-{number}", process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The file names and what is in them.
    fn texts(&self) -> Vec<(String, String)> {
        let mut texts: Vec<_> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().is_file())
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                (name, fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        texts.sort();
        texts
    }

    fn assert_texts(&self, expected: &[(&str, &str)]) {
        let texts = self.texts();
        let texts: Vec<_> = texts
            .iter()
            .map(|(name, text)| (&**name, &**text))
            .collect();
        assert_eq!(texts, expected);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn append(file: &mut LogFile, lines: &[&str]) {
    for line in lines {
        file.append(format!("{line}\n").as_bytes()).unwrap();
    }
}

#[test]
fn whole_lines_rotate_and_the_oldest_go() {
    let folder = Folder::new();
    let mut file = LogFile::open(&folder.path("f"), 10, 2).unwrap();
    let mode = fs::metadata(folder.path("f")).unwrap().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
    append(&mut file, &["1111", "2222"]);
    folder.assert_texts(&[("f", "1111\n2222\n")]);
    append(&mut file, &["3"]);
    folder.assert_texts(&[("f", "3\n"), ("f.1", "1111\n2222\n")]);
    // Longer than a file may be: a file of its own.
    append(&mut file, &["44444444444444", "5", "66666666"]);
    folder.assert_texts(&[
        ("f", "66666666\n"),
        ("f.1", "5\n"),
        ("f.2", "44444444444444\n"),
    ]);
}

#[test]
fn what_was_there_stays() {
    let folder = Folder::new();
    fs::write(folder.path("f"), "old\nhalf a li").unwrap();
    let mut file = LogFile::open(&folder.path("f"), 1 << 16, 1).unwrap();
    append(&mut file, &["new"]);
    folder.assert_texts(&[("f", "old\nhalf a li\nnew\n")]);
}

#[test]
fn a_file_that_was_moved_or_cut_or_removed() {
    let folder = Folder::new();
    let mut file = LogFile::open(&folder.path("f"), 10, 1).unwrap();
    append(&mut file, &["1111"]);
    fs::rename(folder.path("f"), folder.path("moved")).unwrap();
    append(&mut file, &["22222222"]);
    folder.assert_texts(&[("f", "22222222\n"), ("moved", "1111\n")]);
    // copytruncate
    File::create(folder.path("f")).unwrap();
    append(&mut file, &["3333"]);
    folder.assert_texts(&[("f", "3333\n"), ("moved", "1111\n")]);
    fs::remove_file(folder.path("f")).unwrap();
    append(&mut file, &["4"]);
    folder.assert_texts(&[("f", "4\n"), ("moved", "1111\n")]);
}

#[test]
fn a_rotation_that_fails_loses_nothing() {
    let folder = Folder::new();
    let mut file = LogFile::open(&folder.path("f"), 4, 3).unwrap();
    fs::create_dir(folder.path("f.1")).unwrap();
    fs::create_dir_all(folder.path("f.2").join("busy")).unwrap();
    fs::write(folder.path("f.3"), "kept\n").unwrap();
    append(&mut file, &["111", "222", "333"]);
    folder.assert_texts(&[("f", "111\n222\n333\n"), ("f.3", "kept\n")]);
    assert!(file.is_rotation_failing);
    fs::remove_dir_all(folder.path("f.1")).unwrap();
    append(&mut file, &["444"]);
    folder.assert_texts(&[
        ("f", "444\n"),
        ("f.1", "111\n222\n333\n"),
        ("f.3", "kept\n"),
    ]);
    assert!(!file.is_rotation_failing);
}

#[test]
fn it_recovers_when_its_directory_is_back() {
    let folder = Folder::new();
    fs::create_dir(folder.path("d")).unwrap();
    let mut file = LogFile::open(&folder.path("d/f"), 1 << 16, 1).unwrap();
    append(&mut file, &["1"]);
    fs::remove_dir_all(folder.path("d")).unwrap();
    let lost = file.append(b"2\n").unwrap_err();
    assert_eq!(lost.kind(), io::ErrorKind::NotFound);
    fs::create_dir(folder.path("d")).unwrap();
    append(&mut file, &["3"]);
    assert_eq!(fs::read_to_string(folder.path("d/f")).unwrap(), "3\n");
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let folder = Folder::new();
    fs::write(folder.path("f"), "").unwrap();
    symlink(folder.path("f"), folder.path("link")).unwrap();
    let fifo = Command::new("mkfifo").arg(folder.path("fifo")).status();
    assert!(fifo.unwrap().success());
    for name in ["link", "fifo", "", "none/f"] {
        assert!(LogFile::open(&folder.path(name), 10, 1).is_err(), "{name}");
    }
    assert!(LogFile::open(Path::new("/dev/null"), 10, 1).is_err());
}
