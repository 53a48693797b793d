//! The sockets of a namespace where the kernel has no `tcp_diag`: /proc/net/tcp and tcp6.
//!
//! Some eight times the time of `sock_diag`, and no cookies.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use super::{Dump, Error, Row, StateSet};
use crate::tcp::{Family, RawState, State};

/// What a row of the table can be.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Socket(Row),
    /// A state with a number unknown to this build.
    Unknown,
}

/// Appends a row, with cookie 0, for each socket in one of `states`, in the calling thread's
/// namespace.
pub(super) fn fallback_dump(states: StateSet, rows: &mut Vec<Row>) -> Result<Dump, Error> {
    let mut dump = Dump::default();
    for (family, path) in [
        (Family::Ipv4, "/proc/thread-self/net/tcp"),
        (Family::Ipv6, "/proc/thread-self/net/tcp6"),
    ] {
        let file = match File::open(path) {
            Err(error) if family == Family::Ipv6 && error.kind() == io::ErrorKind::NotFound => {
                continue;
            }
            opened => opened.map_err(Error::reading(Path::new(path)))?,
        };
        let mut table = BufReader::with_capacity(64 * 1024, file);
        let mut line = String::new();
        while table
            .read_line(&mut line)
            .map_err(Error::reading(Path::new(path)))?
            > 0
        {
            match parse(&line, family)? {
                Some(Line::Socket(row)) if states.contains(row.state) => rows.push(row),
                Some(Line::Unknown) => dump.unknown_states += 1,
                _ => {}
            }
            line.clear();
        }
    }
    Ok(dump)
}

/// Decodes a line; none for the table's heading.
///
/// Requests and minisockets stand in 12 columns, full sockets in 17
/// (`tcp4_seq_show()` in `net/ipv4/tcp_ipv4.c`, Linux 6.18). A request is shown as `SYN_RECV`, a
/// minisocket in its substate and with timer 3.
fn parse(line: &str, family: Family) -> Result<Option<Line>, Error> {
    const FULL_SOCKET_COLUMNS: usize = 17;
    let missing = |field| move || Error::Parse { file: "tcp", field };
    let mut words = line.split_ascii_whitespace();
    let columns = words.clone().count();
    if words.next().is_none_or(|word| word == "sl") {
        return Ok(None);
    }
    let number = words
        .nth(2)
        .and_then(|word| u8::from_str_radix(word, 16).ok());
    let timer = words.nth(1).and_then(|word| word.split_once(':'));
    let (timer, _) = timer.ok_or_else(missing("tr"))?;
    let RawState::Known(state) = RawState::from(number.ok_or_else(missing("st"))?) else {
        return Ok(Some(Line::Unknown));
    };
    let is_full = columns >= FULL_SOCKET_COLUMNS;
    let (state, is_minisocket) = match state {
        State::TimeWait => (state, true),
        State::FinWait2 => (state, !is_full && timer == "03"),
        State::SynRecv if !is_full => (State::NewSynRecv, false),
        _ => (state, false),
    };
    Ok(Some(Line::Socket(Row {
        cookie: 0,
        tuple: 0,
        state,
        family,
        is_minisocket,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Captured on Linux 6.18.
    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 35204 \
1 0000000000f8df7f 100 0 0 10 200
   6: 0100090A:1B58 0200090A:07D3 03 00000000:00000000 01:0000004B 00000000     0        0 0 0 \
00000000b44d2204
   7: 0100090A:1B58 0200090A:089A 03 00000000:00000005 01:00000057 00000000     0        0 0 2 \
0000000007c26180 300 0 0 10 -1
   5: 0100007F:D4DE 0100007F:1388 06 00000000:00000000 03:00001742 00000000     0        0 0 3 \
000000001220d2a2
   6: 0100007F:D4EC 0100007F:1388 05 00000000:00000000 03:00001758 00000000     0        0 0 3 \
000000003018f66a
   7: 0100007F:D4FC 0100007F:1388 05 00000000:00000000 00:00000000 00000000     0        0 36398 \
2 000000001e782b69 20 0 0 11 -1
";

    #[test]
    fn requests_and_minisockets_are_told_from_full_sockets() {
        let rows: Vec<(State, bool)> = TABLE
            .lines()
            .filter_map(|line| parse(line, Family::Ipv4).unwrap())
            .map(|line| match line {
                Line::Socket(row) => (row.state, row.is_minisocket),
                Line::Unknown => panic!("unknown state"),
            })
            .collect();
        let expected = [
            (State::Listen, false),
            (State::NewSynRecv, false),
            (State::SynRecv, false),
            (State::TimeWait, true),
            (State::FinWait2, true),
            (State::FinWait2, false),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn odd_lines_are_no_sockets() {
        assert_eq!(parse("\n", Family::Ipv6).unwrap(), None);
        let line = "0: 0100007F:D4DE 0100007F:1388 0D 00000000:00000000 03:00001742";
        assert_eq!(parse(line, Family::Ipv4).unwrap(), Some(Line::Unknown));
        let error = parse("0: 0100007F:D4DE", Family::Ipv4).unwrap_err();
        assert!(matches!(error, Error::Parse { field: "tr", .. }));
    }
}
