//! Finding the network namespace a user names.

use anyhow::{Context as _, Result, bail};

use crate::cli::Netns;
use crate::inventory::{Depth, Namespace, Worker, wait};
use crate::output::Escaped;

/// The namespaces of this host that `wanted` names: all of them, or the one.
pub(super) fn find(worker: &Worker, wanted: Option<&Netns>) -> Result<Vec<Namespace>> {
    let found = wait(|reply| worker.discover(Depth::Threads, reply))?
        .context("cannot look for network namespaces")?;
    let Some(wanted) = wanted else {
        return Ok(found.namespaces);
    };
    let is_wanted = |namespace: &&Namespace| match wanted {
        Netns::Inode(inode) => namespace.inode == *inode,
        Netns::Name(name) => namespace.name.as_ref() == Some(name),
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
    let wanted = match wanted {
        Netns::Inode(inode) => inode.to_string(),
        Netns::Name(name) => Escaped(name).to_string(),
    };
    bail!(
        "no network namespace {wanted} on this host; there is {}",
        known.join(", ")
    );
}
