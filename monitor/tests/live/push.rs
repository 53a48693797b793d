//! What is pushed: metrics and findings to a collector, findings as lines to a file or to stdout.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::collector::{Collector, Manners, body, integer, text};
use crate::harness::socket::{Pair, listen_in};
use crate::harness::{
    Daemon, Netns, PATIENCE, Program, Scratch, eventually, output, run, tcplinger,
};

/// A rule with an age that a test can wait for, in its own namespace: what others leave there is none
/// of its business.
fn soon(netns: &Netns, warning: &str) -> String {
    let netns = netns.inode();
    format!(
        "[[socket]]\nname = \"soon\"\nstate = \"close_wait\"\nnetns = {netns}\n\
         warning = \"{warning}\"\ncritical = \"1h\"\n"
    )
}

/// A server in another process that has not closed what its peer has; the peer's port.
fn neglected(netns: &Netns) -> (Program, u16) {
    let mut server = Program::puppet(netns);
    let port: u16 = server.ask("listen 127.0.0.1 16");
    let client = netns.enter(|| TcpStream::connect(("127.0.0.1", port)).unwrap());
    server.tell("accept");
    (server, client.local_addr().unwrap().port())
}

/// Names of the events about a namespace that arrive, once there are so many.
fn events(collector: &Collector, netns: &Netns, number: usize) -> Vec<String> {
    collector.wait_for("such events", |received| {
        let records = received.records(netns.inode());
        let names = records.into_iter().map(|record| record.event_name);
        Some(names.collect::<Vec<_>>()).filter(|names| names.len() >= number)
    })
}

#[test]
fn a_collector_gets_metrics_and_findings() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let collector = Collector::start(Manners::Good);
    let token = scratch.path("token");
    fs::write(&token, "first\n").unwrap();
    let config = format!(
        "{}bearer_token_file = \"{}\"\n{}",
        collector.config(),
        token.display(),
        soon(&netns, "1s")
    );
    let mut daemon = Daemon::configured(&config, &scratch);

    let request = collector.wait_for("metrics", |received| received.metrics.first().cloned());
    let resource = &request.resource_metrics[0];
    let attributes = &resource.resource.as_ref().unwrap().attributes;
    assert_eq!(text(attributes, "service.name"), Some("tcplinger"));
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(text(attributes, "host.name"), Some(host.trim()));
    assert_eq!(text(attributes, "service.instance.id"), Some(host.trim()));
    assert!(!resource.scope_metrics[0].metrics.is_empty());

    let before = SystemTime::now();
    let (mut server, client_port) = neglected(&netns);
    events(&collector, &netns, 1);
    server.tell("close");
    let names = events(&collector, &netns, 2);
    assert_eq!(
        names,
        ["tcplinger.finding.raised", "tcplinger.finding.cleared"]
    );
    for (record, severity) in collector
        .records(netns.inode())
        .iter()
        .zip(["WARN", "INFO"])
    {
        assert_eq!(record.severity_text, severity);
        let seen = UNIX_EPOCH + Duration::from_nanos(record.time_unix_nano);
        assert!((before..SystemTime::now()).contains(&seen), "{seen:?}");
        assert!(record.observed_time_unix_nano >= record.time_unix_nano);
        let all = &record.attributes;
        assert_eq!(text(all, "network.connection.state"), Some("close_wait"));
        assert_eq!(text(all, "network.peer.address"), Some("127.0.0.1"));
        assert_eq!(integer(all, "network.peer.port"), Some(client_port.into()));
        assert_eq!(integer(all, "process.pid"), Some(server.pid().into()));
        assert!(
            text(all, "process.executable.name")
                .unwrap()
                .starts_with("python3")
        );
        assert!(body(record).contains("close"), "{}", body(record));
    }

    // A new token counts from the next request on; so does what the last moment brings.
    fs::write(&token, "second\n").unwrap();
    collector.wait_for("new token", |received| {
        let head = received.heads.last()?;
        assert!(head.contains(&"content-type: application/x-protobuf".to_owned()));
        head.contains(&"authorization: bearer second".to_owned())
            .then_some(())
    });
    let (_server, _) = neglected(&netns);
    daemon.stuck_once(&netns, "", |list| list.findings.len() == 1);
    let ended = Instant::now();
    assert!(daemon.end(Signal::TERM).success());
    assert!(ended.elapsed() < Duration::from_secs(2));
    assert_eq!(collector.records(netns.inode()).len(), 3);
    assert_eq!(
        daemon.log().matches("the collector").count(),
        0,
        "{}",
        daemon.log()
    );
}

/// Lines of the log about the push.
fn told(daemon: &Daemon, sink: &str) -> Vec<String> {
    let log = daemon.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("the collector") && line.contains(sink));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_collector_that_comes_late_gets_the_findings() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let address = Collector::start(Manners::Good).address();
    let soon = soon(&netns, "1s");
    let config = format!("[otlp]\nendpoint = \"http://{address}\"\ninterval = \"1s\"\n{soon}");
    let daemon = Daemon::configured(&config, &scratch);
    let (_server, _) = neglected(&netns);
    let is_told = || (told(&daemon, "otlp_logs").len() == 1).then_some(());
    assert!(eventually(PATIENCE, is_told).is_some(), "{}", daemon.log());

    let collector = Collector::at(address, Manners::Refusing(503));
    let is_asked = || (collector.asked() >= 3).then_some(());
    assert!(eventually(PATIENCE, is_asked).is_some());
    collector.behave(Manners::Good);
    assert_eq!(events(&collector, &netns, 1), ["tcplinger.finding.raised"]);
    collector.wait_for("metrics", |received| received.metrics.first().cloned());
    for (sink, dropped) in [("otlp_logs", "dropped=0"), ("otlp_metrics", "dropped=")] {
        let is_told = || Some(told(&daemon, sink)).filter(|lines| lines.len() == 2);
        let lines = eventually(PATIENCE, is_told).unwrap_or_else(|| panic!("{}", daemon.log()));
        assert!(lines[0].contains("does not accept"), "{lines:?}");
        assert!(
            lines[1].contains("accepts") && lines[1].contains(dropped),
            "{lines:?}"
        );
    }
}

#[test]
fn what_a_collector_will_never_take_is_not_sent_again() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let collector = Collector::start(Manners::Refusing(404));
    let config = collector.config().replace("1s", "1h") + &soon(&netns, "1s");
    let daemon = Daemon::configured(&config, &scratch);
    let (_server, _) = neglected(&netns);
    let is_told = || (told(&daemon, "otlp_logs").len() == 1).then_some(());
    assert!(eventually(PATIENCE, is_told).is_some(), "{}", daemon.log());
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(collector.refused(netns.inode()), 1);
    let log = told(&daemon, "otlp_metrics");
    assert!(log[0].contains("404") && log[0].contains("no;"), "{log:?}");
}

/// Bytes that the daemon has in memory.
fn resident(daemon: &Daemon) -> u64 {
    let pages = fs::read_to_string(format!("/proc/{}/statm", daemon.pid())).unwrap();
    let pages: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn a_collector_that_hangs_holds_nothing_up() {
    for manners in [Manners::Silent, Manners::Trickling, Manners::Garbled] {
        let (netns, scratch) = (Netns::new(), Scratch::new());
        let collector = Collector::start(manners);
        let config = collector.config() + &soon(&netns, "100ms");
        let mut daemon = Daemon::configured(&config, &scratch);
        let is_asked = || (collector.asked() > 0).then_some(());
        assert!(eventually(PATIENCE, is_asked).is_some());
        let before = resident(&daemon);
        let (mut slowest, began) = (Duration::ZERO, Instant::now());
        // More than one request may take.
        while began.elapsed() < Duration::from_secs(7) {
            let pairs: Vec<Pair> = (0..50)
                .map(|_| Pair::new(&netns, &listen_in(&netns, "127.0.0.1:0")))
                .collect();
            let servers: Vec<TcpStream> = pairs.into_iter().map(|pair| pair.server).collect();
            std::thread::sleep(Duration::from_millis(400));
            drop(servers);
            let asked = Instant::now();
            daemon.status("daemon");
            slowest = slowest.max(asked.elapsed());
        }
        assert!(slowest < Duration::from_secs(3), "{manners:?}: {slowest:?}");
        let grown = resident(&daemon).saturating_sub(before);
        assert!(grown < 16 << 20, "{manners:?}: {grown} bytes");
        assert!(collector.asked() > 1, "{manners:?}: one request has no end");
        assert_eq!(told(&daemon, "otlp_metrics").len(), 1, "{}", daemon.log());
        let ended = Instant::now();
        assert!(daemon.end(Signal::TERM).success());
        assert!(ended.elapsed() < Duration::from_secs(4), "{manners:?}");
        eprintln!(
            "{manners:?}: slowest answer {slowest:?}, grown by {} KiB",
            grown >> 10
        );
    }
}

/// Incidents, each of a service of its own, of some 2 KB each: more than a pipe holds.
const CROWD: usize = 150;

/// The findings about a namespace in files of JSON lines.
fn lines(files: &[&Path], netns: &Netns) -> Vec<Value> {
    let mut all = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap_or_default();
        // A reader may see the beginning of a line that is just being written.
        let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
        for line in whole.lines() {
            let notice: Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            all.push(notice);
        }
    }
    all.retain(|notice| notice["netns"] == netns.inode());
    all
}

/// A configuration that writes findings of a namespace to a file.
fn findings(file: &Path, netns: &Netns) -> String {
    let (file, soon) = (file.display(), soon(netns, "100ms"));
    format!("[findings]\nfile = \"{file}\"\nrotate_at = \"128KiB\"\nkeep = 2\n{soon}")
}

#[test]
fn findings_in_a_file_that_rotates_and_is_moved_away() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let file = scratch.path("findings.jsonl");
    let rotated = scratch.path("findings.jsonl.1");
    let mut daemon = Daemon::configured(&findings(&file, &netns), &scratch);
    let leave = |number: usize| {
        let pairs = (0..number).map(|_| Pair::new(&netns, &listen_in(&netns, "127.0.0.1:0")));
        pairs.map(|pair| pair.server).collect::<Vec<_>>()
    };
    let servers = leave(80);
    let is_raised = |number| {
        move |lines: &Vec<Value>| {
            let raised = lines.iter().filter(|notice| notice["event"] == "raised");
            raised.count() == number
        }
    };
    let oldest = scratch.path("findings.jsonl.2");
    let files = [&*oldest, &*rotated, &*file];
    let all = eventually(PATIENCE, || {
        Some(lines(&files, &netns)).filter(is_raised(80))
    });
    assert!(all.is_some(), "{:#?}", lines(&files, &netns));
    drop(servers);
    let is_told = || (lines(&files, &netns).len() == 160).then_some(());
    assert!(eventually(PATIENCE, is_told).is_some());
    let size = fs::metadata(&rotated).expect("it was rotated").size();
    assert!((1..=1 << 17).contains(&size), "{size}");
    assert!(!scratch.path("findings.jsonl.3").exists());

    let moved = scratch.path("moved");
    fs::rename(&file, &moved).unwrap();
    let servers = leave(1);
    let is_told = || (lines(&[&*file], &netns).len() == 1).then_some(());
    assert!(eventually(PATIENCE, is_told).is_some());
    drop(servers);
    // What the last moment brings.
    let is_over = || daemon.stuck(&netns, "").findings.is_empty().then_some(());
    assert!(eventually(PATIENCE, is_over).is_some());
    assert!(daemon.end(Signal::TERM).success());
    assert_eq!(lines(&[&*file], &netns).len(), 2);
    let time = lines(&[&*file], &netns)[0]["time"].clone();
    let today = run(Command::new("date").args(["-u", "+%Y-%m-%dT%H:"]));
    assert!(
        time.as_str().unwrap().starts_with(&today.trim()[..11]),
        "{time}"
    );
}

#[test]
fn findings_on_a_stdout_that_stalls_and_closes() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let fifo = scratch.path("stdout");
    run(Command::new("mkfifo").arg(&fifo));
    // Both ends, so that neither open waits.
    let held = File::options().read(true).write(true).open(&fifo).unwrap();
    let reader = File::open(&fifo).unwrap();
    let config = scratch.write(&findings(Path::new("stdout"), &netns));
    let shell = format!("exec \"$0\" \"$@\" > {}", fifo.display());
    let arguments = format!("--config {config}");
    let mut daemon = Daemon::wrapped(&["sh", "-c", &shell], &arguments);
    drop(held);
    let leave = || {
        let pairs = (0..CROWD).map(|_| Pair::new(&netns, &listen_in(&netns, "127.0.0.1:0")));
        pairs.map(|pair| pair.server).collect::<Vec<_>>()
    };
    let servers = leave();
    daemon.stuck_once(&netns, "", |list| list.findings.len() == CROWD);
    daemon.status("daemon");

    // What waited comes when it is read.
    let mut reader = BufReader::new(reader);
    let mut seen = 0;
    while seen < CROWD {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0);
        let notice: Value = serde_json::from_str(&line).unwrap();
        seen += usize::from(notice["netns"] == netns.inode());
    }
    drop(reader);
    drop(servers);
    let is_told = || daemon.log().contains("stdout is closed").then_some(());
    assert!(eventually(PATIENCE, is_told).is_some(), "{}", daemon.log());
    let servers = leave();
    daemon.stuck_once(&netns, "", |list| list.findings.len() == CROWD);
    drop(servers);
    assert!(daemon.end(Signal::TERM).success());
    let log = daemon.log();
    assert_eq!(log.matches("stdout is closed").count(), 1, "{log}");
    assert_eq!(log.matches("too slow").count(), 0, "{log}");
}

#[test]
fn a_reader_that_stopped_does_not_hold_up_the_end() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let fifo = scratch.path("stdout");
    run(Command::new("mkfifo").arg(&fifo));
    let _held = File::options().read(true).write(true).open(&fifo).unwrap();
    let config = scratch.write(&findings(Path::new("stdout"), &netns));
    let shell = format!("exec \"$0\" \"$@\" > {}", fifo.display());
    let arguments = format!("--config {config}");
    let mut daemon = Daemon::wrapped(&["sh", "-c", &shell], &arguments);
    let pairs = (0..CROWD).map(|_| Pair::new(&netns, &listen_in(&netns, "127.0.0.1:0")));
    let _servers: Vec<TcpStream> = pairs.map(|pair| pair.server).collect();
    daemon.stuck_once(&netns, "", |list| list.findings.len() == CROWD);
    let ended = Instant::now();
    assert!(daemon.end(Signal::TERM).success());
    assert!(ended.elapsed() < Duration::from_secs(3));
}

#[test]
fn an_outlet_that_cannot_be_opened_is_told_at_once() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let missing = scratch.path("none/findings");
    let link = scratch.path("link");
    std::os::unix::fs::symlink("target", &link).unwrap();
    let otlp = |line: &str| format!("[otlp]\nendpoint = \"https://127.0.0.1:1\"\n{line}");
    let key = |key: &str| otlp(&format!("{key} = \"{}\"\n", missing.display()));
    for (config, words) in [
        (findings(&missing, &netns), "mkdir -p"),
        (findings(&link, &netns), "symbolic link"),
        (key("bearer_token_file"), "omit bearer_token_file"),
        (key("tls_ca"), "omit [otlp] tls_ca"),
        (otlp("").replace(":1\"", ":port\""), "is not a URL"),
    ] {
        let config = scratch.write(&config);
        let control = scratch.path("control");
        let mut command = tcplinger(&format!("run --duration 5s --config {config} --control"));
        let refused = output(command.arg(control));
        let message = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{message}");
        assert!(message.contains(words), "{message}");
    }
}
