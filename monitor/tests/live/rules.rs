//! The configuration: refused where it is wrong, before anything is loaded; obeyed where it is not.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::server::{
    Notices, Script, close_waits, config, finding, leaky_server, list, stuck, stuck_by,
};
use crate::harness::socket::{Pair, connect_from, listen_in, read_end};
use crate::harness::{Daemon, Netns, PATIENCE, Scratch, V4, eventually, output, tcplinger};

#[test]
fn a_bad_configuration_is_refused_with_its_place_and_the_way_out() {
    let scratch = Scratch::new();
    let path = scratch.path("bad.toml");
    for (text, place, words) in [
        ("[leak]\ngrowht = 3\n", ":2:1:", "did you mean `growth`?"),
        ("\n[dameon]\n", ":2:2:", "did you mean `daemon`?"),
        ("[ages.close_wiat]\n", ":1:7:", "close_wait"),
        (
            "[ages.close_wait]\nwarning = \"-5s\"\n",
            ":2:11:",
            "`warning = \"-5s\"`",
        ),
        ("[leak\n", ":1:6:", "not TOML"),
        (
            "[leak]\nwindow = 5\n",
            ":2:10:",
            "give a string, for example \"60s\"",
        ),
        (
            "[[count]]\nname = \"x\"\nper = \"proces\"\nwarning = 1\ncritical = 2\n",
            ":3:7:",
            "process",
        ),
        (
            "[[socket]]\nname = \"x\"\nlocal_port = 1\nignore = true\n\
             [[socket]]\nname = \"x\"\nlocal_port = 2\nignore = true\n",
            ":6:8:",
            "on line 2 and on line 6",
        ),
        (
            "[ages.last_ack]\nwarning = \"9s\"\ncritical = \"5s\"\n",
            ":3:12:",
            "below `warning",
        ),
    ] {
        fs::write(&path, text).unwrap();
        let control = scratch.path("control");
        for (verb, code) in [("run", 2), ("stuck", 2), ("ports", 2), ("check", 3)] {
            let mut command = tcplinger(verb);
            command.arg("--config").arg(&path);
            command.arg("--control").arg(&control);
            if verb == "run" {
                // Else it would never end, if it were not refused.
                command.arg("--duration=1s");
            }
            let refused = output(&mut command);
            let told = if verb == "check" {
                &refused.stdout
            } else {
                &refused.stderr
            };
            let told = String::from_utf8_lossy(told);
            assert_eq!(
                refused.status.code(),
                Some(code),
                "{verb}: {text:?}: {told}"
            );
            let place = format!("{}{place}", path.display());
            assert!(
                told.contains(&place),
                "{verb}: {text:?}: no {place}: {told}"
            );
            assert!(told.contains(words), "{verb}: {text:?}: {told}");
            assert!(!told.contains("attached"), "{verb}: {told}");
        }
        assert!(!control.exists());
    }
}

#[test]
fn a_rule_finds_what_it_names_and_nothing_else() {
    const RULES: &str = r#"
        [ages.close_wait]
        warning = "1h"
        critical = "2h"
        [[socket]]
        name = "left alone"
        local_port = "8100-8199"
        local = "127.0.0.2"
        ignore = true
        [[socket]]
        name = "by port"
        local_port = [1, "8100-8199"]
        warning = "1s"
        critical = "1h"
        [[socket]]
        name = "by network"
        remote = "127.9.0.0/16"
        warning = "1s"
        critical = "1s"
        [[socket]]
        name = "by process"
        process = "tl?leak*"
        warning = "1s"
        critical = "1h"
    "#;
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let daemon = Daemon::with(&config(&scratch.path("config.toml"), RULES));
    let server = leaky_server(&netns, "tl-leaky", "127.0.0.1:8300", 100);
    let _other = leaky_server(&netns, "other", "127.0.0.1:8301", 100);
    let left = |from: &str, to: &str| {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        netns.enter(|| drop(connect_from(from, to)));
    };
    let keep = |address: &str, from: &str| {
        let listener = listen_in(&netns, address);
        left(from, address);
        let mut kept = listener.accept().unwrap().0;
        read_end(&mut kept);
        kept
    };
    let _kept = [
        keep("127.0.0.1:8150", "127.0.0.1:0"),
        keep("127.0.0.2:8150", "127.0.0.1:0"),
        keep("127.0.0.1:8250", "127.9.8.7:0"),
        keep("127.0.0.1:8251", "127.10.0.1:0"),
    ];
    left("127.0.0.1:0", "127.0.0.1:8300");
    left("127.0.0.1:0", "127.0.0.1:8301");

    let found = eventually(PATIENCE, || {
        Some(stuck(&daemon, &netns)).filter(|found| found.len() >= 3)
    });
    let found = found.unwrap_or_else(|| panic!("{:#?}", stuck(&daemon, &netns)));
    let told: BTreeSet<_> = found.iter().map(rule_and_place).collect();
    let wanted = [
        ("by network", "critical", "*:8250"),
        ("by port", "warning", "*:8150"),
        ("by process", "warning", "*:8300"),
    ];
    assert_eq!(told, wanted.into());
    let by_process = found
        .iter()
        .find(|found| found["rule"] == "by process")
        .unwrap();
    assert_eq!(by_process["owners"][0]["pid"], server.pid());
    assert_eq!(close_waits(&daemon, &netns).len(), 6);
}

fn rule_and_place(finding: &Value) -> (&str, &str, &str) {
    let text = |key: &str| finding[key].as_str().unwrap();
    (text("rule"), text("severity"), text("local"))
}

/// A cgroup as systemd makes them for its services; removed on drop, when nobody is left in it.
struct Unit(PathBuf);

impl Unit {
    fn new(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let is_v2 = |line: &&str| line.split(' ').nth(2) == Some("cgroup2");
        let mount = mounts.lines().find(is_v2).expect("cgroup2 is mounted");
        let root = PathBuf::from(mount.split(' ').nth(1).unwrap());
        fs::create_dir_all(root.join(name)).unwrap();
        Self(root.join(name))
    }

    fn take(&self, script: &Script) {
        fs::write(self.0.join("cgroup.procs"), script.pid().to_string()).unwrap();
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = eventually(Duration::from_secs(2), || fs::remove_dir(&self.0).ok());
        let parents = self.0.ancestors().skip(1);
        let _ = parents
            .map_while(|parent| fs::remove_dir(parent).ok())
            .count();
    }
}

#[test]
fn a_rule_finds_the_sockets_of_a_unit() {
    const RULES: &str = "[[socket]]\nname = \"of the unit\"\nunit = \"tl-test-*.service\"\n\
                         warning = \"1s\"\ncritical = \"1h\"\n";
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let daemon = Daemon::with(&config(&scratch.path("config.toml"), RULES));
    let name = format!("tl-test-{}.service", netns.name());
    let unit = Unit::new(&name);
    let server = leaky_server(&netns, "leaky", "127.0.0.1:8080", 100);
    let _other = leaky_server(&netns, "leaky", "127.0.0.1:8081", 100);
    unit.take(&server);
    netns.enter(|| [8080, 8081].map(|port| TcpStream::connect(("127.0.0.1", port)).unwrap()));
    let found = finding(&daemon, &netns, "of the unit");
    assert_eq!(found["local"], "*:8080");
    assert_eq!(found["owners"][0]["unit"], name);
    assert_eq!(stuck(&daemon, &netns).len(), 1);
    drop(server);
}

#[test]
fn a_users_unit_never_passes_as_the_hosts_nor_as_a_container() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let name = format!("tl-test-{}.service", netns.name());
    let rules = format!(
        "[ages.close_wait]\nwarning = \"1s\"\ncritical = \"1h\"\n\
         [[socket]]\nname = \"left alone\"\nunit = \"{name}\"\nignore = true\n\
         [[socket]]\nname = \"of a user\"\nunit = \"* of user 4242\"\nwarning = \"1s\"\n\
         critical = \"1s\"\n"
    );
    let daemon = Daemon::with(&config(&scratch.path("config.toml"), &rules));
    let slice = format!("tl-{}.slice/user@4242.service/app.slice", netns.name());
    let scope = format!("docker-{}.scope", "ab".repeat(32));
    let places = [
        name.clone(),
        format!("{slice}/{name}"),
        format!("{slice}/{scope}"),
    ];
    let held = places.iter().zip(8080_u16..).map(|(place, port)| {
        let unit = Unit::new(place);
        let server = leaky_server(&netns, "leaky", &format!("127.0.0.1:{port}"), 100);
        unit.take(&server);
        netns.enter(|| drop(TcpStream::connect(("127.0.0.1", port)).unwrap()));
        // The process ends before its cgroup is removed.
        (server, unit)
    });
    let _held: Vec<_> = held.collect();
    let found = eventually(PATIENCE, || {
        Some(stuck(&daemon, &netns)).filter(|found| found.len() >= 2)
    });
    let found = found.unwrap_or_else(|| panic!("{:#?}", stuck(&daemon, &netns)));
    let told: BTreeSet<_> = found
        .iter()
        .map(|finding| {
            let owner = &finding["owners"][0];
            assert!(owner["container"].is_null());
            (owner["unit"].as_str().unwrap(), rule_and_place(finding).0)
        })
        .collect();
    let (unit, scope) = (
        format!("{name} of user 4242"),
        format!("{scope} of user 4242"),
    );
    let expected = [unit.as_str(), scope.as_str()].map(|unit| (unit, "of a user"));
    assert_eq!(told, expected.into());

    let owners = output(&mut tcplinger("owners --per unit --format json --top 0"));
    let owners: Vec<Value> = serde_json::from_slice(&owners.stdout).unwrap();
    for unit in [name.as_str(), &unit, &scope] {
        let of_unit = owners.iter().find(|owner| owner["unit"] == unit);
        let sockets = of_unit.map(|owner| owner["sockets"]["close_wait"].as_u64());
        assert_eq!(sockets, Some(Some(1)), "{unit}");
    }
}

#[test]
fn a_count_is_raised_above_its_threshold_and_cleared_well_below_it() {
    const RULES: &str = "[[count]]\nname = \"too many\"\nstate = \"close_wait\"\n\
                         process = \"leaky\"\nper = \"process\"\nwarning = 20\ncritical = 1000\n";
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let daemon = Daemon::with(&config(&scratch.path("config.toml"), RULES));
    let mut server = leaky_server(&netns, "leaky", "127.0.0.1:8080", 100);
    let _other = leaky_server(&netns, "leaky", "127.0.0.1:8081", 100);
    let leave = |port: u16, number| {
        let visit = |_| drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
        netns.enter(|| (0..number).for_each(visit));
    };
    let settled = |number: usize| {
        let count = || close_waits(&daemon, &netns).len();
        let arrived = eventually(PATIENCE, || (count() == number).then_some(()));
        assert!(arrived.is_some(), "{} sockets", count());
    };
    let notices = Notices::of(&daemon, &netns);
    leave(8080, 20);
    leave(8081, 15);
    settled(35);
    assert_eq!(stuck_by(&daemon, &netns, "too many"), [] as [Value; 0]);

    leave(8080, 1);
    settled(36);
    let found = finding(&daemon, &netns, "too many");
    assert_eq!(
        (&found["severity"], &found["sockets"]),
        (&"warning".into(), &21.into())
    );
    assert_eq!(found["owners"][0]["pid"], server.pid());
    assert_eq!(found["local"], "*:8080");

    server.tell("close 3");
    settled(33);
    assert_eq!(finding(&daemon, &netns, "too many")["sockets"], 18);
    server.tell("close 1");
    settled(32);
    assert_eq!(stuck_by(&daemon, &netns, "too many"), [] as [Value; 0]);
    notices.wait_for("too many", "cleared");
    assert_eq!(notices.changes("too many"), ["raised", "cleared"]);
}

/// They are the rule, not the exception, and there may be a million of them.
#[test]
fn established_connections_are_not_kept() {
    const NUMBER: usize = 5_000;
    const SERVER: &str = r#"
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (12000, 12000))
listener = socket.create_server(("127.0.0.1", 8080), backlog=128)
kept = []
for _ in range(int(sys.argv[1])):
    kept.append(socket.create_connection(("127.0.0.1", 8080)))
    kept.append(listener.accept()[0])
print("ready", flush=True)
sys.stdin.read()
"#;
    let (netns, daemon) = (Netns::new(), Daemon::start());
    let _server = Script::start(&netns, SERVER, &[&NUMBER.to_string()]);
    netns.settle(&[(V4, "LISTEN", 1), (V4, "ESTAB", 2 * NUMBER as u64)]);
    let listener: TcpListener = listen_in(&netns, "127.0.0.1:8081");
    let Pair { client, mut server } = Pair::new(&netns, &listener);
    drop(client);
    read_end(&mut server);
    thread::sleep(Duration::from_millis(500));
    for source in ["daemon", "kernel"] {
        let inode = netns.inode();
        let mut command = tcplinger(&format!(
            "stuck --all --format json --netns {inode} --source {source}"
        ));
        command.arg("--control").arg(daemon.control());
        let listed = list(&mut command);
        let states: BTreeSet<_> = listed
            .iter()
            .map(|row| row["state"].as_str().unwrap())
            .collect();
        assert_eq!(
            states,
            ["close_wait", "fin_wait2"].into(),
            "--source {source}"
        );
        assert_eq!(listed.len(), 2, "--source {source}");
    }
}
