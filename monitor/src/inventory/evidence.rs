//! What `sock_diag` tells of a socket beside its state, decoded.
//!
//! Layouts from `include/uapi/linux/inet_diag.h` and `tcp.h` (Linux 6.18), native byte order.

use std::time::Duration;

use super::wire::{INET_DIAG_INFO, Socket, u32_at};
use crate::tcp::{Evidence, TcpInfo, Timer};

const INET_DIAG_CGROUP_ID: u16 = 21;

impl Socket<'_> {
    /// Its `struct inet_diag_msg` and the attributes that matter; `netns` is not among them.
    pub(super) fn evidence(&self, netns: u32) -> Evidence {
        let [_, _, timer, retransmits] = self.bytes(0);
        let expires = Duration::from_millis(self.u32(52).into());
        let ends = self.ends();
        let mut evidence = Evidence {
            interface: self.u32(40),
            netns,
            cookie: self.cookie(),
            family: self.family,
            state: self.state,
            is_minisocket: self.is_minisocket,
            is_mptcp: false,
            local: ends.local(),
            remote: ends.remote(),
            inode: self.u32(68),
            uid: self.u32(64),
            cgroup_id: None,
            recv_queue: self.u32(56),
            send_queue: self.u32(60),
            timer: timer_from(timer.into(), expires),
            retransmits,
            info: None,
        };
        for (kind, value) in self.attributes() {
            match kind {
                INET_DIAG_INFO => evidence.info = tcp_info(value),
                INET_DIAG_CGROUP_ID => {
                    evidence.cgroup_id = value.first_chunk().map(|id| u64::from_ne_bytes(*id));
                }
                _ => {}
            }
        }
        evidence
    }
}

/// The timer with the number that `inet_sk_diag_fill()` (`net/ipv4/inet_diag.c`) and
/// `get_tcp4_sock()` (`net/ipv4/tcp_ipv4.c`, Linux 6.18) give it.
pub(super) fn timer_from(number: u32, expires: Duration) -> Timer {
    match number {
        1 => Timer::Retransmit(expires),
        2 => Timer::Keepalive(expires),
        3 => Timer::TimeWait(expires),
        4 => Timer::Probe(expires),
        _ => Timer::Off,
    }
}

/// Decodes a `struct tcp_info`, which only ever grew at its end; none where it is shorter than any
/// kernel's.
fn tcp_info(value: &[u8]) -> Option<TcpInfo> {
    let word = |at| u32_at(value, at);
    let millis = |at| Some(Duration::from_millis(word(at)?.into()));
    Some(TcpInfo {
        backoff: *value.get(4)?,
        rto: Duration::from_micros(word(8)?.into()),
        unacked: word(24)?,
        last_data_sent: millis(44)?,
        last_data_received: millis(52)?,
        last_ack_received: millis(56)?,
        total_retransmits: word(100)?,
        peer_window: word(228),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A `struct tcp_info` in which the word at each offset is the offset.
    fn numbered(length: u32) -> Vec<u8> {
        (0..length).step_by(4).flat_map(u32::to_ne_bytes).collect()
    }

    #[test]
    fn tcp_info_is_read_where_the_kernel_puts_it() {
        let expected = TcpInfo {
            last_data_sent: Duration::from_millis(44),
            last_data_received: Duration::from_millis(52),
            last_ack_received: Duration::from_millis(56),
            rto: Duration::from_micros(8),
            backoff: 4,
            unacked: 24,
            total_retransmits: 100,
            peer_window: Some(228),
        };
        let mut text = numbered(280);
        text[4..8].copy_from_slice(&[4, 0, 0, 0]);
        assert_eq!(tcp_info(&text), Some(expected));
        // Linux 5.3 had no `tcpi_snd_wnd` yet.
        let older = tcp_info(&text[..224]).unwrap();
        assert_eq!(older.peer_window, None);
        assert_eq!(older.total_retransmits, 100);
        assert_eq!(tcp_info(&text[..100]), None);
    }

    #[test]
    fn timers_have_the_kernels_numbers() {
        let expires = Duration::from_millis(7);
        assert_eq!(timer_from(0, expires), Timer::Off);
        assert_eq!(timer_from(1, expires), Timer::Retransmit(expires));
        assert_eq!(timer_from(2, expires), Timer::Keepalive(expires));
        assert_eq!(timer_from(3, expires), Timer::TimeWait(expires));
        assert_eq!(timer_from(4, expires), Timer::Probe(expires));
        assert_eq!(timer_from(5, expires), Timer::Off);
    }

    proptest! {
        #[test]
        fn a_garbled_tcp_info_ends_without_a_panic(value: Vec<u8>) {
            prop_assert_eq!(tcp_info(&value).is_some(), value.len() >= 104);
        }
    }
}
