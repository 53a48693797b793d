//! States that only a lossy network shows: packets are dropped between two namespaces.

use std::net::{SocketAddr, TcpStream};

use rustix::net::{SendFlags, sendto};

use crate::harness::socket::{Pair, begin_connect, bound, listen_in, read_end};
use crate::harness::{Daemon, Family, Netns, V4, V6, Veth, assert_agrees};

const ALL_TCP: &str = "meta l4proto tcp";
const WITHOUT_FIN: &str = "tcp flags & fin == 0";
const SYN_ACK: &str = "tcp flags & (syn | ack) == (syn | ack)";
/// `MSG_FASTOPEN` in `include/linux/socket.h`.
const MSG_FASTOPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);
const FAMILIES: [(Family, &str); 2] = [(V4, Veth::RIGHT[0]), (V6, Veth::RIGHT[1])];

/// A connection from left to right, its listener gone: nothing but the two ends is left.
fn connected(wire: &Veth, address: &str) -> Pair {
    let listener = listen_in(&wire.right, address);
    Pair::new(&wire.left, &listener)
}

fn assert_both_agree(daemon: &Daemon, wire: &Veth) {
    assert_agrees(daemon, &wire.left);
    assert_agrees(daemon, &wire.right);
}

#[test]
fn close_in_three_segments() {
    let (wire, daemon) = (Veth::new(), Daemon::start());
    for (family, address) in FAMILIES {
        let Pair { client, mut server } = connected(&wire, address);
        // The acknowledgement of the first FIN is lost: the peer's own FIN brings it again, and
        // FIN_WAIT1 goes to TIME_WAIT in one step.
        wire.left.drop_incoming(WITHOUT_FIN);
        drop(client);
        read_end(&mut server);
        wire.left.settle(&time_wait_before(family, "FIN-WAIT-1"));
        wire.right.settle(&[(family, "CLOSE-WAIT", 1)]);
        assert_both_agree(&daemon, &wire);

        drop(server);
        wire.left.settle(&time_wait_before(family, "TIME-WAIT"));
        wire.right.settle(&[]);
        assert_both_agree(&daemon, &wire);
        wire.left.heal();
    }
}

/// One socket of `family` in `state`, beside what the families before it have left in `TIME_WAIT`.
fn time_wait_before(family: Family, state: &'static str) -> Vec<(Family, &'static str, u64)> {
    let mut wanted = vec![(family, state, 1)];
    if family == V6 {
        wanted.push((V4, "TIME-WAIT", 1));
    }
    wanted
}

#[test]
fn simultaneous_close() {
    let (wire, daemon) = (Veth::new(), Daemon::start());
    let Pair { client, server } = connected(&wire, Veth::RIGHT[0]);
    wire.right.drop_incoming(ALL_TCP);
    drop(client);
    wire.left.settle(&[(V4, "FIN-WAIT-1", 1)]);
    wire.right.settle(&[(V4, "ESTAB", 1)]);
    assert_both_agree(&daemon, &wire);

    // This FIN crosses the one that was lost.
    drop(server);
    wire.left.settle(&[(V4, "CLOSING", 1)]);
    wire.right.settle(&[(V4, "FIN-WAIT-1", 1)]);
    assert_both_agree(&daemon, &wire);

    wire.right.heal();
    wire.left.settle(&[(V4, "TIME-WAIT", 1)]);
    wire.right.settle(&[(V4, "TIME-WAIT", 1)]);
    assert_both_agree(&daemon, &wire);
}

#[test]
fn lost_last_ack() {
    let (wire, daemon) = (Veth::new(), Daemon::start());
    let Pair { client, mut server } = connected(&wire, Veth::RIGHT[1]);
    drop(client);
    read_end(&mut server);
    wire.left.settle(&[(V6, "FIN-WAIT-2", 1)]);
    wire.right.drop_incoming(ALL_TCP);
    drop(server);
    wire.left.settle(&[(V6, "TIME-WAIT", 1)]);
    wire.right.settle(&[(V6, "LAST-ACK", 1)]);
    assert_both_agree(&daemon, &wire);

    // A retransmitted FIN is acknowledged again.
    wire.right.heal();
    wire.right.settle(&[]);
    assert_both_agree(&daemon, &wire);
}

#[test]
fn syn_into_a_black_hole() {
    let (wire, daemon) = (Veth::new(), Daemon::start());
    wire.right.drop_incoming(ALL_TCP);
    let lost: [SocketAddr; 2] = ["10.77.0.2:4000", "[fd77::2]:4000"].map(|to| to.parse().unwrap());
    let sockets = lost.map(|remote| begin_connect(&wire.left, remote));
    wire.left
        .settle(&[(V4, "SYN-SENT", 1), (V6, "SYN-SENT", 1)]);
    wire.right.settle(&[]);
    assert_both_agree(&daemon, &wire);

    drop(sockets);
    wire.left.settle(&[]);
    assert_both_agree(&daemon, &wire);
}

/// The kernel gives up after the first retransmission; the owner still holds the descriptor.
#[test]
fn syn_timeout() {
    let (wire, daemon) = (Veth::new(), Daemon::start());
    wire.left.sysctl("tcp_syn_retries", "1");
    wire.left.sysctl("tcp_syn_linear_timeouts", "0");
    wire.right.drop_incoming(ALL_TCP);
    let socket = begin_connect(&wire.left, "10.77.0.2:4000".parse().unwrap());
    wire.left.settle(&[(V4, "SYN-SENT", 1)]);
    assert_both_agree(&daemon, &wire);
    wire.left.settle(&[]);
    assert_both_agree(&daemon, &wire);
    drop(socket);
}

#[test]
fn half_open_requests() {
    let (wire, daemon) = (Veth::new(), Daemon::start());
    wire.left.drop_incoming(SYN_ACK);
    let listeners = FAMILIES.map(|(_, address)| listen_in(&wire.right, address));
    let clients = listeners
        .each_ref()
        .map(|listener| begin(&wire.left, listener));
    wire.left
        .settle(&[(V4, "SYN-SENT", 1), (V6, "SYN-SENT", 1)]);
    wire.right.settle(
        &FAMILIES
            .map(|(family, _)| [(family, "LISTEN", 1), (family, "SYN-RECV", 1)])
            .concat(),
    );
    assert_both_agree(&daemon, &wire);
    for source in ["daemon", "kernel"] {
        let status = daemon.status(source);
        let sockets = &status.namespace(wire.right.inode()).unwrap()["sockets"];
        assert_eq!(sockets["new_syn_recv"], 2, "{sockets}");
    }

    wire.left.heal();
    wire.left
        .settle(&FAMILIES.map(|(family, _)| (family, "ESTAB", 1)));
    wire.right.settle(
        &FAMILIES
            .map(|(family, _)| [(family, "LISTEN", 1), (family, "ESTAB", 1)])
            .concat(),
    );
    assert_both_agree(&daemon, &wire);
    drop((clients, listeners));
}

fn begin(from: &Netns, listener: &std::net::TcpListener) -> TcpStream {
    begin_connect(from, listener.local_addr().unwrap())
}

/// No segment arrives and no event fires when a request is given up.
#[test]
fn half_open_request_expires_in_silence() {
    let (wire, daemon) = (Veth::new(), Daemon::start());
    wire.right.sysctl("tcp_synack_retries", "1");
    wire.left.drop_incoming(SYN_ACK);
    let listener = listen_in(&wire.right, Veth::RIGHT[0]);
    let client = begin(&wire.left, &listener);
    wire.right.settle(&[(V4, "LISTEN", 1), (V4, "SYN-RECV", 1)]);
    assert_both_agree(&daemon, &wire);
    // No more SYNs from the client, which would make a request anew.
    drop(client);
    wire.right.settle(&[(V4, "LISTEN", 1)]);
    assert_both_agree(&daemon, &wire);
}

/// With TCP Fast Open the child is there, as a full socket, before the handshake is over.
#[test]
fn fast_open_child_in_syn_recv() {
    let (wire, daemon) = (Veth::new(), Daemon::start());
    for netns in [&wire.left, &wire.right] {
        // On both sides, without a cookie, for every listener (Documentation/networking/ip-sysctl).
        netns.sysctl("tcp_fastopen", "1543");
    }
    wire.left.drop_incoming(SYN_ACK);
    let listener = listen_in(&wire.right, Veth::RIGHT[0]);
    let client = wire.left.enter(|| bound("10.77.0.1:0".parse().unwrap()));
    rustix::io::ioctl_fionbio(&client, true).unwrap();
    let address = listener.local_addr().unwrap();
    // Data goes with the SYN; the call says so, or that the connection is under way.
    let _ = sendto(&client, b"x", MSG_FASTOPEN, &address);
    wire.left.settle(&[(V4, "SYN-SENT", 1)]);
    wire.right.settle(&[(V4, "LISTEN", 1), (V4, "SYN-RECV", 1)]);
    assert_both_agree(&daemon, &wire);
    for source in ["daemon", "kernel"] {
        let status = daemon.status(source);
        let sockets = &status.namespace(wire.right.inode()).unwrap()["sockets"];
        assert_eq!(sockets["syn_recv"], 1, "{source}: {sockets}");
    }

    wire.left.heal();
    wire.right.settle(&[(V4, "LISTEN", 1), (V4, "ESTAB", 1)]);
    assert_both_agree(&daemon, &wire);
}
