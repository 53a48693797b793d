//! What the daemon gives up once it watches: tried from inside, and what has to work after that. Every
//! other test of a daemon runs with the sandbox, too.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::socket::{Pair, listen_in};
use crate::harness::{Daemon, Netns, PATIENCE, Scratch, eventually, run};

/// See the scripts.
const INTRUDE: &str = include_str!("programs/intrude.py");
const WITHOUT_SANDBOX: &str = include_str!("programs/without_sandbox.py");

const GIVEN_UP: &str = "has given up what it no longer needs";
/// `SYS_ADMIN`, `SYS_PTRACE`, `DAC_READ_SEARCH`, `NET_ADMIN` and `BPF` (`include/uapi/linux/capability.h`).
const LOOKING: u64 = 1 << 21 | 1 << 19 | 1 << 2 | 1 << 12 | 1 << 39;

/// A hexadecimal or decimal field of each thread's status, by the thread's name.
fn of_threads(daemon: &Daemon, field: &str) -> BTreeMap<String, u64> {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let of_thread = |path: &Path| {
        let name = fs::read_to_string(path.join("comm")).ok()?;
        let status = fs::read_to_string(path.join("status")).ok()?;
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        let value = u64::from_str_radix(value.trim(), 16).ok()?;
        Some((name.trim().to_owned(), value))
    };
    tasks
        .filter_map(|task| of_thread(&task.unwrap().path()))
        .collect()
}

fn started(arguments: &str) -> Daemon {
    let daemon = Daemon::with(arguments);
    let told = eventually(PATIENCE, || daemon.log().contains(GIVEN_UP).then_some(()));
    assert!(told.is_some(), "{}", daemon.log());
    daemon
}

#[test]
fn only_threads_that_look_at_others_keep_capabilities() {
    let daemon = started("--listen 127.0.0.1:0");
    let held = of_threads(&daemon, "CapEff");
    assert!(held.len() >= 7, "{held:?}");
    for (thread, held) in &held {
        let is_looking = ["inventory", "holders", "owners"].contains(&thread.as_str());
        let allowed = if is_looking { LOOKING } else { 0 };
        assert_eq!(*held, allowed, "{thread}: {held:x}");
    }
    let permitted = of_threads(&daemon, "CapPrm");
    assert_eq!(permitted, held, "what is not in effect could be taken back");
    let is_all = |field, value| of_threads(&daemon, field).values().all(|of| *of == value);
    assert!(is_all("NoNewPrivs", 1));
    assert!(is_all("Seccomp", 2));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn an_intruder_in_any_thread_gets_nothing() {
    let daemon = started("--listen 127.0.0.1:0");
    let mut intrude = Command::new("python3");
    intrude.args(["-c", INTRUDE, &daemon.pid().to_string()]);
    let found = run(&mut intrude);
    let found: BTreeMap<String, BTreeMap<String, i32>> = serde_json::from_str(&found).unwrap();
    for thread in [
        "tcplinger",
        "http",
        "inventory",
        "holders",
        "owners",
        "log",
        "signals",
    ] {
        let tried = found.get(thread);
        let tried = tried.unwrap_or_else(|| panic!("no thread {thread}: {found:?}"));
        for (call, errno) in tried {
            let is_refused = [libc::EPERM, libc::EACCES].contains(errno);
            assert!(is_refused, "{thread}: {call}: {errno}");
        }
    }
    assert!(!Path::new("/etc/tcplinger-intruder").exists());
    // It watches on.
    daemon.status("daemon");
}

#[test]
fn owners_and_namespaces_are_found_after_that_by_threads_that_may() {
    let scratch = Scratch::new();
    let daemon = Daemon::configured(
        "[ages.close_wait]\nwarning = \"1s\"\ncritical = \"1h\"\n",
        &scratch,
    );
    // Made after the rights were given up.
    let netns = Netns::new();
    let listener = listen_in(&netns, "127.0.0.1:0");
    let Pair { client, server } = Pair::new(&netns, &listener);
    drop(client);
    thread::sleep(Duration::from_secs(2));
    let found = eventually(PATIENCE, || {
        let found = daemon.stuck(&netns, "").findings;
        (!found.is_empty()).then_some(found)
    });
    let found = found.expect("a finding");
    let owner = u64::from(std::process::id());
    assert_eq!(found[0]["owners"][0]["pid"], owner, "{found:?}");
    assert!(found[0]["owners"][0]["exe"].is_string(), "{found:?}");
    drop(server);
}

#[test]
fn a_file_that_a_reload_puts_out_of_reach_is_named() {
    let scratch = Scratch::new();
    let daemon = Daemon::configured("", &scratch);
    scratch.write("[findings]\nfile = \"/root/tcplinger-findings.jsonl\"\n");
    daemon.signal(Signal::HUP);
    let told = eventually(PATIENCE, || {
        let log = daemon.log();
        log.contains("/root/tcplinger-findings.jsonl: the daemon has given up the right")
            .then_some(log)
    });
    let told = told.unwrap_or_else(|| panic!("{}", daemon.log()));
    assert!(
        told.contains("the old configuration stays in force"),
        "{told}"
    );
    assert!(!Path::new("/root/tcplinger-findings.jsonl").exists());
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_kernel_without_landlock_and_seccomp_is_told_once_each() {
    let daemon = Daemon::wrapped(&["python3", "-c", WITHOUT_SANDBOX], "");
    let log = eventually(PATIENCE, || {
        let log = daemon.log();
        log.contains("no system call is forbidden").then_some(log)
    });
    let log = log.unwrap_or_else(|| panic!("{}", daemon.log()));
    for words in ["no landlock", "no system call is forbidden"] {
        assert_eq!(log.matches(words).count(), 1, "{words}: {log}");
    }
    let held = of_threads(&daemon, "CapEff");
    assert_eq!(held["tcplinger"], 0);
}

#[test]
fn without_the_sandbox_it_says_so_and_keeps_all() {
    let daemon = Daemon::with("--sandbox=false");
    let log = eventually(PATIENCE, || {
        let log = daemon.log();
        log.contains("no sandbox").then_some(log)
    });
    assert!(log.is_some(), "{}", daemon.log());
    assert!(
        of_threads(&daemon, "CapEff")
            .values()
            .all(|held| *held != 0)
    );
}
