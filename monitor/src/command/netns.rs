//! Finding the network namespace a user names.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result, bail};

use crate::cli::Netns;
use crate::inventory::{self, Depth, Namespace, Worker, wait};
use crate::output::Escaped;
use crate::survey::{Descriptors, HolderSource};

/// The namespaces of this host that `wanted` names: all of them, or the one. What sockets alone keep is
/// found last, by a walk of every descriptor.
pub(super) fn find(worker: &Worker, wanted: Option<&Netns>) -> Result<Vec<Namespace>> {
    let mut found = wait(|reply| worker.discover(Depth::Threads, reply))?
        .context("cannot find network namespaces")?;
    let is_wanted = |found: &&Namespace| {
        wanted.is_some_and(|wanted| is_named(wanted, found.inode, found.name.as_deref()))
    };
    if let Some(namespace) = found.namespaces.iter().find(is_wanted) {
        return Ok(vec![namespace.clone()]);
    }
    add_deleted(&mut found.namespaces);
    let Some(wanted) = wanted else {
        return Ok(found.namespaces);
    };
    if let Some(namespace) = found.namespaces.iter().find(is_wanted) {
        return Ok(vec![namespace.clone()]);
    }
    let known: Vec<String> = found
        .namespaces
        .iter()
        .map(|namespace| match &namespace.name {
            Some(name) => format!("{} ({})", Escaped(name), namespace.inode),
            None => namespace.inode.to_string(),
        })
        .take(20)
        .collect();
    bail!(
        "no network namespace {} on this host; known: {}",
        shown(wanted),
        known.join(", ")
    );
}

fn add_deleted(namespaces: &mut Vec<Namespace>) {
    let descriptors = match Descriptors::read(&HolderSource::open()) {
        Some(Ok(descriptors)) => descriptors,
        Some(Err(error)) => return tracing::warn!("some namespaces may be missing: {error}"),
        None => return,
    };
    let known: HashSet<u32> = namespaces.iter().map(|namespace| namespace.inode).collect();
    let deleted = descriptors.deleted(|netns| known.contains(&netns));
    namespaces.extend(deleted.into_iter().filter(Namespace::is_there));
    namespaces.sort_by_key(|namespace| namespace.inode);
}

/// The inode number of the namespace that `wanted` names; None where none is named.
pub(super) fn inode_of(wanted: Option<&Netns>) -> Result<Option<u32>> {
    if wanted.is_none() {
        return Ok(None);
    }
    let found = find(&Worker::spawn()?, wanted)?;
    Ok(found.first().map(|namespace| namespace.inode))
}

/// What was taken of a namespace; None where it has gone since it was found.
pub(super) fn unless_gone<T>(
    namespace: &Namespace,
    taken: Result<T, inventory::Error>,
) -> Result<Option<T>> {
    match taken {
        Err(inventory::Error::Gone { .. }) => Ok(None),
        taken => taken
            .map(Some)
            .with_context(|| format!("cannot list the sockets of namespace {}", namespace.inode)),
    }
}

/// The caller's own namespace.
pub(super) fn own(worker: &Worker) -> Result<Vec<Namespace>> {
    let path = "/proc/self/ns/net";
    let found = fs::metadata(path).with_context(|| format!("cannot read {path}"))?;
    let inode = u32::try_from(found.ino()).context("its inode number is too large")?;
    find(worker, Some(&Netns::Inode(inode)))
}

/// Whether `wanted` names the namespace with this inode number and name.
pub(super) fn is_named(wanted: &Netns, inode: u32, name: Option<&str>) -> bool {
    match wanted {
        Netns::Inode(wanted) => *wanted == inode,
        Netns::Name(wanted) => name == Some(wanted),
    }
}

/// `wanted` as it may be shown.
pub(super) fn shown(wanted: &Netns) -> String {
    match wanted {
        Netns::Inode(inode) => inode.to_string(),
        Netns::Name(name) => Escaped(name).to_string(),
    }
}
