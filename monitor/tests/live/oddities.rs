//! Sockets that are not one end of an ordinary connection.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};

use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, accept, bind, connect, connect_unspec,
    ipproto, listen, shutdown, socket_with,
};

use crate::harness::socket::{Pair, bound, listen_in, read_end, self_connected};
use crate::harness::{Daemon, Netns, V4, V6, assert_agrees};

#[test]
fn v4_mapped_addresses_count_as_ipv6() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let dual = listen_in(&netns, "[::]:0");
    let port = dual.local_addr().unwrap().port();
    let v4_client = Pair::to(&netns, &dual, ([127, 0, 0, 1], port).into());
    let plain = listen_in(&netns, "127.0.0.1:0");
    let port = plain.local_addr().unwrap().port();
    let mapped = format!("[::ffff:127.0.0.1]:{port}").parse().unwrap();
    let v6_client = Pair::to(&netns, &plain, mapped);
    netns.settle(&[
        (V4, "LISTEN", 1),
        (V6, "LISTEN", 1),
        (V4, "ESTAB", 2),
        (V6, "ESTAB", 2),
    ]);
    assert_agrees(&daemon, &netns);

    // The mapped ends close first: one is a server, one a client.
    let (mut v4_peer, mut v4_server) = (v4_client.client, v6_client.server);
    drop((v4_client.server, v6_client.client));
    read_end(&mut v4_peer);
    read_end(&mut v4_server);
    netns.settle(&[
        (V4, "LISTEN", 1),
        (V6, "LISTEN", 1),
        (V4, "CLOSE-WAIT", 2),
        (V6, "FIN-WAIT-2", 2),
    ]);
    assert_agrees(&daemon, &netns);
    drop((v4_peer, v4_server));
    netns.settle(&[(V4, "LISTEN", 1), (V6, "LISTEN", 1), (V6, "TIME-WAIT", 2)]);
    assert_agrees(&daemon, &netns);
}

/// A socket connected to itself opens and closes with nobody on the other side.
#[test]
fn connection_to_itself() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let socket = netns.enter(|| self_connected("127.0.0.1:4000".parse().unwrap()));
    netns.settle(&[(V4, "ESTAB", 1)]);
    assert_agrees(&daemon, &netns);
    drop(socket);
    netns.settle(&[(V4, "TIME-WAIT", 1)]);
    assert_agrees(&daemon, &netns);
}

/// Children nobody accepts are established sockets without an owner; the listener's end resets them.
#[test]
fn listener_goes_with_its_backlog() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let listener = listen_in(&netns, "127.0.0.1:0");
    let address = listener.local_addr().unwrap();
    let clients = netns.enter(|| [(); 3].map(|()| TcpStream::connect(address).unwrap()));
    netns.settle(&[(V4, "LISTEN", 1), (V4, "ESTAB", 6)]);
    assert_agrees(&daemon, &netns);
    drop(listener);
    netns.settle(&[]);
    assert_agrees(&daemon, &netns);
    drop(clients);
}

#[test]
fn listener_shut_down_and_listening_again() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let listener = listen_in(&netns, "127.0.0.1:0");
    shutdown(&listener, Shutdown::Both).unwrap();
    netns.settle(&[]);
    assert_agrees(&daemon, &netns);
    listen(&listener, 1).unwrap();
    netns.settle(&[(V4, "LISTEN", 1)]);
    assert_agrees(&daemon, &netns);
}

/// One socket, and one cookie, lives twice.
#[test]
fn disconnect_and_connect_again() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let listener = listen_in(&netns, "127.0.0.1:0");
    let address = listener.local_addr().unwrap();
    let socket = netns.enter(|| bound("127.0.0.1:4000".parse().unwrap()));
    connect(&socket, &address).unwrap();
    let (first, _) = listener.accept().unwrap();
    netns.settle(&[(V4, "LISTEN", 1), (V4, "ESTAB", 2)]);
    assert_agrees(&daemon, &netns);

    connect_unspec(&socket).unwrap();
    netns.settle(&[(V4, "LISTEN", 1)]);
    assert_agrees(&daemon, &netns);
    connect(&socket, &address).unwrap();
    let (second, _) = listener.accept().unwrap();
    drop(second);
    netns.settle(&[
        (V4, "LISTEN", 1),
        (V4, "CLOSE-WAIT", 1),
        (V4, "FIN-WAIT-2", 1),
    ]);
    assert_agrees(&daemon, &netns);
    drop((first, socket));
}

/// A socket that is used again keeps its cookie, and so does each minisocket it has left behind.
#[test]
fn minisockets_that_share_a_cookie() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let listener = listen_in(&netns, "0.0.0.0:0");
    let port = listener.local_addr().unwrap().port();
    let socket = netns.enter(|| bound("127.0.0.1:4000".parse().unwrap()));
    for last in 1..=3 {
        connect(&socket, &SocketAddr::from(([127, 0, 0, last], port))).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        shutdown(&socket, Shutdown::Write).unwrap();
        read_end(&mut peer);
        drop(peer);
        let minisockets = usize::from(last);
        netns.settle(&[(V4, "LISTEN", 1), (V4, "TIME-WAIT", minisockets as u64)]);
        connect_unspec(&socket).unwrap();
    }
    assert_agrees(&daemon, &netns);
    assert_agrees(&Daemon::start(), &netns);
}

#[test]
fn connection_refused() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let refused = netns.enter(|| TcpStream::connect("127.0.0.1:4000"));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    netns.settle(&[]);
    assert_agrees(&daemon, &netns);
}

/// An MPTCP socket is no TCP socket, but its subflows are, and `ss -t` shows just those.
#[test]
fn subflows_of_mptcp_count_and_mptcp_does_not() {
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let mptcp = || {
        let protocol = Some(ipproto::MPTCP);
        netns.enter(|| {
            socket_with(
                AddressFamily::INET,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                protocol,
            )
        })
    };
    let Ok(listener) = mptcp() else {
        eprintln!("skipped: this kernel has no MPTCP");
        return;
    };
    let address = "127.0.0.1:4000".parse::<SocketAddr>().unwrap();
    bind(&listener, &address).unwrap();
    listen(&listener, 1).unwrap();
    let client = mptcp().unwrap();
    connect(&client, &address).unwrap();
    let server = accept(&listener).unwrap();
    netns.settle(&[(V4, "LISTEN", 1), (V4, "ESTAB", 2)]);
    assert_agrees(&daemon, &netns);

    drop((client, server, listener));
    netns.rest().expect("nothing moves any more");
    assert_agrees(&daemon, &netns);
}
