//! What has been raised and not cleared yet, and the notices of it: each incident is announced once,
//! and once more when it is over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Identity, Incident, Kind, Member};
use crate::tcp::State;
use crate::track::Stuck;
use crate::track::stuck::{Finding, Severity, name_of, state_named};

/// Notices kept for those who ask from time to time.
const MOST_NOTICES: usize = 4_096;

/// What happened to an incident.
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

impl Change {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Worsened => "worsened",
            Self::Eased => "eased",
            Self::Cleared => "cleared",
        }
    }
}

/// One change of one incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Notice {
    pub(crate) event: Change,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub(crate) ktime_ns: u64,
    /// As it was when it changed; of a cleared one, as it was last.
    #[serde(flatten)]
    pub(crate) incident: Incident,
}

/// The incidents that are not over.
#[derive(Debug, Default)]
pub(crate) struct ActiveIncidents {
    raised: BTreeMap<Identity, Raised>,
    /// Every stuck socket as of the last look at its namespace, less those that are known to have left.
    judged: BTreeMap<(u32, State, Severity), u64>,
    raised_so_far: BTreeMap<&'static str, u64>,
    /// What [`Self::stuck`] shares; None since the last change.
    shared: Option<Arc<[(Incident, Duration)]>>,
    notices: VecDeque<Notice>,
    /// Notices ever given; those kept are the last of them.
    given: u64,
}

#[derive(Debug)]
struct Raised {
    incident: Incident,
    /// When it was last looked at, `CLOCK_MONOTONIC`.
    looked_ns: u64,
}

impl ActiveIncidents {
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
    pub(crate) fn update(
        &mut self,
        ktime_ns: u64,
        now: Vec<Incident>,
        is_covered: impl Fn(&Incident) -> bool,
    ) {
        let severe = now
            .into_iter()
            .filter(|incident| incident.severity > Severity::None);
        let current: BTreeMap<Identity, Incident> = severe
            .map(|incident| (incident.identity(), incident))
            .collect();
        self.clear(ktime_ns, |identity, incident| {
            is_covered(incident) && !current.contains_key(identity)
        });
        let mut changed = Vec::new();
        for (identity, incident) in current {
            let before = self.raised.get(&identity);
            let change = match before.map(|last| last.incident.severity) {
                None => Some(Change::Raised),
                Some(last) if last < incident.severity => Some(Change::Worsened),
                Some(last) if last > incident.severity => Some(Change::Eased),
                Some(_) => None,
            };
            if let Some(change) = change {
                changed.push((change, incident.clone()));
            }
            let looked_ns = ktime_ns;
            let raised = Raised {
                incident,
                looked_ns,
            };
            self.raised.insert(identity, raised);
            self.shared = None;
        }
        // What matters most is told first.
        changed.sort_by_cached_key(|(_, incident)| incident.rank());
        for (change, incident) in changed {
            self.give(change, ktime_ns, incident);
        }
    }

    /// Clears what is over.
    pub(crate) fn clear(&mut self, ktime_ns: u64, is_over: impl Fn(&Identity, &Incident) -> bool) {
        let over = self
            .raised
            .extract_if(.., |identity, raised| is_over(identity, &raised.incident));
        for (_, raised) in over.collect::<Vec<_>>() {
            self.shared = None;
            self.give(Change::Cleared, ktime_ns, raised.incident);
        }
    }

    /// Takes out sockets that have left their state; an incident without any is over, and told as it was
    /// last.
    pub(crate) fn drop_members(
        &mut self,
        ktime_ns: u64,
        has_left: impl Fn(&Incident, u64, bool) -> bool,
    ) {
        let mut over = BTreeSet::new();
        for (identity, raised) in &mut self.raised {
            let incident = &mut raised.incident;
            let is_gone = |member: &Member| has_left(incident, member.cookie, member.is_mptcp);
            let (gone, left): (Vec<Member>, Vec<Member>) =
                incident.members.iter().copied().partition(is_gone);
            if gone.is_empty() {
                continue;
            }
            for member in &gone {
                let kind = (incident.netns, incident.state, member.severity);
                if let Some(sockets) = self.judged.get_mut(&kind) {
                    *sockets = sockets.saturating_sub(1);
                }
            }
            self.shared = None;
            if left.is_empty() && incident.kind != Kind::Count {
                over.insert(identity.clone());
                continue;
            }
            incident.sockets = incident.sockets.saturating_sub(gone.len() as u64);
            let is_there = |example: &Finding| {
                let is_gone = |cookie| gone.iter().any(|member| member.cookie == cookie);
                !example.cookie.is_some_and(is_gone)
            };
            incident.examples.retain(is_there);
            incident.members = left;
        }
        self.clear(ktime_ns, |identity, _| over.contains(identity));
    }

    fn give(&mut self, event: Change, ktime_ns: u64, mut incident: Incident) {
        // Thousands of notices are kept.
        incident.examples.truncate(1);
        incident.members = Vec::new();
        if self.notices.len() >= MOST_NOTICES {
            self.notices.pop_front();
        }
        self.given += 1;
        if event == Change::Raised {
            let kind = incident.kind.name();
            *self.raised_so_far.entry(kind).or_default() += 1;
        }
        self.notices.push_back(Notice {
            event,
            ktime_ns,
            incident,
        });
    }

    /// What is raised and not over.
    pub(crate) fn raised(&self) -> impl Iterator<Item = &Incident> {
        self.raised.values().map(|raised| &raised.incident)
    }

    /// The same for one who asks now, what matters most first.
    pub(crate) fn ranked(
        &self,
        now_ns: u64,
        is_wanted: impl Fn(&Incident) -> bool,
    ) -> Vec<Incident> {
        let wanted = self
            .raised
            .values()
            .filter(|raised| is_wanted(&raised.incident));
        let mut all: Vec<Incident> = wanted
            .map(|raised| {
                let since = now_ns.saturating_sub(raised.looked_ns);
                raised.incident.later(Duration::from_nanos(since))
            })
            .collect();
        all.sort_by_cached_key(Incident::rank);
        all
    }

    /// All that is stuck, for those who show it, what matters most first. Made anew only after a change.
    pub(crate) fn stuck(&mut self) -> Stuck {
        let shared = self.shared.take().unwrap_or_else(|| {
            let raised = self.raised.values().map(|raised| {
                let looked = Duration::from_nanos(raised.looked_ns);
                (raised.incident.clone(), looked)
            });
            let mut raised: Vec<(Incident, Duration)> = raised.collect();
            raised.sort_by_cached_key(|(incident, _)| incident.rank());
            raised.into()
        });
        self.shared = Some(Arc::clone(&shared));
        Stuck {
            sockets: self.judged.clone(),
            raised: shared,
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

    /// These single sockets, these incidents, and the notices after the first `known` ever given.
    pub(crate) fn report<F>(&self, sockets: F, incidents: Vec<Incident>, known: u64) -> Report<F> {
        let (notices, missed) = self.notices_after(known);
        Report {
            sockets,
            incidents,
            notices: notices.cloned().collect(),
            given: self.given,
            missed,
            missing: Vec::new(),
            states: Vec::new(),
        }
    }
}

/// What is stuck, and what has changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report<F = Vec<Finding>> {
    /// One by one, for who asked for that.
    pub(crate) sockets: F,
    /// For all others, what matters most first.
    pub(crate) incidents: Vec<Incident>,
    pub(crate) notices: Vec<Notice>,
    /// Notices ever given: where to go on from.
    pub(crate) given: u64,
    /// Notices that were asked for and are no longer kept.
    pub(crate) missed: u64,
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
    /// Those that are stuck, whatever incident they belong to.
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
