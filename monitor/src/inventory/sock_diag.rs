//! Every TCP socket of the calling thread's network namespace, from `NETLINK_SOCK_DIAG`.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::wire::{self, Message, Messages};
use super::{Dump, Error, Row, StateSet};
use crate::tcp::Family;

/// The kernel fills at most 32 KiB a datagram (`netlink_recvmsg()` in `net/netlink/af_netlink.c`,
/// Linux 6.18).
const BUFFER_BYTES: usize = 64 * 1024;

/// Fills `rows`, in the order of their cookies, with each socket in one of `states`; sockets in
/// CLOSE are never listed.
///
/// The walk is no picture of one instant. It unlocks a hash bucket every 16 sockets and goes on at
/// the same position, so one that joins or leaves the bucket meanwhile makes it repeat or miss
/// another (`inet_diag_dump_icsk()` in `net/ipv4/inet_diag.c`, Linux 6.18).
pub(super) fn dump(states: StateSet, rows: &mut Vec<Row>) -> Result<Dump, Error> {
    rows.clear();
    let mut walk = Walk::open(states, rows)?;
    match walk.run(&wire::both_families_request(states)) {
        Err(error) if is_refusal(&error) => {
            for family in Family::ALL {
                walk.run(&wire::one_family_request(family, states))
                    .map_err(without_tcp_diag)?;
            }
        }
        outcome => outcome?,
    }
    let dump = walk.dump;
    drop_repeats(rows);
    Ok(dump)
}

/// Keeps the latest row of each socket.
fn drop_repeats(rows: &mut Vec<Row>) {
    rows.sort_by_key(|row| (row.cookie, row.tuple));
    rows.dedup_by(|later, kept| {
        let is_repeat = (later.cookie, later.tuple) == (kept.cookie, kept.tuple);
        if is_repeat {
            *kept = *later;
        }
        is_repeat
    });
}

struct Walk<'a> {
    // It dies with the walk: an open socket would keep its namespace alive.
    socket: Socket,
    buffer: Vec<u8>,
    states: StateSet,
    rows: &'a mut Vec<Row>,
    dump: Dump,
}

impl<'a> Walk<'a> {
    fn open(states: StateSet, rows: &'a mut Vec<Row>) -> Result<Self, Error> {
        let socket = Socket::new(NETLINK_SOCK_DIAG)
            .map_err(failed_to("open a socket"))
            .map_err(without_tcp_diag)?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER_BYTES],
            states,
            rows,
            dump: Dump::default(),
        })
    }

    fn run(&mut self, request: &[u8]) -> Result<(), Error> {
        let kernel = SocketAddr::new(0, 0);
        uninterrupted(|| self.socket.send_to(request, &kernel, 0))
            .map_err(failed_to("send the request"))?;
        loop {
            let length = uninterrupted(|| self.socket.recv(&mut self.buffer.as_mut_slice(), 0))
                .map_err(failed_to("receive"))?;
            if self.take(length)? {
                return Ok(());
            }
        }
    }

    /// Takes one datagram in; true when it ends the dump.
    fn take(&mut self, length: usize) -> Result<bool, Error> {
        let datagram = self.buffer.get(..length).unwrap_or_default();
        if datagram.is_empty() {
            return Err(Error::Malformed {
                what: "it is empty",
            });
        }
        let mut messages = Messages::new(datagram);
        let mut is_done = false;
        for message in messages.by_ref() {
            match message? {
                // A socket may have changed state since the kernel chose it.
                Message::Row(row) if self.states.contains(row.state) => self.rows.push(row),
                Message::Row(_) | Message::Other => {}
                Message::Unknown => self.dump.unknown_states += 1,
                Message::Done { errno: 0 } => is_done = true,
                Message::Done { errno } | Message::Refused { errno } => {
                    let source = io::Error::from_raw_os_error(errno);
                    return Err(failed_to("list the sockets")(source));
                }
            }
        }
        self.dump.is_interrupted |= messages.is_interrupted;
        Ok(is_done)
    }
}

fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

fn failed_to(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Netlink { operation, source }
}

/// The kernel does not take this kind of request; another kind may do.
fn is_refusal(error: &Error) -> bool {
    const REFUSALS: [i32; 3] = [libc::EINVAL, libc::ENOENT, libc::EOPNOTSUPP];
    matches!(error, Error::Netlink { source, .. }
        if source.raw_os_error().is_some_and(|errno| REFUSALS.contains(&errno)))
}

/// Tells a kernel without `tcp_diag` (or `sock_diag`) from one that failed.
fn without_tcp_diag(error: Error) -> Error {
    const ABSENT: [i32; 3] = [libc::ENOENT, libc::EPROTONOSUPPORT, libc::EOPNOTSUPP];
    match error {
        Error::Netlink { source, .. }
            if source
                .raw_os_error()
                .is_some_and(|errno| ABSENT.contains(&errno)) =>
        {
            Error::NoTcpDiag { source }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::tcp::State;

    fn row(cookie: u64, state: State) -> Row {
        Row {
            cookie,
            tuple: 0,
            state,
            family: Family::Ipv4,
            is_minisocket: false,
        }
    }

    #[test]
    fn the_latest_of_repeated_rows_stays() {
        let mut rows = vec![
            row(3, State::Established),
            row(2, State::Established),
            row(1, State::Listen),
            row(2, State::CloseWait),
            row(2, State::LastAck),
        ];
        drop_repeats(&mut rows);
        let expected = [
            row(1, State::Listen),
            row(2, State::LastAck),
            row(3, State::Established),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn sockets_that_share_a_cookie_are_several() {
        let mut again = row(7, State::Established);
        again.tuple = 1;
        let mut rows = vec![again, row(7, State::TimeWait)];
        drop_repeats(&mut rows);
        assert_eq!(rows, [row(7, State::TimeWait), again]);
    }

    #[test]
    fn a_kernel_without_tcp_diag_is_recognised() {
        for (errno, is_absent) in [(libc::ENOENT, true), (libc::ENOBUFS, false)] {
            let error = failed_to("receive")(io::Error::from_raw_os_error(errno));
            let is_recognised = matches!(without_tcp_diag(error), Error::NoTcpDiag { .. });
            assert_eq!(is_recognised, is_absent);
        }
    }

    #[test]
    fn both_kinds_of_request_find_a_connection_by_its_cookie() {
        let listener = TcpListener::bind("[::1]:0")
            .or_else(|_| TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let cookie = rustix::net::sockopt::socket_cookie(&client).unwrap();
        let states = StateSet::of(&[State::Established]);
        let has_client = |rows: &[Row]| {
            rows.iter()
                .any(|row| row.cookie == cookie && row.state == State::Established)
        };

        let mut rows = Vec::new();
        assert_eq!(dump(states, &mut rows).unwrap().unknown_states, 0);
        assert!(has_client(&rows));
        assert!(rows.iter().all(|row| row.state == State::Established));

        let mut rows = Vec::new();
        let mut walk = Walk::open(states, &mut rows).unwrap();
        for family in Family::ALL {
            walk.run(&wire::one_family_request(family, states)).unwrap();
        }
        assert!(has_client(&rows));
    }
}
