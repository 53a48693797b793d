//! Clocks that are moved: a time namespace falsifies neither ages nor times.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use serde_json::Value;

use crate::harness::server::{about, close_waits, config, leaky_server, list};
use crate::harness::{
    Daemon, EventStream, Netns, PATIENCE, Scratch, eventually, tcplinger_through,
};

const RULES: &str = "[ages.close_wait]\nwarning = \"2s\"\ncritical = \"1h\"\n";
const AHEAD: [&str; 4] = ["unshare", "-T", "--monotonic=100000", "--boottime=100000"];
/// A kernel that has just booted has no more.
const BEHIND: [&str; 4] = ["unshare", "-T", "--monotonic=-15", "--boottime=-15"];

#[test]
fn ages_are_the_kernels_in_a_time_namespace() {
    for wrapper in [AHEAD, BEHIND] {
        let (netns, scratch) = (Netns::new(), Scratch::new());
        let daemon = Daemon::wrapped(&wrapper, &config(&scratch.path("config.toml"), RULES));
        let offsets = std::fs::read_to_string(format!("/proc/{}/timens_offsets", daemon.pid()));
        let offset = wrapper[2].trim_start_matches("--monotonic=");
        assert!(offsets.unwrap().contains(offset));
        let _server = leaky_server(&netns, "leaky", "127.0.0.1:8080", 100);
        let began = Instant::now();
        netns.enter(|| drop(TcpStream::connect(("127.0.0.1", 8080)).unwrap()));
        let age = |found: &Value| found["age_seconds"].as_f64().unwrap();
        let young = eventually(PATIENCE, || close_waits(&daemon, &netns).pop()).unwrap();
        assert!(age(&young) <= began.elapsed().as_secs_f64(), "{young:#}");
        assert_eq!(young["age_is_lower_bound"], false);

        let stuck = || list(&mut about(&daemon, &netns, "stuck --each --format json")).pop();
        let found = eventually(PATIENCE, stuck);
        let found = found.unwrap_or_else(|| panic!("never stuck behind {wrapper:?}"));
        let most = began.elapsed().as_secs_f64();
        assert_eq!(found["severity"], "warning", "{found:#}");
        assert!((2.0..most).contains(&age(&found)), "{most}: {found:#}");

        // Without a daemon, from what the kernel knows.
        let inode = netns.inode();
        let alone =
            format!("stuck --all --state close_wait --format json --source kernel --netns {inode}");
        let listed = list(&mut tcplinger_through(&wrapper, &alone));
        let most = began.elapsed().as_secs_f64();
        assert!(
            (1.0..most).contains(&age(&listed[0])),
            "{most}: {listed:#?}"
        );
    }
}

#[test]
fn events_have_the_walls_time_in_a_time_namespace() {
    for wrapper in [AHEAD, BEHIND] {
        let netns = Netns::new();
        let events = EventStream::through(&wrapper, &netns, "--format json");
        let _server = leaky_server(&netns, "leaky", "127.0.0.1:8080", 100);
        let before = SystemTime::now();
        netns.enter(|| drop(TcpStream::connect(("127.0.0.1", 8080)).unwrap()));
        thread::sleep(Duration::from_millis(50));
        let after = SystemTime::now();
        let seen = events.of_port(8080, 4);
        let last = seen.last().unwrap()["time"].as_str().unwrap();
        let time = SystemTime::from(last.parse::<Timestamp>().unwrap());
        let slack = Duration::from_millis(10);
        assert!((before - slack..after + slack).contains(&time), "{last}");
    }
}
