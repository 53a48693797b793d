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
            "number of SYN-ACK retransmissions: the first after 1 s, then at twice the interval each \
             time.",
        )],
        State::Established => vec![retries2(limits)],
        State::FinWait1 | State::LastAck | State::Closing => vec![
            Sysctl::new(
                "net.ipv4.tcp_orphan_retries",
                &limits.orphan_retries,
                format!(
                    "for sockets that no process holds; 0 means 8. Without any answer the kernel \
                     gives up at the first retry at least {} after the first retransmission.",
                    Span(orphan_timeout(limits)),
                ),
            ),
            retries2(limits),
        ],
        State::FinWait2 => vec![Sysctl::new(
            "net.ipv4.tcp_fin_timeout",
            &limits.fin_timeout.as_secs(),
            "seconds that a socket without a process may stay in FIN_WAIT2 (at least 3.5 \
             retransmission timeouts); TCP_LINGER2 overrides it for one socket. It has no effect \
             on a socket that a process holds, nor on any other state.",
        )],
        State::TimeWait => time_wait(limits),
        State::CloseWait => vec![Sysctl::new(
            "net.ipv4.tcp_fin_timeout",
            &limits.fin_timeout.as_secs(),
            "has no effect on CLOSE_WAIT. No sysctl limits that state.",
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
                "with the next two, it decides when connect() fails: here after {}. An application \
                 can set its own number (TCP_SYNCNT).",
                Span(connect_timeout(limits)),
            ),
        ),
        Sysctl::new(
            "net.ipv4.tcp_syn_linear_timeouts",
            &limits.syn_linear_timeouts,
            "number of extra SYNs, 1 s apart, before the timeout starts to double (Linux 6.5 and \
             later).",
        ),
        rto_max(limits),
    ]
}

fn rto_max(limits: &Limits) -> Sysctl {
    Sysctl::new(
        "net.ipv4.tcp_rto_max_ms",
        &limits.rto_max.as_millis(),
        "the maximum time between two retransmissions (a constant before Linux 6.15).",
    )
}

fn retries2(limits: &Limits) -> Sysctl {
    Sysctl::new(
        "net.ipv4.tcp_retries2",
        &limits.retries2,
        format!(
            "for sockets that a process holds: data that is never acknowledged ends the connection \
             at the first retry at least {} after the first retransmission. TCP_USER_TIMEOUT \
             overrides it for one socket.",
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
                "lets connect() reuse a local port that is in TIME_WAIT towards the same address \
                 and port: 0 never, 1 always, 2 on loopback only. For outgoing connections only; \
                 it does not reduce a server's TIME_WAIT. {timestamps}"
            ),
        ),
        Sysctl::new(
            "net.ipv4.tcp_tw_reuse_delay",
            &limits.tw_reuse_delay.as_millis(),
            "milliseconds that such a port must have been in TIME_WAIT (one second before Linux \
             6.14).",
        ),
        Sysctl::new(
            "net.ipv4.tcp_max_tw_buckets",
            &limits.max_tw_buckets,
            "the limit on TIME_WAIT and on orphans in FIN_WAIT2 together. At the limit, connections \
             close without TIME_WAIT and its protection. Do not lower it to get rid of TIME_WAIT.",
        ),
        Sysctl::new(
            "net.ipv4.ip_local_port_range",
            &format!("{} {}", ports.start(), ports.end()),
            "the ports that connect() chooses from. A port in TIME_WAIT is unavailable for its \
             remote address and port.",
        ),
        Sysctl::new(
            "net.ipv4.tcp_fin_timeout",
            &limits.fin_timeout.as_secs(),
            "has no effect on TIME_WAIT, despite its reputation: the 60 s are a constant.",
        ),
    ]
}
