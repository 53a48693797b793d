//! Signals: SIGHUP reloads the configuration as a whole or not at all, and nothing but SIGINT and
//! SIGTERM ends the daemon.

use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::http::{self, ask};
use crate::harness::socket::{Pair, listen_in};
use crate::harness::{Daemon, Netns, Notices, PATIENCE, Scratch, eventually, output, tcplinger};

fn rules(age: &str) -> String {
    format!("[ages.close_wait]\nwarning = \"{age}\"\ncritical = \"2h\"\n")
}

/// Has the daemon reload, and waits for what it says then.
fn reload(daemon: &Daemon, words: &str) -> String {
    let before = daemon.log().len();
    daemon.signal(Signal::HUP);
    let told = eventually(PATIENCE, || {
        let log = daemon.log();
        let new = log.get(before..).unwrap_or_default();
        new.contains(words).then(|| new.to_owned())
    });
    told.unwrap_or_else(|| panic!("never {words:?}: {}", daemon.log()))
}

#[test]
fn rules_and_outlets_are_reloaded_and_what_is_refused_changes_nothing() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let daemon = Daemon::configured(&rules("1h"), &scratch);
    let notices = Notices::of(&daemon, &netns);
    let listener = listen_in(&netns, "127.0.0.1:0");
    let Pair { client, server } = Pair::new(&netns, &listener);
    drop(client);
    thread::sleep(Duration::from_secs(2));
    assert!(daemon.stuck(&netns, "").findings.is_empty());

    scratch.write(&rules("1s"));
    reload(&daemon, "configuration reloaded");
    assert_eq!(notices.next()["event"], "raised");

    for (bad, place) in [
        ("[ages.close_wait]\nwarning = \"-1s\"\n", "config.toml:2:11"),
        ("[leak]\ngrowth = 1\ngrowth = 2\n", "config.toml:3:1"),
        // Good, but for an outlet that cannot be opened.
        (
            &format!("{}[findings]\nfile = \"/nonexistent/file\"\n", rules("1h")),
            "/nonexistent/file",
        ),
    ] {
        scratch.write(bad);
        let told = reload(&daemon, "the old configuration stays in force");
        assert!(told.contains(place), "{told}");
        assert_eq!(daemon.stuck(&netns, "").findings.len(), 1);
    }
    notices.assert_silent();

    let file = scratch.path("findings.jsonl");
    scratch.write(&format!("{}[findings]\nfile = {file:?}\n", rules("1h")));
    reload(&daemon, "configuration reloaded");
    assert_eq!(notices.next()["event"], "cleared");
    let is_told = eventually(PATIENCE, || {
        let lines = fs::read_to_string(&file).ok()?;
        lines.contains("\"cleared\"").then_some(())
    });
    assert!(is_told.is_some(), "the new outlet has it, too");
    drop(server);
}

#[test]
fn what_takes_a_restart_is_named() {
    let scratch = Scratch::new();
    let daemon = Daemon::configured("[daemon]\nring_size = \"8MiB\"\n", &scratch);
    scratch.write("[daemon]\nring_size = \"16MiB\"\nsummary_every = \"1s\"\n");
    let told = reload(&daemon, "configuration reloaded");
    assert!(told.contains("[daemon] ring_size has changed"), "{told}");
    assert!(!told.contains("summary_every"), "{told}");
}

fn status_with(daemon: &Daemon, token: &str) -> u16 {
    let request = format!(
        "GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    );
    ask(daemon, &request).status
}

#[test]
fn a_new_token_is_in_force_at_once_at_the_same_address() {
    let scratch = Scratch::new();
    let (token, one, two) = (scratch.path("token"), "a".repeat(20), "b".repeat(20));
    fs::write(&token, &one).unwrap();
    let with_token = format!("[http]\nbearer_token_file = {token:?}\n");
    let config = scratch.write(&with_token);
    let daemon = Daemon::with(&format!("--listen 127.0.0.1:0 --config {config}"));
    assert_eq!(status_with(&daemon, &one), 200);
    let mut stream = http::connect(&daemon);
    let request = format!(
        "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {one}\r\n\r\n"
    );
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    assert!(stream.read(&mut [0; 4096]).unwrap() > 0);

    fs::write(&token, &two).unwrap();
    reload(&daemon, "configuration reloaded");
    assert_eq!(status_with(&daemon, &one), 401);
    assert_eq!(status_with(&daemon, &two), 200);
    // Who was let in by the old one is not served for ever.
    let ended = eventually(PATIENCE, || {
        matches!(stream.read(&mut [0; 4096]), Ok(0) | Err(_)).then_some(())
    });
    assert!(ended.is_some(), "the stream goes on");

    fs::write(&token, "short").unwrap();
    reload(&daemon, "the old configuration stays in force");
    assert_eq!(status_with(&daemon, &two), 200);
    scratch.write("");
    reload(&daemon, "configuration reloaded");
    assert_eq!(status_with(&daemon, "none"), 200);
}

/// Whether a process has taken a signal over from the kernel, which would end it.
fn catches(pid: u32, signal: Signal) -> Option<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask & (1 << (signal.as_raw() - 1)) != 0)
}

#[test]
fn only_sigint_and_sigterm_end_it_also_before_it_is_ready() {
    let scratch = Scratch::new();
    let control = scratch.path("control");
    let mut child = Command::new(tcplinger("").get_program())
        .args(["run", "--listen=off", "--control"])
        .arg(&control)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    let signals = [Signal::HUP, Signal::USR1, Signal::USR2];
    let is_deaf = eventually(PATIENCE, || {
        let all = signals.map(|signal| catches(child.id(), signal));
        all.iter().all(|caught| *caught == Some(true)).then_some(())
    });
    let signal = |signal| kill_process(pid, signal).unwrap();
    signals.into_iter().for_each(signal);
    let is_ready = eventually(PATIENCE, || {
        let mut status = tcplinger("status --source daemon --control");
        output(status.arg(&control)).status.success().then_some(())
    });
    signals.into_iter().for_each(signal);
    thread::sleep(Duration::from_millis(300));
    signal(Signal::TERM);
    let status = child.wait().unwrap();
    assert!(
        is_deaf.is_some() && is_ready.is_some() && status.success(),
        "{status}"
    );
    assert!(!control.exists());
}

/// Nobody asks, so nothing but the reload is a reason to look.
#[test]
fn what_the_new_rules_do_not_name_is_over() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let file = scratch.path("findings.jsonl");
    let findings = format!("[findings]\nfile = {file:?}\n");
    let daemon = Daemon::configured(&format!("{}{findings}", rules("1s")), &scratch);
    let listener = listen_in(&netns, "127.0.0.1:0");
    let Pair { client, server } = Pair::new(&netns, &listener);
    drop(client);
    let wait_for = |event: &str| {
        let wanted = [
            format!("\"{event}\""),
            format!("\"netns\":{}", netns.inode()),
        ];
        let told = eventually(PATIENCE, || {
            let lines = fs::read_to_string(&file).ok()?;
            let is_it = |line: &str| wanted.iter().all(|word| line.contains(word));
            lines.lines().any(is_it).then_some(())
        });
        assert!(
            told.is_some(),
            "never {event}: {:?}",
            fs::read_to_string(&file)
        );
    };
    wait_for("raised");
    scratch.write(&format!("{}{findings}", rules("1h")));
    reload(&daemon, "configuration reloaded");
    wait_for("cleared");
    drop(server);
}
