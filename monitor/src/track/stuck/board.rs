//! What has been raised and not cleared yet, and the notices of it: each finding is announced once,
//! and once more when it is over.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::finding::{name_of, state_named};
use super::{Endpoint, Finding, Severity};
use crate::tcp::State;
use crate::track::{FindingKind, Stuck};

/// Most findings on single sockets that are announced at once; the list shows all of them. A storm
/// of a hundred thousand notices would tell nobody anything.
const MOST_ANNOUNCED: usize = 1_000;
/// Notices kept for those who ask from time to time.
const MOST_NOTICES: usize = 4_096;

/// What happened to a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Change {
    Raised,
    /// From warning to critical.
    Worsened,
    /// From critical to warning.
    Eased,
    Cleared,
}

/// One change of one finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Notice {
    pub(crate) event: Change,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub(crate) ktime_ns: u64,
    /// As it was when it changed; of a cleared one, as it was last.
    #[serde(flatten)]
    pub(crate) finding: Finding,
}

/// What tells findings apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    netns: u32,
    state: State,
    /// Of a single socket, which is the same one under whatever rule.
    cookie: Option<u64>,
    group: Option<Box<Group>>,
}

/// What tells groups of sockets apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    rule: String,
    /// What a count rule adds up, by its name.
    of: String,
    local: Endpoint,
    remote: Endpoint,
    pid: Option<u32>,
}

impl Key {
    /// Of a socket with a cookie.
    pub(crate) const fn of_socket(netns: u32, state: State, cookie: u64) -> Self {
        Self {
            netns,
            state,
            cookie: Some(cookie),
            group: None,
        }
    }

    pub(crate) fn of(finding: &Finding) -> Self {
        if let Some(group) = &finding.group {
            // Its sockets, and with them what they have in common, change.
            return Self {
                netns: 0,
                state: State::Close,
                cookie: None,
                group: Some(Box::new(Group {
                    rule: finding.rule.clone(),
                    of: group.clone(),
                    local: Endpoint::Any,
                    remote: Endpoint::Any,
                    pid: None,
                })),
            };
        }
        let group = || {
            Box::new(Group {
                of: String::new(),
                rule: finding.rule.clone(),
                local: finding.local,
                remote: finding.remote,
                pid: finding.owners.first().map(|owner| owner.process.pid),
            })
        };
        Self {
            netns: finding.netns,
            state: finding.state,
            cookie: finding.cookie,
            group: finding.cookie.is_none().then(group),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Board {
    raised: BTreeMap<Key, Raised>,
    /// Stuck sockets that found no room at the last look at their namespace.
    unannounced: BTreeMap<(u32, State, Severity), u64>,
    /// Every stuck socket as of the last look at its namespace, less those that are known to have left.
    judged: BTreeMap<(u32, State, Severity), u64>,
    raised_so_far: BTreeMap<FindingKind, u64>,
    /// What [`Self::stuck`] shares; None since the last change.
    shared: Option<Arc<[(Finding, Duration)]>>,
    notices: VecDeque<Notice>,
    /// Notices ever given; those kept are the last of them.
    given: u64,
}

/// A finding that is not over.
#[derive(Debug)]
struct Raised {
    finding: Finding,
    /// When it was last looked at, `CLOCK_MONOTONIC`.
    looked_ns: u64,
}

impl Board {
    /// The next update has every stuck socket of the namespaces that this holds for.
    pub(crate) fn begin_look(&mut self, is_looked_at: impl Fn(u32) -> bool) {
        self.unannounced
            .retain(|(netns, ..), _| !is_looked_at(*netns));
    }

    /// Takes over how many sockets of the namespaces that this holds for are stuck.
    pub(crate) fn judge(
        &mut self,
        is_looked_at: impl Fn(u32) -> bool,
        stuck: BTreeMap<(u32, State, Severity), u64>,
    ) {
        self.judged.retain(|(netns, ..), _| !is_looked_at(*netns));
        self.judged.extend(stuck);
    }

    /// Takes over what holds now. What is raised, covered by this look and not in it is over.
    ///
    /// Each comes with its severity, which must not be none, and a way to make it, which is gone only
    /// for what is announced.
    pub(crate) fn update<F: FnOnce() -> Option<Finding>>(
        &mut self,
        ktime_ns: u64,
        now: impl Iterator<Item = (Key, Severity, F)>,
        is_covered: impl Fn(&Finding) -> bool,
    ) {
        let mut current = BTreeMap::new();
        let mut fresh = BTreeMap::new();
        for (key, severity, make) in now {
            if key.cookie.is_none() || self.raised.contains_key(&key) {
                current.insert(key, (severity, make));
                continue;
            }
            fresh.insert(key, (severity, make));
            // There may be very many: of these no more are announced.
            if fresh.len() > MOST_ANNOUNCED
                && let Some((key, (severity, _))) = fresh.pop_last()
            {
                let kind = (key.netns, key.state, severity);
                *self.unannounced.entry(kind).or_default() += 1;
            }
        }
        current.append(&mut fresh);
        self.clear(ktime_ns, |finding| {
            is_covered(finding) && !current.contains_key(&Key::of(finding))
        });
        let mut room = MOST_ANNOUNCED.saturating_sub(self.announced());
        for (key, (severity, make)) in current {
            let change = match self.raised.get(&key) {
                Some(last) if last.finding.severity < severity => Some(Change::Worsened),
                Some(last) if last.finding.severity > severity => Some(Change::Eased),
                Some(_) => None,
                None if key.cookie.is_some() && room == 0 => {
                    let kind = (key.netns, key.state, severity);
                    *self.unannounced.entry(kind).or_default() += 1;
                    continue;
                }
                None => {
                    room -= usize::from(key.cookie.is_some());
                    Some(Change::Raised)
                }
            };
            let Some(finding) = make() else {
                continue;
            };
            if let Some(change) = change {
                self.give(change, ktime_ns, finding.clone());
            }
            let looked_ns = ktime_ns;
            self.raised.insert(key, Raised { finding, looked_ns });
            self.shared = None;
        }
    }

    /// Takes over findings that are made already.
    pub(crate) fn update_with(
        &mut self,
        ktime_ns: u64,
        now: &[Finding],
        is_covered: impl Fn(&Finding) -> bool,
    ) {
        let severe = now
            .iter()
            .filter(|finding| finding.severity > Severity::None);
        let made = severe.map(|finding| {
            let make = move || Some(finding.clone());
            (Key::of(finding), finding.severity, make)
        });
        self.update(ktime_ns, made, is_covered);
    }

    /// Clears what is over.
    pub(crate) fn clear(&mut self, ktime_ns: u64, is_over: impl Fn(&Finding) -> bool) {
        let over = self
            .raised
            .extract_if(.., |_, raised| is_over(&raised.finding));
        for (_, raised) in over.collect::<Vec<_>>() {
            self.shared = None;
            let finding = raised.finding;
            let kind = (finding.netns, finding.state, finding.severity);
            if finding.cookie.is_some()
                && let Some(sockets) = self.judged.get_mut(&kind)
            {
                *sockets = sockets.saturating_sub(1);
            }
            self.give(Change::Cleared, ktime_ns, finding);
        }
    }

    fn give(&mut self, event: Change, ktime_ns: u64, finding: Finding) {
        if self.notices.len() >= MOST_NOTICES {
            self.notices.pop_front();
        }
        self.given += 1;
        if event == Change::Raised {
            let kind = FindingKind::of(&finding);
            *self.raised_so_far.entry(kind).or_default() += 1;
        }
        self.notices.push_back(Notice {
            event,
            ktime_ns,
            finding,
        });
    }

    fn announced(&self) -> usize {
        self.raised
            .keys()
            .filter(|key| key.cookie.is_some())
            .count()
    }

    /// What is raised and not over.
    pub(crate) fn raised(&self) -> impl Iterator<Item = &Finding> {
        self.raised.values().map(|raised| &raised.finding)
    }

    /// Namespaces with stuck sockets that are not announced one by one.
    pub(crate) fn unannounced(&self) -> impl Iterator<Item = u32> {
        self.unannounced.keys().map(|(netns, ..)| *netns)
    }

    /// All that is stuck, for those who show it. Made anew only after a change.
    pub(crate) fn stuck(&mut self) -> Stuck {
        let shared = self.shared.take().unwrap_or_else(|| {
            let raised = self.raised.values().map(|raised| {
                let looked = Duration::from_nanos(raised.looked_ns);
                (raised.finding.clone(), looked)
            });
            raised.collect()
        });
        self.shared = Some(Arc::clone(&shared));
        Stuck {
            sockets: self.judged.clone(),
            raised: shared,
            unannounced: self.unannounced.values().sum(),
            raised_so_far: self.raised_so_far.clone(),
        }
    }

    /// Notices ever given: where to go on from.
    pub(crate) const fn given(&self) -> u64 {
        self.given
    }

    /// The notices after the first `known` ever given, and how many of them are no longer kept.
    pub(crate) fn notices_after(&self, known: u64) -> (impl Iterator<Item = &Notice>, u64) {
        let wanted = self.given.saturating_sub(known);
        let kept = self.notices.len();
        let fresh = usize::try_from(wanted).unwrap_or(usize::MAX).min(kept);
        let missed = wanted - fresh as u64;
        (self.notices.iter().skip(kept - fresh), missed)
    }

    /// These findings, and the notices after the first `known` ever given.
    pub(crate) fn report<F>(&self, findings: F, known: u64) -> Report<F> {
        let (notices, missed) = self.notices_after(known);
        Report {
            findings,
            notices: notices.cloned().collect(),
            given: self.given,
            missed,
            unannounced: self.unannounced.values().sum(),
            missing: Vec::new(),
            states: Vec::new(),
        }
    }
}

/// What is stuck, and what has changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report<F = Vec<Finding>> {
    pub(crate) findings: F,
    pub(crate) notices: Vec<Notice>,
    /// Notices ever given: where to go on from.
    pub(crate) given: u64,
    /// Notices that were asked for and are no longer kept.
    pub(crate) missed: u64,
    /// Findings that are not announced one by one, as too many are already.
    pub(crate) unannounced: u64,
    /// Namespaces that could not be looked at.
    pub(crate) missing: Vec<u32>,
    /// Each lingering state.
    pub(crate) states: Vec<Lingering>,
}

/// The sockets in a lingering state.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lingering {
    #[serde(serialize_with = "name_of", deserialize_with = "state_named")]
    pub(crate) state: State,
    /// All of them, as the census counts them.
    pub(crate) sockets: u64,
    /// Those that are stuck, whatever finding they belong to.
    pub(crate) stuck: u64,
    /// Those of `stuck` that are critical.
    pub(crate) critical: u64,
    /// At least; 0 without any.
    pub(crate) oldest_seconds: f64,
}

impl Lingering {
    pub(crate) const fn none(state: State) -> Self {
        Self {
            state,
            sockets: 0,
            stuck: 0,
            critical: 0,
            oldest_seconds: 0.0,
        }
    }

    pub(crate) fn add(&mut self, severity: Severity, age: Duration) {
        self.sockets += 1;
        self.stuck += u64::from(severity > Severity::None);
        self.critical += u64::from(severity == Severity::Critical);
        self.oldest_seconds = self.oldest_seconds.max(age.as_secs_f64());
    }

    /// There are that many: some may have left since they were looked at.
    pub(crate) fn settle(&mut self, sockets: u64) {
        self.sockets = sockets;
        self.stuck = self.stuck.min(sockets);
        self.critical = self.critical.min(sockets);
        if sockets == 0 {
            self.oldest_seconds = 0.0;
        }
    }
}

#[cfg(test)]
mod tests;
