//! `sock_diag` on the wire: requests encoded, replies decoded, nothing allocated.
//!
//! Layouts from `include/uapi/linux/inet_diag.h` and `netlink.h` (Linux 6.18), native byte order.

use std::iter;

use super::{Error, ExactQuery, Row, StateSet};
use crate::tcp::{Ends, Family, RawState, State};

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_req_v2` and its header.
pub(super) const EXACT_REQUEST: usize = 72;
/// `struct inet_diag_msg`.
const DIAG_MESSAGE: usize = 72;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `TCPDIAG_GETSOCK`: also the type of the rows that answer it.
const TCPDIAG_GETSOCK: u16 = 18;
const SOCK_DIAG_BY_FAMILY: u16 = 20;

const NLM_F_REQUEST: u16 = 0x001;
const NLM_F_DUMP: u16 = 0x300;

/// A `struct tcp_info`.
pub(super) const INET_DIAG_INFO: u16 = 2;
/// Attribute of every full socket's row, and of no other
/// (`inet_diag_msg_attrs_fill()` in `net/ipv4/inet_diag.c`).
const INET_DIAG_SHUTDOWN: u16 = 8;
/// `idiag_timer` of a minisocket (`inet_twsk_diag_fill()`).
const TIME_WAIT_TIMER: u8 = 3;

/// What a request asks for beside the fixed part and the attributes that come anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extensions {
    None,
    /// `INET_DIAG_INFO`, a `struct tcp_info` of each full socket.
    Info,
}

impl Extensions {
    /// As `idiag_ext`: bit n - 1 is the attribute numbered n.
    const fn mask(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Info => 1 << (INET_DIAG_INFO - 1),
        }
    }
}

/// Asks for both families in one walk: `struct inet_diag_req` and its header.
pub(super) fn both_families_request(states: StateSet, extensions: Extensions) -> [u8; 76] {
    let mut request = [0; 76];
    put_header(&mut request, 76, TCPDIAG_GETSOCK, NLM_F_DUMP);
    put(&mut request, HEADER + 3, [extensions.mask()]);
    put(
        &mut request,
        HEADER + 52,
        states.request_mask().to_ne_bytes(),
    );
    request
}

/// Asks for one family: `struct inet_diag_req_v2` and its header.
pub(super) fn one_family_request(
    family: Family,
    states: StateSet,
    extensions: Extensions,
) -> [u8; 72] {
    let mut request = [0; 72];
    put_header(&mut request, 72, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP);
    put_family(&mut request, family, extensions);
    put(
        &mut request,
        HEADER + 4,
        states.request_mask().to_ne_bytes(),
    );
    request
}

/// Asks for the MPTCP connections of one family: `struct inet_diag_req_v2`, its header, and
/// `INET_DIAG_REQ_PROTOCOL`, as the number does not fit the request. A kernel that does not know the
/// attribute (before Linux 5.9) has no handler for the 0 there, and refuses.
pub(super) fn mptcp_request(family: Family, states: StateSet) -> [u8; 80] {
    const INET_DIAG_REQ_PROTOCOL: u16 = 3;
    const IPPROTO_MPTCP: u32 = 262;
    let mut request = [0; 80];
    let plain = one_family_request(family, states, Extensions::None);
    put(&mut request, 0, plain);
    put_header(&mut request, 80, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP);
    put(&mut request, HEADER + 1, [0]);
    put(&mut request, 72, 8_u16.to_ne_bytes());
    put(&mut request, 74, INET_DIAG_REQ_PROTOCOL.to_ne_bytes());
    put(&mut request, 76, IPPROTO_MPTCP.to_ne_bytes());
    request
}

/// Asks for one socket; the reply carries `sequence`. States do not matter here.
pub(super) fn exact_request(
    wanted: &ExactQuery,
    extensions: Extensions,
    sequence: u32,
) -> [u8; EXACT_REQUEST] {
    /// `struct inet_diag_sockid`, whose cookie is two words, the lower first.
    const ID: usize = HEADER + 8;
    /// `INET_DIAG_NOCOOKIE`, in both words.
    const NO_COOKIE: u64 = u64::MAX;
    let mut request = [0; EXACT_REQUEST];
    put_header(&mut request, 72, SOCK_DIAG_BY_FAMILY, 0);
    put(&mut request, 8, sequence.to_ne_bytes());
    put_family(&mut request, wanted.ends.family(), extensions);
    let (local, remote) = wanted.ends.ports();
    put(&mut request, ID, local.to_be_bytes());
    put(&mut request, ID + 2, remote.to_be_bytes());
    match &wanted.ends {
        Ends::V4 { local, remote, .. } => {
            put(&mut request, ID + 4, local.octets());
            put(&mut request, ID + 20, remote.octets());
        }
        Ends::V6 { addresses, .. } => {
            put(&mut request, ID + 4, addresses.0.octets());
            put(&mut request, ID + 20, addresses.1.octets());
        }
    }
    put(&mut request, ID + 36, wanted.interface.to_ne_bytes());
    let cookie = wanted.cookie.unwrap_or(NO_COOKIE).to_le_bytes();
    let (words, _) = cookie.as_chunks::<4>();
    for (at, word) in [ID + 40, ID + 44].into_iter().zip(words) {
        put(&mut request, at, u32::from_le_bytes(*word).to_ne_bytes());
    }
    request
}

fn put_header(request: &mut [u8], length: u32, kind: u16, flags: u16) {
    put(request, 0, length.to_ne_bytes());
    put(request, 4, kind.to_ne_bytes());
    put(request, 6, (NLM_F_REQUEST | flags).to_ne_bytes());
}

fn put_family(request: &mut [u8], family: Family, extensions: Extensions) {
    const IPPROTO_TCP: u8 = 6;
    let number = match family {
        Family::Ipv4 => 2,
        Family::Ipv6 => 10,
    };
    put(request, HEADER, [number, IPPROTO_TCP, extensions.mask()]);
}

fn put<const N: usize>(request: &mut [u8], at: usize, bytes: [u8; N]) {
    if let Some(slot) = request.get_mut(at..at + N) {
        slot.copy_from_slice(&bytes);
    }
}

/// One netlink message of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Socket(Socket<'a>),
    /// A socket whose state or family has a number unknown to this build.
    Unknown,
    /// The end of the dump: 0, or the errno it ended with.
    Done {
        errno: i32,
    },
    /// The request was refused.
    Refused {
        errno: i32,
    },
    /// Nothing a dump consists of.
    Other,
}

/// The messages in one datagram.
pub(super) struct Messages<'a> {
    rest: &'a [u8],
    /// Of the request that the latest message answers.
    pub(super) sequence: u32,
}

impl<'a> Messages<'a> {
    pub(super) fn new(datagram: &'a [u8]) -> Self {
        Self {
            rest: datagram,
            sequence: 0,
        }
    }

    fn decode_next(&mut self) -> Option<Message<'a>> {
        let length = usize::try_from(u32_at(self.rest, 0)?).ok()?;
        let kind = u16_at(self.rest, 4)?;
        self.sequence = u32_at(self.rest, 8)?;
        let body = self.rest.get(HEADER..length)?;
        self.rest = self.rest.get(align(length)..).unwrap_or_default();
        match kind {
            TCPDIAG_GETSOCK | SOCK_DIAG_BY_FAMILY => Socket::decode(body),
            NLMSG_DONE => Some(Message::Done {
                errno: errno(body).unwrap_or_default(),
            }),
            NLMSG_ERROR => errno(body).map(|errno| Message::Refused { errno }),
            _ => Some(Message::Other),
        }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Error>;

    /// After a malformed message comes nothing: where the next one starts is unknown.
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let message = self.decode_next();
        if message.is_none() {
            self.rest = &[];
        }
        Some(message.ok_or(Error::Malformed {
            what: "it is too short for its type",
        }))
    }
}

/// A `struct inet_diag_msg` and its attributes, told apart but not decoded further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket<'a> {
    fixed: &'a [u8; DIAG_MESSAGE],
    attributes: &'a [u8],
    pub(super) family: Family,
    pub(super) state: State,
    pub(super) is_minisocket: bool,
}

impl<'a> Socket<'a> {
    fn decode(body: &'a [u8]) -> Option<Message<'a>> {
        let (fixed, attributes) = body.split_first_chunk::<DIAG_MESSAGE>()?;
        let [family, state, timer, ..] = *fixed;
        let (Some(family), RawState::Known(state)) =
            (Family::from_number(family.into()), RawState::from(state))
        else {
            return Some(Message::Unknown);
        };
        // A request reports SYN_RECV and a minisocket FIN_WAIT2 just as a full socket does.
        let is_full = || split(attributes).any(|(kind, _)| kind == INET_DIAG_SHUTDOWN);
        let (state, is_minisocket) = match state {
            State::TimeWait => (state, true),
            State::FinWait2 => (state, timer == TIME_WAIT_TIMER && !is_full()),
            State::SynRecv if !is_full() => (State::NewSynRecv, false),
            _ => (state, false),
        };
        Some(Message::Socket(Self {
            fixed,
            attributes,
            family,
            state,
            is_minisocket,
        }))
    }

    pub(super) fn row(&self) -> Row {
        Row {
            cookie: self.cookie(),
            ends: self.ends(),
            interface: self.u32(40),
            seconds_left: if self.is_minisocket {
                u16::try_from(self.u32(52) / 1_000).unwrap_or(u16::MAX)
            } else {
                0
            },
            state: self.state,
            is_minisocket: self.is_minisocket,
        }
    }

    /// An IPv4 address stands in the first of its four words.
    pub(super) fn ends(&self) -> Ends {
        let ports = (self.port(4), self.port(6));
        match self.family {
            Family::Ipv4 => Ends::V4 {
                ports,
                local: self.bytes::<4>(8).into(),
                remote: self.bytes::<4>(24).into(),
            },
            Family::Ipv6 => Ends::V6 {
                ports,
                addresses: Box::new((self.bytes::<16>(8).into(), self.bytes::<16>(24).into())),
            },
        }
    }

    fn port(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.bytes(at))
    }

    pub(super) fn cookie(&self) -> u64 {
        u64::from(self.u32(44)) | u64::from(self.u32(48)) << 32
    }

    /// Folds `idiag_sport` to `idiag_if` into a word; not meant to withstand malice, as rows with
    /// other cookies are other sockets anyway.
    pub(super) fn fingerprint(&self) -> u64 {
        let tuple: [u8; 40] = self.bytes(4);
        let (words, _) = tuple.as_chunks::<8>();
        words.iter().fold(0_u64, |folded, word| {
            let word = u64::from_ne_bytes(*word);
            (folded.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
    }

    /// Kind and value of each attribute.
    pub(super) fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        split(self.attributes)
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.bytes(at))
    }

    /// Zeros where `at + N` is beyond the fixed part, which no caller asks for.
    pub(super) fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let bytes = self.fixed.get(at..).and_then(<[u8]>::first_chunk);
        bytes.copied().unwrap_or([0; N])
    }
}

/// Kind and value of each attribute, up to the first that is cut short.
fn split(mut attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    iter::from_fn(move || {
        let length = usize::from(u16_at(attributes, 0)?);
        let kind = u16_at(attributes, 2)?;
        // None for a length below its own header: it would never end.
        let value = attributes.get(4..length)?;
        attributes = attributes.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The kernel sends the negative of an errno; anything above zero is a length, not an error.
fn errno(body: &[u8]) -> Option<i32> {
    let code = i32::from_ne_bytes(*body.first_chunk()?);
    Some(code.min(0).saturating_neg())
}

const fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    const SHUTDOWN: [u8; 8] = [5, 0, 8, 0, 3, 0, 0, 0];
    const MARK: [u8; 8] = [8, 0, 15, 0, 1, 2, 3, 4];

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut message = vec![0; HEADER];
        let length = u32::try_from(HEADER + body.len()).unwrap();
        put(&mut message, 0, length.to_ne_bytes());
        put(&mut message, 4, kind.to_ne_bytes());
        put(&mut message, 6, flags.to_ne_bytes());
        message.extend(body);
        message.resize(align(message.len()), 0);
        message
    }

    fn row_message(state: u8, timer: u8, attributes: &[u8]) -> Vec<u8> {
        let mut body = vec![0; DIAG_MESSAGE];
        put(&mut body, 0, [2, state, timer]);
        put(&mut body, 44, 0x0123_4567_89ab_cdef_u64.to_le_bytes());
        body.extend(attributes);
        message(SOCK_DIAG_BY_FAMILY, 2, &body)
    }

    fn decode(datagram: &[u8]) -> Vec<Message<'_>> {
        Messages::new(datagram).map(Result::unwrap).collect()
    }

    #[test]
    fn look_alikes_are_told_apart() {
        let both = [MARK, SHUTDOWN].concat();
        let cases: [(u8, u8, &[u8], State, bool); 7] = [
            (1, 0, &SHUTDOWN, State::Established, false),
            (3, 1, &SHUTDOWN, State::SynRecv, false),
            (3, 1, &both, State::SynRecv, false),
            (3, 1, &MARK, State::NewSynRecv, false),
            (5, 0, &SHUTDOWN, State::FinWait2, false),
            (5, 3, &[], State::FinWait2, true),
            (6, 3, &[], State::TimeWait, true),
        ];
        for (number, timer, attributes, state, is_minisocket) in cases {
            let message = row_message(number, timer, attributes);
            let [Message::Socket(socket)] = decode(&message)[..] else {
                panic!("no socket");
            };
            let row = Row {
                cookie: 0x0123_4567_89ab_cdef,
                ends: Ends::V4 {
                    ports: (0, 0),
                    local: Ipv4Addr::UNSPECIFIED,
                    remote: Ipv4Addr::UNSPECIFIED,
                },
                interface: 0,
                seconds_left: 0,
                state,
                is_minisocket,
            };
            assert_eq!(socket.row(), row);
        }
        assert_eq!(decode(&row_message(13, 0, &SHUTDOWN)), [Message::Unknown]);
    }

    #[test]
    fn a_datagram_holds_several_messages() {
        let mut datagram = row_message(6, 3, &[]);
        datagram.extend(message(NLMSG_DONE, 2, &[0; 4]));
        let mut messages = Messages::new(&datagram);
        assert!(matches!(messages.next(), Some(Ok(Message::Socket(_)))));
        let done = Message::Done { errno: 0 };
        assert!(matches!(messages.next(), Some(Ok(message)) if message == done));
        assert!(messages.next().is_none());
    }

    #[test]
    fn errors_carry_their_errno() {
        let refused = message(NLMSG_ERROR, 0, &(-22_i32).to_ne_bytes());
        assert_eq!(decode(&refused), [Message::Refused { errno: 22 }]);
        let done = message(NLMSG_DONE, 2, &(-2_i32).to_ne_bytes());
        assert_eq!(decode(&done), [Message::Done { errno: 2 }]);
        let positive = message(NLMSG_DONE, 2, &140_i32.to_ne_bytes());
        assert_eq!(decode(&positive), [Message::Done { errno: 0 }]);
    }

    #[test]
    fn a_message_cut_short_is_malformed() {
        let whole = row_message(6, 3, &[]);
        for length in 1..whole.len() {
            let mut messages = Messages::new(&whole[..length]);
            assert!(matches!(
                messages.next(),
                Some(Err(Error::Malformed { .. }))
            ));
            assert!(messages.next().is_none());
        }
    }

    #[test]
    fn requests_have_the_kernels_layout() {
        let states = StateSet::of(&[State::TimeWait]);
        let mut expected = [0; 76];
        expected[..8].copy_from_slice(&[76, 0, 0, 0, 18, 0, 1, 3]);
        expected[68] = 1 << 6;
        assert_eq!(both_families_request(states, Extensions::None), expected);
        expected[19] = 2;
        assert_eq!(both_families_request(states, Extensions::Info), expected);
        let mut expected = [0; 72];
        expected[..8].copy_from_slice(&[72, 0, 0, 0, 20, 0, 1, 3]);
        expected[16..21].copy_from_slice(&[10, 6, 0, 0, 1 << 6]);
        let request = one_family_request(Family::Ipv6, states, Extensions::None);
        assert_eq!(request, expected);
        expected[18] = 2;
        let request = one_family_request(Family::Ipv6, states, Extensions::Info);
        assert_eq!(request, expected);
    }

    #[test]
    fn mptcp_is_asked_for_by_an_attribute() {
        let request = mptcp_request(Family::Ipv6, StateSet::of(&[State::CloseWait]));
        let mut expected = [0; 80];
        expected[..8].copy_from_slice(&[80, 0, 0, 0, 20, 0, 1, 3]);
        expected[16..22].copy_from_slice(&[10, 0, 0, 0, 0, 1]);
        expected[72..].copy_from_slice(&[8, 0, 3, 0, 6, 1, 0, 0]);
        assert_eq!(request, expected);
    }

    #[test]
    fn a_request_for_one_socket_names_its_ends_and_cookie() {
        let mut wanted = ExactQuery {
            cookie: Some(0x0123_4567_89ab_cdef),
            interface: 3,
            ends: Ends::new(
                Family::Ipv4,
                "10.0.0.1:80".parse().unwrap(),
                "10.0.0.2:258".parse().unwrap(),
            ),
        };
        let mut expected = [0; 72];
        put(&mut expected, 0, [72, 0, 0, 0, 20, 0, 1, 0, 7, 0, 0, 0]);
        put(&mut expected, 16, [2, 6, 2]);
        put(&mut expected, 24, [0, 80, 1, 2]);
        put(&mut expected, 28, [10, 0, 0, 1]);
        put(&mut expected, 44, [10, 0, 0, 2]);
        put(&mut expected, 60, [3]);
        put(&mut expected, 64, 0x89ab_cdef_u32.to_ne_bytes());
        put(&mut expected, 68, 0x0123_4567_u32.to_ne_bytes());
        assert_eq!(exact_request(&wanted, Extensions::Info, 7), expected);

        let (local, remote) = (Ipv6Addr::from_bits(5), Ipv6Addr::from_bits(6 << 120));
        wanted.cookie = None;
        wanted.ends = Ends::V6 {
            ports: (80, 258),
            addresses: Box::new((local, remote)),
        };
        put(&mut expected, 16, [10, 6, 0]);
        put(&mut expected, 28, local.octets());
        put(&mut expected, 44, remote.octets());
        put(&mut expected, 64, [255; 8]);
        assert_eq!(exact_request(&wanted, Extensions::None, 7), expected);
    }

    proptest! {
        #[test]
        fn garbage_ends_without_a_panic(datagram: Vec<u8>) {
            prop_assert!(Messages::new(&datagram).count() <= datagram.len());
        }

        #[test]
        fn garbage_in_a_row_ends_without_a_panic(state: u8, timer: u8, attributes: Vec<u8>) {
            let message = row_message(state, timer, &attributes);
            for decoded in decode(&message) {
                if let Message::Socket(socket) = decoded {
                    prop_assert!(socket.evidence(1).cookie == socket.row().cookie);
                }
            }
        }
    }
}
