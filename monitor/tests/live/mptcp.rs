//! MPTCP: connections have states of their own, and their TCP sockets stay ESTABLISHED below them.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::Command;

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, accept_with, bind, connect, getsockname, ipproto,
    listen, socket_with,
};
use serde_json::Value;

use crate::harness::http::get;
use crate::harness::server::{config, list, stuck};
use crate::harness::{
    Daemon, Netns, PATIENCE, Scratch, V4, assert_agrees, eventually, run, tcplinger,
};

fn mptcp_socket() -> OwnedFd {
    let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC);
    socket_with(AddressFamily::INET, kind, flags, Some(ipproto::MPTCP)).unwrap()
}

/// What `ss -M` counts in a state, as it spells it.
fn ss(netns: &Netns, state: &str) -> u64 {
    let rows = netns.enter(|| run(Command::new("ss").args(["-ManH"])));
    rows.lines().filter(|row| row.starts_with(state)).count() as u64
}

#[test]
fn a_connection_that_nobody_closes_is_counted_and_told_as_mptcp() {
    const RULES: &str = "[ages.close_wait]\nwarning = \"1s\"\ncritical = \"1h\"\n";
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let arguments = config(&scratch.path("config.toml"), RULES);
    let daemon = Daemon::with(&format!("{arguments} --listen 127.0.0.1:0"));
    let (listener, client, server) = netns.enter(|| {
        let listener = mptcp_socket();
        bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        listen(&listener, 8).unwrap();
        let client = mptcp_socket();
        connect(&client, &getsockname(&listener).unwrap()).unwrap();
        let server = accept_with(&listener, SocketFlags::CLOEXEC).unwrap();
        (listener, client, server)
    });
    drop(client);
    let left = eventually(PATIENCE, || {
        (ss(&netns, "CLOSE-WAIT") == 1 && ss(&netns, "LISTEN") == 1).then_some(())
    });
    assert!(left.is_some(), "the kernel has MPTCP");
    netns.settle(&[(V4, "LISTEN", 1), (V4, "ESTAB", 2)]);
    // TCP's own counts are those of `ss -t`.
    assert_agrees(&daemon, &netns);

    let inode = netns.inode();
    let namespace = |status: &Value| {
        let namespaces = status["namespaces"].as_array().unwrap();
        let found = namespaces.iter().find(|one| one["netns"] == inode);
        found.unwrap()["mptcp"].clone()
    };
    let asked = |source: &str| {
        let mut command = tcplinger(&format!("status --format json --source {source}"));
        let status = run(command.arg("--control").arg(daemon.control()));
        serde_json::from_str::<Value>(&status).unwrap()
    };
    for source in ["daemon", "kernel"] {
        let seen = eventually(PATIENCE, || {
            let mptcp = namespace(&asked(source));
            (mptcp["close_wait"] == 1 && mptcp["listen"] == 1).then_some(())
        });
        assert!(seen.is_some(), "--source {source}: {}", asked(source));
    }
    assert!(asked("daemon")["mptcp"]["close_wait"].as_u64().unwrap() >= 1);
    let metric = "tcplinger_mptcp_sockets{state=\"close_wait\"} ";
    let shown = eventually(PATIENCE, || {
        let text = get(&daemon, "/metrics").body;
        let value = text.lines().find_map(|line| line.strip_prefix(metric))?;
        (value.parse::<f64>().unwrap() >= 1.0).then_some(())
    });
    assert!(shown.is_some(), "{}", get(&daemon, "/metrics").body);

    let found = eventually(PATIENCE, || stuck(&daemon, &netns).pop()).expect("it is stuck");
    assert_eq!(found["mptcp"], true, "{found:#}");
    assert_eq!(
        (&found["state"], &found["severity"]),
        (&"close_wait".into(), &"warning".into())
    );
    assert_eq!(found["age_is_lower_bound"], true);
    assert!(
        found["oldest_seconds"].as_f64().unwrap() >= 1.0,
        "{found:#}"
    );
    assert_eq!(found["owners"][0]["pid"], std::process::id(), "{found:#}");
    assert!(
        found["reason"].as_str().unwrap().contains("MPTCP"),
        "{found:#}"
    );
    // It is announced, too, and stays raised.
    let raised = || {
        let api = get(&daemon, "/api/v1/stuck").json();
        let findings = api["incidents"].as_array().unwrap().iter();
        findings
            .filter(|one| one["netns"] == inode && one["mptcp"] == true)
            .count()
    };
    let is_raised = eventually(PATIENCE, || (raised() == 1).then_some(()));
    assert!(
        is_raised.is_some(),
        "{}",
        get(&daemon, "/api/v1/stuck").body
    );
    let alone =
        format!("stuck --all --format json --state close_wait --source kernel --netns {inode}");
    let listed = list(&mut tcplinger(&alone));
    assert_eq!((listed.len(), &listed[0]["mptcp"]), (1, &true.into()));

    drop(server);
    let over = eventually(PATIENCE, || {
        (raised() == 0 && stuck(&daemon, &netns).is_empty()).then_some(())
    });
    assert!(over.is_some(), "{:#?}", stuck(&daemon, &netns));
    drop(listener);
}
