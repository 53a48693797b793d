//! A peer that does not answer, or does not close: SYNs into a black hole, orphans, half-closed
//! connections.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use rustix::net::sockopt;
use serde_json::Value;

use crate::harness::socket::{Pair, listen_in, read_end};
use crate::harness::{
    Daemon, List, Moment, Netns, Program, Scratch, V4, Veth, output, run, stuck_by_kernel,
    tcplinger,
};

const ALL_TCP: &str = "meta l4proto tcp";

fn says(finding: &Value, words: &str) {
    assert!(
        finding["reason"].as_str().unwrap().contains(words),
        "{finding:#}"
    );
}

/// The finding's only owner, and its descriptor.
fn assert_owner(finding: &Value, program: &Program, fd: u32) {
    let owners = finding["owners"].as_array().unwrap();
    assert_eq!(owners.len(), 1, "{finding:#}");
    assert_eq!(owners[0]["pid"], program.pid());
    assert_eq!(owners[0]["fd"], fd);
    assert_eq!(finding["is_orphaned"], false);
}

fn assert_orphaned(finding: &Value) {
    assert_eq!(finding["is_orphaned"], true, "{finding:#}");
    assert_eq!(finding["owners"].as_array().unwrap().len(), 0);
}

/// `stuck --all` as text.
fn text(daemon: &Daemon, netns: &Netns) -> String {
    let netns = netns.inode();
    run(&mut daemon.command(&format!("stuck --all --source daemon --netns {netns}")))
}

fn has_retransmitted(list: &List) -> bool {
    let is_again = |finding: &Value| finding["retransmits"].as_u64().unwrap() > 0;
    !list.findings.is_empty() && list.findings.iter().all(is_again)
}

#[test]
fn a_client_before_a_black_hole() {
    let (wire, daemon) = (Veth::new(), Daemon::start());
    wire.left.sysctl("tcp_syn_retries", "2");
    wire.left.sysctl("tcp_syn_linear_timeouts", "2");
    wire.right.drop_incoming(ALL_TCP);
    let mut client = Program::puppet(&wire.left);
    let mut fd = 0;
    let begun = Moment::of(|| fd = client.ask("begin 10.77.0.2 4000"));

    let all = daemon.stuck_once(&wire.left, "--all", |list| list.findings.len() == 1);
    let finding = all.only("syn_sent");
    begun.assert_age(&all, finding);
    assert_owner(finding, &client, fd);
    assert_eq!(finding["remote"], "10.77.0.2:4000");
    // SYNs after 1, 2, 3 and 5 s, the end after 9; by default it would be two minutes.
    says(finding, "connect() fails after 9 s");
    let rules = run(&mut tcplinger(&format!(
        "stuck --rules --netns {}",
        wire.left.inode()
    )));
    assert!(rules.contains("tcp_syn_retries 2"), "{rules}");

    // The third retransmission is worth a warning, half of the time is critical.
    let all = daemon.stuck_once(&wire.left, "--all", |list| {
        let finding = list.only("syn_sent");
        let severity = match finding["age_seconds"].as_f64().unwrap() {
            ..3.0 => "none",
            ..4.5 => "warning",
            _ => "critical",
        };
        assert_eq!(finding["severity"], severity, "{finding:#}");
        severity == "critical"
    });
    let finding = all.only("syn_sent");
    begun.assert_age(&all, finding);
    assert_eq!(finding["retransmits"], 3, "{finding:#}");
    assert_eq!(finding["timer"], "retransmit");
    says(finding, "retransmitted 3 times");
    let stuck = stuck_by_kernel(&wire.left, "--all");
    begun.assert_bound(&stuck, stuck.only("syn_sent"));
}

/// Two namespaces, and a connection between a client on the left and this process on the right.
fn connected(wire: &Veth) -> (Program, u32, TcpStream) {
    let listener = listen_in(&wire.right, Veth::RIGHT[0]);
    let port = listener.local_addr().unwrap().port();
    let mut client = Program::puppet(&wire.left);
    let fd = client.ask(&format!("connect 10.77.0.2 {port}"));
    (client, fd, listener.accept().unwrap().0)
}

#[test]
fn an_orphan_whose_peer_is_gone() {
    let (wire, daemon) = (Veth::new(), Daemon::start());
    let (mut client, _, _server) = connected(&wire);
    wire.right.drop_incoming(ALL_TCP);
    client.tell("send 5000");
    let closed = Moment::of(|| drop(client.tell("close")));
    wire.left.settle(&[(V4, "FIN-WAIT-1", 1)]);
    let all = daemon.stuck_once(&wire.left, "--all", has_retransmitted);
    let finding = all.only("fin_wait1");
    closed.assert_age(&all, finding);
    assert_orphaned(finding);
    assert_eq!(finding["send_queue_bytes"], 5000);
    says(finding, "no process holds the socket");
    assert!(text(&daemon, &wire.left).contains("orphaned by its process"));
    let all = stuck_by_kernel(&wire.left, "--all");
    closed.assert_bound(&all, all.only("fin_wait1"));
    assert_orphaned(all.only("fin_wait1"));

    // The kernel ends it by itself: the advice says when, and needs no help from `ss -K`.
    let advice = finding["advice"].as_str().unwrap();
    assert!(advice.contains("drops an orphan"), "{advice}");
    assert!(!advice.contains("ss -K"), "{advice}");
}

/// Megabytes before a FIN, for a peer that reads a little now and then.
#[test]
fn an_orphan_whose_peer_reads_slowly_is_stuck_only_once_it_stops() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let soon = "[ages.fin_wait1]\nwarning = \"4s\"\ncritical = \"5s\"\n";
    let daemon = Daemon::configured(soon, &scratch);
    let listener = listen_in(&netns, "127.0.0.1:0");
    sockopt::set_socket_recv_buffer_size(&listener, 8192).unwrap();
    let Pair { client, mut server } = Pair::new(&netns, &listener);
    client.set_nonblocking(true).unwrap();
    while (&client).write(&[7; 8_192]).is_ok() {}
    let closed = Moment::of(|| drop(client));
    for _ in 0..12 {
        server.read_exact(&mut [0; 16_000]).unwrap();
        sleep(Duration::from_millis(500));
        let all = daemon.stuck(&netns, "--all --state fin_wait1");
        let finding = all.only("fin_wait1");
        assert_eq!(finding["severity"], "none", "{finding:#}");
        closed.assert_age(&all, finding);
    }
    let stuck = daemon.stuck_once(&netns, "--state fin_wait1", |list| {
        let mut reasons = list.findings.iter().map(|finding| &finding["reason"]);
        reasons.any(|reason| reason.as_str().unwrap().contains("does not read"))
    });
    assert_orphaned(stuck.only("fin_wait1"));
}

#[test]
fn a_last_ack_whose_peer_is_gone() {
    let (wire, scratch) = (Veth::new(), Scratch::new());
    let soon = "[ages.last_ack]\nwarning = \"1s\"\ncritical = \"1h\"\n";
    let daemon = Daemon::configured(soon, &scratch);
    let (mut client, _, server) = connected(&wire);
    drop(server);
    client.tell("drain");
    wire.right.drop_incoming(ALL_TCP);
    let closed = Moment::of(|| drop(client.tell("close")));
    wire.left.settle(&[(V4, "LAST-ACK", 1)]);
    let all = daemon.stuck_once(&wire.left, "--all", |list| list.findings.len() == 1);
    closed.assert_age(&all, all.only("last_ack"));
    assert_orphaned(all.only("last_ack"));

    let stuck = daemon.stuck_once(&wire.left, "--severity warning", |list| {
        list.findings.len() == 1
    });
    let finding = stuck.only("last_ack");
    assert_eq!(finding["severity"], "warning");
    says(finding, "the peer closed first");
    closed.assert_age(&stuck, finding);
    let netns = wire.left.inode();
    let shown = output(&mut daemon.command(&format!("stuck --source daemon --netns {netns}")));
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("orphaned by its process"), "{shown}");
}

#[test]
fn shutdown_that_no_close_follows() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let soon = "[ages.fin_wait2]\nwarning = \"1s\"\ncritical = \"2s\"\n";
    let daemon = Daemon::configured(soon, &scratch);
    let mut client = Program::puppet(&netns);
    let listener = listen_in(&netns, "127.0.0.1:0");
    let port = listener.local_addr().unwrap().port();
    let fd: u32 = client.ask(&format!("connect 127.0.0.1 {port}"));
    let (mut server, _) = listener.accept().unwrap();
    let shut = Moment::of(|| drop(client.tell("shutdown")));
    read_end(&mut server);
    for severity in ["warning", "critical"] {
        let stuck = daemon.stuck_once(&netns, "--state fin_wait2", |list| {
            list.findings
                .iter()
                .any(|found| found["severity"] == severity)
        });
        let finding = stuck.only("fin_wait2");
        assert_owner(finding, &client, fd);
        shut.assert_age(&stuck, finding);
        says(finding, "shutdown()");
    }
    // Where data still comes, the half-closed connection is in use, whatever its age.
    server.write_all(b"more").unwrap();
    let all = daemon.stuck(&netns, "--all --state fin_wait2");
    assert_eq!(all.only("fin_wait2")["severity"], "none");
    shut.assert_age(&all, all.only("fin_wait2"));
    server.shutdown(Shutdown::Both).unwrap();
    daemon.stuck_once(&netns, "--all --state fin_wait2", |list| {
        list.findings.is_empty()
    });
}

#[test]
fn an_orphan_in_fin_wait2_ends_by_itself_and_is_not_flagged() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let mut client = Program::puppet(&netns);
    let listener = listen_in(&netns, "127.0.0.1:0");
    let port = listener.local_addr().unwrap().port();
    client.tell(&format!("connect 127.0.0.1 {port}"));
    let (_server, _) = listener.accept().unwrap();
    let closed = Moment::of(|| drop(client.tell("close")));
    let all = daemon.stuck_once(&netns, "--all --state fin_wait2", |list| {
        list.findings.len() == 1
    });
    let finding = all.only("fin_wait2");
    closed.assert_age(&all, finding);
    assert_orphaned(finding);
    assert_eq!(finding["severity"], "none");
    assert_eq!(finding["timer"], "time_wait");
    says(finding, "ends by itself");
    assert!(daemon.stuck(&netns, "").findings.is_empty());
    // Older than the daemon, its age is not known.
    let all = stuck_by_kernel(&netns, "--all --state fin_wait2");
    closed.assert_bound(&all, all.only("fin_wait2"));
}
