//! The peer has closed and the process does not: which socket, since when, whose, and why.

use std::fs;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Daemon, List, Moment, Netns, Program, Scratch, V4, output, owners, stuck_by_kernel,
};

/// Ages that a test can wait for.
const SOON: &str = "[ages.close_wait]\nwarning = \"1s\"\ncritical = \"2s\"\n";

/// A server that never closes, and where it listens.
struct Server {
    program: Program,
    port: u16,
}

impl Server {
    fn new(netns: &Netns) -> Self {
        let mut program = Program::puppet(netns);
        let port = program.ask("listen 127.0.0.1 16");
        Self { program, port }
    }

    fn connect(&self, netns: &Netns) -> TcpStream {
        netns.enter(|| TcpStream::connect(("127.0.0.1", self.port)).unwrap())
    }

    /// A connection that it accepted, sent so much, and closed by the client.
    fn abandoned(&mut self, netns: &Netns, bytes: usize) -> Abandoned {
        let client = self.connect(netns);
        let fd = self.program.ask("accept");
        Self::abandon(client, fd, bytes)
    }

    fn abandon(mut client: TcpStream, fd: u32, bytes: usize) -> Abandoned {
        std::io::Write::write_all(&mut client, &vec![7; bytes]).unwrap();
        let client_port = client.local_addr().unwrap().port();
        let closed = Moment::of(|| drop(client));
        Abandoned {
            fd,
            client_port,
            closed,
        }
    }

    /// It is named as the only owner, with the descriptor that /proc shows for the same socket.
    fn assert_owns(&self, finding: &Value, fd: impl Into<Option<u32>>) {
        let (pid, fd) = (self.program.pid(), fd.into());
        let owners = finding["owners"].as_array().unwrap();
        assert_eq!(owners.len(), 1, "{finding:#}");
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!(owners[0]["pid"], pid);
        assert_eq!(owners[0]["comm"], comm.trim_end());
        assert_eq!(owners[0]["uid"], 0);
        assert_eq!(owners[0]["fd"], json!(fd));
        if let Some(fd) = fd {
            let link = fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
            assert!(link.to_string_lossy().starts_with("socket:["));
        }
        assert_eq!(finding["is_orphaned"], false);
    }
}

/// What is left of such a connection.
struct Abandoned {
    fd: u32,
    client_port: u16,
    closed: Moment,
}

fn age(finding: &Value) -> f64 {
    finding["age_seconds"].as_f64().unwrap()
}

/// Its severity is the one that [`SOON`] gives its age.
fn assert_soon(finding: &Value) {
    // The kernel, whose idle times count too, has ticks.
    let severities: &[&str] = match age(finding) {
        ..1.0 => &["none"],
        ..1.02 => &["none", "warning"],
        ..2.0 => &["warning"],
        ..2.02 => &["warning", "critical"],
        _ => &["critical"],
    };
    let severity = finding["severity"].as_str().unwrap();
    assert!(severities.contains(&severity), "{finding:#}");
}

fn says(finding: &Value, words: &str) {
    assert!(
        finding["reason"].as_str().unwrap().contains(words),
        "{finding:#}"
    );
}

fn has(number: usize) -> impl Fn(&List) -> bool {
    move |list| list.findings.len() == number
}

#[test]
fn a_server_that_never_closes() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let daemon = Daemon::configured(SOON, &scratch);
    let mut server = Server::new(&netns);
    let unread = server.abandoned(&netns, 1_000);
    let read = server.abandoned(&netns, 500);
    server.program.tell("drain");
    netns.settle(&[
        (V4, "LISTEN", 1),
        (V4, "CLOSE-WAIT", 2),
        (V4, "FIN-WAIT-2", 2),
    ]);

    let all = daemon.stuck_once(&netns, "--all --state close_wait", has(2));
    for connection in [&unread, &read] {
        let finding = all.to_port(connection.client_port);
        connection.closed.assert_age(&all, finding);
        server.assert_owns(finding, connection.fd);
        assert_eq!(finding["severity"], "none");
        assert_eq!(finding["netns"], netns.inode());
        assert_eq!(finding["local"], format!("127.0.0.1:{}", server.port));
    }
    let finding = all.to_port(unread.client_port);
    assert_eq!(finding["recv_queue_bytes"], 1_000);
    says(finding, "still unread");
    let finding = all.to_port(read.client_port);
    assert_eq!(finding["recv_queue_bytes"], 0);
    says(finding, "read everything");
    // It never sent any.
    let reason = finding["reason"].as_str().unwrap();
    assert!(!reason.contains("last sent"), "{reason}");

    // A third one is later by what lies between: the ages of one answer are of one moment.
    sleep(Duration::from_millis(700));
    let late = server.abandoned(&netns, 0);
    let stuck = daemon.stuck_once(&netns, "--all --state close_wait", has(3));
    let finding = stuck.to_port(late.client_port);
    late.closed.assert_age(&stuck, finding);
    says(finding, "not read the end");
    let between = age(stuck.to_port(unread.client_port)) - age(finding);
    unread.closed.assert_between(&late.closed, between);

    let stuck = daemon.stuck_once(&netns, "--all --state close_wait", |list| {
        list.findings.iter().for_each(assert_soon);
        let is_critical = |finding: &Value| finding["severity"] == "critical";
        list.findings.iter().all(is_critical)
    });
    assert_eq!(stuck.findings.len(), 3);
    unread
        .closed
        .assert_age(&stuck, stuck.to_port(unread.client_port));
    let text = daemon.command("stuck --each").output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    let owner = format!("[{}] fd {}", server.program.pid(), unread.fd);
    assert!(text.contains("CRITICAL") && text.contains(&owner), "{text}");

    for _ in 0..3 {
        server.program.tell("close");
    }
    daemon.stuck_once(&netns, "--all --state close_wait", has(0));
}

#[test]
fn what_is_older_than_the_daemon_is_at_least_so_old() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let mut server = Server::new(&netns);
    let unread = server.abandoned(&netns, 10);
    sleep(Duration::from_millis(1_200));
    let daemon = Daemon::configured(SOON, &scratch);
    let stuck = daemon.stuck_once(&netns, "--state close_wait", has(1));
    let finding = stuck.only("close_wait");
    unread.closed.assert_bound(&stuck, finding);
    server.assert_owns(finding, unread.fd);
    says(finding, "at least");
    // Nothing has come since, so here the bound is good.
    assert!(age(finding) > 1.0, "{finding:#}");

    // It never becomes younger, and what comes under the daemon is exact beside it.
    let later = server.abandoned(&netns, 10);
    let both = daemon.stuck_once(&netns, "--all --state close_wait", has(2));
    unread
        .closed
        .assert_bound(&both, both.to_port(unread.client_port));
    later
        .closed
        .assert_age(&both, both.to_port(later.client_port));
    assert!(age(both.to_port(unread.client_port)) >= age(finding));
}

#[test]
fn without_a_daemon_the_kernel_gives_a_bound() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let mut server = Server::new(&netns);
    let unread = server.abandoned(&netns, 123);
    netns.settle(&[
        (V4, "LISTEN", 1),
        (V4, "CLOSE-WAIT", 1),
        (V4, "FIN-WAIT-2", 1),
    ]);
    let all = stuck_by_kernel(&netns, "--all --state close_wait");
    let finding = all.only("close_wait");
    unread.closed.assert_bound(&all, finding);
    server.assert_owns(finding, unread.fd);
    assert_eq!(finding["recv_queue_bytes"], 123);

    sleep(Duration::from_millis(1_200));
    let config = format!("--config {}", scratch.write(SOON));
    let stuck = stuck_by_kernel(&netns, &config);
    let finding = stuck.only("close_wait");
    assert_ne!(finding["severity"], "none");
    unread.closed.assert_bound(&stuck, finding);
    let text = output(&mut crate::harness::tcplinger(&format!(
        "stuck --each --source kernel --netns {} {config}",
        netns.inode()
    )));
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(">="), "{text}");
}

#[test]
fn every_process_that_shares_a_socket_is_named() {
    let netns = Netns::new();
    let mut server = Server::new(&netns);
    let client = server.connect(&netns);
    let fd: u32 = server.program.ask("accept");
    let mut pids: Vec<u32> = (0..3).map(|_| server.program.ask("fork")).collect();
    pids.push(server.program.pid());
    pids.sort_unstable();
    Server::abandon(client, fd, 0);
    let daemon = Daemon::start();
    for list in [
        daemon.stuck_once(&netns, "--all --state close_wait", has(1)),
        stuck_by_kernel(&netns, "--all --state close_wait"),
    ] {
        let finding = list.only("close_wait");
        let holders = finding["owners"].as_array().unwrap();
        let mut found: Vec<u32> = holders
            .iter()
            .map(|owner| owner["pid"].as_u64().unwrap().try_into().unwrap())
            .collect();
        found.sort_unstable();
        assert_eq!(found, pids, "{finding:#}");
        assert!(holders.iter().all(|owner| owner["fd"] == fd), "{finding:#}");
        let advice = finding["advice"].as_str().unwrap();
        assert!(advice.contains("3 more"), "{advice}");
    }
    let rows = owners(&netns, "--state close_wait");
    assert_eq!(rows.len(), 4, "{rows:#?}");
    assert!(rows.iter().all(|row| row["sockets"]["close_wait"] == 1));

    // With the last holder but one gone, one is left to name.
    server.program.tell("close");
    let list = daemon.stuck(&netns, "--all --state close_wait");
    assert_eq!(
        list.only("close_wait")["owners"].as_array().unwrap().len(),
        3
    );
}

#[test]
fn connections_that_nobody_accepts() {
    let netns = Netns::new();
    let (daemon, server) = (Daemon::start(), Server::new(&netns));
    let waiting = Server::abandon(server.connect(&netns), 0, 77);
    for list in [
        daemon.stuck_once(&netns, "--all --state close_wait", has(1)),
        stuck_by_kernel(&netns, "--all --state close_wait"),
    ] {
        let finding = list.to_port(waiting.client_port);
        server.assert_owns(finding, None);
        says(finding, "accept()");
        says(finding, "accept queue");
        assert_eq!(finding["recv_queue_bytes"], 77);
        assert!(finding["advice"].as_str().unwrap().contains("listener"));
    }
    let list = daemon.stuck(&netns, "--all --state close_wait");
    waiting.closed.assert_age(&list, list.only("close_wait"));
}
