//! `tcplinger owners`: who holds how many sockets in which state.

use std::cmp::Reverse;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::{STDOUT, netns, stdout_fit};
use crate::cli::{Format, OwnerOrder, OwnersArgs};
use crate::inventory::{StateSet, Survey, Worker, wait};
use crate::output::{json, text};
use crate::probe;
use crate::survey::{self, HolderSource, SocketPlaces};
use crate::tcp::{Counts, Evidence, State};
use crate::track::{OwnedSockets, owned_sockets};

pub(super) fn run(args: &OwnersArgs) -> Result<ExitCode> {
    probe::ensure_privileged()?;
    let mut found = look(args)?;
    found.sort_by_key(|owned| {
        Reverse(match args.sort {
            OwnerOrder::Total => owned.sockets.total(),
            OwnerOrder::State(state) => owned.sockets.get(state),
        })
    });
    let top = if args.top == 0 { usize::MAX } else { args.top };
    let hidden = found.len().saturating_sub(top);
    found.truncate(top);
    let mut out = io::BufWriter::new(io::stdout().lock());
    match args.format {
        Format::Text => text::write_owners(&mut out, stdout_fit(), &found, hidden),
        Format::Json => json::write_owners(&mut out, &found),
    }
    .and_then(|()| out.flush())
    .context(STDOUT)?;
    Ok(ExitCode::SUCCESS)
}

fn look(args: &OwnersArgs) -> Result<Vec<OwnedSockets>> {
    let worker = Worker::spawn()?;
    let namespaces = netns::find(&worker, args.netns.as_ref())?;
    let states = if args.state.is_empty() {
        State::ALL.as_slice()
    } else {
        args.state.as_slice()
    };
    let set = StateSet::of(states);
    let mut all: Vec<Place> = Vec::new();
    for namespace in &namespaces {
        let taken: Result<Survey<Vec<Place>>, _> = wait(|reply| {
            let (namespace, found) = (namespace.clone(), Vec::new());
            worker.survey(namespace, set.plain(), found, Place::collect, reply);
        })?;
        if let Some(survey) = netns::unless_gone(namespace, taken)? {
            all.extend(survey.found);
        }
    }
    let wanted: SocketPlaces = all
        .iter()
        .filter(|place| place.inode != 0)
        .map(|place| (place.id, (place.inode, place.netns, place.state)))
        .collect();
    let holder_source = HolderSource::open();
    let mut holders = holder_source.look(
        || wanted.iter().map(|(id, place)| (*id, *place)),
        |holder| holder,
    );
    let mut sockets: Vec<(u64, State)> = all.iter().map(|place| (place.id, place.state)).collect();
    let sees_closed = match holder_source.closed() {
        _ if !states.contains(&State::Close) => true,
        Some(Ok(mut closed)) => {
            closed.retain(|holder| namespaces.iter().any(|known| known.inode == holder.netns));
            sockets.extend(closed.iter().map(|holder| (holder.cookie, State::Close)));
            holders.extend(closed);
            true
        }
        Some(Err(error)) => {
            tracing::warn!("cannot count sockets in CLOSE: {error}");
            false
        }
        None => false,
    };
    sockets.sort_unstable();
    // Of one that processes share each has told.
    sockets.dedup_by(|one, other| one.1 == State::Close && one == other);
    let mut found = owned_sockets(args.per, holders, sockets.into_iter(), survey::process);
    found.retain(|owned| owned.sockets != Counts::default());
    if !sees_closed {
        for owned in &mut found {
            owned.sockets.set_unknown(State::Close);
        }
    }
    Ok(found)
}

/// What has to be kept of a socket.
struct Place {
    id: u64,
    inode: u32,
    netns: u32,
    state: State,
}

impl Place {
    fn collect(found: &mut Vec<Self>, socket: &Evidence) {
        found.push(Self {
            id: survey::id_of(socket),
            inode: socket.inode,
            netns: socket.netns,
            state: socket.state,
        });
    }
}
