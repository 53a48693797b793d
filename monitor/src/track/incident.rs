//! An incident: one cause, and all the sockets that show it. Text, JSON, page, log, metrics and pushes
//! are made from this one type; `monitor/docs/incidents.md` says what it promises.

mod active;
mod group;
mod netns_name;

use std::cmp::Reverse;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::phrase::rendered;
use super::stuck::{Endpoint, Finding, Owner, Severity, name_of, state_named};
use crate::tcp::{Process, State};
pub(crate) use active::{ActiveIncidents, Change, Lingering, Notice, Report};
pub(crate) use group::{Group, fold};
pub(crate) use netns_name::{Names, NetnsName, enter, list_command, name, ss_state};

/// Owners that an incident names.
pub(crate) const MOST_OWNERS: usize = 32;
/// A forecast further off says nothing of what comes first.
const FORESEEN_SECONDS: f64 = 24.0 * 3_600.0;

/// What kind of cause it is. A new kind is a variant here, its name below, and a place that makes the
/// incident and its words; nothing that shows incidents asks for the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Sockets that linger too long for the same reason.
    Sockets {
        cause: Cause,
        /// MPTCP connections, which no count of TCP sockets has.
        mptcp: bool,
    },
    /// Sockets in `CLOSE_WAIT` that become more and more.
    Leak,
    /// More sockets of one owner than a rule allows.
    Count,
    /// Few ephemeral ports are left towards a destination.
    EphemeralPorts,
    /// Few `TIME_WAIT` buckets are left in a namespace.
    TimeWaitBuckets,
}

/// Why a socket lingers, as far as it tells causes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cause {
    /// The peer does not answer the handshake.
    Unanswered,
    /// Nobody calls `accept()` for it.
    NotAccepted,
    /// No process was found that has it open.
    NoDescriptor,
    /// The application does not read what the peer sent, or the end of it.
    NotRead,
    /// The application has read the end of the stream, and does not close.
    NotClosed,
    /// The application called `shutdown()` and waits for the peer.
    HalfClosed,
    /// Its process is done with it; the peer has not closed.
    Orphaned,
    /// The peer's application does not read.
    PeerDoesNotRead,
    /// The peer does not acknowledge the end.
    Unacknowledged,
    /// Nothing of the above.
    Other,
}

impl Kind {
    /// The names of all kinds, for those who count them.
    pub(crate) const NAMES: [&str; 5] = [
        "sockets",
        "leak",
        "count",
        "ephemeral_ports",
        "time_wait_buckets",
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sockets { .. } => "sockets",
            Self::Leak => "leak",
            Self::Count => "count",
            Self::EphemeralPorts => "ephemeral_ports",
            Self::TimeWaitBuckets => "time_wait_buckets",
        }
    }

    /// Its sockets were judged one by one; else a figure was that they are part of.
    pub(crate) const fn is_of_judged_sockets(self) -> bool {
        matches!(self, Self::Sockets { .. } | Self::Leak | Self::Count)
    }

    /// A look at lingering sockets tells whether it goes on; else a look at ports.
    pub(crate) const fn is_of_ports(self) -> bool {
        matches!(self, Self::EphemeralPorts | Self::TimeWaitBuckets)
    }
}

/// Whose sockets they are: the unit, else the container, else the process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Whose {
    Nobody,
    /// By pid.
    Process(u32),
    Unit(String),
    Container(String),
    /// Whoever's they are: those on a local port of a namespace.
    LocalPort(u32, u16),
    /// Likewise those of a namespace.
    Namespace(u32),
}

impl Whose {
    pub(crate) fn of(owner: Option<&Owner>) -> Self {
        let Some(owner) = owner else {
            return Self::Nobody;
        };
        let Process {
            pid,
            unit,
            container,
            ..
        } = &*owner.process;
        match (unit, container) {
            (Some(unit), _) => Self::Unit(unit.clone()),
            (None, Some(container)) => Self::Container(container.clone()),
            (None, None) => Self::Process(*pid),
        }
    }
}

/// What tells incidents apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identity {
    pub(crate) netns: u32,
    pub(crate) state: State,
    pub(crate) kind: Kind,
    pub(crate) whose: Whose,
    pub(crate) local: Endpoint,
    pub(crate) remote: Endpoint,
    /// Of a count, the rule's name; the others are the same under whatever rule.
    pub(crate) rule: Option<String>,
}

/// One incident; its JSON form is the documented one. Text of other processes in it is raw: escape it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Incident {
    #[serde(flatten)]
    pub(crate) kind: Kind,
    pub(crate) severity: Severity,
    /// `default`, the name of a configured rule, `leak`, `ephemeral_ports` or `time_wait_buckets`.
    pub(crate) rule: String,
    #[serde(serialize_with = "name_of", deserialize_with = "state_named")]
    pub(crate) state: State,
    /// Inode number.
    pub(crate) netns: u32,
    /// Where it has one.
    pub(crate) netns_name: Option<String>,
    pub(crate) whose: Whose,
    /// A socket is in one incident.
    pub(crate) sockets: u64,
    /// Age of the oldest of them in its state; None where nobody knows it.
    pub(crate) oldest_seconds: Option<f64>,
    pub(crate) age_is_lower_bound: bool,
    /// Growth of a leak, or of the ports in use, per second.
    pub(crate) rate_per_second: Option<f64>,
    /// Until the file limit is met, or the ports run out, at that rate. 0: it fails now.
    pub(crate) exhausted_in_seconds: Option<f64>,
    /// The service: the local port where it listens, else the remote address and port.
    pub(crate) local: Endpoint,
    pub(crate) remote: Endpoint,
    /// Not read by the application, all sockets together.
    pub(crate) recv_queue_bytes: u64,
    /// Not acknowledged by the peer, likewise.
    pub(crate) send_queue_bytes: u64,
    /// In a row, without an answer; the most.
    pub(crate) retransmits: u64,
    /// No process holds any of them any more.
    pub(crate) is_orphaned: bool,
    /// At most [`MOST_OWNERS`] processes that hold any of them.
    pub(crate) owners: Vec<Owner>,
    /// What is wrong, in a sentence.
    pub(crate) reason: String,
    /// What the reason is made from once more when it is shown later; empty where nothing in it moves.
    #[serde(skip)]
    pub(crate) template: String,
    /// What to do: at most three steps.
    pub(crate) advice: String,
    /// The worst of its sockets.
    pub(crate) examples: Vec<Finding>,
    /// Every socket, where they are few: their events tell of the end. Empty otherwise.
    #[serde(skip)]
    pub(crate) members: Vec<Member>,
}

/// A socket of an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) cookie: u64,
    pub(crate) severity: Severity,
    pub(crate) is_mptcp: bool,
}

impl Incident {
    /// One without sockets and words.
    pub(crate) fn new(kind: Kind, severity: Severity, state: State, netns: u32) -> Self {
        Self {
            kind,
            severity,
            rule: kind.name().to_owned(),
            state,
            netns,
            netns_name: None,
            whose: Whose::Nobody,
            sockets: 0,
            oldest_seconds: None,
            age_is_lower_bound: false,
            rate_per_second: None,
            exhausted_in_seconds: None,
            local: Endpoint::Any,
            remote: Endpoint::Any,
            recv_queue_bytes: 0,
            send_queue_bytes: 0,
            retransmits: 0,
            is_orphaned: false,
            owners: Vec::new(),
            reason: String::new(),
            template: String::new(),
            advice: String::new(),
            examples: Vec::new(),
            members: Vec::new(),
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        if self.kind == Kind::Count {
            // Its sockets, and with them what they have in common, change.
            return Identity::of_count(&self.rule, self.whose.clone());
        }
        Identity {
            netns: self.netns,
            state: self.state,
            kind: self.kind,
            whose: self.whose.clone(),
            local: self.local,
            remote: self.remote,
            rule: None,
        }
    }

    /// Smallest first: what fails now, what will fail soonest, then by gravity and number.
    pub(crate) fn rank(&self) -> impl Ord + use<> {
        let left = self.exhausted_in_seconds;
        let left = left.filter(|left| *left < FORESEEN_SECONDS);
        let left = left.map_or(Duration::MAX, seconds);
        (
            left,
            Reverse(self.severity),
            Reverse(self.sockets),
            self.identity(),
        )
    }

    /// As it is that much later, as far as nothing has happened.
    pub(crate) fn later(&self, later: Duration) -> Self {
        let mut aged = self.clone();
        let span = later.as_secs_f64();
        aged.oldest_seconds = aged.oldest_seconds.map(|oldest| oldest + span);
        aged.examples = self
            .examples
            .iter()
            .map(|example| example.later(later))
            .collect();
        if !self.template.is_empty() {
            aged.reason = rendered(&self.template, later);
        }
        aged
    }

    /// Says what is wrong; spans in the template move on.
    pub(crate) fn explain(&mut self, template: String, advice: String) {
        self.reason = rendered(&template, Duration::ZERO);
        self.template = template;
        self.advice = advice;
    }
}

impl Identity {
    pub(crate) fn of_count(rule: &str, whose: Whose) -> Self {
        Self {
            netns: 0,
            state: State::Close,
            kind: Kind::Count,
            whose,
            local: Endpoint::Any,
            remote: Endpoint::Any,
            rule: Some(rule.to_owned()),
        }
    }
}

/// 0 for what is no time.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests;
