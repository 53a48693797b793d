//! The ways a connection ends on a network that loses nothing.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::process::Command;

use crate::harness::socket::{Pair, connect_from, listen_in, read_end, reset};
use crate::harness::{Daemon, Family, Netns, PATIENCE, V4, V6, assert_agrees, eventually, run};

const LOOPBACKS: [(Family, &str); 2] = [(V4, "127.0.0.1:0"), (V6, "[::1]:0")];

#[test]
fn active_close_from_either_side() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let mut wanted = Vec::new();
    for (family, address) in LOOPBACKS {
        let listener = listen_in(&netns, address);
        let Pair { client, mut server } = Pair::new(&netns, &listener);
        drop(client);
        read_end(&mut server);
        drop(server);
        let Pair { mut client, server } = Pair::new(&netns, &listener);
        drop(server);
        read_end(&mut client);
        wanted.push((family, "TIME-WAIT", 2));
    }
    netns.settle(&wanted);
    assert_agrees(&daemon, &netns);
}

#[test]
fn half_close_stays_in_close_wait() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let listener = listen_in(&netns, "127.0.0.1:0");
    let Pair { client, mut server } = Pair::new(&netns, &listener);
    client.shutdown(Shutdown::Write).unwrap();
    read_end(&mut server);
    // The half that is still open goes on carrying data.
    server.write_all(b"x").unwrap();
    netns.settle(&[
        (V4, "LISTEN", 1),
        (V4, "FIN-WAIT-2", 1),
        (V4, "CLOSE-WAIT", 1),
    ]);
    assert_agrees(&daemon, &netns);
}

#[test]
fn shutdown_without_close() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let listener = listen_in(&netns, "[::1]:0");
    let Pair { client, mut server } = Pair::new(&netns, &listener);
    client.shutdown(Shutdown::Both).unwrap();
    read_end(&mut server);
    netns.settle(&[
        (V6, "LISTEN", 1),
        (V6, "FIN-WAIT-2", 1),
        (V6, "CLOSE-WAIT", 1),
    ]);
    assert_agrees(&daemon, &netns);

    server.shutdown(Shutdown::Both).unwrap();
    netns.settle(&[(V6, "LISTEN", 1), (V6, "TIME-WAIT", 1)]);
    assert_agrees(&daemon, &netns);
    drop((client, server));
    assert_agrees(&daemon, &netns);
}

#[test]
fn fin_wait2_minisocket_turns_into_time_wait() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let listener = listen_in(&netns, "127.0.0.1:0");
    let Pair { client, mut server } = Pair::new(&netns, &listener);
    drop(client);
    read_end(&mut server);
    netns.settle(&[
        (V4, "LISTEN", 1),
        (V4, "FIN-WAIT-2", 1),
        (V4, "CLOSE-WAIT", 1),
    ]);
    assert_agrees(&daemon, &netns);

    drop(server);
    netns.settle(&[(V4, "LISTEN", 1), (V4, "TIME-WAIT", 1)]);
    assert_agrees(&daemon, &netns);
}

#[test]
fn fin_wait2_minisocket_expires_in_silence() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    netns.sysctl("tcp_fin_timeout", "2");
    let listener = listen_in(&netns, "127.0.0.1:0");
    let Pair { client, mut server } = Pair::new(&netns, &listener);
    drop(client);
    read_end(&mut server);
    netns.settle(&[
        (V4, "LISTEN", 1),
        (V4, "FIN-WAIT-2", 1),
        (V4, "CLOSE-WAIT", 1),
    ]);
    assert_agrees(&daemon, &netns);
    netns.settle(&[(V4, "LISTEN", 1), (V4, "CLOSE-WAIT", 1)]);
    assert_agrees(&daemon, &netns);
    // The FIN meets nobody and is answered with a reset.
    drop(server);
    netns.settle(&[(V4, "LISTEN", 1)]);
    assert_agrees(&daemon, &netns);
}

/// Beyond 60 s (`TCP_TIMEWAIT_LEN`) the kernel keeps the orphan as a full socket.
#[test]
fn long_fin_timeout_keeps_the_full_socket() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    netns.sysctl("tcp_fin_timeout", "120");
    let listener = listen_in(&netns, "127.0.0.1:0");
    let Pair { client, mut server } = Pair::new(&netns, &listener);
    drop(client);
    read_end(&mut server);
    netns.settle(&[
        (V4, "LISTEN", 1),
        (V4, "FIN-WAIT-2", 1),
        (V4, "CLOSE-WAIT", 1),
    ]);
    assert_agrees(&daemon, &netns);
    drop(server);
    netns.settle(&[(V4, "LISTEN", 1), (V4, "TIME-WAIT", 1)]);
    assert_agrees(&daemon, &netns);
}

#[test]
fn reset_leaves_nothing() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let listener = listen_in(&netns, "127.0.0.1:0");
    let pairs = [(); 2].map(|()| Pair::new(&netns, &listener));
    netns.settle(&[(V4, "LISTEN", 1), (V4, "ESTAB", 4)]);
    assert_agrees(&daemon, &netns);

    let [one, other] = pairs;
    reset(one.client);
    reset(other.server);
    netns.settle(&[(V4, "LISTEN", 1)]);
    assert_agrees(&daemon, &netns);
}

/// On the tracepoint this looks like a handover to a minisocket: `tcp_disconnect()` sets `sk_err`
/// only after the state.
#[test]
fn reset_in_fin_wait2_leaves_nothing() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let listener = listen_in(&netns, "127.0.0.1:0");
    let Pair { client, mut server } = Pair::new(&netns, &listener);
    client.shutdown(Shutdown::Write).unwrap();
    read_end(&mut server);
    netns.settle(&[
        (V4, "LISTEN", 1),
        (V4, "FIN-WAIT-2", 1),
        (V4, "CLOSE-WAIT", 1),
    ]);

    reset(client);
    netns.settle(&[(V4, "LISTEN", 1)]);
    assert_agrees(&daemon, &netns);
}

#[test]
fn close_with_unread_data_resets() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let listener = listen_in(&netns, "127.0.0.1:0");
    let mut open = Pair::new(&netns, &listener);
    open.leave_unread();
    let mut half_closed = Pair::new(&netns, &listener);
    half_closed.leave_unread();
    half_closed.client.shutdown(Shutdown::Write).unwrap();
    netns.settle(&[
        (V4, "LISTEN", 1),
        (V4, "ESTAB", 2),
        (V4, "FIN-WAIT-2", 1),
        (V4, "CLOSE-WAIT", 1),
    ]);
    assert_agrees(&daemon, &netns);

    drop((open.server, half_closed.server));
    netns.settle(&[(V4, "LISTEN", 1)]);
    assert_agrees(&daemon, &netns);
}

/// The reset of the peer takes an orphan's minisocket away, and no event tells.
#[test]
fn reset_ends_a_fin_wait2_minisocket() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let listener = listen_in(&netns, "127.0.0.1:0");
    let Pair { client, mut server } = Pair::new(&netns, &listener);
    drop(client);
    read_end(&mut server);
    netns.settle(&[
        (V4, "LISTEN", 1),
        (V4, "FIN-WAIT-2", 1),
        (V4, "CLOSE-WAIT", 1),
    ]);
    assert_agrees(&daemon, &netns);
    reset(server);
    netns.settle(&[(V4, "LISTEN", 1)]);
    assert_agrees(&daemon, &netns);
}

#[test]
fn time_wait_buckets_overflow() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    netns.sysctl("tcp_max_tw_buckets", "5");
    let listener = listen_in(&netns, "127.0.0.1:0");
    for _ in 0..12 {
        let Pair { client, mut server } = Pair::new(&netns, &listener);
        drop(client);
        read_end(&mut server);
    }
    netns.settle(&[(V4, "LISTEN", 1), (V4, "TIME-WAIT", 5)]);
    assert_agrees(&daemon, &netns);
}

/// A SYN from the old port ends the `TIME_WAIT` early, in silence.
#[test]
fn time_wait_gives_way_to_the_same_port() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let listener = listen_in(&netns, "127.0.0.1:0");
    let Pair { mut client, server } = Pair::new(&netns, &listener);
    let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    drop(server);
    read_end(&mut client);
    drop(client);
    netns.settle(&[(V4, "LISTEN", 1), (V4, "TIME-WAIT", 1)]);
    assert_agrees(&daemon, &netns);

    let client = netns.enter(|| connect_from(local, remote));
    let (server, _) = listener.accept().unwrap();
    netns.settle(&[(V4, "LISTEN", 1), (V4, "ESTAB", 2)]);
    assert_agrees(&daemon, &netns);
    drop((client, server));
}

/// After a second a client may take a port from its `TIME_WAIT` (`tcp_tw_reuse`), in silence too.
#[test]
fn time_wait_gives_way_to_a_client_short_of_ports() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    netns.sysctl("ip_local_port_range", "40000 40001");
    let listener = listen_in(&netns, "127.0.0.1:50000");
    for _ in 0..2 {
        let Pair { client, mut server } = Pair::new(&netns, &listener);
        drop(client);
        read_end(&mut server);
    }
    netns.settle(&[(V4, "LISTEN", 1), (V4, "TIME-WAIT", 2)]);
    assert_agrees(&daemon, &netns);

    let address = listener.local_addr().unwrap();
    let client = eventually(PATIENCE, || {
        netns.enter(|| TcpStream::connect(address).ok())
    });
    netns.settle(&[(V4, "LISTEN", 1), (V4, "ESTAB", 2), (V4, "TIME-WAIT", 1)]);
    assert_agrees(&daemon, &netns);
    drop(client);
}

/// The kernel counts both families' together: which one something ended early was of, only a walk tells.
#[test]
fn time_wait_that_ends_early_is_missed_in_its_own_family() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let listeners = LOOPBACKS.map(|(_, address)| listen_in(&netns, address));
    for listener in listeners.iter().cycle().take(16) {
        let Pair { client, mut server } = Pair::new(&netns, listener);
        drop(client);
        read_end(&mut server);
    }
    let left = [(V4, "LISTEN", 1), (V6, "LISTEN", 1), (V4, "TIME-WAIT", 8)];
    netns.settle(&[left.as_slice(), &[(V6, "TIME-WAIT", 8)]].concat());
    assert_agrees(&daemon, &netns);

    netns.enter(|| run(Command::new("ss").args("-K -t -6 state time-wait".split(' '))));
    netns.settle(&left);
    assert_agrees(&daemon, &netns);
}
