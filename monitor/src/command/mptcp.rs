//! Lists MPTCP connections without a daemon.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use crate::inventory::{Error, Namespace, Worker, wait};
use crate::survey::Descriptors;
use crate::tcp::Evidence;

/// Those of the namespaces that have any, by inode number; None where the kernel lists none, or does not
/// tell which have.
pub(super) fn list(
    worker: &Worker,
    namespaces: &[Namespace],
    descriptors: Option<&Descriptors>,
) -> Result<Option<BTreeMap<u32, Vec<Evidence>>>> {
    let Some(descriptors) = descriptors else {
        return Ok(None);
    };
    let some = namespaces.iter();
    let some = some.filter(|known| descriptors.has_mptcp(known.inode));
    let some = some.cloned().collect();
    let answers = wait(|reply| worker.mptcp(some, move |found, _| reply(found)))?;
    let mut listed = BTreeMap::new();
    for (netns, outcome) in answers {
        match outcome {
            Ok(Some(found)) => drop(listed.insert(netns, found)),
            Ok(None) => return Ok(None),
            Err(Error::Gone { .. }) => {}
            Err(error) => {
                let failed = format!("cannot list the MPTCP connections of namespace {netns}");
                return Err(error).context(failed);
            }
        }
    }
    Ok(Some(listed))
}
