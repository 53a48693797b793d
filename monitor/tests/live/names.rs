//! Process names that no one would choose but an attacker: they stay text.

use std::net::TcpStream;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Daemon, Netns, PATIENCE, Program, Scratch, eventually, output, tcplinger};

/// Fifteen bytes at most each; and what none of the outputs may hold as it is.
const NAMES: [&[u8]; 8] = [
    b"two\nlines\r\t",
    b"\x1b[31mred\x1b[2J",
    b"\x1b]0;title\x07",
    b"q\"uo'te\\`$(x)",
    "\u{202e}bidi\u{2066}".as_bytes(),
    b"\xff\xfe\x80invalid",
    "\u{9b}31m\u{85}nel".as_bytes(),
    b"a|b=1;;;0 | c",
];

/// What a terminal, a log or a reader of lines could obey.
fn is_harmful(character: char) -> bool {
    let is_bidi = matches!(character, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    character.is_control() || is_bidi || matches!(character, '\u{2028}' | '\u{2029}')
}

fn assert_harmless(text: &[u8], what: &str) -> String {
    let text = String::from_utf8(text.to_vec()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let harmful = text
        .chars()
        .find(|character| is_harmful(*character) && *character != '\n');
    assert_eq!(harmful, None, "{what}: {text:?}");
    text
}

fn harmless(command: &mut Command) -> String {
    assert_harmless(&output(command).stdout, &format!("{command:?}"))
}

/// A server of that name, with a connection that it does not close.
fn named(netns: &Netns, name: &[u8]) -> Program {
    let mut server = Program::puppet(netns);
    let port: u16 = server.ask("listen 127.0.0.1 16");
    let numbers: Vec<String> = name.iter().map(u8::to_string).collect();
    server.tell(&format!("name {}", numbers.join(" ")));
    drop(netns.enter(|| TcpStream::connect(("127.0.0.1", port)).unwrap()));
    server.tell("accept");
    server
}

#[test]
fn hostile_process_names_stay_harmless() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let config = scratch.write(
        "[ages.close_wait]\nwarning = \"1s\"\ncritical = \"1h\"\n\
         [[count]]\nname = \"any\"\nstate = \"close_wait\"\nper = \"process\"\nwarning = 0\ncritical = 9\n",
    );
    let daemon = Daemon::with(&format!("--config {config}"));
    let json_log = Daemon::with(&format!("--log-format json --config {config}"));
    let servers = NAMES.map(|name| named(&netns, name));
    let inode = netns.inode();
    // Each process by the rule about counts, which takes its socket from the rule about ages.
    daemon.stuck_once(&netns, "--severity warning", |list| {
        list.findings.len() == NAMES.len()
    });

    let stuck = harmless(&mut daemon.command(&format!("stuck --source daemon --netns {inode}")));
    let owners = harmless(&mut tcplinger(&format!("owners --netns {inode}")));
    for server in &servers {
        let pid = server.pid().to_string();
        assert!(stuck.contains(&format!("[{pid}]")), "{stuck}");
        let rows = owners
            .lines()
            .filter(|line| line.split_whitespace().any(|word| word == pid));
        assert_eq!(rows.count(), 1, "{owners}");
    }
    harmless(&mut daemon.command("stuck --color always --rules"));
    let watch = "stuck --watch --source daemon --duration 300ms";
    let lines = harmless(&mut daemon.command(watch));
    assert!(lines.lines().count() >= NAMES.len(), "{lines}");
    let check = harmless(&mut daemon.command(&format!("check --netns {inode}")));
    assert_eq!(check.lines().count(), 1, "{check}");
    assert_eq!(check.matches('|').count(), 1, "{check}");

    // JSON is harmless to look at, too, and gives the name as the kernel has it.
    for (server, name) in servers.iter().zip(NAMES) {
        let name = String::from_utf8_lossy(name);
        for arguments in [
            "stuck --source daemon --format json",
            "owners --format json",
        ] {
            let mut command = if arguments.starts_with("stuck") {
                daemon.command(arguments)
            } else {
                tcplinger(arguments)
            };
            let json: Value = serde_json::from_str(&harmless(&mut command)).unwrap();
            let rows = json.as_array().unwrap().iter();
            let mut owners = rows.map(|row| row.get("owners").map_or(row, |owners| &owners[0]));
            let owner = owners.find(|owner| owner["pid"] == server.pid());
            assert_eq!(owner.unwrap()["comm"], *name);
        }
    }
    for daemon in [&daemon, &json_log] {
        let all_told = eventually(PATIENCE, || {
            let log = daemon.log();
            let told = |server: &Program| log.contains(&server.pid().to_string());
            servers.iter().all(told).then_some(log)
        });
        let log = all_told.unwrap_or_else(|| panic!("not all told: {}", daemon.log()));
        assert_harmless(log.as_bytes(), "the log");
    }
    for line in json_log.log().lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}
