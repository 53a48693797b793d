//! Tens of thousands of lingering sockets: every one is found, its owner too, and the daemon stays
//! small.

use std::fs;
use std::ops::RangeInclusive;
use std::process::Command;
use std::thread;
use std::time::Instant;

use crate::harness::{Alone, Daemon, Netns, PATIENCE, Program, eventually, owners, run};

const HOARD: &str = include_str!("programs/hoard.py");
/// A process may have 20,000 descriptors on many systems, and needs some for other things.
const EACH: u64 = 19_000;
const SERVERS: u64 = 3;
/// A busy kernel now and then resets one early: what counts is what `ss` still shows.
const NEARLY_EACH: u64 = EACH * 99 / 100;

impl Daemon {
    /// Anonymous memory in KiB: neither the ring, which is shared, nor the program's file.
    fn memory(&self) -> u64 {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).unwrap();
        let line = rollup.lines().find(|line| line.starts_with("Anonymous:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
        kibibytes.unwrap().parse().unwrap()
    }

    /// A line of its status that is in KiB.
    fn resident(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name));
        let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
        kibibytes.unwrap().parse().unwrap()
    }

    /// How far its resident memory rises meanwhile, in KiB.
    fn rise(&self, job: impl FnOnce()) -> u64 {
        // The peak starts anew (`clear_refs_write()` in `fs/proc/task_mmu.c`).
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").unwrap();
        let before = self.resident("VmRSS:");
        job();
        self.resident("VmHWM:").saturating_sub(before)
    }

    /// Waits until it counts so many sockets in a state; its memory then.
    fn memory_with(&self, netns: &Netns, state: &str, number: &RangeInclusive<u64>) -> u64 {
        let shown = || {
            let status = self.status("daemon");
            status.namespace(netns.inode()).unwrap()["sockets"][state].as_u64()
        };
        let is_there = eventually(PATIENCE, || number.contains(&shown()?).then_some(()));
        assert!(is_there.is_some(), "{number:?} in {state}: {:?}", shown());
        self.memory()
    }

    fn memory_with_servers(&self, netns: &Netns, servers: u64) -> u64 {
        self.memory_with(
            netns,
            "close_wait",
            &(servers * NEARLY_EACH..=servers * EACH),
        )
    }
}

/// A namespace with so many ports that none has to be searched for: `connect()` tries every second
/// one before the others.
fn roomy(alone: &Alone) -> Netns {
    let netns = Netns::apart(alone);
    netns.sysctl("ip_local_port_range", "1024 65535");
    // The clients' orphans are not what this is about.
    netns.sysctl("tcp_fin_timeout", "1");
    netns
}

/// `CLOSE_WAIT` sockets of a process in the rows of `ss -tanp`.
fn held_by_ss(rows: &str, pid: u32) -> u64 {
    let holder = format!("pid={pid},");
    let is_its = |row: &&str| row.starts_with("CLOSE-WAIT") && row.contains(&holder);
    rows.lines().filter(is_its).count() as u64
}

#[test]
fn sixty_thousand_sockets_in_three_processes() {
    let alone = Alone::wait();
    let (netns, daemon) = (roomy(&alone), Daemon::start());
    let empty = daemon.memory();
    let hoard = || Program::start(&netns, HOARD, &EACH.to_string());
    let mut servers = vec![hoard()];
    servers[0].answer();
    let some = daemon.memory_with_servers(&netns, 1);
    servers.extend((1..SERVERS).map(|_| hoard()));
    for server in &mut servers[1..] {
        server.answer();
    }
    let many = daemon.memory_with_servers(&netns, SERVERS);
    // The last orphan may take the other end with it.
    daemon.memory_with(&netns, "fin_wait2", &(0..=0));
    // A FIN that was dropped comes again later.
    netns.rest().expect("nothing moves any more");
    assert_all_are_found(&netns, &daemon, &servers);
    let asked = daemon.memory();
    let rise = daemon.rise(|| {
        let ask = || {
            daemon
                .stuck(&netns, "--all --state close_wait")
                .findings
                .len()
        };
        thread::scope(|scope| {
            let askers: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            for asker in askers {
                let found = asker.join().unwrap() as u64;
                assert!(found >= SERVERS * NEARLY_EACH, "{found}");
            }
        });
    });
    eprintln!("KiB more of the daemon while 8 ask: {rise}");
    // They share one look: some 100 bytes each.
    assert!(rise < 14 << 10, "{rise} KiB");

    for server in &mut servers {
        server.tell("close");
    }
    // Of what is over nothing is remembered.
    let mended = daemon.memory_with(&netns, "close_wait", &(0..=0));
    assert!(
        daemon
            .stuck(&netns, "--all --state close_wait")
            .findings
            .is_empty()
    );
    eprintln!(
        "KiB of the daemon: {empty} at first, {some} with one server, {many} with all, {asked} \
         after stuck --all, {mended} at the end"
    );
    // 33 bytes each in a table, and some 100 each in a look at them that comes between.
    let growth = [some, many].map(|memory| memory.saturating_sub(empty));
    assert!(
        growth[0] < 16 << 10 && growth[1] < 32 << 10,
        "{growth:?} KiB"
    );
}

/// By `owners` and by `stuck`, as many for each process as by `ss`. Ages are exact but for those sockets of which
/// the kernel ran no program: what was found by asking.
fn assert_all_are_found(netns: &Netns, daemon: &Daemon, servers: &[Program]) {
    let began = Instant::now();
    let rows = owners(netns, "--state close_wait");
    let by_tcplinger = began.elapsed();
    let began = Instant::now();
    let by_ss = netns.enter(|| run(Command::new("ss").args(["-tanpH"])));
    let ratio = began.elapsed().as_secs_f64() / by_tcplinger.as_secs_f64();
    eprintln!("owners: {by_tcplinger:?}; ss -tanp takes {ratio:.1} times as long");
    let all = daemon.stuck(netns, "--all --state close_wait").findings;

    assert_eq!(rows.len(), servers.len(), "{rows:#?}");
    let mut total = 0;
    for server in servers {
        let held = held_by_ss(&by_ss, server.pid());
        assert!(held >= NEARLY_EACH, "{held}");
        let row = rows.iter().find(|row| row["pid"] == server.pid());
        assert_eq!(row.unwrap()["sockets"]["close_wait"], held);
        let stuck = all
            .iter()
            .filter(|found| found["owners"][0]["pid"] == server.pid());
        assert_eq!(stuck.count() as u64, held);
        total += held;
    }
    assert_eq!(all.len() as u64, total);
    let unsure = all
        .iter()
        .filter(|found| found["age_is_lower_bound"] == true);
    let (unsure, drift) = (
        unsure.count() as u64,
        daemon.status("daemon").drifted_sockets(),
    );
    assert!(unsure <= drift, "{unsure} lower bounds, drift {drift}");
}

#[test]
fn established_connections_cost_nothing() {
    let alone = Alone::wait();
    let (netns, daemon) = (roomy(&alone), Daemon::start());
    let empty = daemon.memory();
    // Two ends each.
    let mut server = Program::start(&netns, HOARD, "15000 open");
    server.answer();
    let full = daemon.memory_with(&netns, "established", &(30_000..=30_000));
    eprintln!("KiB of the daemon: {empty} empty, {full} with 30,000 established");
    assert!(full < empty + (8 << 10), "{empty} KiB, then {full} KiB");
}
