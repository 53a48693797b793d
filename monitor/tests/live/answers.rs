//! What `check` tells a monitoring system, and what the control socket tells who asks the wrong one.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;

use rustix::process::Signal;

use crate::harness::{
    Daemon, Netns, PATIENCE, Program, Scratch, V4, eventually, output, tcplinger,
};

/// The line of a plugin, and its exit code.
fn checked(command: &mut Command) -> (Option<i32>, String) {
    let answer = output(command);
    let line = String::from_utf8(answer.stdout).unwrap();
    assert_eq!(line.lines().count(), 1, "{command:?}: {line}");
    (answer.status.code(), line.trim_end().to_owned())
}

/// A figure of the performance data.
fn figure(line: &str, label: &str) -> f64 {
    let (_, figures) = line
        .split_once(" | ")
        .unwrap_or_else(|| panic!("no figures: {line}"));
    let mut words = figures.split(' ').filter_map(|word| word.split_once('='));
    let (_, value) = words.find(|(name, _)| *name == label).unwrap();
    let value = value.split(';').next().unwrap();
    value.trim_end_matches('s').parse().unwrap()
}

#[test]
fn a_monitoring_system_gets_one_line_and_a_code() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let daemon = Daemon::configured(
        "[ages.close_wait]\nwarning = \"1s\"\ncritical = \"2500ms\"\n",
        &scratch,
    );
    let check = || checked(&mut daemon.command(&format!("check --netns {}", netns.inode())));
    let (code, line) = check();
    assert_eq!(code, Some(0), "{line}");
    assert!(line.starts_with("TCPLINGER OK - "), "{line}");
    assert_eq!(figure(&line, "stuck").to_bits(), 0.0_f64.to_bits());

    let mut server = Program::puppet(&netns);
    let port: u16 = server.ask("listen 127.0.0.1 16");
    drop(netns.enter(|| TcpStream::connect(("127.0.0.1", port)).unwrap()));
    server.tell("accept");
    netns.settle(&[
        (V4, "LISTEN", 1),
        (V4, "CLOSE-WAIT", 1),
        (V4, "FIN-WAIT-2", 1),
    ]);
    for (wanted, word, oldest) in [(1, "WARNING", 1.0..2.5), (2, "CRITICAL", 2.5..60.0)] {
        let line = eventually(PATIENCE, || {
            let (code, line) = check();
            (code == Some(wanted)).then_some(line)
        });
        let line = line.unwrap_or_else(|| panic!("never {word}: {:?}", check()));
        assert!(
            line.starts_with(&format!("TCPLINGER {word} - 1 stuck")),
            "{line}"
        );
        assert!(line.contains(&format!("[{}]", server.pid())), "{line}");
        assert!(oldest.contains(&figure(&line, "oldest")), "{line}");
        assert!((figure(&line, "close_wait") - 1.0).abs() < 0.1, "{line}");
    }
    // Something is stuck, only not in that state.
    let asked = format!("stuck --state last_ack --netns {}", netns.inode());
    let elsewhere = output(&mut daemon.command(&asked));
    assert_eq!(elsewhere.stdout, b"the only incident does not match\n");
    assert_eq!(elsewhere.status.code(), Some(0));
    // More of them are allowed, and so it is fine.
    let mut lenient = daemon.command(&format!("check -w 2 -c 2 --netns {}", netns.inode()));
    assert_eq!(checked(&mut lenient).0, Some(0));
    server.tell("close");
    let is_fine = eventually(PATIENCE, || (check().0 == Some(0)).then_some(()));
    assert!(is_fine.is_some(), "{:?}", check());
}

#[test]
fn what_check_cannot_look_at_is_unknown() {
    let scratch = Scratch::new();
    let config = scratch.write("[ages.close_wait]\nwarning = \"-1s\"\n");
    let (code, line) = checked(&mut tcplinger(&format!("check --config {config}")));
    assert_eq!(code, Some(3), "{line}");
    assert!(line.starts_with("TCPLINGER UNKNOWN - "), "{line}");
    assert!(
        line.contains("config.toml:2") || line.contains("line 2"),
        "{line}"
    );

    let nobody = scratch.path("nobody");
    let (code, line) = checked(tcplinger("check --source daemon --control").arg(nobody));
    assert_eq!(code, Some(3), "{line}");
    assert_eq!(
        output(&mut tcplinger("check --warning none")).status.code(),
        Some(3)
    );
}

#[test]
fn the_socket_of_a_killed_daemon() {
    let (scratch, netns) = (Scratch::new(), Netns::new());
    let control = scratch.path("control");
    let mut daemon = Daemon::on(&control);
    daemon.end(Signal::KILL);
    assert!(control.exists());
    let stuck = |source: &str| {
        let netns = netns.inode();
        let arguments = format!("stuck --source {source} --netns {netns} --control");
        output(tcplinger(&arguments).arg(&control))
    };
    let refused = stuck("daemon");
    let message = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("crashed or was killed"), "{message}");
    assert!(message.contains("tcplinger run"), "{message}");
    assert!(refused.stdout.is_empty());

    let answered = stuck("auto");
    let message = String::from_utf8_lossy(&answered.stderr);
    assert_eq!(answered.status.code(), Some(0), "{message}");
    assert!(message.contains("lower bounds"), "{message}");
    assert_eq!(answered.stdout, b"nothing is stuck\n");

    // Without any file there is nothing to warn about.
    fs::remove_file(&control).unwrap();
    assert!(stuck("auto").stderr.is_empty());
    let message = String::from_utf8(stuck("daemon").stderr).unwrap();
    assert!(message.contains("no daemon answers"), "{message}");
}

#[test]
fn a_daemon_of_another_version() {
    let scratch = Scratch::new();
    let control = scratch.path("control");
    let listener = UnixListener::bind(&control).unwrap();
    let verbs = ["stuck", "ports", "check", "status"];
    let sources = ["daemon", "auto"];
    let asked = verbs.len() * sources.len();
    // It does not even know the question.
    let other = thread::spawn(move || {
        for stream in listener.incoming().take(asked) {
            let mut stream = stream.unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
            stream
                .write_all(b"{\"version\":\"99.1.2\",\"pid\":4711}\n")
                .unwrap();
        }
    });
    for verb in verbs {
        for source in sources {
            let arguments = format!("{verb} --source {source} --control");
            let refused = output(tcplinger(&arguments).arg(&control));
            let told = [refused.stdout, refused.stderr].concat();
            let told = String::from_utf8(told).unwrap();
            for word in ["99.1.2", "4711", env!("CARGO_PKG_VERSION"), "restart"] {
                assert!(told.contains(word), "{arguments}: {told}");
            }
            let code = if verb == "check" { 3 } else { 1 };
            assert_eq!(refused.status.code(), Some(code), "{arguments}: {told}");
        }
    }
    other.join().unwrap();
}

#[test]
fn only_root_can_ask() {
    use std::os::unix::fs::MetadataExt;

    let daemon = Daemon::start();
    let file = fs::metadata(daemon.control()).unwrap();
    assert_eq!((file.uid(), file.mode() & 0o777), (0, 0o600));
}
