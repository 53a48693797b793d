//! The scenes, each from its load to its targets.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::daemon::Daemon;
use super::traffic::{HalfOpen, Orphans, drop_answers, fill, storm};
use super::watch::{Subject, Watch};
use super::{Plan, Target, kernel};
use crate::bench::hold::Holder;
use crate::bench::place::{Place, join};

/// Arguments of a holder that only keeps its namespace, with a listener in it.
const NOTHING: [&str; 2] = ["--connections", "0"];
const SECOND: Duration = Duration::from_secs(1);

pub(super) fn idle(plan: &Plan) -> Result<Vec<Target>> {
    let daemon = Daemon::start(&plan.binary)?;
    sleep(5 * SECOND);
    let time = plan.time(10);
    let (sleeps, cpu) = (daemon.sleeps()?, daemon.cpu());
    sleep(time);
    let sleeps = u32::try_from(daemon.sleeps()?.saturating_sub(sleeps))?;
    let cpu = daemon.cpu().saturating_sub(cpu).as_secs_f64() / time.as_secs_f64();
    eprintln!(
        "{:.2} % of a core, {:.1} MB",
        100.0 * cpu,
        daemon.resident_megabytes()?
    );
    let per_second = f64::from(sleeps) / time.as_secs_f64();
    Ok(vec![Target::at_most(2.0, per_second, "wakeups a second")])
}

pub(super) fn starve(plan: &Plan) -> Result<Vec<Target>> {
    const REQUESTS: u32 = 200;
    /// The busy namespace: 70,000 in `TIME_WAIT`, of which every second some end as others begin.
    const CLOSES: Orphans = Orphans {
        per_second: 1_170,
        peer_closes_after: Duration::ZERO,
    };
    const ORPHANS: Orphans = Orphans {
        per_second: 300,
        peer_closes_after: Duration::from_secs(2),
    };
    /// Until it is like that.
    const BEFORE: Duration = Duration::from_secs(62);
    /// Until other requests take their place.
    const WAVE: Duration = Duration::from_secs(10);
    let mut holders = [Holder::apart(&NOTHING)?, Holder::apart(&NOTHING)?];
    // Namespaces are walked in the order of their numbers: the busy one comes first.
    holders.sort_by_key(|holder| holder.place().inode);
    let [busy, victim] = holders.each_ref().map(Holder::place);
    let daemon = Daemon::start(&plan.binary)?;
    let time = plan.time(40);
    let closes = [CLOSES, ORPHANS].map(|closes| closes.start(busy, BEFORE + time));
    drop_answers(victim)?;
    let subjects = vec![
        Subject::busy("busy", busy, 2),
        Subject::busy("half-open", victim, 2),
    ];
    let mut watch = Watch::new(&daemon, subjects);
    watch.run(BEFORE)?;
    let begun = Instant::now();
    while begun.elapsed() < time {
        let requests = HalfOpen::start(victim, REQUESTS)?;
        watch.run(WAVE.min(time.saturating_sub(begun.elapsed())))?;
        drop(requests);
    }
    watch.report()?;
    for closes in closes {
        join(closes)?;
    }
    let track = watch.worst(|group, state| (group, state) == ("half-open", "new_syn_recv"));
    ensure!(
        track.most >= u64::from(REQUESTS),
        "the kernel had {} half-open requests, not {REQUESTS}",
        track.most
    );
    let wrong = track.all.longest.as_secs_f64();
    let what = "seconds until the half-open requests are right";
    Ok(vec![Target::at_most(3.0, wrong, what)])
}

pub(super) fn orphans(plan: &Plan) -> Result<Vec<Target>> {
    let holder = Holder::apart(&NOTHING)?;
    let daemon = Daemon::start(&plan.binary)?;
    let time = plan.time(180);
    let closes = Orphans {
        per_second: 200,
        peer_closes_after: 2 * SECOND,
    };
    let closes = closes.start(holder.place(), time);
    let mut watch = Watch::new(&daemon, vec![Subject::busy("orphans", holder.place(), 3)]);
    watch.run(time)?;
    watch.report()?;
    join(closes)?;
    let wrong = |wanted| {
        let track = watch.worst(|_, state| state == wanted);
        let what = format!("looks at which {wanted} is off without doubt");
        Target::at_most(0.0, f64::from(track.untold.looks), &what)
    };
    Ok(vec![wrong("fin_wait2"), wrong("time_wait")])
}

pub(super) fn storms(plan: &Plan) -> Result<Vec<Target>> {
    let holder = Holder::apart(&NOTHING)?;
    let daemon = Daemon::start(&plan.binary)?;
    let mut watch = Watch::new(&daemon, vec![Subject::busy("storms", holder.place(), 0)]);
    let mut wrong = 0;
    for number in 1..=plan.storms {
        let connections = storm(holder.place(), plan.time(5))?;
        let ended = Instant::now();
        watch.read()?;
        sleep(SECOND.saturating_sub(ended.elapsed()));
        let mut look = watch.look()?;
        while look.taken < ended && ended.elapsed() < 4 * SECOND {
            sleep(SECOND / 10);
            look = watch.look()?;
        }
        let is_late = look.taken < ended;
        wrong += u32::from(is_late || look.error > 0);
        eprintln!(
            "storm {number}: {connections} connections{}{}",
            look.what,
            if is_late {
                ", no new figures in 4 s"
            } else {
                ""
            }
        );
    }
    watch.report()?;
    let what = "storms after which a count was wrong";
    Ok(vec![Target::at_most(0.0, f64::from(wrong), what)])
}

pub(super) fn verdicts(plan: &Plan) -> Result<Vec<Target>> {
    const NAMESPACES: usize = 300;
    const RULE: &str = "[[socket]]\nname = \"bench\"\nstate = \"close_wait\"\nwarning = \"30s\"\n\
                        critical = \"5m\"\n";
    // As in the rule.
    let overdue = |entered: Instant| entered.elapsed().saturating_sub(30 * SECOND);
    let crowd = Holder::apart(&NOTHING)?;
    let daemon = Daemon::with(RULE, &plan.binary)?;
    let mut holders = BTreeMap::new();
    for _ in 0..NAMESPACES {
        let holder = Holder::apart(&["--connections", "1"])?;
        holders.insert(holder.place().inode, (holder, Instant::now()));
    }
    join(fill(crowd.place(), 100_000))?;
    let begun = Instant::now();
    let mut meter = Meter::start(&daemon)?;
    let mut delays = BTreeMap::new();
    while delays.len() < NAMESPACES && begun.elapsed() < plan.time(150) {
        sleep(SECOND / 4);
        meter.read(&daemon)?;
        for netns in stuck(&daemon)? {
            if let Some((_, entered)) = holders.get(&netns) {
                delays.entry(netns).or_insert_with(|| overdue(*entered));
            }
        }
    }
    meter.report();
    eprintln!("{} of {NAMESPACES} told", delays.len());
    let untold = holders
        .iter()
        .filter(|(netns, _)| !delays.contains_key(netns));
    let untold: Vec<Duration> = untold.map(|(_, (_, entered))| overdue(*entered)).collect();
    let longest = delays.into_values().chain(untold).max().unwrap_or_default();
    let what = "seconds until the last was told";
    Ok(vec![
        Target::at_most(5.0, longest.as_secs_f64(), what),
        Target::at_most(0.05, meter.longest(), "CPU seconds of a look"),
    ])
}

/// Namespaces of the findings on single sockets.
fn stuck(daemon: &Daemon) -> Result<Vec<u64>> {
    let json = daemon.json("/api/v1/stuck")?;
    let findings = json.get("findings").and_then(Value::as_array);
    let findings = findings.context("the answer has no findings")?.iter();
    let of_single = findings
        .filter(|finding| finding.get("state").and_then(Value::as_str) == Some("close_wait"));
    Ok(of_single
        .filter_map(|finding| finding.get("netns")?.as_u64())
        .collect())
}

/// CPU time of the looks at what lingers, by the daemon's own account. It is published once a second,
/// and there is no more than one look in one.
struct Meter {
    cpu: Duration,
    begun: Instant,
    verdicts: f64,
    looks: Vec<f64>,
    percent: f64,
}

impl Meter {
    const METRIC: &str = "tcplinger_walk_cpu_seconds_total{purpose=\"verdicts\"}";

    fn start(daemon: &Daemon) -> Result<Self> {
        Ok(Self {
            cpu: daemon.cpu(),
            begun: Instant::now(),
            verdicts: daemon.metrics()?.sum(Self::METRIC),
            looks: Vec::new(),
            percent: 0.0,
        })
    }

    fn read(&mut self, daemon: &Daemon) -> Result<()> {
        let verdicts = daemon.metrics()?.sum(Self::METRIC);
        if verdicts > self.verdicts {
            self.looks.push(verdicts - self.verdicts);
            self.verdicts = verdicts;
        }
        let cpu = daemon.cpu().saturating_sub(self.cpu).as_secs_f64();
        self.percent = 100.0 * cpu / self.begun.elapsed().as_secs_f64();
        Ok(())
    }

    fn longest(&self) -> f64 {
        self.looks.iter().copied().fold(0.0, f64::max)
    }

    fn report(&self) {
        eprintln!(
            "{:.2} % of a core; {} looks in {:.0} s, {:.3} CPU seconds all told, {:.3} the longest",
            self.percent,
            self.looks.len(),
            self.begun.elapsed().as_secs_f64(),
            self.looks.iter().sum::<f64>(),
            self.longest()
        );
    }
}

pub(super) fn namespaces(plan: &Plan) -> Result<Vec<Target>> {
    const QUIET: usize = 999;
    const MINUTE: Duration = Duration::from_mins(1);
    let crowd = Holder::apart(&NOTHING)?;
    let arguments = ["--connections", "0", "--time-wait-every", "45"];
    let quiet: Vec<Holder> = (0..QUIET)
        .map(|_| Holder::apart(&arguments))
        .collect::<Result<_>>()?;
    let daemon = Daemon::start(&plan.binary)?;
    let counted = daemon.started.elapsed();
    let time = plan.time(180);
    let closes = Orphans {
        per_second: 50,
        peer_closes_after: 2 * SECOND,
    };
    let closes = closes.start(crowd.place(), time);
    let subjects = quiet
        .iter()
        .map(|holder| Subject::quiet("quiet", holder.place()));
    let busy = Subject::busy("busy", crowd.place(), 2);
    let mut watch = Watch::new(&daemon, std::iter::once(busy).chain(subjects).collect());
    let begun = Instant::now();
    while begun.elapsed() < time {
        // They are gone after a minute.
        let filling = fill(crowd.place(), 70_000);
        watch.run(MINUTE.min(time.saturating_sub(begun.elapsed())))?;
        join(filling)?;
    }
    eprintln!("first answer after {:.1} s", counted.as_secs_f64());
    watch.report()?;
    join(closes)?;
    let wrong = watch.worst(|_, _| true).untold.longest.as_secs_f64();
    Ok(vec![
        Target::at_most(3.0, wrong, "seconds wrong without doubt"),
        Target::at_most(
            3.0,
            watch.oldest().as_secs_f64(),
            "seconds that figures were old",
        ),
        Target::at_most(5.0, watch.cpu_percent(), "% of a core"),
    ])
}

pub(super) fn million(plan: &Plan) -> Result<Vec<Target>> {
    let keeper = Holder::apart(&NOTHING)?;
    let (holders, established) = open_a_million(keeper.place())?;
    let daemon = Daemon::start(&plan.binary)?;
    let mut complete = None;
    while complete.is_none() && daemon.started.elapsed() < 60 * SECOND {
        sleep(SECOND / 10);
        let status = daemon.status()?;
        let total = kernel::total(keeper.place())?;
        let inode = keeper.place().inode;
        let row = status.namespaces().find(|(netns, _)| *netns == inode);
        let sockets = row.and_then(|(_, row)| row.get("sockets")?.as_object());
        let shown = sockets.map(|states| states.values().filter_map(Value::as_u64).sum());
        let open = sockets.and_then(|states| states.get("established")?.as_u64());
        if !status.is_in_doubt() && shown == Some(total) && open == Some(established) {
            complete = Some(daemon.started.elapsed());
        }
    }
    let startup = daemon.cpu().as_secs_f64();
    let (time, cpu) = (plan.time(30), daemon.cpu());
    sleep(time);
    let cpu = daemon.cpu().saturating_sub(cpu).as_secs_f64() / time.as_secs_f64();
    eprintln!(
        "{established} sockets established, held by {} processes; {startup:.1} CPU seconds until then, \
         {:.1} MB, then {:.2} % of a core",
        holders.len(),
        daemon.resident_megabytes()?,
        100.0 * cpu
    );
    let seconds = complete.map_or(f64::INFINITY, |time| time.as_secs_f64());
    let what = "seconds from the start to complete counts";
    Ok(vec![Target::at_most(60.0, seconds, what)])
}

/// Holders in that namespace, and the sockets they have established: a million, or fewer where memory
/// runs short.
fn open_a_million(place: Place) -> Result<(Vec<Holder>, u64)> {
    const SOCKETS: u64 = 1_000_000;
    /// Both ends of each are descriptors of one process.
    const CONNECTIONS_EACH: u64 = 9_500;
    const KEPT_FREE_KILOBYTES: u64 = 4 << 20;
    const AT_MOST: Duration = Duration::from_mins(5);
    let connections = CONNECTIONS_EACH.to_string();
    let arguments = ["--connections", &connections, "--established"];
    let (begun, mut holders, mut established) = (Instant::now(), Vec::new(), 0);
    while established < SOCKETS
        && available_kilobytes()? > KEPT_FREE_KILOBYTES
        && begun.elapsed() < AT_MOST
    {
        holders.push(Holder::within(place, &arguments)?);
        established += 2 * CONNECTIONS_EACH;
    }
    Ok((holders, established))
}

fn available_kilobytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .context("meminfo has no MemAvailable")
}
