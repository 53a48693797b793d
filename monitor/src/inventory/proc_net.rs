//! The sockets of a namespace where the kernel has no `tcp_diag`: /proc/net/tcp and tcp6.
//!
//! Some eight times the time of `sock_diag`, and no cookies.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::str::SplitAsciiWhitespace;
use std::time::Duration;

use super::evidence::timer_from;
use super::{Dump, Error, Row, StateSet};
use crate::tcp::{Ends, Evidence, Family, RawState, State};

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
    walk(states, |row, _| {
        rows.push(row);
        Ok(())
    })
}

/// Hands each socket in one of `states` to `take`, with what the table tells of it.
pub(super) fn fallback_survey(
    netns: u32,
    states: StateSet,
    mut take: impl FnMut(&Evidence),
) -> Result<Dump, Error> {
    walk(states, |row, line| {
        take(&evidence(line, &row, netns)?);
        Ok(())
    })
}

fn walk(
    states: StateSet,
    mut take: impl FnMut(Row, &str) -> Result<(), Error>,
) -> Result<Dump, Error> {
    let mut dump = Dump::default();
    for (family, path) in [
        (Family::Ipv4, "/proc/thread-self/net/tcp"),
        (Family::Ipv6, "/proc/thread-self/net/tcp6"),
    ] {
        let path = Path::new(path);
        let file = match File::open(path) {
            Err(error) if family == Family::Ipv6 && error.kind() == io::ErrorKind::NotFound => {
                continue;
            }
            opened => opened.map_err(Error::reading(path))?,
        };
        let mut table = BufReader::with_capacity(64 * 1024, file);
        let mut line = String::new();
        while table.read_line(&mut line).map_err(Error::reading(path))? > 0 {
            match parse(&line, family)? {
                Some(Line::Socket(row)) if states.contains(row.state) => take(row, &line)?,
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
    let mut words = line.split_ascii_whitespace();
    let columns = words.clone().count();
    if words.next().is_none_or(|word| word == "sl") {
        return Ok(None);
    }
    let local = address(words.next(), family).ok_or_else(missing("local_address"))?;
    let remote = address(words.next(), family).ok_or_else(missing("rem_address"))?;
    let number = words
        .next()
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
        ends: Ends::new(family, local, remote),
        interface: 0,
        seconds_left: 0,
        state,
        is_minisocket,
    })))
}

fn missing(field: &'static str) -> impl FnOnce() -> Error {
    move || Error::Parse { file: "tcp", field }
}

/// The rest of a line whose socket is `row`.
///
/// The queues are `sock_diag`'s, but a listener's backlog limit is not there (`get_tcp4_sock()` in
/// `net/ipv4/tcp_ipv4.c`, Linux 6.18).
fn evidence(line: &str, row: &Row, netns: u32) -> Result<Evidence, Error> {
    /// `USER_HZ`: a hundredth of a second on every architecture that has eBPF.
    const MILLIS_PER_TICK: u64 = 10;
    let mut words = line.split_ascii_whitespace();
    let (send_queue, recv_queue) = hex_pair(words.nth(4)).ok_or_else(missing("rx_queue"))?;
    let (timer, ticks) = hex_pair(words.next()).ok_or_else(missing("when"))?;
    let expires = Duration::from_millis(u64::from(ticks) * MILLIS_PER_TICK);
    let retransmits = words
        .next()
        .and_then(|word| u32::from_str_radix(word, 16).ok());
    let retransmits = retransmits.ok_or_else(missing("retrnsmt"))?;
    Ok(Evidence {
        interface: 0,
        netns,
        cookie: row.cookie,
        family: row.ends.family(),
        state: row.state,
        is_minisocket: row.is_minisocket,
        is_mptcp: false,
        local: row.ends.local(),
        remote: row.ends.remote(),
        uid: decimal(&mut words, 0).ok_or_else(missing("uid"))?,
        inode: decimal(&mut words, 1).ok_or_else(missing("inode"))?,
        cgroup_id: None,
        recv_queue,
        send_queue,
        timer: timer_from(timer, expires),
        retransmits: u8::try_from(retransmits).unwrap_or(u8::MAX),
        info: None,
    })
}

/// `0100007F:1388`: each word of the address as a number of this machine's, then the port.
fn address(word: Option<&str>, family: Family) -> Option<SocketAddr> {
    let (words, port) = word?.split_once(':')?;
    let word = |at: usize| {
        let digits = words.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip: IpAddr = match family {
        Family::Ipv4 => Ipv4Addr::from(word(0)?).into(),
        Family::Ipv6 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let octets: [u8; 16] = words.as_flattened().try_into().ok()?;
            Ipv6Addr::from(octets).into()
        }
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// `01:0000004B`.
fn hex_pair(word: Option<&str>) -> Option<(u32, u32)> {
    let (first, second) = word?.split_once(':')?;
    let number = |digits| u32::from_str_radix(digits, 16).ok();
    Some((number(first)?, number(second)?))
}

fn decimal(words: &mut SplitAsciiWhitespace<'_>, skipped: usize) -> Option<u32> {
    words.nth(skipped)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tcp::Timer;

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
        let error = parse("0: 0100007F:D4DE 0100007F:1388 01", Family::Ipv4).unwrap_err();
        assert!(matches!(error, Error::Parse { field: "tr", .. }));
    }

    /// The evidence in a line that is a socket's.
    fn told(line: &str, family: Family) -> Result<Evidence, Error> {
        match parse(line, family)? {
            Some(Line::Socket(row)) => evidence(line, &row, 9),
            other => panic!("no socket: {other:?}"),
        }
    }

    #[test]
    fn a_line_tells_what_it_can() {
        let lines: Vec<&str> = TABLE.lines().collect();
        let listener = told(lines[1], Family::Ipv4).unwrap();
        assert_eq!(listener.local, "127.0.0.1:5000".parse().unwrap());
        assert_eq!(listener.remote, "0.0.0.0:0".parse().unwrap());
        assert_eq!((listener.inode, listener.timer), (35_204, Timer::Off));

        let full = told(lines[3], Family::Ipv4).unwrap();
        assert_eq!(full.local, "10.9.0.1:7000".parse().unwrap());
        assert_eq!((full.send_queue, full.recv_queue), (0, 5));
        assert_eq!(full.timer, Timer::Retransmit(Duration::from_millis(870)));
        let minisocket = told(lines[4], Family::Ipv4).unwrap();
        let left = Duration::from_millis(0x1742 * 10);
        assert_eq!(minisocket.timer, Timer::TimeWait(left));
        assert_eq!((minisocket.netns, minisocket.cookie), (9, 0));
        assert_eq!(minisocket.info, None);

        let mapped = "  12: 0000000000000000FFFF00000100007F:1F90 \
0000000000000000FFFF00000200007F:D4DE 08 00000003:00000006 02:00000BB8 00000102  1000        0 \
36398 1 000000001e782b69 20 0 0 11 -1";
        let mapped = told(mapped, Family::Ipv6).unwrap();
        assert_eq!(mapped.local, "[::ffff:127.0.0.1]:8080".parse().unwrap());
        assert_eq!(mapped.remote, "[::ffff:127.0.0.2]:54494".parse().unwrap());
        assert_eq!((mapped.uid, mapped.retransmits), (1000, 255));
        assert_eq!((mapped.send_queue, mapped.unread_bytes()), (3, 5));
        assert_eq!(mapped.timer, Timer::Keepalive(Duration::from_secs(30)));
    }

    proptest! {
        #[test]
        fn a_line_cut_short_is_an_error(at in 0_usize..60, family: bool) {
            let family = if family { Family::Ipv4 } else { Family::Ipv6 };
            let line = TABLE.lines().nth(2).unwrap();
            let any = SocketAddr::from(([0; 4], 0));
            let row = Row {
                cookie: 0,
                ends: Ends::new(family, any, any),
                interface: 0,
                seconds_left: 0,
                state: State::Listen,
                is_minisocket: false,
            };
            prop_assert!(evidence(&line[..at], &row, 1).is_err());
            prop_assert!(evidence(&line.replace(':', "é"), &row, 1).is_err());
        }
    }
}
