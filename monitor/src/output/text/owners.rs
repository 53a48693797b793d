//! Who holds how many sockets in which state, for people.

use std::io::{self, Write};

use super::super::fit::{Fit, fit_columns};
use super::{Capitals, Escaped, or_dash, write_table};
use crate::tcp::{Counts, RawState, State};
use crate::track::{OwnedSockets, SocketOwner};

/// Writes a row for each owner, with a column for each state that any of them has.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_owners(
    out: &mut impl Write,
    fit: Fit,
    owners: &[OwnedSockets],
    hidden: usize,
) -> io::Result<()> {
    let mut all = Counts::default();
    for owned in owners {
        all += owned.sockets;
    }
    let states = State::ALL.into_iter().filter(|state| all.get(*state) > 0);
    let mut states: Vec<State> = states.collect();
    // Those with most sockets stay where there is no room for all.
    states.sort_by_key(|state| std::cmp::Reverse(all.get(*state)));
    let is_process = |owned: &OwnedSockets| matches!(owned.owner, SocketOwner::Process(_));
    let has_processes = owners.iter().any(is_process);
    let mut others = Vec::new();
    loop {
        let mut rows = rows(owners, has_processes, &states, &others);
        let narrowest: &[usize] = if has_processes {
            &[10, usize::MAX, usize::MAX, 12]
        } else {
            &[16]
        };
        if fit_columns(&mut rows, narrowest, fit.width) || states.len() < 2 {
            let left = if has_processes { 4 } else { 1 };
            write_table(out, left, &rows, std::iter::repeat(anstyle::Style::new()))?;
            break;
        }
        others.extend(states.pop());
    }
    if hidden > 0 {
        writeln!(out, "\nand {hidden} more; --top 0 shows all of them")?;
    }
    Ok(())
}

/// With a column for each of `states`, and one for all the others.
fn rows(
    owners: &[OwnedSockets],
    has_processes: bool,
    states: &[State],
    others: &[State],
) -> Vec<Vec<String>> {
    let mut states = states.to_vec();
    states.sort_by_key(|state| state.index());
    let capitals = |state: &State| Capitals(RawState::Known(*state)).to_string();
    let mut title: Vec<String> = if has_processes {
        ["OWNER", "PID", "UID", "UNIT OR CONTAINER"]
            .map(str::to_owned)
            .to_vec()
    } else {
        vec!["OWNER".to_owned()]
    };
    title.push("TOTAL".to_owned());
    title.extend(states.iter().map(capitals));
    title.extend((!others.is_empty()).then(|| "OTHER".to_owned()));
    let rows = owners.iter().map(|owned| {
        let mut row = owner(&owned.owner);
        if !has_processes {
            row.truncate(1);
        }
        let sockets = owned.sockets;
        row.push(sockets.total().to_string());
        row.extend(
            states
                .iter()
                .map(|state| or_dash(sockets.known(*state)).to_string()),
        );
        let rest: u64 = others.iter().map(|state| sockets.get(*state)).sum();
        row.extend((!others.is_empty()).then(|| rest.to_string()));
        row
    });
    std::iter::once(title).chain(rows).collect()
}

fn owner(owner: &SocketOwner) -> Vec<String> {
    let dash = || "-".to_owned();
    match owner {
        SocketOwner::Process(process) => {
            let place = process.container.as_ref().or(process.unit.as_ref());
            vec![
                Escaped(&process.comm).to_string(),
                process.pid.to_string(),
                or_dash(process.uid).to_string(),
                or_dash(place.map(|place| Escaped(place))).to_string(),
            ]
        }
        SocketOwner::Unit(name) | SocketOwner::Container(name) => vec![
            or_dash(name.as_deref().map(Escaped)).to_string(),
            dash(),
            dash(),
            dash(),
        ],
        SocketOwner::Nobody => vec!["(no process)".to_owned(), dash(), dash(), dash()],
    }
}
