//! What is typed wrong is refused with what to type, and a closed pipe is no failure.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::socket::listen_in;
use crate::harness::{Netns, PATIENCE, eventually, output, tcplinger};

#[test]
fn wrong_usage_is_told_with_the_way_out() {
    for (arguments, advice) in [
        ("events --state time_wiat", "time_wait"),
        ("events --local-port 70000", "65535"),
        ("events --remote 10.0.0.0/33", "10.0.0.0/8"),
        ("events --count 0", "--count"),
        ("status --format yaml", "json"),
        ("run --ring-size 100KiB", "64KiB"),
        ("run --interval 5", "500ms"),
        ("runn", "run"),
    ] {
        let refused = output(&mut tcplinger(arguments));
        let message = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{arguments}: {message}");
        assert!(message.contains(advice), "{arguments}: {message}");
        assert!(refused.stdout.is_empty());
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let netns = Netns::new();
    let mut events = tcplinger(&format!("events --format json --netns {}", netns.inode()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = Some(BufReader::new(events.stdout.take().unwrap()));
    // A listener that comes and goes makes events before and after the reader has left.
    let status = eventually(PATIENCE, || {
        drop(listen_in(&netns, "127.0.0.1:0"));
        let is_waiting = stdout
            .as_ref()
            .is_some_and(|pipe| !has_data(pipe.get_ref()));
        if !is_waiting && let Some(mut pipe) = stdout.take() {
            pipe.read_line(&mut String::new()).unwrap();
        }
        events.try_wait().unwrap()
    });
    let _ = events.kill();
    let output = events.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        status.and_then(|status| status.code()),
        Some(0),
        "{message}"
    );
    assert!(message.is_empty(), "{message}");
}

/// Whether a read would not wait.
fn has_data(pipe: &std::process::ChildStdout) -> bool {
    rustix::io::ioctl_fionread(pipe).unwrap() > 0
}

#[test]
fn status_into_a_closed_pipe() {
    let mut status = tcplinger("status --source kernel")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(status.stdout.take());
    assert_eq!(status.wait().unwrap().code(), Some(0));
}

/// It is stuck in its write, and ends all the same.
#[test]
fn a_reader_that_stops_reading_does_not_keep_it_from_ending() {
    let netns = Netns::new();
    let inode = netns.inode();
    let mut events = tcplinger(&format!("events --format json --netns {inode}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let poke = || netns.enter(|| drop(TcpListener::bind("127.0.0.1:0").unwrap()));
    let flows = thread::spawn(move || (lines.next().is_some(), lines));
    while !flows.is_finished() {
        poke();
    }
    let (is_flowing, unread) = flows.join().unwrap();
    assert!(is_flowing);
    // Far more than a pipe holds.
    (0..1000).for_each(|_| poke());
    let pid = Pid::from_child(&events);
    kill_process(pid, Signal::TERM).unwrap();
    let status = eventually(Duration::from_secs(3), || events.try_wait().unwrap());
    kill_process(pid, Signal::KILL).ok();
    let status = status.expect("it ignores SIGTERM");
    assert!(status.success(), "{status}");
    drop(unread);
}
