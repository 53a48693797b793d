//! Ring-buffer bytes to [`Transition`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ptr;

use monitor_ebpf::{COMM_WORDS, FROM_SOCKET, OWNER, PEER_FIN, Record};

use crate::tcp::{Family, Owner, RawState, Transition};

/// Decodes a record; None where its length or its family is not one this build knows.
pub(super) fn decode(bytes: &[u8]) -> Option<Transition> {
    if bytes.len() != size_of::<Record>() {
        return None;
    }
    // SAFETY: the length was checked, every bit pattern is a valid `Record`, and the read does
    // not ask for alignment.
    let record: Record = unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) };
    let family = Family::from_number(record.family)?;
    let has = |flag: u32| record.flags & flag != 0;
    let from_socket = has(FROM_SOCKET);
    Some(Transition {
        ktime_ns: record.ktime_ns,
        netns: (record.netns != 0).then_some(record.netns),
        cookie: (record.cookie != 0).then_some(record.cookie),
        cgroup_id: (record.cgroup_id != 0).then_some(record.cgroup_id),
        family,
        local: address(family, record.local, record.local_port),
        remote: address(family, record.remote, record.remote_port),
        from: RawState::from(record.from),
        to: RawState::from(record.to),
        error: from_socket.then_some(record.error),
        has_peer_fin: from_socket.then_some(has(PEER_FIN)),
        owner: has(OWNER).then_some(Owner {
            pid: record.pid,
            comm: bytes_of(record.comm),
        }),
    })
}

fn address(family: Family, words: [u32; 4], port: u16) -> SocketAddr {
    // In memory the words are in network order.
    let [first, ..] = words;
    let ip = match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::from(first.to_ne_bytes())),
        Family::Ipv6 => {
            let [a, b, c, d] = words.map(u32::from_be);
            IpAddr::V6(Ipv6Addr::from_bits(
                u128::from(a) << 96 | u128::from(b) << 64 | u128::from(c) << 32 | u128::from(d),
            ))
        }
    };
    SocketAddr::new(ip, port)
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

    fn bytes(record: &Record) -> Vec<u8> {
        let start = ptr::from_ref(record).cast::<u8>();
        // SAFETY: `Record` has no padding (its size is asserted), so every byte is initialised.
        unsafe { std::slice::from_raw_parts(start, size_of::<Record>()) }.to_vec()
    }

    const FIN: Record = Record {
        ktime_ns: 7,
        cookie: 9,
        cgroup_id: 0,
        comm: [u64::from_ne_bytes(*b"nginx\0\0\0"), 0],
        local: [u32::from_ne_bytes([127, 0, 0, 1]), 0, 0, 0],
        remote: [u32::from_ne_bytes([127, 0, 0, 2]), 0, 0, 0],
        netns: 4_026_531_833,
        pid: 42,
        error: 0,
        flags: OWNER | FROM_SOCKET,
        local_port: 80,
        remote_port: 40_000,
        family: 2,
        from: 1,
        to: 4,
    };

    #[test]
    fn fields_arrive() {
        let transition = decode(&bytes(&FIN)).unwrap();
        assert_eq!(transition.local, "127.0.0.1:80".parse().unwrap());
        assert_eq!(transition.remote, "127.0.0.2:40000".parse().unwrap());
        assert!(transition.to.is(State::FinWait1));
        assert_eq!(transition.cookie, Some(9));
        assert_eq!(transition.cgroup_id, None);
        assert_eq!(transition.owner.unwrap().comm(), "nginx");
        assert_eq!(transition.has_peer_fin, Some(false));
    }

    #[test]
    fn a_mapped_address_stays_ipv6() {
        let local = [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes([10, 0, 0, 1])];
        let record = Record {
            family: 10,
            local,
            ..FIN
        };
        let transition = decode(&bytes(&record)).unwrap();
        assert_eq!(transition.local.to_string(), "[::ffff:10.0.0.1]:80");
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            let is_record = input.len() == size_of::<Record>()
                && matches!(u16::from_ne_bytes([input[92], input[93]]), 2 | 10);
            prop_assert_eq!(decode(&input).is_some(), is_record);
        }

        #[test]
        fn unknown_states_survive(from: u8, to: u8) {
            let transition = decode(&bytes(&Record { from, to, ..FIN })).unwrap();
            prop_assert_eq!(transition.from, RawState::from(from));
            prop_assert_eq!(transition.to, RawState::from(to));
        }
    }
}
