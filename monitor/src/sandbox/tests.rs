use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::*;

/// A directory outside of what any thread may use, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("sandbox-{name}-{}", std::process::id());
        let path = std::env::current_exe().unwrap().with_file_name(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs the tries on a thread that has given up what `give_up` takes.
fn inside<T: Send + 'static>(
    give_up: impl FnOnce() -> Result<(), String> + Send + 'static,
    tries: impl FnOnce() -> T + Send + 'static,
) -> T {
    let confined = move || {
        give_up().unwrap();
        tries()
    };
    thread::spawn(confined).join().unwrap()
}

fn refused<T>(outcome: io::Result<T>) -> bool {
    outcome.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// What the filters of every thread forbid, for this thread alone.
fn forbid() -> Result<(), String> {
    calls::apply(calls::daemon_filters(), seccompiler::apply_filter)
}

#[test]
fn a_server_reads_its_files_and_no_others_and_changes_none() {
    let (own, other) = (Folder::new("own"), Folder::new("other"));
    let (token, secret) = (own.0.join("token"), other.0.join("secret"));
    fs::write(&token, "a").unwrap();
    fs::write(&secret, "a").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let files = vec![token.clone()];
    inside(
        move || try_confine(Duty::Server(&files)),
        move || {
            assert!(refused(fs::read(&secret)), "a file that is not its own");
            for path in [&token, &secret, Path::new("/etc/tcplinger-test")] {
                let opened = OpenOptions::new().append(true).create(true).open(path);
                assert!(refused(opened), "write to {}", path.display());
            }
            assert!(refused(fs::remove_file(&token)));
            assert!(refused(TcpStream::connect(address)));
            assert!(fs::read("/etc/group").is_ok());
            // Replaced, as who rotates it does.
            assert_eq!(fs::read(&token).unwrap(), b"a");
            let held = caps::read(None, caps::CapSet::Permitted).unwrap();
            assert!(held.is_empty());
        },
    );
    drop(listener);
}

#[test]
fn a_file_that_is_replaced_is_read_again() {
    let own = Folder::new("replaced");
    let (token, new) = (own.0.join("token"), own.0.join("new"));
    fs::write(&token, "a").unwrap();
    let files = vec![token.clone()];
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (replaced, is_replaced) = std::sync::mpsc::channel();
    let reader = thread::spawn(move || {
        try_confine(Duty::Server(&files)).unwrap();
        ready.send(()).unwrap();
        is_replaced.recv().unwrap();
        fs::read(&token)
    });
    is_ready.recv().unwrap();
    fs::write(&new, "b").unwrap();
    fs::rename(&new, own.0.join("token")).unwrap();
    replaced.send(()).unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), b"b");
}

#[test]
fn a_writer_appends_and_rotates_in_its_folder() {
    let (own, other) = (Folder::new("writer"), Folder::new("beside"));
    let file = own.0.join("findings");
    inside(
        {
            let file = file.clone();
            move || try_confine(Duty::Writer(Some(&file)))
        },
        move || {
            File::create(&file).unwrap().write_all(b"a").unwrap();
            fs::rename(&file, file.with_extension("1")).unwrap();
            File::create(&file).unwrap();
            fs::remove_file(&file).unwrap();
            assert!(refused(File::create(other.0.join("x"))));
            assert!(refused(fs::read("/etc/hostname")));
        },
    );
}

#[test]
fn no_thread_starts_programs_or_opens_raw_sockets() {
    inside(forbid, || {
        assert!(refused(Command::new("/bin/true").status()));
        let open = |family, kind| socket(family, kind, None).map(drop);
        assert_eq!(open(AddressFamily::INET, SocketType::RAW), Err(Errno::PERM));
        assert_eq!(
            open(AddressFamily::INET6, SocketType::RAW),
            Err(Errno::PERM)
        );
        assert_eq!(
            open(AddressFamily::PACKET, SocketType::DGRAM),
            Err(Errno::PERM)
        );
        // SAFETY: nothing is shared that this thread would miss.
        let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
        assert_eq!(unshared, Err(Errno::PERM));
        // SAFETY: the calls take numbers alone, or fail before they read.
        let calls = unsafe {
            [
                libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0),
                libc::syscall(libc::SYS_bpf, 5, 0, 0),
                libc::syscall(libc::SYS_mount, 0, 0, 0, 0, 0),
                libc::syscall(libc::SYS_finit_module, -1, 0, 0),
                libc::syscall(libc::SYS_setresuid, 0, 0, 0),
            ]
        };
        assert_eq!(calls, [-1; 5]);
        // What the daemon does goes on.
        assert_eq!(open(AddressFamily::INET, SocketType::STREAM), Ok(()));
        assert_eq!(open(AddressFamily::NETLINK, SocketType::RAW), Ok(()));
        assert_eq!(thread::spawn(|| 1).join().unwrap(), 1);
    });
}

#[test]
fn who_looks_at_others_changes_nothing() {
    let own = Folder::new("looking");
    let file = own.0.join("file");
    fs::write(&file, "a").unwrap();
    inside(calls::forbid_changes, move || {
        assert_eq!(fs::read(&file).unwrap(), b"a");
        let open = |options: &mut OpenOptions| options.open(&file);
        assert!(refused(open(OpenOptions::new().write(true))));
        assert!(refused(open(OpenOptions::new().read(true).write(true))));
        assert!(refused(open(OpenOptions::new().append(true))));
        assert!(refused(File::create(file.with_extension("new"))));
        assert!(refused(fs::remove_file(&file)));
        assert!(refused(fs::rename(&file, file.with_extension("1"))));
        assert!(refused(TcpListener::bind("127.0.0.1:0")));
        assert!(fs::read_link("/proc/self/ns/net").is_ok());
    });
}

#[test]
fn what_a_reload_names_out_of_reach_is_told() {
    let (config, token) = (Path::new("/srv/config"), Path::new("/home/token"));
    let reach = Files {
        read: vec![config.to_owned()],
        ..Files::default()
    };
    let wanted = |read: &[&Path], written: &[&Path]| Files {
        read: read.iter().map(|path| path.to_path_buf()).collect(),
        written: written.iter().map(|path| path.to_path_buf()).collect(),
        ..Files::default()
    };
    let etc = Path::new("/etc/tcplinger.token");
    assert_eq!(reach.lacks(&wanted(&[config, etc], &[])), None);
    assert_eq!(reach.lacks(&wanted(&[token], &[])), Some(token.to_owned()));
    let log = Path::new("/var/log/tcplinger.jsonl");
    assert_eq!(reach.lacks(&wanted(&[], &[log])), None);
    assert_eq!(reach.lacks(&wanted(&[], &[etc])), Some(etc.to_owned()));
    // The error about that is the better one.
    let missing = Path::new("/nonexistent/file");
    assert_eq!(reach.lacks(&wanted(&[missing], &[missing])), None);
}
