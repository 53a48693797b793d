//! What network namespaces are called, and how a command is run in one.

use std::collections::BTreeMap;

use super::{Incident, Kind};
use crate::tcp::State;
use crate::track::stuck::Endpoint;

/// By inode number.
pub(crate) type Names = BTreeMap<u32, NetnsName>;

/// A network namespace as an operator knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NetnsName {
    /// Another's choice of text: escape it.
    pub(crate) name: Option<String>,
    /// Stands before a command to run it there, with a space at its end; empty in the host's own.
    pub(crate) enter: String,
}

/// What a namespace is called.
pub(crate) fn name(names: &Names, netns: u32) -> Option<String> {
    names.get(&netns)?.name.clone()
}

/// What stands before a command to run it in a namespace.
pub(crate) fn enter(names: &Names, netns: u32) -> &str {
    names.get(&netns).map_or("", |known| &known.enter)
}

/// A command that lists an incident's sockets, and no others as far as `ss` can tell.
pub(crate) fn list_command(incident: &Incident, names: &Names) -> String {
    let enter = enter(names, incident.netns);
    let flags = match incident.kind {
        Kind::Sockets { mptcp: true, .. } => "-Manp",
        _ => "-tanp",
    };
    let state = ss_state(incident.state);
    let local = filter("src", "sport", incident.local);
    let remote = filter("dst", "dport", incident.remote);
    let ends: Vec<String> = local.into_iter().chain(remote).collect();
    let ends = match ends.join(" and ") {
        none if none.is_empty() => none,
        ends => format!(" '{ends}'"),
    };
    format!("{enter}ss {flags} state {state}{ends}")
}

fn filter(address_word: &str, port_word: &str, end: Endpoint) -> Option<String> {
    match end {
        Endpoint::Any => None,
        Endpoint::Port(port) => Some(format!("{port_word} = :{port}")),
        Endpoint::Address(address) => Some(format!("{address_word} {address}")),
        Endpoint::Socket(address) => Some(format!("{address_word} {address}")),
    }
}

/// A state as `ss` calls it.
pub(crate) fn ss_state(state: State) -> String {
    match state {
        State::FinWait1 => "fin-wait-1".to_owned(),
        State::FinWait2 => "fin-wait-2".to_owned(),
        state => state.name().replace('_', "-"),
    }
}
