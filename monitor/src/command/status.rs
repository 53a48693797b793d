//! `tcplinger status`: how many sockets are in which state, once.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use super::source::Asked;
use super::{STDOUT, logging, mptcp, netns, stdout_style};
use crate::cli::{Color, Format, Netns, StatusArgs};
use crate::config;
use crate::daemon::control::{self, Question};
use crate::daemon::{self, summarize};
use crate::inventory::{self, Namespace, StateSet, Worker, wait};
use crate::output::{json, text};
use crate::survey::{Descriptors, HolderSource};
use crate::tcp::Counts;
use crate::track::{Census, EventTotals, Scope, Snapshot, Source, Summary};

pub(super) fn run(args: &StatusArgs, color: Color) -> Result<ExitCode> {
    let file = config::load(args.source.config.as_deref())?;
    logging::start(Format::Text, color);
    let wanted = args.netns.as_ref();
    let summary = match Asked::choose(&args.source, &file)? {
        Asked::Daemon(control) => from_daemon(&control, wanted)?,
        Asked::Kernel => from_kernel(wanted)?,
    };
    let mut out = io::stdout().lock();
    match args.format {
        Format::Json => json::write_status(&mut out, &summary),
        Format::Text => text::write_status(&mut out, stdout_style(color), &summary),
    }
    .context(STDOUT)?;
    out.flush().context(STDOUT)?;
    Ok(ExitCode::SUCCESS)
}

/// The counts of all namespaces, or of the one that is wanted.
pub(super) fn from_daemon(control: &Path, wanted: Option<&Netns>) -> Result<Summary> {
    let answer = control::ask(control, Question::Status)?;
    let bad = |error| control::bad_answer(control, &error);
    let mut summary = json::read_status(&answer).map_err(bad)?;
    if let Some(wanted) = wanted {
        // It is of all namespaces.
        summary.recent = None;
        summary
            .namespaces
            .retain(|known| netns::is_named(wanted, known.netns, known.name.as_deref()));
        if summary.namespaces.is_empty() {
            let wanted = netns::shown(wanted);
            bail!(
                "the daemon does not know network namespace {wanted}; tcplinger status lists \
                   the known ones"
            );
        }
    }
    Ok(summary)
}

/// Walks the kernel's tables, except where its figures say that there is nothing to see.
fn from_kernel(wanted: Option<&Netns>) -> Result<Summary> {
    let worker = Worker::spawn()?;
    let mut namespaces = netns::find(&worker, wanted)?;
    let mut census = Census::default();
    census.cover(&namespaces.iter().map(|namespace| namespace.inode).collect());
    let mut gone = Vec::new();
    for namespace in &namespaces {
        let walked = walk(&worker, namespace, &mut census);
        if netns::unless_gone(namespace, walked)?.is_none() {
            gone.push(namespace.inode);
        }
    }
    namespaces.retain(|namespace| !gone.contains(&namespace.inode));
    let descriptors = match Descriptors::read(&HolderSource::open()) {
        Some(Err(error)) => {
            tracing::warn!("cannot count sockets in CLOSE: {error}");
            None
        }
        read => read.and_then(Result::ok),
    };
    let mptcp = mptcp::list(&worker, &namespaces, descriptors.as_ref())?;
    let mptcp = mptcp.map(|listed| {
        let counts = listed.into_iter().map(|(netns, found)| {
            let counts: Counts = found.iter().map(|socket| socket.state).collect();
            (netns, counts)
        });
        counts.collect::<BTreeMap<u32, Counts>>()
    });
    Ok(summarize(
        &census,
        &namespaces,
        Source::Kernel,
        EventTotals::default(),
        descriptors.as_ref(),
        |netns| match &mptcp {
            Some(mptcp) => mptcp.get(&netns).copied().unwrap_or_default(),
            None => Counts::unknown(),
        },
    ))
}

fn walk(
    worker: &Worker,
    namespace: &Namespace,
    census: &mut Census,
) -> Result<(), inventory::Error> {
    let asked = vec![namespace.clone()];
    for (_, figures) in wait(|reply| worker.figures(asked, reply))? {
        let figures = figures?;
        if figures.inuse_ipv4 + figures.inuse_ipv6 + figures.minisockets == 0 {
            return Ok(());
        }
    }
    let asked = namespace.clone();
    let taken = wait(|reply| worker.snapshot(asked, StateSet::ALL, reply))??;
    let snapshot = Snapshot {
        scope: Scope::ALL,
        has_cookies: !taken.is_fallback,
        is_alone: true,
        began_ns: 0,
    };
    let seen = taken.rows.into_iter().map(|row| daemon::seen(row, 0));
    // Nothing was counted before, so nothing is corrected.
    let _: u64 = census.finish(namespace.inode, snapshot, seen);
    Ok(())
}
