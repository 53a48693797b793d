//! The daemon's own life: older sockets, restarts, a second one, its end.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::Signal;

use crate::harness::socket::{Pair, listen_in, read_end};
use crate::harness::{Daemon, EveryState, Netns, Scratch, V4, assert_agrees, output, tcplinger};

const VERBS: [&str; 4] = ["status", "stuck", "ports", "check"];

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
    fs::write(&control, "mine").unwrap();
    let refused = output(tcplinger("run --duration 1s --control").arg(&control));
    let message = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("not a socket"), "{message}");
    assert_eq!(fs::read_to_string(&control).unwrap(), "mine");
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

/// The verbs find the daemon where the configuration puts it, and say that it answered.
#[test]
fn every_verb_finds_the_daemon_by_the_configuration() {
    let scratch = Scratch::new();
    let control = scratch.path("elsewhere");
    let config = scratch.write(&format!("[daemon]\ncontrol = {control:?}\n"));
    let daemon = Daemon::on(&control);
    for verb in VERBS {
        let asked = output(&mut tcplinger(&format!(
            "{verb} --source daemon --config {config}"
        )));
        let message = String::from_utf8_lossy(&asked.stderr);
        assert!(
            asked.status.code() < Some(2) || verb == "check",
            "{verb}: {message}"
        );
        assert!(!message.contains("no daemon"), "{verb}: {message}");
    }
    for verb in ["status", "ports", "check"] {
        let asked = output(&mut tcplinger(&format!("{verb} --config {config}")));
        let told = String::from_utf8_lossy(&asked.stdout);
        assert!(told.contains("source daemon"), "{verb}: {told}");
    }
    let json = output(&mut tcplinger(&format!(
        "status --format json --config {config}"
    )));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["source"], "daemon");
    drop(daemon);
    let asked = output(&mut tcplinger(&format!(
        "ports --sample 100ms --config {config}"
    )));
    assert!(String::from_utf8_lossy(&asked.stdout).ends_with("source kernel\n"));
}

#[test]
fn a_daemon_that_is_stopped_is_not_waited_for_long() {
    let netns = Netns::new();
    let daemon = Daemon::start();
    daemon.signal(Signal::STOP);
    let asking = VERBS.map(|verb| {
        ["daemon", "auto"].map(|source| {
            let inode = netns.inode();
            let arguments = format!("{verb} --source {source} --netns {inode} --control");
            let mut asked = tcplinger(&arguments);
            asked.arg(daemon.control());
            let pid = daemon.pid();
            std::thread::spawn(move || {
                let began = Instant::now();
                let answer = output(&mut asked);
                (arguments, pid, began.elapsed(), answer)
            })
        })
    });
    for asked in asking.into_iter().flatten() {
        let (arguments, pid, took, answer) = asked.join().unwrap();
        let told = [answer.stdout, answer.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        // A look at the kernel takes its time, too, while others look.
        assert!(
            took < Duration::from_secs(9),
            "{arguments}: {took:?}: {told}"
        );
        for words in [format!("pid {pid}"), format!("kill -CONT {pid}")] {
            // `check` gives one line from the kernel, and its warning goes to stderr.
            assert!(told.contains(&words), "{arguments}: {told}");
        }
        let code = match (
            arguments.contains("--source daemon"),
            arguments.contains("check"),
        ) {
            (true, true) => 3,
            (true, false) => 1,
            (false, _) => 0,
        };
        assert_eq!(answer.status.code(), Some(code), "{arguments}: {told}");
    }
    daemon.signal(Signal::CONT);
    daemon.status("daemon");
}

/// A pipe that nobody reads until the test does.
fn stalled(scratch: &Scratch) -> (PathBuf, File) {
    let path = scratch.path("stalled");
    mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    let both_ends = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    (path, both_ends)
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing() {
    let (scratch, netns) = (Scratch::new(), Netns::new());
    let (path, reader) = stalled(&scratch);
    let script = format!("exec \"$@\" 2>{}", path.display());
    let mut daemon = Daemon::wrapped(&["sh", "-c", &script, "sh"], "--transitions");
    let listener = listen_in(&netns, "127.0.0.1:0");
    // Each logs about ten transitions; the pipe and the queue hold 4,500 lines.
    for _ in 0..800 {
        drop(Pair::new(&netns, &listener));
    }
    let status = daemon.status("daemon");
    assert!(status.dropped_log_lines() > 100);
    assert_eq!(status.lost_events(), 0);
    assert_agrees(&daemon, &netns);
    let began = Instant::now();
    assert!(daemon.end(Signal::TERM).success());
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    drop(reader);
}

#[test]
fn a_log_that_is_read_again_says_what_is_missing() {
    let (scratch, netns) = (Scratch::new(), Netns::new());
    let (path, reader) = stalled(&scratch);
    let script = format!("exec \"$@\" 2>{}", path.display());
    let arguments = "--transitions --summary-every 1s --log-format json";
    let daemon = Daemon::wrapped(&["sh", "-c", &script, "sh"], arguments);
    let listener = listen_in(&netns, "127.0.0.1:0");
    for _ in 0..800 {
        drop(Pair::new(&netns, &listener));
    }
    assert!(daemon.status("daemon").dropped_log_lines() > 100);
    let mut told = BufReader::new(reader).lines().map(|line| {
        // Each is whole.
        serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap()
    });
    let told = told.find(|line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with("log lines were dropped")
    });
    assert!(told.unwrap()["total"].as_u64().unwrap() > 100);
}

const NOBODY: u32 = 65_534;

/// `tcplinger` for somebody who is not root.
fn as_nobody(arguments: &str) -> Command {
    as_user(NOBODY, NOBODY, arguments)
}

fn as_user(user: u32, group: u32, arguments: &str) -> Command {
    let mut command = tcplinger(arguments);
    command.uid(user).gid(group);
    command
}

#[test]
fn members_of_the_group_may_ask_and_nobody_else() {
    let netns = Netns::new();
    let daemon = Daemon::with(&format!("--group {NOBODY}"));
    let file = fs::metadata(daemon.control()).unwrap();
    assert_eq!(
        (file.uid(), file.gid(), file.mode() & 0o777),
        (0, NOBODY, 0o660)
    );
    for verb in VERBS {
        for wanted in ["", "--netns host", &format!("--netns {}", netns.inode())] {
            let arguments = format!("{verb} --source daemon {wanted} --control");
            let asked = output(as_nobody(&arguments).arg(daemon.control()));
            let told = [asked.stdout, asked.stderr].concat();
            let told = String::from_utf8_lossy(&told);
            // Something else may be stuck on this host.
            assert!(
                asked.status.code() < Some(2) || verb == "check",
                "{arguments}: {told}"
            );
            assert!(!told.contains("UNKNOWN"), "{arguments}: {told}");
            let other = output(as_user(NOBODY - 1, NOBODY - 1, &arguments).arg(daemon.control()));
            assert_eq!(other.status.code(), Some(3), "{arguments}");
        }
    }
    let refused = output(&mut tcplinger("run --duration 1s --group no-such-group"));
    let message = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{message}");
    assert!(message.contains("no-such-group"), "{message}");
}

/// What the default address answers to a user of that network namespace.
fn asked_as(daemon: &Daemon, user: u32, group: u32, path: &str) -> String {
    const ASK: &str = "import sys, urllib.request, urllib.error
try: print(urllib.request.urlopen('http://127.0.0.1:9817' + sys.argv[1], timeout=5).status)
except urllib.error.HTTPError as error: print(error.code, error.read().decode())";
    let [user, group] = [user, group].map(|number| number.to_string());
    let asked = output(
        Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", daemon.pid()))
            .args([
                "setpriv",
                "--clear-groups",
                "--reuid",
                &user,
                "--regid",
                &group,
            ])
            .args(["/usr/bin/python3", "-c", ASK, path]),
    );
    assert!(asked.status.success(), "{asked:?}");
    String::from_utf8(asked.stdout).unwrap()
}

/// One rule for both: the default address is for those that may use the control socket.
#[test]
fn the_default_address_is_for_those_who_may_ask() {
    // nobody's own group, by /etc/passwd.
    for (group, nobody_may) in [(0, false), (NOBODY, true)] {
        // In a network namespace of its own, where the default address is free.
        let script =
            format!("ip link set lo up && exec \"$1\" run --control \"$4\" --group {group}");
        let daemon = Daemon::wrapped(&["unshare", "-n", "sh", "-c", &script, "sh"], "");
        assert!(daemon.http_address().ends_with("127.0.0.1:9817"));
        for path in ["/metrics", "/api/v1/status", "/api/v1/stuck"] {
            assert_eq!(asked_as(&daemon, 0, 0, path), "200\n");
            let told = asked_as(&daemon, NOBODY, NOBODY, path);
            assert_eq!(told.starts_with("200"), nobody_may, "{path}: {told}");
            let told = asked_as(&daemon, NOBODY - 1, NOBODY - 1, path);
            assert!(
                told.starts_with("403") && told.contains("[daemon] group"),
                "{told}"
            );
        }
        assert_eq!(
            asked_as(&daemon, NOBODY - 1, NOBODY - 1, "/healthz"),
            "200\n"
        );
    }
}

#[test]
fn who_may_not_ask_the_daemon_is_told_so() {
    let (scratch, open) = (Scratch::new(), fs::Permissions::from_mode(0o755));
    let control = scratch.path("control");
    fs::set_permissions(control.parent().unwrap(), open).unwrap();
    let _daemon = Daemon::on(&control);
    for verb in VERBS {
        for source in ["daemon", "auto"] {
            let mut command = as_nobody(&format!("{verb} --source {source} --control"));
            let refused = output(command.arg(&control));
            let told = [refused.stdout, refused.stderr].concat();
            let told = String::from_utf8_lossy(&told);
            assert_eq!(refused.status.code(), Some(3), "{verb} {source}: {told}");
            assert!(told.contains("[daemon] group"), "{verb} {source}: {told}");
        }
    }
}
