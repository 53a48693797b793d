//! What has leaders: owners, namespaces, buckets, ports. The first [`TOP`] are told by name, the
//! rest is added up under `other`, which is always there, so that a sum stays one.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::label::label;
use super::values::{OTHER, SEVERITIES, put, severity_name};
use super::{Exposed, Points};
use crate::tcp::{Counts, State};
use crate::track::phrase::real;
use crate::track::stuck::Severity;
use crate::track::{NamespaceSummary, OwnerName, PortRow, Sample, TOP};

/// Characters of a container's id that tell it apart on a host, as everywhere.
const SHORT_ID: usize = 12;

/// States of an owner that are told apart.
const OWNED: [State; 3] = [State::Established, State::CloseWait, State::SynSent];
/// States of a namespace that are told apart.
const HELD: [State; 3] = [State::Established, State::CloseWait, State::TimeWait];

/// Sockets in the states that are told apart, and in all others together.
fn parts(counts: &Counts, states: [State; 3]) -> [(&'static str, u64); 4] {
    let [first, second, third] = states.map(|state| (state.name(), counts.get(state)));
    let told = first.1 + second.1 + third.1;
    [first, second, third, (OTHER, counts.total() - told)]
}

pub(super) fn owners(of: &Exposed<'_>, points: &mut Points) {
    if of.sample.owners.taken.is_none() {
        // Nobody was looked at yet: zeros would be untrue.
        return;
    }
    // Names can become the same when they are shortened; two series of one name are an error.
    let mut leaders: Vec<(&str, String, Counts)> = Vec::new();
    let known = &of.sample.owners.leaders;
    let (told, rest) = known.split_at(TOP.min(known.len()));
    for (owner, counts) in told {
        let (kind, name) = match owner {
            OwnerName::Unit(unit) => ("unit", label(unit)),
            OwnerName::Container(id) => ("container", label(id).chars().take(SHORT_ID).collect()),
            OwnerName::Process(comm) => ("process", label(comm)),
        };
        let mut same = leaders.iter_mut();
        match same.find(|leader| leader.0 == kind && leader.1 == name) {
            Some((.., all)) => *all += *counts,
            None => leaders.push((kind, name, *counts)),
        }
    }
    let mut other = of.sample.owners.other;
    for (_, counts) in rest {
        other += *counts;
    }
    leaders.push((OTHER, String::new(), other));
    leaders.push(("nobody", String::new(), of.sample.owners.nobody));
    for (kind, name, counts) in leaders {
        for (state, sockets) in parts(&counts, OWNED) {
            put(points, [kind, &name, state], sockets);
        }
    }
}

/// All namespaces, those with most sockets first.
fn by_sockets(sample: &Sample) -> Vec<(&NamespaceSummary, Counts)> {
    let namespaces = sample.summary.namespaces.iter();
    let mut counted: Vec<_> = namespaces.map(|one| (one, one.sockets())).collect();
    counted.sort_by_cached_key(|(one, counts)| (Reverse(counts.total()), one.netns));
    counted
}

pub(super) fn namespace_sockets(of: &Exposed<'_>, points: &mut Points) {
    let mut other = Counts::default();
    for (rank, (namespace, counts)) in by_sockets(of.sample).into_iter().enumerate() {
        if rank < TOP {
            let (netns, name) = (namespace.netns.to_string(), name_of(namespace));
            for (state, sockets) in parts(&counts, HELD) {
                put(points, [&netns, &name, state], sockets);
            }
        } else {
            other += counts;
        }
    }
    for (state, sockets) in parts(&other, HELD) {
        put(points, [OTHER, OTHER, state], sockets);
    }
}

/// A namespace that was never walked has none.
pub(super) fn walk_age(of: &Exposed<'_>, points: &mut Points) {
    for (namespace, _) in by_sockets(of.sample).into_iter().take(TOP) {
        if let Some(walked) = of.sample.checked.walked(namespace.netns) {
            let age = of.sample.taken.saturating_sub(walked);
            put(
                points,
                [&namespace.netns.to_string(), &name_of(namespace)],
                age,
            );
        }
    }
}

pub(super) fn namespace_stuck(of: &Exposed<'_>, points: &mut Points) {
    let mut stuck = BTreeMap::<(u32, Severity), u64>::new();
    for ((netns, _, severity), sockets) in &of.sample.stuck.sockets {
        *stuck.entry((*netns, *severity)).or_default() += sockets;
    }
    for (namespace, _) in by_sockets(of.sample).into_iter().take(TOP) {
        let (netns, name) = (namespace.netns, name_of(namespace));
        for severity in SEVERITIES {
            let sockets = stuck.remove(&(netns, severity)).unwrap_or_default();
            put(
                points,
                [&netns.to_string(), &name, severity_name(severity)],
                sockets,
            );
        }
    }
    for severity in SEVERITIES {
        let rest = stuck.iter().filter(|((_, of), _)| *of == severity);
        let rest: u64 = rest.map(|(_, sockets)| sockets).sum();
        put(points, [OTHER, OTHER, severity_name(severity)], rest);
    }
}

/// `TIME_WAIT` buckets of a namespace.
struct Bucket<'a> {
    netns: u32,
    name: Cow<'a, str>,
    /// At most: of the sockets in `FIN_WAIT2`, those that a process still holds use none. No more than
    /// the limit: where that was lowered there are more minisockets than buckets.
    used: u64,
    limit: u64,
    overflows: Option<u64>,
}

fn buckets(sample: &Sample) -> impl Iterator<Item = Bucket<'_>> {
    sample.buckets.iter().map(|(netns, buckets)| {
        let namespace = namespace(sample, *netns);
        let counts = namespace.map(NamespaceSummary::sockets).unwrap_or_default();
        Bucket {
            netns: *netns,
            name: namespace.map_or(Cow::Borrowed(""), name_of),
            used: (counts.get(State::TimeWait) + counts.get(State::FinWait2)).min(buckets.limit),
            limit: buckets.limit,
            overflows: buckets.overflows,
        }
    })
}

/// Those that use most of their limit first.
fn by_share(sample: &Sample) -> Vec<Bucket<'_>> {
    let share = |bucket: &Bucket<'_>| real(bucket.used) / real(bucket.limit.max(1));
    let mut all: Vec<_> = buckets(sample).collect();
    all.sort_by(|a, b| share(b).total_cmp(&share(a)).then(a.netns.cmp(&b.netns)));
    all
}

pub(super) fn buckets_used(of: &Exposed<'_>, points: &mut Points) {
    let all = by_share(of.sample);
    let (leaders, rest) = all.split_at(TOP.min(all.len()));
    for bucket in leaders {
        put(
            points,
            [&bucket.netns.to_string(), &bucket.name],
            bucket.used,
        );
    }
    let rest: u64 = rest.iter().map(|bucket| bucket.used).sum();
    put(points, [OTHER, OTHER], rest);
}

pub(super) fn buckets_limit(of: &Exposed<'_>, points: &mut Points) {
    for bucket in by_share(of.sample).into_iter().take(TOP) {
        put(
            points,
            [&bucket.netns.to_string(), &bucket.name],
            bucket.limit,
        );
    }
}

/// Counters: who is told apart is decided where they are counted, so that none ever falls.
pub(super) fn overflows(of: &Exposed<'_>, points: &mut Points) {
    let told = buckets(of.sample).filter_map(|bucket| Some((bucket.overflows?, bucket)));
    for (overflows, bucket) in told.take(TOP) {
        put(points, [&bucket.netns.to_string(), &bucket.name], overflows);
    }
    put(points, [OTHER, OTHER], of.sample.other_overflows);
}

/// The worst destination of each namespace, the worst ones first.
fn worst_ports(sample: &Sample) -> Vec<&PortRow> {
    let mut all: Vec<_> = sample.ports.ports.iter().collect();
    all.sort_by(|a, b| {
        b.used_ratio
            .total_cmp(&a.used_ratio)
            .then(a.netns.cmp(&b.netns))
    });
    let mut worst = Vec::<&PortRow>::with_capacity(TOP);
    for port in all {
        if worst.len() < TOP && worst.iter().all(|known| known.netns != port.netns) {
            worst.push(port);
        }
    }
    worst
}

fn put_ports<T: Into<super::Value>>(
    of: &Exposed<'_>,
    points: &mut Points,
    figure: impl Fn(&PortRow) -> T,
) {
    for port in worst_ports(of.sample) {
        let name = namespace(of.sample, port.netns).map_or(Cow::Borrowed(""), name_of);
        put(points, [&port.netns.to_string(), &name], figure(port));
    }
}

pub(super) fn ports_used(of: &Exposed<'_>, points: &mut Points) {
    put_ports(of, points, |port| u64::from(port.used));
}

pub(super) fn ports_capacity(of: &Exposed<'_>, points: &mut Points) {
    put_ports(of, points, |port| u64::from(port.capacity));
}

pub(super) fn ports_exhausted_in(of: &Exposed<'_>, points: &mut Points) {
    put_ports(of, points, |port| {
        port.exhausted_in_seconds.unwrap_or(f64::INFINITY)
    });
}

fn namespace(sample: &Sample, netns: u32) -> Option<&NamespaceSummary> {
    let namespaces = &sample.summary.namespaces;
    let at = namespaces.binary_search_by_key(&netns, |one| one.netns);
    namespaces.get(at.ok()?)
}

fn name_of(namespace: &NamespaceSummary) -> Cow<'_, str> {
    namespace.shown_name().unwrap_or_default()
}
