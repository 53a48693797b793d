//! Looks at what the daemon publishes, once a second, and holds it against what the kernel has had
//! just before and just after those figures were taken.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::daemon::{Daemon, Status};
use super::kernel::{Counts, Means, Reading, STATES, read};
use crate::bench::place::Place;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Figures are gathered for a moment before they are published as of one time.
const GATHERING: Duration = Duration::from_millis(200);
/// The daemon serves figures of this age without reading the kernel's again.
const REFRESH: Duration = Duration::from_millis(100);
/// Readings kept: the figures may be some seconds old.
const READINGS: usize = 8;
/// Namespaces read by `sockstat` that are read by `ss` instead, at each look others.
const SAMPLE: usize = 4;

/// A namespace that is compared.
pub(super) struct Subject {
    /// The row of the table it goes into, with others of the same name.
    group: &'static str,
    place: Place,
    means: Means,
    /// Sockets by which a count may be off, if that is more than a hundredth of them.
    tolerance: u64,
    readings: VecDeque<Reading>,
    tracks: [Track; STATES.len()],
}

impl Subject {
    /// Read by `ss`, at each look.
    pub(super) fn busy(group: &'static str, place: Place, tolerance: u64) -> Self {
        Self {
            group,
            place,
            means: Means::Ss,
            tolerance,
            readings: VecDeque::new(),
            tracks: Default::default(),
        }
    }

    /// One of many in which hardly anything happens: no count may be off.
    pub(super) fn quiet(group: &'static str, place: Place) -> Self {
        Self {
            means: Means::Sockstat,
            ..Self::busy(group, place, 0)
        }
    }

    fn read(&mut self, means: Means) -> Result<()> {
        self.readings.push_back(read(self.place, means)?);
        if self.readings.len() > READINGS {
            self.readings.pop_front();
        }
        Ok(())
    }

    /// The least and the most that the kernel may have had then; None where that was not read.
    fn bounds(&self, taken: Instant) -> Option<(Counts, Counts)> {
        let earliest = taken.checked_sub(GATHERING)?;
        let before = self
            .readings
            .iter()
            .rposition(|reading| reading.ended <= earliest)?;
        let after = self
            .readings
            .iter()
            .position(|reading| reading.begun >= taken)?;
        let mut readings = self.readings.range(before..=after);
        let first = readings.next()?.counts;
        Some(readings.fold((first, first), |(least, most), reading| {
            (
                merge(least, reading.counts, u64::min),
                merge(most, reading.counts, u64::max),
            )
        }))
    }

    fn judge(&mut self, status: &Status, row: Option<&Value>, look: &mut Look) {
        let Some((least, most)) = self.bounds(status.taken) else {
            return;
        };
        let tolerance = self.tolerance;
        for ((((_, state), track), least), most) in
            STATES.iter().zip(&mut self.tracks).zip(least).zip(most)
        {
            let published = published(row, state);
            let error = distance(published, least, most);
            let told = told(status, row, state);
            track.note(most, error, told, tolerance.max(most / 100));
            if error > look.error {
                look.error = error;
                look.what = format!("; {state} is {published}, not {least} to {most}");
            }
        }
    }
}

fn merge(mut one: Counts, other: Counts, choose: impl Fn(u64, u64) -> u64) -> Counts {
    for (one, other) in one.iter_mut().zip(other) {
        *one = choose(*one, other);
    }
    one
}

fn distance(value: u64, least: u64, most: u64) -> u64 {
    least.saturating_sub(value) + value.saturating_sub(most)
}

/// None where the daemon does not have the namespace at all.
fn published(row: Option<&Value>, state: &str) -> u64 {
    let sockets = row.and_then(|row| row.get("sockets"));
    let count = |state| sockets.and_then(|sockets| sockets.get(state)?.as_u64());
    // As in `STATES`.
    let also = if state == "new_syn_recv" {
        "syn_recv"
    } else {
        ""
    };
    count(state).unwrap_or_default() + count(also).unwrap_or_default()
}

/// By how much the daemon says that this count may be off.
fn told(status: &Status, row: Option<&Value>, state: &str) -> u64 {
    let own = row.and_then(|row| row.get("in_doubt")?.as_bool());
    if !own.unwrap_or_else(|| status.is_in_doubt()) {
        return 0;
    }
    let uncertain = row.and_then(|row| row.get("uncertain")?.as_object());
    match uncertain.filter(|uncertain| !uncertain.is_empty()) {
        Some(uncertain) => uncertain.get(state).and_then(Value::as_u64).unwrap_or(0),
        None => u64::MAX,
    }
}

/// One count over time.
#[derive(Clone, Default)]
pub(super) struct Track {
    /// The most that the kernel had.
    pub(super) most: u64,
    looks: u32,
    doubted: u32,
    /// Beyond what the daemon told.
    pub(super) untold: Errors,
    pub(super) all: Errors,
}

#[derive(Clone, Default)]
pub(super) struct Errors {
    largest: u64,
    /// Looks that found it beyond what is tolerated.
    pub(super) looks: u32,
    /// Beyond that without a break.
    pub(super) longest: Duration,
    since: Option<Instant>,
}

impl Track {
    fn note(&mut self, most: u64, error: u64, told: u64, tolerance: u64) {
        self.most = self.most.max(most);
        self.looks += 1;
        self.doubted += u32::from(told > 0);
        let now = Instant::now();
        self.all.note(error, tolerance, now);
        self.untold.note(error.saturating_sub(told), tolerance, now);
    }

    fn is_blank(&self) -> bool {
        self.most == 0 && self.all.largest == 0
    }

    fn add(&mut self, other: &Self) {
        self.most = self.most.max(other.most);
        self.looks += other.looks;
        self.doubted += other.doubted;
        self.all.add(&other.all);
        self.untold.add(&other.untold);
    }
}

impl Errors {
    fn note(&mut self, error: u64, tolerance: u64, now: Instant) {
        self.largest = self.largest.max(error);
        self.looks += u32::from(error > tolerance);
        let since = self.since.take();
        if error > tolerance {
            self.since = since.or(Some(now));
        }
        // The look that finds it right ends the time, too.
        if let Some(since) = since {
            self.longest = self.longest.max(now - since);
        }
    }

    fn add(&mut self, other: &Self) {
        self.largest = self.largest.max(other.largest);
        self.looks += other.looks;
        self.longest = self.longest.max(other.longest);
    }
}

/// What a single look came to.
pub(super) struct Look {
    pub(super) taken: Instant,
    /// The largest in any namespace and state, and what it is about.
    pub(super) error: u64,
    pub(super) what: String,
}

pub(super) struct Watch<'a> {
    daemon: &'a Daemon,
    subjects: Vec<Subject>,
    begun: Instant,
    cpu_before: Duration,
    looks: u32,
    doubted: u32,
    oldest: Duration,
    /// Looks at which the metrics and the API said different things of the same moment.
    differing: u32,
}

impl<'a> Watch<'a> {
    pub(super) fn new(daemon: &'a Daemon, subjects: Vec<Subject>) -> Self {
        Self {
            daemon,
            subjects,
            begun: Instant::now(),
            cpu_before: daemon.cpu(),
            looks: 0,
            doubted: 0,
            oldest: Duration::ZERO,
            differing: 0,
        }
    }

    /// Looks for that long. The kernel is read shortly before each look: a minute after a burst its
    /// `TIME_WAIT` sockets end at once, and a count rises to a peak and falls within a second.
    pub(super) fn run(&mut self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            let next = Instant::now() + LOOK_EVERY;
            self.read()?;
            sleep(GATHERING + REFRESH);
            self.look()?;
            sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// Compares what is published with the readings around it; the earlier one is the caller's.
    pub(super) fn look(&mut self) -> Result<Look> {
        let status = self.daemon.status()?;
        let metrics = self.daemon.metrics()?;
        self.differing += u32::from(status.agrees_with(&metrics) == Some(false));
        self.read()?;
        self.looks += 1;
        self.doubted += u32::from(status.is_in_doubt());
        self.oldest = self.oldest.max(status.age);
        let rows: HashMap<u64, &Value> = status.namespaces().collect();
        let mut look = Look {
            taken: status.taken,
            error: 0,
            what: String::new(),
        };
        for subject in &mut self.subjects {
            let row = rows.get(&subject.place.inode).copied();
            subject.judge(&status, row, &mut look);
        }
        Ok(look)
    }

    /// What the kernel has now.
    pub(super) fn read(&mut self) -> Result<()> {
        let sampled = usize::try_from(self.looks)? * SAMPLE % self.subjects.len().max(1);
        for (number, subject) in self.subjects.iter_mut().enumerate() {
            let means = match subject.means {
                Means::Sockstat if !(sampled..sampled + SAMPLE).contains(&number) => {
                    Means::Sockstat
                }
                _ => Means::Ss,
            };
            subject.read(means)?;
        }
        Ok(())
    }

    /// The namespaces of a group, or all, in one state, or in all.
    pub(super) fn worst(&self, wanted: impl Fn(&str, &str) -> bool) -> Track {
        let mut worst = Track::default();
        for (group, state, track) in self.tracks() {
            if wanted(group, state) {
                worst.add(track);
            }
        }
        worst
    }

    fn tracks(&self) -> impl Iterator<Item = (&'static str, &'static str, &Track)> {
        self.subjects.iter().flat_map(|subject| {
            let tracks = STATES.iter().zip(&subject.tracks);
            tracks.map(|((_, state), track)| (subject.group, *state, track))
        })
    }

    /// Percent of one core since this began.
    pub(super) fn cpu_percent(&self) -> f64 {
        let cpu = self.daemon.cpu().saturating_sub(self.cpu_before);
        100.0 * cpu.as_secs_f64() / self.begun.elapsed().as_secs_f64()
    }

    pub(super) const fn oldest(&self) -> Duration {
        self.oldest
    }

    pub(super) fn report(&self) -> Result<()> {
        let mut rows: BTreeMap<(&str, &str), Track> = BTreeMap::new();
        for (group, state, track) in self.tracks() {
            rows.entry((group, state)).or_default().add(track);
        }
        rows.retain(|_, track| !track.is_blank());
        eprintln!(
            "{:<12} {:<13} {:>9} {:>11} {:>8} {:>11} {:>8} {:>10}",
            "namespace", "state", "kernel", "error", "s wrong", "undoubted", "s wrong", "doubt %"
        );
        for ((group, state), track) in rows {
            eprintln!(
                "{group:<12} {state:<13} {:>9} {:>11} {:>8.1} {:>11} {:>8.1} {:>10.0}",
                track.most,
                track.all.largest,
                track.all.longest.as_secs_f64(),
                track.untold.largest,
                track.untold.longest.as_secs_f64(),
                percent(track.doubted, track.looks)
            );
        }
        let status = self.daemon.status()?;
        let events = status.json.get("events").and_then(Value::as_object);
        let events = events.into_iter().flatten();
        let events: Vec<String> = events
            .map(|(kind, number)| format!("{number} {kind}"))
            .collect();
        eprintln!(
            "{:.2} % of a core, {:.1} MB; events {}; drift {}",
            self.cpu_percent(),
            self.daemon.resident_megabytes()?,
            events.join(", "),
            status.number("/drift"),
        );
        eprintln!(
            "in doubt at {:.0} % of {} looks; figures at most {:.1} s old; metrics and API differed {} times",
            percent(self.doubted, self.looks),
            self.looks,
            self.oldest.as_secs_f64(),
            self.differing,
        );
        Ok(())
    }
}

fn percent(part: u32, whole: u32) -> f64 {
    100.0 * f64::from(part) / f64::from(whole.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_the_distance_to_what_the_kernel_may_have_had() {
        assert_eq!(distance(5, 4, 6), 0);
        assert_eq!(distance(2, 4, 6), 2);
        assert_eq!(distance(9, 4, 6), 3);
    }

    #[test]
    fn the_time_wrong_runs_to_the_look_that_finds_it_right() {
        let start = Instant::now();
        let mut errors = Errors::default();
        for (second, error) in [(0, 0), (1, 9), (2, 9), (4, 1), (9, 3), (10, 0)] {
            errors.note(error, 2, start + Duration::from_secs(second));
        }
        assert_eq!((errors.largest, errors.longest.as_secs()), (9, 3));
    }

    #[test]
    fn a_namespace_s_own_doubt_goes_before_that_of_the_whole() {
        let whole = Status::of(serde_json::json!({"in_doubt": true}));
        let sure = serde_json::json!({"in_doubt": false});
        let unsure = serde_json::json!({"in_doubt": true, "uncertain": {"time_wait": 7}});
        assert_eq!(told(&whole, None, "listen"), u64::MAX);
        assert_eq!(told(&whole, Some(&sure), "listen"), 0);
        assert_eq!(told(&whole, Some(&unsure), "time_wait"), 7);
        assert_eq!(told(&whole, Some(&unsure), "listen"), 0);
        let wrong = serde_json::json!({"in_doubt": true, "uncertain": {}});
        assert_eq!(told(&whole, Some(&wrong), "listen"), u64::MAX);
    }
}
