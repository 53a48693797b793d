//! `CLOSE_WAIT` that only grows: an application that forgets to close.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::incident::{Group, Incident, Kind, Names, Whose, list_command};
use super::phrase::{Moving, Span, grouped, rate, real, unmarked};
use super::stuck::{Endpoint, LeakRule, Owner, Severity};
use crate::tcp::{Limits, State};

/// Services watched at once, 0.5 KB each.
const MOST_SERVICES: usize = 4_096;
/// Samples of a window; each is the lowest count of its part, so that sockets that come and go are
/// none of it.
const SAMPLES: u32 = 12;
/// Samples without which there is no saying whether growth goes on.
const FEWEST: usize = 4;
/// A process that meets its file limit so soon is critical.
const SOON: Duration = Duration::from_mins(10);

/// Whose `CLOSE_WAIT` sockets are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Service {
    /// Inode number.
    pub(crate) netns: u32,
    pub(crate) port: u16,
    /// The port is the local one: a server's. Else it is the remote one: a client has many local
    /// ports.
    pub(crate) is_local: bool,
}

impl Service {
    /// What a connection belongs to: the port it was accepted on, or the one it was made to; both where
    /// the limits do not tell which is which.
    pub(crate) fn of(
        limits: Option<&Limits>,
        netns: u32,
        (local, remote): (u16, u16),
    ) -> impl Iterator<Item = Self> {
        let is_ephemeral =
            |port| limits.is_none_or(|limits| limits.ephemeral_ports.contains(&port));
        let of_server = Self {
            netns,
            port: local,
            is_local: true,
        };
        let of_client = Self {
            netns,
            port: remote,
            is_local: false,
        };
        let is_server = !is_ephemeral(local);
        let is_client = !is_server && !is_ephemeral(remote);
        let of_server = (!is_client).then_some(of_server);
        let of_client = (!is_server).then_some(of_client);
        of_server.into_iter().chain(of_client)
    }

    /// What its sockets have in common.
    pub(crate) const fn ends(self) -> (Endpoint, Endpoint) {
        if self.is_local {
            (Endpoint::Port(self.port), Endpoint::Any)
        } else {
            (Endpoint::Any, Endpoint::Port(self.port))
        }
    }
}

/// A service whose `CLOSE_WAIT` sockets became more and more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Leak {
    pub(crate) service: Service,
    /// Start of the window that showed it; growth may have begun before.
    pub(crate) since: Duration,
    /// In `CLOSE_WAIT` now.
    pub(crate) sockets: u64,
    /// Growth over the last window, at least 0.
    pub(crate) rate_per_second: f64,
}

/// Finds leaks in the counts of one round after the other.
///
/// A leak: over a whole window the count, without sockets that come and go within a twelfth of it,
/// never fell, rose by at least `growth`, and rose in each third (a burst that then stands still is
/// none). It ends when that count has set no new high for a window, or falls below 9/10 of its peak.
/// Rounds further apart than a third of the window make the window longer: it has 4 samples at
/// least.
#[derive(Debug)]
pub(crate) struct LeakDetector {
    rule: LeakRule,
    watched: HashMap<Service, Watched>,
    last_round: Option<Duration>,
    dropped: u64,
}

#[derive(Debug)]
struct Watched {
    /// When a part of the window began, and the lowest count in it; oldest first.
    samples: VecDeque<(Duration, u64)>,
    /// Of the last round that had any.
    seen: Duration,
    /// The highest sample of the leak that is complete; without a leak, the last one.
    peak: u64,
    peaked: Duration,
    leak: Option<Leak>,
}

impl LeakDetector {
    pub(crate) fn new(rule: LeakRule) -> Self {
        Self {
            rule,
            watched: HashMap::new(),
            last_round: None,
            dropped: 0,
        }
    }

    /// One round: how many sockets of each service are in `CLOSE_WAIT`. A service that is missing
    /// has none. `now` must rise from round to round; a round that does not is ignored.
    pub(crate) fn observe(&mut self, now: Duration, counts: impl Iterator<Item = (Service, u64)>) {
        if self.last_round.is_some_and(|last| now <= last) {
            return;
        }
        self.dropped = 0;
        for (service, count) in counts.filter(|(_, count)| *count > 0) {
            if let Some(watched) = self.watched.get_mut(&service) {
                watched.take(now, count, self.rule);
            } else if self.watched.len() < MOST_SERVICES {
                // The round before, it had none.
                let mut watched = Watched::new(self.last_round.map(|last| (last, 0)), now);
                watched.take(now, count, self.rule);
                self.watched.insert(service, watched);
            } else {
                self.dropped += 1;
                continue;
            }
            if let Some(watched) = self.watched.get_mut(&service) {
                watched.judge(service, now, count, self.rule);
            }
        }
        self.watched.retain(|_, watched| watched.seen == now);
        self.last_round = Some(now);
    }

    /// In no particular order.
    pub(crate) fn leaks(&self) -> impl Iterator<Item = &Leak> {
        self.watched
            .values()
            .filter_map(|watched| watched.leak.as_ref())
    }

    /// Services of the last round that were not watched, because too many others are.
    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Watched {
    fn new(before: Option<(Duration, u64)>, now: Duration) -> Self {
        Self {
            samples: before.into_iter().collect(),
            seen: now,
            peak: 0,
            peaked: now,
            leak: None,
        }
    }

    fn take(&mut self, now: Duration, count: u64, rule: LeakRule) {
        self.seen = now;
        let part = rule.window / SAMPLES;
        match self.samples.back_mut() {
            Some((start, lowest)) if now.saturating_sub(*start) < part => {
                *lowest = count.min(*lowest);
            }
            last => {
                let complete = last.map(|last| *last);
                self.samples.push_back((now, count));
                self.note_peak(complete);
            }
        }
        let is_covered = |sample: &(Duration, u64)| now.saturating_sub(sample.0) >= rule.window;
        while self.samples.len() > FEWEST && self.samples.get(1).is_some_and(is_covered) {
            self.samples.pop_front();
        }
    }

    fn note_peak(&mut self, complete: Option<(Duration, u64)>) {
        if let Some((start, lowest)) = complete
            && (self.leak.is_none() || lowest > self.peak)
        {
            self.peak = lowest;
            self.peaked = start;
        }
    }

    fn judge(&mut self, service: Service, now: Duration, count: u64, rule: LeakRule) {
        let lowest = self.samples.back().map_or(count, |last| last.1);
        let is_over = self.leak.is_some()
            && (now.saturating_sub(self.peaked) >= rule.window
                || lowest.saturating_mul(10) < self.peak.saturating_mul(9));
        if is_over {
            *self = Self::new(Some((now, count)), now);
            return;
        }
        let since = match self.leak {
            Some(leak) => leak.since,
            None if self.is_leaking(now, rule) => self.samples.front().map_or(now, |first| first.0),
            None => return,
        };
        self.leak = Some(Leak {
            service,
            since,
            sockets: count,
            rate_per_second: self.rate(),
        });
    }

    fn is_leaking(&self, now: Duration, rule: LeakRule) -> bool {
        let count_at = |index: usize| self.samples.get(index).map(|sample| sample.1);
        let (Some((start, first)), Some((_, last))) = (self.samples.front(), self.samples.back())
        else {
            return false;
        };
        let end = self.samples.len() - 1;
        let has_risen = |third: usize| count_at(end * third / 3) < count_at(end * (third + 1) / 3);
        let counts = self.samples.iter().map(|sample| sample.1);
        self.samples.len() >= FEWEST
            && now.saturating_sub(*start) >= rule.window
            && last.saturating_sub(*first) >= rule.growth
            && counts.is_sorted()
            && (0..3).all(has_risen)
    }

    /// From the first sample to the last.
    fn rate(&self) -> f64 {
        let (Some((start, first)), Some((end, last))) = (self.samples.front(), self.samples.back())
        else {
            return 0.0;
        };
        let span = end.saturating_sub(*start).as_secs_f64();
        let growth = real(last.saturating_sub(*first));
        if span > 0.0 { growth / span } else { 0.0 }
    }
}

/// A leak as an incident, of those of its sockets that one owner has: growth is theirs in proportion.
pub(crate) fn leak_incident<P>(
    leak: &Leak,
    now: Duration,
    whose: Whose,
    sockets: &Group<P>,
    names: &Names,
) -> Incident {
    let growth =
        |sockets: u64| leak.rate_per_second * (real(sockets) / real(leak.sockets.max(1))).min(1.0);
    // A socket that several processes hold takes a descriptor of each.
    let ends = sockets.holders().map(|holder| {
        let (owner, held) = holder;
        (until_file_limit(owner, growth(held)), holder)
    });
    let first = ends
        .min_by_key(|(left, (_, held))| (left.unwrap_or(Duration::MAX), std::cmp::Reverse(*held)));
    let (exhausted_in, holder) = first.map_or((None, None), |(left, holder)| (left, Some(holder)));
    let severity = match exhausted_in {
        Some(left) if left < SOON => Severity::Critical,
        _ => Severity::Warning,
    };
    let Service { netns, .. } = leak.service;
    let (local, remote) = leak.service.ends();
    let mut incident = Incident {
        whose,
        local,
        remote,
        rate_per_second: Some(growth(sockets.sockets())),
        exhausted_in_seconds: exhausted_in.map(|left| left.as_secs_f64()),
        ..Incident::new(Kind::Leak, severity, State::CloseWait, netns)
    };
    sockets.fill(&mut incident);
    let lasted = Moving::Grows(now.saturating_sub(leak.since));
    let rate = growth(sockets.sockets());
    incident.explain(
        template(&incident, lasted, rate, holder, exhausted_in),
        advice(&incident, names, holder),
    );
    incident
}

/// None where either figure is unknown, or it never will.
fn until_file_limit(owner: &Owner, growth: f64) -> Option<Duration> {
    let left = owner
        .process
        .file_limit?
        .saturating_sub(owner.process.open_files?);
    match left {
        0 => Some(Duration::ZERO),
        _ if growth > 0.0 => Duration::try_from_secs_f64(real(left) / growth).ok(),
        _ => None,
    }
}

fn template(
    incident: &Incident,
    lasted: Moving,
    growth: f64,
    holder: Option<(&Owner, u64)>,
    exhausted_in: Option<Duration>,
) -> String {
    let sockets = grouped(incident.sockets);
    let growth = rate(growth);
    let what = format!(
        "{sockets} connections that the peer closed and the application did not; growing for \
         {lasted}, now by {growth}/s"
    );
    let Some((owner, held)) = holder else {
        return what;
    };
    let process = &owner.process;
    // Commands stand in backticks elsewhere; a name must not pose as one.
    let comm = unmarked(&process.comm).replace('`', "'");
    let pid = process.pid;
    let who = if held == incident.sockets {
        format!("{what}; pid {pid} ({comm})")
    } else {
        format!(
            "{what}; pid {pid} ({comm}), which holds {} of them,",
            grouped(held)
        )
    };
    let (Some(open), Some(limit)) = (process.open_files, process.file_limit) else {
        return who;
    };
    let descriptors = format!(
        "{who} has {} of {} descriptors open",
        grouped(open),
        grouped(limit)
    );
    match exhausted_in {
        Some(Duration::ZERO) => format!("{descriptors} and cannot open another"),
        Some(left) => format!("{descriptors} and reaches its limit in {}", Span(left)),
        None => descriptors,
    }
}

fn advice(incident: &Incident, names: &Names, holder: Option<(&Owner, u64)>) -> String {
    let list = list_command(incident, names);
    match holder {
        Some((owner, _)) => {
            let pid = owner.process.pid;
            format!(
                "list them: `{list}`; see where its threads wait: `cat /proc/{pid}/task/*/stack`; \
                 fix the code path that does not close() after read() returns 0 (often an error \
                 path), and restart pid {pid} to free the sockets: no sysctl does"
            )
        }
        None => format!(
            "list them: `{list}`; fix the code path that does not close() after read() returns 0 \
             (often an error path), and restart the application to free the sockets: no sysctl \
             does"
        ),
    }
}

#[cfg(test)]
mod tests;
