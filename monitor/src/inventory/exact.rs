//! Single sockets, asked for by their addresses: microseconds each, however many the host has.
//!
//! The kernel looks each one up in its hash tables (`inet_diag_find_one_icsk()` in
//! `net/ipv4/inet_diag.c`, Linux 6.18), where a dump walks all of them. Before Linux 6.18 the lookup
//! can miss a socket in the very moment in which it becomes a minisocket, or a request a connection.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::sock_diag::{dump, failed_to, uninterrupted, without_tcp_diag};
use super::wire::{self, EXACT_REQUEST, Extensions, Message, Messages};
use super::{Error, StateSet};
use crate::tcp::{Ends, Evidence};

/// Requests in one send. Their replies lie in the socket's buffer until they are read: at most
/// 2 KiB each, of 212,992 by default (`net.core.rmem_default`).
const BATCH: usize = 64;
/// A reply holds one row: at most a few hundred bytes.
const BUFFER_BYTES: usize = 8 * 1024;

/// The socket that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExactQuery {
    /// None asks for any socket with these ends.
    pub(crate) cookie: Option<u64>,
    /// Index of the interface the socket is bound to (`SO_BINDTODEVICE`, or a link-local address);
    /// 0 where it is not bound. A bound socket is found only by its interface.
    pub(crate) interface: u32,
    pub(crate) ends: Ends,
}

impl ExactQuery {
    /// Or a socket that is connected to nobody any more, which is in no table.
    const fn is_listener(&self) -> bool {
        self.ends.ports().1 == 0
    }

    fn with_any_cookie(&self) -> Self {
        Self {
            cookie: None,
            ..self.clone()
        }
    }

    /// Link-local addresses exist once on each interface.
    fn lacks_interface(&self) -> bool {
        let is_link_local = match &self.ends {
            Ends::V4 { .. } => false,
            Ends::V6 { addresses, .. } => {
                addresses.0.is_unicast_link_local() || addresses.1.is_unicast_link_local()
            }
        };
        is_link_local && self.interface == 0
    }
}

/// What the kernel says of one [`ExactQuery`].
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every answer is a socket, and they are read once"
)]
pub(crate) enum Answer {
    Socket(Evidence),
    /// No socket has these ends, or one with another cookie has.
    Gone,
    /// The addresses do not tell: of a listener, another one of its group answered; or the kernel
    /// failed.
    Unclear,
}

/// Looks up each of `wanted` in the calling thread's namespace, and answers in their order.
pub(super) fn ask(
    netns: u32,
    wanted: &[ExactQuery],
    extensions: Extensions,
) -> Result<Vec<Answer>, Error> {
    let mut lookup = Lookup::open(netns, extensions)?;
    let mut answers = Vec::with_capacity(wanted.len());
    for batch in wanted.chunks(BATCH) {
        lookup.ask(batch, &mut answers)?;
    }
    lookup.ask_again_for_listeners(wanted, &mut answers)?;
    if !wanted.is_empty() && !lookup.has_tcp_diag {
        // Without tcp_diag the errno is the same as without the socket. A dump of no state scans
        // no table, and ends with an error of its own.
        dump(StateSet::of(&[]), &mut Vec::new())?;
    }
    Ok(answers)
}

struct Lookup {
    // It dies with the lookup: an open socket would keep its namespace alive.
    socket: Socket,
    netns: u32,
    extensions: Extensions,
    /// Sequence number of the next request.
    sequence: u32,
    requests: Vec<u8>,
    buffer: Vec<u8>,
    /// An answer came that only `tcp_diag` gives.
    has_tcp_diag: bool,
}

impl Lookup {
    fn open(netns: u32, extensions: Extensions) -> Result<Self, Error> {
        let socket = Socket::new(NETLINK_SOCK_DIAG)
            .map_err(failed_to("open a socket"))
            .map_err(without_tcp_diag)?;
        Ok(Self {
            socket,
            netns,
            extensions,
            sequence: 1,
            requests: Vec::with_capacity(BATCH * EXACT_REQUEST),
            buffer: vec![0; BUFFER_BYTES],
            has_tcp_diag: false,
        })
    }

    /// Appends one answer for each of `batch`.
    fn ask(&mut self, batch: &[ExactQuery], answers: &mut Vec<Answer>) -> Result<(), Error> {
        let first = self.sequence;
        self.requests.clear();
        for wanted in batch {
            let request = wire::exact_request(wanted, self.extensions, self.sequence);
            self.requests.extend_from_slice(&request);
            self.sequence = self.sequence.wrapping_add(1);
        }
        let kernel = SocketAddr::new(0, 0);
        uninterrupted(|| self.socket.send_to(&self.requests, &kernel, 0))
            .map_err(failed_to("send the requests"))?;
        let from = answers.len();
        answers.resize(from + batch.len(), Answer::Unclear);
        let answers = answers.get_mut(from..).unwrap_or_default();
        let mut left = batch.len();
        while left > 0
            && let Some(length) = self.receive()?
        {
            let mut messages = Messages::new(self.buffer.get(..length).unwrap_or_default());
            while let Some(message) = messages.next() {
                let message = message?;
                let at = usize::try_from(messages.sequence.wrapping_sub(first)).unwrap_or_default();
                let (Some(wanted), Some(slot)) = (batch.get(at), answers.get_mut(at)) else {
                    continue;
                };
                *slot = answer(&message, wanted, self.netns);
                self.has_tcp_diag |= matches!(message, Message::Socket(_) | Message::Unknown);
                left = left.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// The lookup of a listener finds any one of its group, and a wrong cookie reads as no socket at
    /// all: only where nobody listens is it gone.
    fn ask_again_for_listeners(
        &mut self,
        wanted: &[ExactQuery],
        answers: &mut [Answer],
    ) -> Result<(), Error> {
        let missed: Vec<(usize, ExactQuery)> = answers
            .iter()
            .zip(wanted)
            .enumerate()
            .filter(|(_, (answer, wanted))| {
                **answer == Answer::Gone && wanted.is_listener() && wanted.cookie.is_some()
            })
            .map(|(at, (_, wanted))| (at, wanted.with_any_cookie()))
            .collect();
        let (places, anyones): (Vec<usize>, Vec<ExactQuery>) = missed.into_iter().unzip();
        let mut found = Vec::with_capacity(anyones.len());
        for batch in anyones.chunks(BATCH) {
            self.ask(batch, &mut found)?;
        }
        for (at, found) in places.into_iter().zip(found) {
            let (Some(slot), Some(wanted)) = (answers.get_mut(at), wanted.get(at)) else {
                continue;
            };
            *slot = match found {
                Answer::Socket(found) if Some(found.cookie) != wanted.cookie => Answer::Unclear,
                other => other,
            };
        }
        Ok(())
    }

    /// The length of the next reply in the buffer; none where there is none left. Never waits: the
    /// kernel answers before the send returns (`netlink_unicast_kernel()` in
    /// `net/netlink/af_netlink.c`, Linux 6.18), so a reply that is not there is lost.
    fn receive(&mut self) -> Result<Option<usize>, Error> {
        loop {
            let buffer = &mut self.buffer.as_mut_slice();
            match uninterrupted(|| self.socket.recv(buffer, libc::MSG_DONTWAIT)) {
                Ok(length) => return Ok(Some(length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // It tells once of replies that were lost; others may lie there.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(failed_to("receive")(error)),
            }
        }
    }
}

fn answer(message: &Message<'_>, wanted: &ExactQuery, netns: u32) -> Answer {
    match message {
        Message::Socket(found) => {
            if found.ends() == wanted.ends {
                Answer::Socket(found.evidence(netns))
            } else if wanted.is_listener() {
                Answer::Unclear
            } else {
                // Where the connection is gone, the listener on its local port is found.
                Answer::Gone
            }
        }
        // Another socket's cookie reads as no socket, too (ESTALE: should a kernel tell them apart).
        Message::Refused {
            errno: libc::ENOENT | libc::ESTALE,
        } if !wanted.lacks_interface() => Answer::Gone,
        _ => Answer::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr as Address, TcpListener, TcpStream};
    use std::os::fd::{AsFd, AsRawFd};
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use rustix::net::{AddressFamily, SocketType, sockopt};

    use super::*;
    use crate::tcp::{Family, State};

    const NOWHERE: &str = "0.0.0.0:0";

    fn cookie(socket: impl AsFd) -> u64 {
        sockopt::socket_cookie(socket).unwrap()
    }

    fn connection(family: Family, stream: &TcpStream) -> ExactQuery {
        let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        ExactQuery {
            cookie: Some(cookie(stream)),
            interface: 0,
            ends: Ends::new(family, local, remote),
        }
    }

    fn listening(listener: &TcpListener) -> ExactQuery {
        ExactQuery {
            cookie: Some(cookie(listener)),
            interface: 0,
            ends: Ends::new(
                Family::Ipv4,
                listener.local_addr().unwrap(),
                NOWHERE.parse().unwrap(),
            ),
        }
    }

    /// A client, and its server's socket.
    fn connected(listener: &TcpListener, to: Address) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(to).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn asked(wanted: &ExactQuery) -> Answer {
        let mut answers = ask(9, std::slice::from_ref(wanted), Extensions::None).unwrap();
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    fn found(wanted: &ExactQuery) -> Evidence {
        match asked(wanted) {
            Answer::Socket(found) => found,
            other => panic!("{wanted:?} is {other:?}"),
        }
    }

    #[test]
    fn a_connection_is_found_by_its_cookie_until_it_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (client, server) = connected(&listener, listener.local_addr().unwrap());
        for stream in [&client, &server] {
            let wanted = connection(Family::Ipv4, stream);
            let evidence = found(&wanted);
            assert_eq!(Some(evidence.cookie), wanted.cookie);
            assert_eq!((evidence.state, evidence.netns), (State::Established, 9));
            assert!(evidence.info.is_none());
            let explained = ask(9, &[wanted], Extensions::Info).unwrap();
            assert!(matches!(&explained[..], [Answer::Socket(found)] if found.info.is_some()));
        }
        let mut others = connection(Family::Ipv4, &client);
        others.cookie = Some(1);
        assert_eq!(asked(&others), Answer::Gone);

        let [ours, theirs] = [&client, &server].map(|stream| connection(Family::Ipv4, stream));
        let mut anyones = theirs.clone();
        anyones.cookie = None;
        assert_eq!(Some(found(&anyones).cookie), theirs.cookie);
        sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        drop((client, server));
        // The lookup of the server's socket finds the listener now.
        for wanted in [ours, theirs, anyones] {
            assert_eq!(asked(&wanted), Answer::Gone);
        }
    }

    #[test]
    fn a_minisocket_is_found_by_the_cookie_of_its_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (client, server) = connected(&listener, listener.local_addr().unwrap());
        let wanted = connection(Family::Ipv4, &server);
        drop(server);
        drop(client);
        for _ in 0..200 {
            let evidence = found(&wanted);
            if evidence.state == State::TimeWait {
                assert!(evidence.is_minisocket);
                assert_eq!(Some(evidence.cookie), wanted.cookie);
                return;
            }
            sleep(Duration::from_millis(10));
        }
        panic!("the socket never comes to TIME_WAIT");
    }

    fn reusable() -> TcpListener {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_reuseport(&socket, true).unwrap();
        TcpListener::from(socket)
    }

    #[test]
    fn a_listener_is_found_unless_another_of_its_group_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = listening(&listener);
        assert_eq!(found(&wanted).state, State::Listen);
        drop(listener);
        assert_eq!(asked(&wanted), Answer::Gone);

        let group = [reusable(), reusable()];
        let mut local: Address = "127.0.0.1:0".parse().unwrap();
        for member in &group {
            rustix::net::bind(member, &local).unwrap();
            rustix::net::listen(member, 8).unwrap();
            local = member.local_addr().unwrap();
        }
        let answers = ask(9, &group.each_ref().map(listening), Extensions::None).unwrap();
        let is_found = |answer: &&Answer| matches!(answer, Answer::Socket(_));
        assert_eq!(answers.iter().filter(is_found).count(), 1);
        assert!(answers.contains(&Answer::Unclear), "{answers:?} {group:?}");
    }

    #[test]
    fn ipv6_and_v4_mapped_sockets_are_found() {
        let Ok(listener) = TcpListener::bind("[::]:0") else {
            return;
        };
        let port = listener.local_addr().unwrap().port();
        let wildcard = ExactQuery {
            cookie: Some(cookie(&listener)),
            interface: 0,
            ends: Ends::new(
                Family::Ipv6,
                listener.local_addr().unwrap(),
                "[::]:0".parse().unwrap(),
            ),
        };
        assert_eq!(found(&wildcard).state, State::Listen);

        let (client, server) = connected(&listener, Address::new([127, 0, 0, 1].into(), port));
        let mapped = connection(Family::Ipv6, &server);
        let evidence = found(&mapped);
        assert_eq!(
            (evidence.family, evidence.remote.port()),
            (Family::Ipv6, client.local_addr().unwrap().port())
        );
        assert_eq!(
            found(&connection(Family::Ipv4, &client)).local.port(),
            client.local_addr().unwrap().port()
        );

        let loopback = Address::new("::1".parse().unwrap(), port);
        if let Ok(client) = TcpStream::connect(loopback) {
            assert_eq!(found(&connection(Family::Ipv6, &client)).remote, loopback);
        }
    }

    #[test]
    fn a_socket_bound_to_an_interface_is_found_by_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (client, _server) = connected(&listener, listener.local_addr().unwrap());
        let name = c"lo".to_bytes_with_nul();
        // SAFETY: the kernel reads as many bytes of the name as it is told.
        let bound = unsafe {
            libc::setsockopt(
                client.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_BINDTODEVICE,
                name.as_ptr().cast(),
                3,
            )
        };
        assert_eq!(bound, 0);
        let mut wanted = connection(Family::Ipv4, &client);
        wanted.interface = rustix::net::netdevice::name_to_index(&client, "lo").unwrap();
        assert_eq!(Some(found(&wanted).cookie), wanted.cookie);
    }

    #[test]
    fn a_thousand_are_answered_in_their_order() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let pairs: Vec<_> = (0..50).map(|_| connected(&listener, to)).collect();
        let mut wanted = Vec::new();
        for at in 0..1000 {
            let (client, server) = &pairs[at % pairs.len()];
            let stream = if at % 2 == 0 { client } else { server };
            wanted.push(connection(Family::Ipv4, stream));
            if at % 7 == 0 {
                wanted[at].cookie = Some(u64::MAX - 1);
            }
        }
        let began = Instant::now();
        let answers = ask(9, &wanted, Extensions::Info).unwrap();
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(answers.len(), wanted.len());
        for (at, (answer, wanted)) in answers.iter().zip(&wanted).enumerate() {
            match answer {
                Answer::Socket(found) => assert_eq!(Some(found.cookie), wanted.cookie),
                Answer::Gone => assert_eq!(at % 7, 0),
                Answer::Unclear => panic!("{wanted:?}"),
            }
        }
    }

    #[test]
    fn link_local_addresses_do_not_tell_without_an_interface() {
        let mut wanted = ExactQuery {
            cookie: Some(1),
            interface: 0,
            ends: Ends::new(
                Family::Ipv6,
                "[fe80::1]:80".parse().unwrap(),
                "[fe80::2]:4000".parse().unwrap(),
            ),
        };
        assert_eq!(asked(&wanted), Answer::Unclear);
        wanted.interface = 1;
        assert_eq!(asked(&wanted), Answer::Gone);
    }
}
