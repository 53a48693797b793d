//! Namespaces come and go while the daemon runs.

use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::harness::socket::listen_in;
use crate::harness::{Daemon, Netns, PATIENCE, V4, assert_agrees, eventually};

const FORGOTTEN_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn a_namespace_made_later_is_found() {
    let daemon = Daemon::start();
    let netns = Netns::new();
    let listener = listen_in(&netns, "127.0.0.1:0");
    netns.settle(&[(V4, "LISTEN", 1)]);
    assert_agrees(&daemon, &netns);
    drop(listener);
}

#[test]
fn a_namespace_that_is_gone_is_forgotten() {
    let daemon = Daemon::start();
    let netns = Netns::new();
    let listener = listen_in(&netns, "127.0.0.1:0");
    assert_agrees(&daemon, &netns);
    let inode = netns.inode();
    drop((listener, netns));
    assert_forgotten(&daemon, inode);
}

/// As container runtimes have them: held by a process alone.
#[test]
fn a_namespace_without_a_name() {
    let daemon = Daemon::start();
    let netns = Netns::new();
    let inode = netns.inode();
    let listener = listen_in(&netns, "127.0.0.1:0");
    // It ends when its standard input does.
    let mut holder = netns.enter(|| {
        let mut cat = Command::new("cat");
        cat.stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    });
    drop(netns);
    for source in ["daemon", "kernel"] {
        let is_nameless = eventually(PATIENCE, || {
            let status = daemon.status(source);
            let namespace = status.namespace(inode)?;
            (namespace["name"].is_null() && namespace["sockets"]["listen"] == 1).then_some(())
        });
        assert!(is_nameless.is_some(), "--source {source}");
    }
    drop(holder.stdin.take());
    holder.wait().unwrap();
    drop(listener);
    assert_forgotten(&daemon, inode);
}

fn assert_forgotten(daemon: &Daemon, inode: u64) {
    let is_gone = eventually(FORGOTTEN_WITHIN, || {
        daemon
            .status("daemon")
            .namespace(inode)
            .is_none()
            .then_some(())
    });
    assert!(is_gone.is_some(), "{inode} is still listed");
}

/// No process lives in this namespace, only one thread of this one.
#[test]
fn a_namespace_of_a_single_thread() {
    let daemon = Daemon::start();
    let netns = Netns::new();
    let inode = netns.inode();
    let listener = listen_in(&netns, "127.0.0.1:0");
    let (release, holder) = netns.enter(|| {
        let (release, released) = mpsc::channel::<()>();
        (release, thread::spawn(move || released.recv()))
    });
    let later = Daemon::start();
    drop(netns);
    for daemon in [&daemon, &later] {
        for source in ["daemon", "kernel", "daemon"] {
            let status = daemon.status(source);
            let namespace = status.namespace(inode).expect(source);
            assert_eq!(namespace["sockets"]["listen"], 1, "--source {source}");
        }
    }
    drop((listener, release));
    // It ends because there is nobody left to release it.
    assert!(holder.join().unwrap().is_err());
    assert_forgotten(&daemon, inode);
}
