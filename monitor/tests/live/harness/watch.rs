//! What the daemon publishes over HTTP, held to what the kernel has just before and just after.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::daemon::Daemon;
use super::http::get;
use super::netns::Netns;
use super::oracle::{STATES, Status};
use super::{PATIENCE, eventually, run};

/// Figures are gathered for a moment before they are published as of one time.
const GATHERING: Duration = Duration::from_millis(200);
/// Figures that are older than this are not of the moment that is looked at.
const STALE: Duration = Duration::from_secs(3);
const SECONDS_A_DAY: f64 = 86_400.0;

/// Sockets of both families by state, as `ss` spells it; every state is there.
type Counts = BTreeMap<&'static str, u64>;

fn nothing() -> Counts {
    STATES
        .into_iter()
        .map(|(spelling, _)| (spelling, 0))
        .collect()
}

/// What the kernel had, between two moments.
struct Reading {
    begun: Instant,
    ended: Instant,
    counts: Counts,
}

impl Reading {
    /// `ss` takes seconds for a great many in `TIME_WAIT`: those are what `sockstat` has beyond the
    /// minisockets that `ss` lists in other states.
    fn take(netns: &Netns) -> Self {
        let begun = Instant::now();
        let (rows, sockstat) = netns.enter(|| {
            let rows = run(Command::new("ss").args(["-tanoH", "exclude", "time-wait"]));
            (
                rows,
                fs::read_to_string("/proc/thread-self/net/sockstat").unwrap(),
            )
        });
        Self {
            begun,
            ended: Instant::now(),
            counts: count(&rows, minisockets(&sockstat)),
        }
    }
}

fn count(rows: &str, minisockets: u64) -> Counts {
    let mut counts = nothing();
    for row in rows.lines() {
        let spelling = row.split_whitespace().next().unwrap();
        let count = counts.get_mut(spelling);
        *count.unwrap_or_else(|| panic!("an unknown state: {row}")) += 1;
    }
    let listed = rows.matches("timer:(timewait").count() as u64;
    counts.insert("TIME-WAIT", minisockets.saturating_sub(listed));
    counts
}

/// Both families.
fn minisockets(sockstat: &str) -> u64 {
    let line = sockstat.lines().find(|line| line.starts_with("TCP:"));
    let mut words = line.unwrap().split(' ').skip_while(|word| *word != "tw");
    words.nth(1).unwrap().parse().unwrap()
}

/// A count that is not what the kernel had.
#[derive(Clone, Debug)]
pub(crate) struct Wrong {
    pub(crate) state: &'static str,
    pub(crate) published: u64,
    /// The kernel had at least and at most this many.
    pub(crate) least: u64,
    pub(crate) most: u64,
}

impl Wrong {
    /// By how many sockets.
    fn error(&self) -> u64 {
        self.least.saturating_sub(self.published) + self.published.saturating_sub(self.most)
    }

    /// By at most one in a hundred, or 3.
    pub(crate) fn is_small(&self) -> bool {
        self.error() <= 3.max(self.most / 100)
    }
}

/// One answer of `/api/v1/status`, and what is wrong with it.
#[derive(Debug)]
pub(crate) struct Look {
    /// When its figures were taken.
    pub(crate) taken: Instant,
    /// Whether the daemon says that the counts of this namespace may be wrong.
    pub(crate) is_in_doubt: bool,
    pub(crate) wrong: Vec<Wrong>,
    counts: Counts,
    /// The whole answer, but for the other namespaces.
    status: Value,
}

impl Look {
    /// How many the daemon shows in a state, as `ss` spells it.
    pub(crate) fn published(&self, state: &str) -> u64 {
        self.counts[state]
    }

    /// Exact, and the daemon stands by it.
    pub(crate) fn is_settled(&self) -> bool {
        self.wrong.is_empty() && !self.is_in_doubt
    }

    /// A figure of the whole host, by its JSON pointer.
    pub(crate) fn figure(&self, pointer: &str) -> u64 {
        let figure = self.status.pointer(pointer).and_then(Value::as_u64);
        figure.unwrap_or_else(|| panic!("no {pointer} in {}", self.status))
    }
}

/// One namespace, looked at through the daemon's API with a look at the kernel on either side.
pub(crate) struct Watch<'a> {
    daemon: &'a Daemon,
    netns: &'a Netns,
    readings: Vec<Reading>,
}

impl Daemon {
    /// With its defaults, its HTTP server on a port of its own, and a sample to show.
    pub(crate) fn serving(arguments: &str) -> Self {
        let daemon = Self::with(&format!("--listen 127.0.0.1:0 {arguments}"));
        let is_ready = || (get(&daemon, "/readyz").status == 200).then_some(());
        eventually(PATIENCE, is_ready).expect("a sample");
        daemon
    }
}

impl<'a> Watch<'a> {
    pub(crate) fn new(daemon: &'a Daemon, netns: &'a Netns) -> Self {
        Self {
            daemon,
            netns,
            readings: vec![Reading::take(netns)],
        }
    }

    pub(crate) fn look(&mut self) -> Look {
        self.readings.push(Reading::take(self.netns));
        sleep(GATHERING);
        let mut status = get(self.daemon, "/api/v1/status").json();
        let age = age(status["taken"].as_str().unwrap());
        assert!(age < STALE, "the figures are {age:?} old");
        let taken = Instant::now().checked_sub(age).unwrap();
        self.readings.push(Reading::take(self.netns));
        let (least, most) = self.bounds(taken);

        // Its sums are checked on the way.
        drop(Status::new(status.clone()));
        let rows = status["namespaces"].as_array_mut().unwrap();
        rows.retain(|row| row["netns"] == self.netns.inode());
        let row = rows.first();
        let counts = published(row);
        let compared = counts.iter().map(|(state, published)| Wrong {
            state,
            published: *published,
            least: least[state],
            most: most[state],
        });
        let wrong = compared.filter(|count| count.error() > 0).collect();
        Look {
            taken,
            // Of one that it does not show it knows nothing.
            is_in_doubt: row.is_some_and(|row| row["in_doubt"] == true),
            wrong,
            counts,
            status,
        }
    }

    /// Looks until one satisfies, and is of figures from after this was called; else the last.
    pub(crate) fn look_until(
        &mut self,
        deadline: Instant,
        is_wanted: impl Fn(&Look) -> bool,
    ) -> Result<Look, Look> {
        let called = Instant::now();
        loop {
            let look = self.look();
            if look.taken >= called && is_wanted(&look) {
                return Ok(look);
            }
            if Instant::now() >= deadline {
                return Err(look);
            }
        }
    }

    /// The least and the most that the kernel may have had then.
    fn bounds(&self, taken: Instant) -> (Counts, Counts) {
        let earliest = taken.checked_sub(GATHERING).unwrap();
        let readings = &self.readings;
        let before = readings
            .iter()
            .rposition(|reading| reading.ended <= earliest);
        let after = readings.iter().position(|reading| reading.begun >= taken);
        let between = &readings[before.unwrap_or(0)..=after.unwrap()];
        let (mut least, mut most) = (between[0].counts.clone(), nothing());
        for (state, count) in between.iter().flat_map(|reading| &reading.counts) {
            let (least, most) = (least.get_mut(state).unwrap(), most.get_mut(state).unwrap());
            *least = (*least).min(*count);
            *most = (*most).max(*count);
        }
        (least, most)
    }
}

/// None where the daemon does not have the namespace at all.
fn published(row: Option<&Value>) -> Counts {
    let mut counts = nothing();
    for (spelling, state) in STATES {
        let number = row.map_or(0, |row| row["sockets"][state].as_u64().unwrap());
        *counts.get_mut(spelling).unwrap() += number;
    }
    counts
}

/// How long ago a time of today was, in RFC 3339 and UTC.
fn age(time: &str) -> Duration {
    let (_, of_day) = time.strip_suffix('Z').unwrap().split_once('T').unwrap();
    let parts = of_day.split(':').map(|part| part.parse::<f64>().unwrap());
    let of_day = parts.fold(0.0, |sum, part| sum * 60.0 + part);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Duration::from_secs_f64((now.as_secs_f64() - of_day).rem_euclid(SECONDS_A_DAY))
}
