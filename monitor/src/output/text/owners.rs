//! Who holds how many sockets in which state, for people.

use std::io::{self, Write};

use super::{Capitals, Escaped, or_dash, write_table};
use crate::tcp::{Counts, RawState, State};
use crate::track::{OwnedSockets, SocketOwner};

/// Writes a row for each owner, with a column for each state that any of them has.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_owners(
    out: &mut impl Write,
    owners: &[OwnedSockets],
    hidden: usize,
) -> io::Result<()> {
    let mut all = Counts::default();
    for owned in owners {
        all += owned.sockets;
    }
    let states: Vec<State> = State::ALL
        .into_iter()
        .filter(|state| all.get(*state) > 0)
        .collect();
    let mut title = ["OWNER", "PID", "UID", "UNIT OR CONTAINER", "TOTAL"]
        .map(str::to_owned)
        .to_vec();
    title.extend(
        states
            .iter()
            .map(|state| Capitals(RawState::Known(*state)).to_string()),
    );
    let rows = owners.iter().map(|owned| {
        let mut row = owner(&owned.owner);
        row.push(owned.sockets.total().to_string());
        row.extend(
            states
                .iter()
                .map(|state| or_dash(owned.sockets.known(*state)).to_string()),
        );
        row
    });
    let rows: Vec<Vec<String>> = std::iter::once(title).chain(rows).collect();
    write_table(out, 4, &rows, std::iter::repeat(anstyle::Style::new()))?;
    if hidden > 0 {
        writeln!(out, "\nand {hidden} more; --top 0 shows all of them")?;
    }
    Ok(())
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
