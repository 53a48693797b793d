//! The daemon: drains the program's stream into the census, holds the census to the kernel, and
//! answers on the control socket. The one room that joins probe, inventory and track.

pub(crate) mod control;
mod descriptors;
mod incident_log;
mod live;
mod lookers;
mod memory;
mod mptcp;
mod namespaces;
mod owners;
mod queue;
mod reconcile;
mod sampler;
pub(crate) mod service;
mod wakeups;
mod walks;
mod watch;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::{mpsc, oneshot};

pub(crate) use memory::keep_small;
pub(crate) use wakeups::Wakeups;
pub(crate) use walks::{seen, summarize};

use crate::inventory::Worker;
use crate::probe::{self, Probe};
use crate::publish::{self, Publisher};
use crate::sandbox::{self, Files, Kept};
use crate::track::stuck::Rules;
use control::Claim;
use live::Live;
use lookers::Looker;
use reconcile::Reconciler;

/// What follows the reason why a configuration is not reloaded.
pub(crate) const NOT_RELOADED: &str = "not reloaded: the old configuration stays in force";

/// What the daemon is told.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Between two looks at the kernel's figures.
    pub(crate) interval: Duration,
    /// Between two log lines with the counts.
    pub(crate) summary_every: Duration,
    /// Log every transition.
    pub(crate) logs_transitions: bool,
    /// Share of one CPU for walks of the tables, 0 to 1.
    pub(crate) walk_share: f64,
    pub(crate) program: probe::Options,
    /// Let the kernel measure the program's run time.
    pub(crate) measures_program: bool,
    /// What counts as stuck.
    pub(crate) rules: Rules,
    /// Lines of the log that were dropped so far.
    pub(crate) log_dropped: fn() -> u64,
    /// What is told to whom.
    pub(crate) publish: publish::Settings,
}

/// Runs until `stop` is ready; ends with a last summary in the log. Settings that come meanwhile take
/// the place of those in force, but for how the program is loaded and what walks may take. `reach` is
/// what the configuration names; the daemon gives up what it does not need once it answers.
///
/// # Errors
/// The program cannot be attached, or the first look at the namespaces fails.
pub(crate) async fn run(
    settings: Settings,
    claim: Claim,
    publisher: Publisher,
    reach: Files,
    reloads: mpsc::Receiver<Settings>,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let mut probe = Probe::attach(&settings.program)?;
    let capabilities = probe.capabilities();
    tracing::info!(
        program = capabilities.program,
        ring_bytes = settings.program.ring_bytes,
        sees_requests = capabilities.sees_requests,
        sees_minisockets = capabilities.sees_minisockets,
        "attached to sock:inet_sock_set_state"
    );
    for note in &capabilities.notes {
        tracing::warn!("degraded: {note}");
    }
    if settings.measures_program
        && let Err(error) = probe.measure_run_time()
    {
        tracing::warn!("degraded: {error}");
    }
    let worker = Worker::spawn().context("cannot start the inventory thread")?;
    let lookers = Lookers::spawn().context("cannot start the threads that look for owners")?;
    let kept = kept(&settings);
    let live = Rc::new(RefCell::new(Live::new(probe, settings.logs_transitions)));
    let publisher = Rc::new(publisher);
    let mut reconciler = Reconciler::new(
        Rc::clone(&live),
        worker.clone(),
        &lookers,
        Rc::clone(&publisher),
        &settings,
    );
    // Reading the kernel's BTF takes some megabytes for a moment.
    memory::return_freed();
    let (askers, requests) = mpsc::channel(16);
    let work = async {
        reconciler.start().await?;
        let listener = claim.listen()?;
        tracing::info!(control = %claim.path().display(), "listening");
        seal(reach, &kept, &worker, &lookers).await;
        service::ready("watching");
        tokio::select! {
            ended = reconciler.run(requests, reloads) => ended,
            () = control::serve(listener, askers) => Ok(()),
        }
    };
    let ended = tokio::select! {
        ended = work => ended,
        ended = Live::keep_drained(&live, &publisher) => ended,
        () = stop => Ok(()),
    };
    service::stopping();
    live.borrow_mut().drain_all();
    publisher.finish();
    reconciler.log_summary("stopped");
    ended
}

/// The threads that look at other processes beside the inventory's.
#[derive(Clone, Debug)]
struct Lookers {
    /// For a verdict or a count that waits for them.
    holders: Looker,
    /// For the owners with most sockets, which nothing waits for.
    owners: Looker,
}

impl Lookers {
    fn spawn() -> io::Result<Self> {
        Ok(Self {
            holders: Looker::spawn("holders")?,
            owners: Looker::spawn("owners")?,
        })
    }
}

/// What the main thread still needs once it only watches.
fn kept(settings: &Settings) -> Vec<Kept> {
    let has_low_port = settings.publish.http.listen.iter().any(|address| {
        // Any port, where it is 0.
        (1..1024).contains(&address.port())
    });
    let bpf = probe::maps_take_privilege().then_some(Kept::Bpf);
    bpf.into_iter()
        .chain(has_low_port.then_some(Kept::LowPorts))
        .collect()
}

/// Gives up, thread by thread, what the daemon does not need once it watches. What the kernel cannot
/// enforce is logged.
async fn seal(reach: Files, kept: &[Kept], worker: &Worker, lookers: &Lookers) {
    if !sandbox::is_on() {
        tracing::warn!("no sandbox: every thread keeps every right (--sandbox=false)");
        return;
    }
    let mut notes: BTreeSet<String> = sandbox::seal(reach, kept).into_iter().collect();
    let (sender, receiver) = oneshot::channel();
    worker.run(move || drop(sender.send(sandbox::keep_looking())));
    let looking = [
        receiver,
        lookers.holders.start(sandbox::keep_looking),
        lookers.owners.start(sandbox::keep_looking),
    ];
    for notes_of_thread in looking {
        notes.extend(notes_of_thread.await.unwrap_or_default());
    }
    for note in &notes {
        tracing::warn!("degraded: {note}");
    }
    if notes.is_empty() {
        tracing::info!("the daemon has given up what it no longer needs");
    }
}
