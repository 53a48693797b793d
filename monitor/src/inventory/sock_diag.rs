//! Every TCP socket of the calling thread's network namespace, from `NETLINK_SOCK_DIAG`.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::wire::{self, Message, Messages, Socket as Found};
use super::{Dump, Error, Query, Row, StateSet};
use crate::tcp::{Evidence, Family};

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
    let mut recent = Recent::default();
    let dump = walk(states.plain(), |found| {
        let (row, name) = (found.row(), (found.cookie(), found.fingerprint()));
        match recent
            .meet(name, rows.len())
            .and_then(|at| rows.get_mut(at))
        {
            Some(before) => *before = row,
            None => rows.push(row),
        }
    })?;
    drop_repeats(rows);
    Ok(dump)
}

/// Hands each socket that is asked for to `take`, as [`dump`] would list it, with what explains it;
/// of a socket met more than once, what was met first.
pub(super) fn survey(
    netns: u32,
    query: Query,
    mut take: impl FnMut(&Evidence),
) -> Result<Dump, Error> {
    let mut recent = Recent::default();
    walk(query, |found| {
        let name = (found.cookie(), found.fingerprint());
        if recent.meet(name, 0).is_none() {
            take(&found.evidence(netns));
        }
    })
}

/// Hands each MPTCP connection and listener to `take`: the TCP sockets below it are listed as such. None
/// where the kernel does not list them.
pub(super) fn mptcp(netns: u32, mut take: impl FnMut(Evidence)) -> Result<Option<()>, Error> {
    let mut recent = Recent::default();
    let mut walk = Walk::open(StateSet::ALL, |found: &Found<'_>| {
        let name = (found.cookie(), found.fingerprint());
        if recent.meet(name, 0).is_none() {
            take(Evidence {
                is_mptcp: true,
                ..found.evidence(netns)
            });
        }
    })?;
    for family in Family::ALL {
        match walk.run(&wire::mptcp_request(family, StateSet::ALL)) {
            Err(error) if is_refusal(&error) => return Ok(None),
            outcome => outcome?,
        }
    }
    Ok(Some(()))
}

fn walk(query: Query, take: impl FnMut(&Found<'_>)) -> Result<Dump, Error> {
    let Query { states, extensions } = query;
    let mut walk = Walk::open(states, take)?;
    match walk.run(&wire::both_families_request(states, extensions)) {
        Err(error) if is_refusal(&error) => {
            for family in Family::ALL {
                walk.run(&wire::one_family_request(family, states, extensions))
                    .map_err(without_tcp_diag)?;
            }
        }
        outcome => outcome?,
    }
    Ok(walk.dump)
}

/// The last sockets met. The walk never returns to a bucket, and repeats as many of the sockets
/// before the one it stopped at as joined that bucket meanwhile: a repeat follows close on the
/// original.
#[derive(Default)]
struct Recent {
    met: [(u64, u64); 32],
    /// What was said of each.
    places: [usize; 32],
    next: usize,
}

impl Recent {
    /// The place that was given for this socket when it was met before; else `place` is.
    fn meet(&mut self, socket: (u64, u64), place: usize) -> Option<usize> {
        if let Some(at) = self.met.iter().position(|met| *met == socket) {
            return self.places.get(at).copied();
        }
        let slots = self
            .met
            .get_mut(self.next)
            .zip(self.places.get_mut(self.next));
        if let Some((met, its_place)) = slots {
            (*met, *its_place) = (socket, place);
            self.next = (self.next + 1) % self.met.len();
        }
        None
    }
}

/// Orders the rows and keeps one of each socket, in place: a stable sort would take as much memory
/// again. Which of two that were far apart stays does not matter: the later one is settled by events.
fn drop_repeats(rows: &mut Vec<Row>) {
    rows.sort_unstable_by(|one, other| (one.cookie, &one.ends).cmp(&(other.cookie, &other.ends)));
    rows.dedup_by(|one, other| (one.cookie, &one.ends) == (other.cookie, &other.ends));
}

struct Walk<F> {
    // It dies with the walk: an open socket would keep its namespace alive.
    socket: Socket,
    buffer: Vec<u8>,
    states: StateSet,
    take: F,
    dump: Dump,
}

impl<F: FnMut(&Found<'_>)> Walk<F> {
    fn open(states: StateSet, take: F) -> Result<Self, Error> {
        let socket = Socket::new(NETLINK_SOCK_DIAG)
            .map_err(failed_to("open a socket"))
            .map_err(without_tcp_diag)?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER_BYTES],
            states,
            take,
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
            if self.take_datagram(length)? {
                return Ok(());
            }
        }
    }

    /// Takes one datagram in; true when it ends the dump.
    fn take_datagram(&mut self, length: usize) -> Result<bool, Error> {
        let datagram = self.buffer.get(..length).unwrap_or_default();
        if datagram.is_empty() {
            return Err(Error::Malformed {
                what: "it is empty",
            });
        }
        let mut is_done = false;
        for message in Messages::new(datagram) {
            match message? {
                // A socket may have changed state since the kernel chose it.
                Message::Socket(found) if self.states.contains(found.state) => (self.take)(&found),
                Message::Socket(_) | Message::Other => {}
                Message::Unknown => self.dump.unknown_states += 1,
                Message::Done { errno: 0 } => is_done = true,
                Message::Done { errno } | Message::Refused { errno } => {
                    let cause = io::Error::from_raw_os_error(errno);
                    return Err(failed_to("list the sockets")(cause));
                }
            }
        }
        Ok(is_done)
    }
}

pub(super) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

pub(super) fn failed_to(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |cause| Error::Netlink { operation, cause }
}

/// The kernel does not take this kind of request; another kind may do.
fn is_refusal(error: &Error) -> bool {
    const REFUSALS: [i32; 3] = [libc::EINVAL, libc::ENOENT, libc::EOPNOTSUPP];
    matches!(error, Error::Netlink { cause, .. }
        if cause.raw_os_error().is_some_and(|errno| REFUSALS.contains(&errno)))
}

/// Tells a kernel without `tcp_diag` (or `sock_diag`) from one that failed.
pub(super) fn without_tcp_diag(error: Error) -> Error {
    const ABSENT: [i32; 3] = [libc::ENOENT, libc::EPROTONOSUPPORT, libc::EOPNOTSUPP];
    match error {
        Error::Netlink { cause, .. }
            if cause
                .raw_os_error()
                .is_some_and(|errno| ABSENT.contains(&errno)) =>
        {
            Error::NoTcpDiag { cause }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;
    use crate::tcp::{Ends, State, Timer};

    fn row(cookie: u64, state: State) -> Row {
        Row {
            cookie,
            ends: Ends::V4 {
                ports: (80, 4000),
                local: Ipv4Addr::LOCALHOST,
                remote: Ipv4Addr::LOCALHOST,
            },
            interface: 0,
            seconds_left: 0,
            state,
            is_minisocket: false,
        }
    }

    #[test]
    fn rows_are_ordered_and_each_socket_stays_once() {
        let mut rows = vec![
            row(3, State::Established),
            row(2, State::LastAck),
            row(1, State::Listen),
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
        again.ends = again.ends.reversed();
        let mut rows = vec![again.clone(), row(7, State::TimeWait)];
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
        let mut walk = Walk::open(states, |found| rows.push(found.row())).unwrap();
        for family in Family::ALL {
            let request = wire::one_family_request(family, states, wire::Extensions::None);
            walk.run(&request).unwrap();
        }
        assert!(has_client(&rows));
    }

    #[test]
    fn a_repeat_is_told_from_another_socket_nearby() {
        let mut recent = Recent::default();
        assert_eq!(recent.meet((1, 1), 10), None);
        assert_eq!(recent.meet((1, 2), 11), None);
        // What is met again takes the place it had.
        assert_eq!(recent.meet((1, 1), 12), Some(10));
        assert!((2..33).all(|cookie| recent.meet((cookie, 1), 20).is_none()));
        assert_eq!(recent.meet((1, 2), 21), Some(11));
        assert_eq!(recent.meet((1, 1), 22), None);
    }

    /// What a survey says of the socket with that cookie, once it is in `state`.
    fn evidence(cookie: u64, state: State) -> Evidence {
        for _ in 0..200 {
            let mut found = None;
            let dump = survey(9, StateSet::of(&[state]).explained(), |evidence| {
                if evidence.cookie == cookie {
                    found = Some(*evidence);
                }
            });
            dump.unwrap();
            if let Some(found) = found {
                return found;
            }
            sleep(Duration::from_millis(10));
        }
        panic!("the socket is never in {state}");
    }

    #[test]
    fn what_explains_a_socket_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let cookie = rustix::net::sockopt::socket_cookie(&server).unwrap();

        let unread = evidence(cookie, State::CloseWait);
        assert_eq!((unread.recv_queue, unread.unread_bytes()), (6, 5));
        assert!(!unread.has_read_end());
        assert_eq!(unread.netns, 9);
        assert_eq!(unread.local, server.local_addr().unwrap());
        assert_eq!(unread.remote, client.local_addr().unwrap());
        let file = rustix::fs::fstat(&server).unwrap();
        assert_eq!(u64::from(unread.inode), file.st_ino);
        assert_eq!(unread.uid, rustix::process::geteuid().as_raw());
        let info = unread.info.unwrap();
        assert!(info.last_data_received < Duration::from_secs(5));
        assert!(info.rto >= Duration::from_millis(200) && info.rto < Duration::from_secs(5));
        assert!(info.peer_window.is_none_or(|window| window > 1000));

        server.read_to_end(&mut Vec::new()).unwrap();
        assert!(evidence(cookie, State::CloseWait).has_read_end());
        let cookie = rustix::net::sockopt::socket_cookie(&client).unwrap();
        assert!(!evidence(cookie, State::FinWait2).is_minisocket);
        drop(server);
        let minisocket = evidence(cookie, State::TimeWait);
        assert!(minisocket.is_minisocket && minisocket.info.is_none());
        assert!(
            matches!(minisocket.timer, Timer::TimeWait(left) if left > Duration::from_secs(50))
        );
    }
}
