//! Ring-buffer bytes to [`Transition`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ptr;

use monitor_ebpf::{
    BOUND_TO_DEVICE, COMM_WORDS, FROM_SOCKET, LongRecord, MINISOCKET, NESTED, ORPHAN, OWNER,
    PEER_FIN, REQUEST, Record,
};

use crate::tcp::{Family, RawState, Subject, Transition, TransitionOwner};

/// Decodes a record; None where its length or its family is not one this build knows.
#[inline]
pub(super) fn decode(bytes: &[u8]) -> Option<Transition> {
    // Fields are read where they are: most records are short, and of the others most is not asked for.
    let (record, long) = match bytes.len() {
        SHORT => (bytes.as_ptr().cast(), None),
        LONG => {
            let long: *const LongRecord = bytes.as_ptr().cast();
            (long.cast(), Some(long))
        }
        _ => return None,
    };
    // SAFETY: the length was checked, a `LongRecord` starts with a `Record`, every bit pattern is a
    // valid one, and the read does not ask for alignment.
    let record: Record = unsafe { ptr::read_unaligned(record) };
    let family = Family::from_number(record.family)?;
    let (local, remote) = match (family, long) {
        (Family::Ipv4, _) => (ipv4(record.local), ipv4(record.remote)),
        (Family::Ipv6, Some(long)) => {
            // SAFETY: as above, for a `LongRecord`.
            let (local, remote) = unsafe {
                (
                    (&raw const (*long).local).read_unaligned(),
                    (&raw const (*long).remote).read_unaligned(),
                )
            };
            (ipv6(local), ipv6(remote))
        }
        (Family::Ipv6, None) => return None,
    };
    let has = |flag: u16| record.flags & flag != 0;
    let is_from_socket = has(FROM_SOCKET);
    Some(Transition {
        ktime_ns: record.ktime_ns,
        netns: (record.netns != 0).then_some(record.netns),
        cookie: (record.cookie != 0).then_some(record.cookie),
        cgroup_id: (record.cgroup_id != 0).then_some(record.cgroup_id),
        family,
        local: SocketAddr::new(local, record.local_port),
        remote: SocketAddr::new(remote, record.remote_port),
        from: RawState::from(record.from),
        to: RawState::from(record.to),
        error: is_from_socket.then_some(record.error.into()),
        has_peer_fin: is_from_socket.then_some(has(PEER_FIN)),
        is_orphan: is_from_socket.then_some(has(ORPHAN)),
        owner: long.filter(|_| has(OWNER)).map(|long| {
            // SAFETY: as above.
            let (pid, comm) = unsafe {
                (
                    (&raw const (*long).pid).read_unaligned(),
                    (&raw const (*long).comm).read_unaligned(),
                )
            };
            TransitionOwner {
                pid,
                comm: bytes_of(comm),
            }
        }),
        subject: if has(MINISOCKET) {
            Subject::Minisocket
        } else if has(REQUEST) {
            Subject::Request
        } else {
            Subject::Socket
        },
        is_bound_to_device: has(BOUND_TO_DEVICE),
        is_nested: has(NESTED),
    })
}

const SHORT: usize = size_of::<Record>();
const LONG: usize = size_of::<LongRecord>();

// Addresses are in network order in memory, whatever the words' own order.

fn ipv4(word: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(word.to_ne_bytes()))
}

fn ipv6(words: [u32; 4]) -> IpAddr {
    let bits = words
        .into_iter()
        .fold(0, |bits, word| bits << 32 | u128::from(u32::from_be(word)));
    IpAddr::V6(Ipv6Addr::from_bits(bits))
}

fn bytes_of(comm: [u64; COMM_WORDS]) -> [u8; 8 * COMM_WORDS] {
    let mut bytes = [0; 8 * COMM_WORDS];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(comm) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::State;
    use proptest::prelude::*;

    fn bytes<T>(value: &T) -> &[u8] {
        // SAFETY: both kinds of record have no padding (their sizes are asserted), so that every
        // byte is initialised.
        unsafe { std::slice::from_raw_parts(ptr::from_ref(value).cast(), size_of::<T>()) }
    }

    const CLOSED: Record = Record {
        ktime_ns: 7,
        cookie: 9,
        cgroup_id: 0,
        netns: 4_026_531_833,
        local: u32::from_ne_bytes([127, 0, 0, 1]),
        remote: u32::from_ne_bytes([127, 0, 0, 2]),
        local_port: 80,
        remote_port: 40_000,
        error: 104,
        family: 2,
        from: 1,
        to: 7,
        flags: FROM_SOCKET | PEER_FIN,
    };

    const OWNED: LongRecord = LongRecord {
        record: Record {
            error: 0,
            to: 4,
            flags: OWNER | FROM_SOCKET,
            ..CLOSED
        },
        comm: [u64::from_ne_bytes(*b"nginx\0\0\0"), 0],
        local: [0; 4],
        remote: [0; 4],
        pid: 42,
        reserved: 0,
    };

    #[test]
    fn fields_arrive() {
        let transition = decode(bytes(&CLOSED)).unwrap();
        assert_eq!(transition.local, "127.0.0.1:80".parse().unwrap());
        assert_eq!(transition.remote, "127.0.0.2:40000".parse().unwrap());
        assert!(transition.from.is(State::Established) && transition.to.is(State::Close));
        assert_eq!(transition.cookie, Some(9));
        assert_eq!(transition.cgroup_id, None);
        assert_eq!(transition.error, Some(104));
        assert_eq!(transition.has_peer_fin, Some(true));
        assert_eq!(transition.is_orphan, Some(false));
        assert_eq!(transition.owner, None);
    }

    #[test]
    fn an_owner_is_one_only_where_the_program_says_so() {
        let transition = decode(bytes(&OWNED)).unwrap();
        let owner = transition.owner.unwrap();
        assert_eq!((owner.pid, owner.comm().as_str()), (42, "nginx"));
        assert_eq!(transition.has_peer_fin, Some(false));
        let mut stale = OWNED;
        stale.record.flags = FROM_SOCKET;
        assert_eq!(decode(bytes(&stale)).unwrap().owner, None);
    }

    #[test]
    fn a_mapped_address_stays_ipv6() {
        let mut mapped = OWNED;
        mapped.record.family = 10;
        mapped.local = [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes([10, 0, 0, 1])];
        let transition = decode(bytes(&mapped)).unwrap();
        assert_eq!(transition.local.to_string(), "[::ffff:10.0.0.1]:80");
        assert_eq!(transition.remote.to_string(), "[::]:40000");
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            let family = input.get(42..44).map(|at| u16::from_ne_bytes([at[0], at[1]]));
            let is_record = match (input.len(), family) {
                (48, Some(family)) => family == 2,
                (104, Some(family)) => family == 2 || family == 10,
                _ => false,
            };
            prop_assert_eq!(decode(&input).is_some(), is_record);
        }

        #[test]
        fn unknown_states_survive(from: u8, to: u8) {
            let transition = decode(bytes(&Record { from, to, ..CLOSED })).unwrap();
            prop_assert_eq!(transition.from, RawState::from(from));
            prop_assert_eq!(transition.to, RawState::from(to));
        }
    }
}
