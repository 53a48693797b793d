//! Sockets for the tests of this room.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::{Age, Owner};
use crate::tcp::{Evidence, Family, Process, State, TcpInfo, Timer};

/// A socket on 10.0.0.1:80 with 10.0.0.2:4000, held by a process, of which nothing else is known.
pub(crate) fn evidence(state: State) -> Evidence {
    Evidence {
        interface: 0,
        netns: 7,
        cookie: 1,
        family: Family::Ipv4,
        state,
        is_minisocket: false,
        is_mptcp: false,
        local: SocketAddr::from(([10, 0, 0, 1], 80)),
        remote: SocketAddr::from(([10, 0, 0, 2], 4000)),
        inode: 99,
        uid: 0,
        cgroup_id: None,
        recv_queue: 0,
        send_queue: 0,
        timer: Timer::Off,
        retransmits: 0,
        info: None,
    }
}

pub(crate) fn owner(comm: &str) -> Owner {
    let process = Process {
        pid: 12,
        comm: comm.to_owned(),
        unit: Some("web.service".to_owned()),
        container: Some("0123abcd".to_owned()),
        ..Process::default()
    };
    Owner {
        process: Arc::new(process),
        fd: Some(5),
    }
}

pub(crate) const fn age(seconds: u64) -> Age {
    Age {
        span: Duration::from_secs(seconds),
        is_lower_bound: false,
    }
}

prop_compose! {
    fn infos()(
        spans in any::<[Duration; 4]>(),
        backoff in any::<u8>(),
        peer_window in any::<Option<u32>>(),
    ) -> TcpInfo {
        TcpInfo {
            last_data_sent: spans[0],
            last_data_received: spans[1],
            last_ack_received: spans[2],
            rto: spans[3],
            backoff,
            peer_window,
            ..TcpInfo::default()
        }
    }
}

fn timers() -> impl Strategy<Value = Timer> {
    (any::<Duration>(), 0..5).prop_map(|(expires, kind)| match kind {
        0 => Timer::Retransmit(expires),
        1 => Timer::Keepalive(expires),
        2 => Timer::TimeWait(expires),
        3 => Timer::Probe(expires),
        _ => Timer::Off,
    })
}

prop_compose! {
    /// Anything that the kernel could say, and more.
    pub(super) fn any_evidence()(
        state in proptest::sample::select(State::ALL.to_vec()),
        is_minisocket in any::<bool>(),
        local in any::<SocketAddr>(),
        remote in any::<SocketAddr>(),
        inode in 0..2_u32,
        queues in any::<[u8; 2]>(),
        retransmits in any::<u8>(),
        timer in timers(),
        info in proptest::option::of(infos()),
    ) -> Evidence {
        Evidence {
            is_minisocket,
            local,
            remote,
            inode,
            recv_queue: u32::from(queues[0]).saturating_sub(100) * 1_000,
            send_queue: u32::from(queues[1]).saturating_sub(100),
            timer,
            retransmits,
            info,
            ..evidence(state)
        }
    }
}
