//! The daemon's own life: older sockets, restarts, a second one, its end.

use rustix::process::Signal;

use crate::harness::socket::{Pair, listen_in, read_end};
use crate::harness::{Daemon, EveryState, Netns, Scratch, V4, assert_agrees, output, tcplinger};

#[test]
fn sockets_older_than_the_daemon() {
    let sockets = EveryState::new();
    let daemon = Daemon::start();
    sockets.assert_agrees(&daemon);
    sockets.release();
    sockets.assert_agrees(&daemon);
}

#[test]
fn restart() {
    let (scratch, netns) = (Scratch::new(), Netns::new());
    let control = scratch.path("control");
    let listener = listen_in(&netns, "127.0.0.1:0");
    let mut daemon = Daemon::on(&control);
    let Pair { client, mut server } = Pair::new(&netns, &listener);
    drop(client);
    read_end(&mut server);
    assert_agrees(&daemon, &netns);
    assert!(daemon.end(Signal::TERM).success());
    drop(server);
    netns.settle(&[(V4, "LISTEN", 1), (V4, "TIME-WAIT", 1)]);

    let mut daemon = Daemon::on(&control);
    assert_agrees(&daemon, &netns);
    assert!(daemon.end(Signal::INT).success());
}

#[test]
fn the_end_sums_up_and_leaves_no_socket() {
    let scratch = Scratch::new();
    let control = scratch.path("control");
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::on(&control);
        assert!(daemon.end(signal).success());
        let log = daemon.log();
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains("time_wait"), "no summary at the end: {log}");
        assert!(!control.exists());
    }
}

#[test]
fn a_second_daemon_is_refused() {
    let scratch = Scratch::new();
    let control = scratch.path("control");
    let first = Daemon::on(&control);
    let second = output(tcplinger("run --duration 5s --control").arg(&control));
    let message = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{message}");
    assert!(message.contains(&first.pid().to_string()), "{message}");
    // The first is none the worse for it.
    first.status("daemon");
}

#[test]
fn a_stale_control_socket_is_no_obstacle() {
    let (scratch, netns) = (Scratch::new(), Netns::new());
    let control = scratch.path("control");
    let mut killed = Daemon::on(&control);
    assert!(!killed.end(Signal::KILL).success());
    assert!(control.exists());
    assert_agrees(&Daemon::on(&control), &netns);
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let scratch = Scratch::new();
    let control = scratch.path("precious");
    std::fs::write(&control, "mine").unwrap();
    let refused = output(tcplinger("run --duration 1s --control").arg(&control));
    let message = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("no socket"), "{message}");
    assert_eq!(std::fs::read_to_string(&control).unwrap(), "mine");
}

#[test]
fn status_without_a_daemon() {
    let scratch = Scratch::new();
    let control = scratch.path("control");
    let refused = output(tcplinger("status --source daemon --control").arg(&control));
    let message = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains(control.to_str().unwrap()), "{message}");
    let walked = output(tcplinger("status --format json --control").arg(&control));
    let json: serde_json::Value = serde_json::from_slice(&walked.stdout).unwrap();
    assert_eq!(json["source"], "kernel");
}
