//! What the kernel has: `ss` for the sockets, `sockstat` for the many in `TIME_WAIT`.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::bench::place::Place;
use crate::exec::capture;

/// `ss`'s names beside tcplinger's. `ss` has one for a half-open request and a socket in `SYN_RECV`:
/// the two are counted as one here.
pub(super) const STATES: [(&str, &str); 11] = [
    ("ESTAB", "established"),
    ("SYN-SENT", "syn_sent"),
    ("SYN-RECV", "new_syn_recv"),
    ("FIN-WAIT-1", "fin_wait1"),
    ("FIN-WAIT-2", "fin_wait2"),
    ("TIME-WAIT", "time_wait"),
    ("UNCONN", "close"),
    ("CLOSE-WAIT", "close_wait"),
    ("LAST-ACK", "last_ack"),
    ("LISTEN", "listen"),
    ("CLOSING", "closing"),
];

/// A number for each of [`STATES`].
pub(super) type Counts = [u64; STATES.len()];

/// What a namespace had at one moment between two.
pub(super) struct Reading {
    pub(super) begun: Instant,
    pub(super) ended: Instant,
    pub(super) counts: Counts,
}

/// How much work a reading may be.
#[derive(Clone, Copy)]
pub(super) enum Means {
    /// Every state.
    Ss,
    /// `TIME_WAIT`, and all full sockets as if they listened: for where nothing else stays.
    Sockstat,
}

pub(super) fn read(place: Place, means: Means) -> Result<Reading> {
    let begun = Instant::now();
    let counts = match means {
        Means::Ss => by_ss(place)?,
        Means::Sockstat => {
            let (full, minisockets) = sockstat(place)?;
            counts(|state| match state {
                "listen" => full,
                "time_wait" => minisockets,
                _ => 0,
            })
        }
    };
    Ok(Reading {
        begun,
        ended: Instant::now(),
        counts,
    })
}

fn counts(count: impl Fn(&str) -> u64) -> Counts {
    STATES.map(|(_, state)| count(state))
}

/// `ss` would take a second for 70,000 in `TIME_WAIT`: those are what `sockstat` has beyond the
/// minisockets that `ss` lists in other states.
fn by_ss(place: Place) -> Result<Counts> {
    let words = ["ss", "-tanoH", "exclude", "time-wait"];
    let rows = capture(place.command().args(words))?;
    let (_, minisockets) = sockstat(place)?;
    Ok(by_rows(&rows, minisockets))
}

fn by_rows(rows: &str, minisockets: u64) -> Counts {
    let mut found = Counts::default();
    let mut others = 0;
    for row in rows.lines() {
        let spelling = row.split_whitespace().next();
        let state = STATES.iter().position(|(name, _)| spelling == Some(*name));
        if let Some(count) = state.and_then(|state| found.get_mut(state)) {
            *count += 1;
        }
        others += u64::from(row.contains("timer:(timewait"));
    }
    for ((_, state), count) in STATES.iter().zip(&mut found) {
        if *state == "time_wait" {
            *count = minisockets.saturating_sub(others);
        }
    }
    found
}

/// Sockets of every kind over IPv4, half-open requests aside.
pub(super) fn total(place: Place) -> Result<u64> {
    let (full, minisockets) = sockstat(place)?;
    Ok(full + minisockets)
}

/// Full sockets over IPv4, and minisockets.
fn sockstat(place: Place) -> Result<(u64, u64)> {
    let path = format!("/proc/{}/net/sockstat", place.pid);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find(|line| line.starts_with("TCP:"));
    let figure = |name| {
        let mut words = line?.split(' ').skip_while(|word| *word != name);
        words.nth(1)?.parse().ok()
    };
    let figures = figure("inuse").zip(figure("tw"));
    figures.with_context(|| format!("{path} has no figures of TCP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minisockets_in_fin_wait2_are_not_in_time_wait() {
        let rows = "LISTEN 0 128 127.0.0.1:80 0.0.0.0:*\n\
                    FIN-WAIT-2 0 0 127.0.0.1:5 127.0.0.1:80 timer:(timewait,58sec,0)\n\
                    FIN-WAIT-2 0 0 127.0.0.1:6 127.0.0.1:80\n";
        let expected = counts(|state| match state {
            "listen" => 1,
            "fin_wait2" => 2,
            "time_wait" => 69,
            _ => 0,
        });
        assert_eq!(by_rows(rows, 70), expected);
    }
}
