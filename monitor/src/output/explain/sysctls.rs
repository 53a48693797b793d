//! The sysctls that matter for a state, with their values, and what they do not do.

use serde::Serialize;

use crate::tcp::{Limits, State, TwReuse};
use crate::track::phrase::Span;
use crate::track::stuck::{connect_timeout, held_timeout, orphan_timeout};

/// One of them.
#[derive(Debug, Serialize)]
pub(super) struct Sysctl {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) effect: String,
}

impl Sysctl {
    fn new(name: &'static str, value: &impl ToString, effect: impl Into<String>) -> Self {
        Self {
            name,
            value: value.to_string(),
            effect: effect.into(),
        }
    }
}

/// Those of `limits` that matter for the state, or that are wrongly believed to.
pub(super) fn sysctls(state: State, limits: &Limits) -> Vec<Sysctl> {
    match state {
        State::SynSent => syn_sent(limits),
        State::SynRecv | State::NewSynRecv => vec![Sysctl::new(
            "net.ipv4.tcp_synack_retries",
            &limits.synack_retries,
            "the SYN+ACK is sent again so many times, after 1 s, then each time after twice as \
             long.",
        )],
        State::Established => vec![retries2(limits)],
        State::FinWait1 | State::LastAck | State::Closing => vec![
            Sysctl::new(
                "net.ipv4.tcp_orphan_retries",
                &limits.orphan_retries,
                format!(
                    "for sockets that no process holds any more; 0 stands for 8. Without any \
                     answer the kernel gives up at the first try {} after the first \
                     retransmission.",
                    Span(orphan_timeout(limits)),
                ),
            ),
            retries2(limits),
        ],
        State::FinWait2 => vec![Sysctl::new(
            "net.ipv4.tcp_fin_timeout",
            &limits.fin_timeout.as_secs(),
            "seconds that a socket without a process may stay in FIN_WAIT2, longer on a slow path \
             (3.5 retransmission timeouts at the least); TCP_LINGER2 takes its place for one \
             socket. It does nothing to a socket that a process still holds, and nothing to any \
             other state.",
        )],
        State::TimeWait => time_wait(limits),
        State::CloseWait => vec![Sysctl::new(
            "net.ipv4.tcp_fin_timeout",
            &limits.fin_timeout.as_secs(),
            "has no effect on CLOSE_WAIT. No sysctl bounds how long that lasts.",
        )],
        State::Close | State::Listen => Vec::new(),
    }
}

fn syn_sent(limits: &Limits) -> Vec<Sysctl> {
    vec![
        Sysctl::new(
            "net.ipv4.tcp_syn_retries",
            &limits.syn_retries,
            format!(
                "with the next two it decides when connect() fails: here after {}. An application \
                 may choose its own number (TCP_SYNCNT).",
                Span(connect_timeout(limits)),
            ),
        ),
        Sysctl::new(
            "net.ipv4.tcp_syn_linear_timeouts",
            &limits.syn_linear_timeouts,
            "so many SYNs more are sent, 1 s apart, before the timeout starts to double (Linux 6.5 \
             and newer).",
        ),
        rto_max(limits),
    ]
}

fn rto_max(limits: &Limits) -> Sysctl {
    Sysctl::new(
        "net.ipv4.tcp_rto_max_ms",
        &limits.rto_max.as_millis(),
        "the longest time between two retransmissions (a sysctl from Linux 6.15 on, before that a \
         constant).",
    )
}

fn retries2(limits: &Limits) -> Sysctl {
    Sysctl::new(
        "net.ipv4.tcp_retries2",
        &limits.retries2,
        format!(
            "for sockets that a process holds: what was sent and is never acknowledged ends the \
             connection at the first try {} after the first retransmission. TCP_USER_TIMEOUT \
             takes its place for one socket.",
            Span(held_timeout(limits)),
        ),
    )
}

fn time_wait(limits: &Limits) -> Vec<Sysctl> {
    let reuse = match limits.tw_reuse {
        TwReuse::Never => 0,
        TwReuse::Always => 1,
        TwReuse::Loopback => 2,
    };
    let timestamps = if limits.has_timestamps {
        "It needs TCP timestamps, which are on."
    } else {
        "It needs TCP timestamps, which are off here: it has no effect."
    };
    let ports = &limits.ephemeral_ports;
    vec![
        Sysctl::new(
            "net.ipv4.tcp_tw_reuse",
            &reuse,
            format!(
                "lets connect() take a local port again that is in TIME_WAIT to the same address \
                 and port: 0 never, 1 always, 2 on loopback only. Outgoing connections only; a \
                 server's sockets do not get fewer by it. {timestamps}"
            ),
        ),
        Sysctl::new(
            "net.ipv4.tcp_tw_reuse_delay",
            &limits.tw_reuse_delay.as_millis(),
            "milliseconds that such a port must have been in TIME_WAIT (a sysctl from Linux 6.14 \
             on, before that one second).",
        ),
        Sysctl::new(
            "net.ipv4.tcp_max_tw_buckets",
            &limits.max_tw_buckets,
            "a safety valve: above it connections are closed without TIME_WAIT, and without its \
             protection. It counts orphans in FIN_WAIT2, too. Do not lower it to get rid of \
             TIME_WAIT.",
        ),
        Sysctl::new(
            "net.ipv4.ip_local_port_range",
            &format!("{} {}", ports.start(), ports.end()),
            "ports that connect() chooses from: each in TIME_WAIT is taken for its remote address \
             and port.",
        ),
        Sysctl::new(
            "net.ipv4.tcp_fin_timeout",
            &limits.fin_timeout.as_secs(),
            "has no effect on TIME_WAIT, in spite of its reputation: the 60 s are a constant.",
        ),
    ]
}
