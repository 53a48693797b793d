//! The namespaces that are covered, and when to look for them again.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::descriptors::DescriptorWatch;
use super::walks::Walker;
use crate::inventory::{Depth, Error, Namespace};
use crate::output::Escaped;

/// Namespaces are looked for this often, and at once when a transition names an unknown one.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// One look in so many goes to every thread of every process, as the first one does.
const DEEP_LOOKS: u64 = 12;

#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// Ordered by inode number.
    known: Vec<Namespace>,
    /// Inode numbers that transitions name and that are not to be found.
    unfindable: BTreeSet<u32>,
    looked: Option<Instant>,
    looks: u64,
    unreadable: u64,
}

impl Namespaces {
    pub(super) fn known(&self) -> &[Namespace] {
        &self.known
    }

    pub(super) fn get(&self, netns: u32) -> Option<&Namespace> {
        find(&self.known, netns)
    }

    /// One of them is no longer where it was.
    pub(super) fn look_soon(&mut self) {
        self.looked = None;
    }

    /// Whether it is time to look again.
    pub(super) fn is_due(&self) -> bool {
        self.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY)
    }

    /// Whether one of those that `spoke` is neither known nor known to be unfindable.
    pub(super) fn is_news(&self, spoke: &[u32]) -> bool {
        let is_news = |netns: &u32| self.get(*netns).is_none() && !self.unfindable.contains(netns);
        spoke.iter().any(is_news)
    }

    /// Looks again where that is due, asked for, or where one of those that `spoke` is news; true
    /// when it did.
    ///
    /// # Errors
    /// /proc cannot be read, or the inventory thread is gone.
    pub(super) async fn refresh(
        &mut self,
        walker: &Walker,
        spoke: &[u32],
        is_asked: bool,
        descriptors: &mut DescriptorWatch,
    ) -> Result<bool, Error> {
        let is_due = self.is_due();
        if !is_due && !is_asked && !self.is_news(spoke) {
            return Ok(false);
        }
        let is_deep = self.looks.is_multiple_of(DEEP_LOOKS);
        let mut found = self.look(walker, is_deep).await?;
        let is_missing = |netns: &&u32| find(&found, **netns).is_none();
        let is_new = spoke.iter().any(|netns| is_missing(&netns));
        let missing = self.not_in(&found);
        let mut left = walker.still_there(missing.clone()).await?;
        if !is_deep && (left.len() < missing.len() || is_new) {
            // A process or a mount has gone, or a thread alone is in there.
            found = self.look(walker, true).await?;
            left = walker.still_there(self.not_in(&found)).await?;
        }
        found.extend(left);
        found.sort_by_key(|namespace| namespace.inode);
        let is_lost = |known: &Namespace| {
            let descriptors = descriptors.latest();
            let may_be_left = descriptors.is_some_and(|found| found.leads_to(known.inode));
            find(&found, known.inode).is_none() && !may_be_left
        };
        if self.known.iter().any(is_lost) {
            // Its sockets may be younger than the last walk.
            descriptors.renew().await;
        }
        let descriptors = descriptors.latest();
        let deleted = descriptors
            .map(|descriptors| descriptors.deleted(|netns| find(&found, netns).is_some()));
        let deleted = walker.still_there(deleted.unwrap_or_default()).await?;
        for namespace in deleted {
            found.push(self.note_deleted(namespace));
        }
        found.sort_by_key(|namespace| namespace.inode);
        self.known = found;
        if is_due {
            self.unfindable.clear();
        }
        let is_missing = |netns: &&u32| find(&self.known, **netns).is_none();
        self.unfindable.extend(spoke.iter().filter(is_missing));
        self.looked = Some(Instant::now());
        Ok(true)
    }

    /// Namespaces that were known and were not found now.
    fn not_in(&self, found: &[Namespace]) -> Vec<Namespace> {
        let known = self.known.iter();
        let missing = known.filter(|known| find(found, known.inode).is_none());
        missing.cloned().collect()
    }

    /// A namespace is there that nothing but sockets leads into. It keeps the name it had.
    fn note_deleted(&self, mut namespace: Namespace) -> Namespace {
        let before = self.get(namespace.inode);
        namespace.name = before.and_then(|before| before.name.clone());
        if before.is_none_or(|before| !before.is_deleted()) {
            tracing::info!(
                netns = namespace.inode,
                name = namespace.name.as_deref().map(Escaped).map(display),
                "no process or mount leads into this namespace: only sockets keep it alive"
            );
        }
        namespace
    }

    async fn look(&mut self, walker: &Walker, is_deep: bool) -> Result<Vec<Namespace>, Error> {
        let depth = if is_deep {
            Depth::Threads
        } else {
            Depth::Processes
        };
        let found = walker.discover(depth).await?;
        if found.unreadable > self.unreadable {
            tracing::warn!(
                processes = found.unreadable,
                "cannot read the namespaces of some processes; some may be missing"
            );
        }
        self.unreadable = found.unreadable;
        self.looks += 1;
        Ok(found.namespaces)
    }
}

/// In a list that is ordered by inode number.
fn find(known: &[Namespace], netns: u32) -> Option<&Namespace> {
    let at = known
        .binary_search_by_key(&netns, |known| known.inode)
        .ok()?;
    known.get(at)
}
