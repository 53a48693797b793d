//! Ephemeral ports and `TIME_WAIT` buckets that run short: counted as `ss` counts them, told before
//! the end, and the end foretold.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::server::{Load, Notices, about, finding, ports, stuck_by};
use crate::harness::socket::{Pair, listen_in, read_end};
use crate::harness::{Daemon, Netns, PATIENCE, V4, Veth, eventually, output, run, tcplinger};

/// On the right of the wire; no port that `connect()` chooses on the left.
const SERVER: &str = "10.77.0.2:8080";
/// Ports 20000 to 20999 without the 100 that are reserved.
const CAPACITY: u64 = 900;
/// A second.
const RATE: u32 = 75;

/// A client with [`CAPACITY`] ports, and a server that closes when its client has.
struct Narrow {
    wire: Veth,
    listener: TcpListener,
}

impl Narrow {
    fn new(tw_reuse: &str) -> Self {
        let wire = Veth::new();
        wire.left.sysctl("ip_local_port_range", "20000 20999");
        wire.left
            .sysctl("ip_local_reserved_ports", "20100-20149,20950-20999");
        wire.left.sysctl("tcp_tw_reuse", tw_reuse);
        let listener = listen_in(&wire.right, SERVER);
        Self { wire, listener }
    }

    fn serve(&self) {
        let listener = self.listener.try_clone().unwrap();
        thread::spawn(move || {
            while listener
                .accept()
                .is_ok_and(|(mut it, _)| is_served(&mut it))
            {}
        });
    }

    /// Connections that last: they hold ports, too.
    fn hold(&self, number: usize) -> Vec<Pair> {
        let pair = |_| Pair::new(&self.wire.left, &self.listener);
        (0..number).map(pair).collect()
    }

    fn row(&self, daemon: &Daemon, source: &str) -> Value {
        let report = ports(daemon, &self.wire.left, source);
        let rows = report["ports"].as_array().unwrap();
        assert_eq!(rows.len(), 1, "{report:#}");
        rows[0].clone()
    }

    /// The row is what `ss` says, once nothing moves.
    fn assert_exact(&self, daemon: &Daemon, held: u64, reusable: bool) {
        let at_rest = self.wire.left.rest().expect("nothing moves any more");
        let time_wait = at_rest[&(V4, "TIME-WAIT".to_owned())];
        assert_eq!(at_rest[&(V4, "ESTAB".to_owned())], held);
        for source in ["daemon", "kernel"] {
            let row = self.row(daemon, source);
            let told = ["used", "time_wait", "reusable", "capacity"].map(|key| row[key].clone());
            let truth = if reusable {
                [held, 0, time_wait, CAPACITY]
            } else {
                [held + time_wait, time_wait, 0, CAPACITY]
            };
            assert_eq!(told, truth.map(Value::from), "--source {source}: {row:#}");
            assert_eq!(
                (&row["local"], &row["remote"]),
                (&"10.77.0.1".into(), &SERVER.into())
            );
        }
    }
}

/// Waits for the client's end and closes; false when the client asks for the end of it all.
fn is_served(connection: &mut TcpStream) -> bool {
    read_end(connection);
    true
}

/// Connects and closes, [`RATE`] a second, until `connect()` fails: then tells when, and how.
fn until_it_fails(netns: &Netns) -> (Load, mpsc::Receiver<(Instant, io::ErrorKind)>) {
    let (sender, failed) = mpsc::channel();
    let address: SocketAddr = SERVER.parse().unwrap();
    let load = Load::start(netns, RATE, move || match TcpStream::connect(address) {
        Ok(_) => true,
        Err(error) => {
            sender.send((Instant::now(), error.kind())).unwrap();
            false
        }
    });
    (load, failed)
}

/// Seconds until `row` says that the ports run out.
fn predicted(row: &Value) -> f64 {
    let left = row["exhausted_in_seconds"].as_f64();
    left.unwrap_or_else(|| panic!("no prediction: {row:#}"))
}

#[test]
fn the_end_of_the_ports_is_foretold() {
    let (narrow, daemon) = (Narrow::new("0"), Daemon::start());
    let held = narrow.hold(10);
    narrow.serve();
    let (_load, failed) = until_it_fails(&narrow.wire.left);
    let is_half = || narrow.row(&daemon, "daemon")["used"].as_u64() > Some(CAPACITY * 2 / 5);
    assert!(eventually(PATIENCE, || is_half().then_some(())).is_some());
    let told = ["daemon", "kernel"].map(|source| {
        let asked = Instant::now();
        let left = predicted(&narrow.row(&daemon, source));
        (source, left, asked, Instant::now())
    });

    let (end, error) = failed.recv_timeout(2 * PATIENCE).expect("ports run out");
    assert_eq!(error, io::ErrorKind::AddrNotAvailable);
    for (source, left, asked, answered) in told {
        // It looked at some moment between question and answer.
        let [most, least] = [asked, answered].map(|moment| (end - moment).as_secs_f64());
        eprintln!("{source}: told {left:.2} s to go, in truth {least:.2} to {most:.2} s");
        assert!(
            (0.85 * least..1.15 * most).contains(&left),
            "{source}: {left}"
        );
    }
    narrow.assert_exact(&daemon, 10, false);
    let row = narrow.row(&daemon, "daemon");
    assert!(predicted(&row) <= 0.0, "{row:#}");
    drop(held);
}

/// Nobody asks the daemon for ports here: it looks by itself, and says so in time.
#[test]
fn the_daemon_warns_before_the_ports_run_out() {
    let (narrow, daemon) = (Narrow::new("0"), Daemon::start());
    narrow.serve();
    let notices = Notices::of(&daemon, &narrow.wire.left);
    let (_load, failed) = until_it_fails(&narrow.wire.left);
    notices.wait_for("ephemeral_ports", "raised");
    assert!(failed.try_recv().is_err(), "too late");

    let (..) = failed.recv_timeout(PATIENCE).expect("ports run out");
    notices.wait_for("ephemeral_ports", "worsened");
    // It looks every two seconds.
    let full = eventually(PATIENCE, || {
        let found = finding(&daemon, &narrow.wire.left, "ephemeral_ports");
        (found["sockets"] == CAPACITY).then_some(found)
    });
    let found = full.expect("it sees that all are used");
    assert_eq!(found["remote"], SERVER);
    let reason = found["reason"].as_str().unwrap();
    assert!(reason.contains("EADDRNOTAVAIL"), "{reason}");

    narrow
        .wire
        .left
        .sysctl("ip_local_port_range", "20000 60999");
    notices.wait_for("ephemeral_ports", "cleared");
    assert_eq!(
        stuck_by(&daemon, &narrow.wire.left, "ephemeral_ports"),
        [] as [Value; 0]
    );
}

#[test]
fn ports_that_may_be_taken_again_are_not_used_up() {
    let (narrow, daemon) = (Narrow::new("1"), Daemon::start());
    let held = narrow.hold(10);
    narrow.serve();
    let address: SocketAddr = SERVER.parse().unwrap();
    let mut left = 2 * CAPACITY;
    let load = Load::start(&narrow.wire.left, 400, move || {
        drop(TcpStream::connect(address).unwrap());
        left -= 1;
        left > 0
    });
    let is_done = eventually(PATIENCE, || load.is_finished().then_some(()));
    assert!(is_done.is_some(), "too slow");
    load.end();
    // `tcp_tw_reuse_delay`.
    thread::sleep(Duration::from_secs(1));
    narrow.assert_exact(&daemon, 10, true);
    assert_eq!(
        stuck_by(&daemon, &narrow.wire.left, "ephemeral_ports"),
        [] as [Value; 0]
    );
    drop(held);
}

#[test]
fn a_namespace_that_is_gone_is_short_of_nothing() {
    let (narrow, daemon) = (Narrow::new("0"), Daemon::start());
    narrow.serve();
    narrow
        .wire
        .left
        .sysctl("ip_local_port_range", "20000 20150");
    let (load, failed) = until_it_fails(&narrow.wire.left);
    let _ = failed.recv_timeout(PATIENCE).expect("ports run out");
    finding(&daemon, &narrow.wire.left, "ephemeral_ports");
    let inode = narrow.wire.left.inode();
    drop(load);
    let control = daemon.control().to_str().unwrap();
    let everything = format!("stuck --format json --source daemon --control {control}");
    let about_it = || {
        let shown = output(&mut tcplinger(&everything)).stdout;
        let mut findings: Vec<Value> = serde_json::from_slice(&shown).unwrap();
        findings.retain(|finding| finding["netns"] == inode);
        findings
    };
    assert_eq!(about_it().len(), 1);
    drop(narrow);
    let is_gone = eventually(PATIENCE, || about_it().is_empty().then_some(()));
    assert!(is_gone.is_some(), "{:#?}", about_it());
}

fn overflows(netns: &Netns) -> u64 {
    let text = netns.enter(|| run(Command::new("cat").arg("/proc/thread-self/net/netstat")));
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut columns = names.split(' ').zip(values.split(' '));
    let (_, value) = columns
        .find(|(name, _)| *name == "TCPTimeWaitOverflow")
        .unwrap();
    value.parse().unwrap()
}

/// The server closes first here, so that no port of a client is used: the buckets are all there is.
#[test]
fn buckets_that_overflow_are_told_with_their_rate() {
    const BUCKETS: u64 = 100;
    let (netns, daemon) = (Netns::new(), Daemon::start());
    netns.sysctl("tcp_max_tw_buckets", &BUCKETS.to_string());
    let listener = listen_in(&netns, "127.0.0.1:8080");
    let address = listener.local_addr().unwrap();
    let notices = Notices::of(&daemon, &netns);
    let load = Load::start(&netns, RATE, move || {
        let mut client = TcpStream::connect(address).unwrap();
        drop(listener.accept().unwrap());
        read_end(&mut client);
        true
    });
    notices.wait_for("time_wait_buckets", "raised");
    let is_over = eventually(PATIENCE, || {
        (overflows(&netns) > 2 * u64::from(RATE)).then_some(())
    });
    assert!(is_over.is_some(), "no overflow");

    for source in ["daemon", "kernel"] {
        let row = ports(&daemon, &netns, source)["buckets"][0].clone();
        assert_eq!(
            (&row["time_wait"], &row["limit"]),
            (&BUCKETS.into(), &BUCKETS.into())
        );
        assert_eq!(row["ratio"], 1.0);
        let rate = row["overflow_rate_per_second"].as_f64();
        let rate = rate.unwrap_or_else(|| panic!("--source {source}: {row:#}"));
        eprintln!("{source}: {rate:.1} overflows/s");
        // The daemon's is that of the last half minute, which began before the buckets were full.
        let least = if source == "kernel" { 0.8 } else { 0.4 } * f64::from(RATE);
        assert!(
            (least..1.2 * f64::from(RATE)).contains(&rate),
            "--source {source}: {row:#}"
        );
    }
    let found = finding(&daemon, &netns, "time_wait_buckets");
    assert_eq!(found["severity"], "critical");
    let text = run(&mut about(&daemon, &netns, "ports"));
    assert!(text.contains("MINISOCKETS"), "{text}");
    load.end();
    for source in ["daemon", "kernel"] {
        let row = ports(&daemon, &netns, source)["buckets"][0].clone();
        assert_eq!(row["overflows"], overflows(&netns), "--source {source}");
    }
}
