//! What no table of the kernel's lists: sockets in CLOSE, and namespaces that sockets alone keep.

use std::net::TcpStream;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use serde_json::Value;

use crate::harness::http::get;
use crate::harness::server::list;
use crate::harness::socket::{Pair, listen_in, read_end, reset};
use crate::harness::{Daemon, Netns, PATIENCE, eventually, output, tcplinger};

const SERVING: &str = "--listen 127.0.0.1:0";

fn closed(status: &Value, inode: u64, family: &str) -> Option<u64> {
    let namespaces = status["namespaces"].as_array().unwrap();
    let namespace = namespaces.iter().find(|one| one["netns"] == inode)?;
    namespace["family"][family]["close"].as_u64()
}

fn asked(daemon: &Daemon, source: &str) -> Value {
    let mut command = tcplinger(&format!("status --format json --source {source}"));
    command.arg("--control").arg(daemon.control());
    serde_json::from_slice(&output(&mut command).stdout).unwrap()
}

/// A metric's value; None where there is no such series.
fn metric(daemon: &Daemon, series: &str) -> Option<f64> {
    let text = get(daemon, "/metrics").body;
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line?.trim().parse().ok()
}

#[test]
fn sockets_in_close_are_counted_and_have_owners() {
    let (netns, daemon) = (Netns::new(), Daemon::with(SERVING));
    let listener = listen_in(&netns, "127.0.0.1:0");
    // Never connected, never bound; and reset by the peer.
    let fresh = |family| {
        let flags = SocketFlags::CLOEXEC;
        netns.enter(|| socket_with(family, SocketType::STREAM, flags, None).unwrap())
    };
    let mut held: Vec<OwnedFd> = (0..20).map(|_| fresh(AddressFamily::INET)).collect();
    held.push(fresh(AddressFamily::INET6));
    for _ in 0..10 {
        let Pair { client, server } = Pair::new(&netns, &listener);
        reset(server);
        held.push(client.into());
    }
    // A second descriptor is no second socket.
    held.push(held[0].try_clone().unwrap());
    let inode = netns.inode();
    let is_seen = |source: &str| {
        let status = asked(&daemon, source);
        [("ipv4", 30), ("ipv6", 1)]
            .iter()
            .all(|(family, sockets)| closed(&status, inode, family) == Some(*sockets))
    };
    for source in ["daemon", "kernel"] {
        let seen = eventually(PATIENCE, || is_seen(source).then_some(()));
        assert!(
            seen.is_some(),
            "--source {source}: {}",
            asked(&daemon, source)
        );
    }
    let text = output(&mut tcplinger(&format!(
        "status --netns {inode} --source kernel"
    )));
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let row = text
        .lines()
        .find(|line| line.starts_with("CLOSE "))
        .unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells, ["CLOSE", "31", "30", "1"], "{text}");
    let api = get(&daemon, "/api/v1/status").json();
    assert_eq!(closed(&api, inode, "ipv4"), Some(30));
    // Of every namespace.
    let series = "tcplinger_sockets{state=\"close\",family=\"ipv4\"}";
    assert!(metric(&daemon, series).unwrap() >= 30.0);

    let owners = format!("owners --netns {inode} --state close --format json");
    let owners: Value = serde_json::from_slice(&output(&mut tcplinger(&owners)).stdout).unwrap();
    let own = &owners.as_array().unwrap()[0];
    assert_eq!(own["pid"], std::process::id());
    assert_eq!(own["sockets"]["close"], 31, "{owners}");

    // Beside them, what nobody holds: the reset ones left nothing, these leave TIME_WAIT.
    for _ in 0..5 {
        let Pair { client, mut server } = Pair::new(&netns, &listener);
        drop(client);
        read_end(&mut server);
    }
    let owners = format!("owners --netns {inode} --format json");
    let owners: Value = serde_json::from_slice(&output(&mut tcplinger(&owners)).stdout).unwrap();
    let rows = owners.as_array().unwrap().iter();
    let nobodys = rows.filter(|row| row["pid"].is_null());
    let waiting: Vec<&Value> = nobodys.map(|row| &row["sockets"]["time_wait"]).collect();
    assert_eq!(waiting, [5], "{owners}");

    drop(held);
    assert_eq!(closed(&asked(&daemon, "kernel"), inode, "ipv4"), Some(0));
    let gone = eventually(PATIENCE, || {
        (closed(&asked(&daemon, "daemon"), inode, "ipv4") == Some(0)).then_some(())
    });
    assert!(gone.is_some(), "{}", asked(&daemon, "daemon"));
}

/// Docker and `ip netns del` take the name away, and what a proxy has open lives on.
#[test]
fn a_deleted_namespace_stays_as_long_as_its_sockets() {
    let (netns, daemon) = (Netns::new(), Daemon::with(SERVING));
    let listener = listen_in(&netns, "127.0.0.1:0");
    let mut kept: Vec<Pair> = (0..3).map(|_| Pair::new(&netns, &listener)).collect();
    let (inode, name) = (netns.inode(), netns.name().to_owned());
    let namespace = |source: &str| {
        let status = asked(&daemon, source);
        let mut namespaces = status["namespaces"].as_array().unwrap().iter();
        namespaces.find(|one| one["netns"] == inode).cloned()
    };
    let before = eventually(PATIENCE, || {
        namespace("daemon").filter(|one| one["sockets"]["established"] == 6)
    });
    assert_eq!(before.expect("it is counted").get("deleted"), None);
    drop(netns);

    // What happens in it is still seen.
    let Pair { client, mut server } = kept.pop().unwrap();
    drop::<TcpStream>(client);
    read_end(&mut server);
    for source in ["daemon", "kernel"] {
        let after = eventually(PATIENCE, || {
            namespace(source)
                .filter(|one| one["deleted"] == true && one["sockets"]["close_wait"] == 1)
        });
        let after = after.unwrap_or_else(|| panic!("--source {source}: {:?}", namespace(source)));
        assert_eq!(after["sockets"]["established"], 4, "{after}");
        assert_eq!(after["sockets"]["listen"], 1, "{after}");
        if source == "daemon" {
            assert_eq!(after["name"], name.as_str());
            assert_eq!(after["in_doubt"], false);
        }
        let stuck = format!(
            "stuck --all --format json --state close_wait --netns {inode} --source {source}"
        );
        let mut command = tcplinger(&stuck);
        command.arg("--control").arg(daemon.control());
        let found = list(&mut command);
        assert_eq!(
            found[0]["owners"][0]["pid"],
            std::process::id(),
            "{found:#?}"
        );
    }
    assert!(daemon.log().contains("sockets keep it"), "{}", daemon.log());

    // Without its sockets it is gone.
    drop((kept, server, listener));
    for source in ["daemon", "kernel"] {
        let gone = eventually(PATIENCE, || namespace(source).is_none().then_some(()));
        assert!(gone.is_some(), "--source {source}: {:?}", namespace(source));
    }
}
