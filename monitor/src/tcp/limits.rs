//! What one network namespace allows: its sysctls, as far as they decide how long sockets linger.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Sysctls of one namespace (`Documentation/networking/ip-sysctl.rst`) and one MIB counter. The
/// defaults are Linux 6.18's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// `tcp_syn_retries`: SYNs sent again before `connect()` fails.
    pub(crate) syn_retries: u32,
    /// `tcp_syn_linear_timeouts`: so many of them before the timeout starts to double; 0 before
    /// Linux 6.5, where there is none.
    pub(crate) syn_linear_timeouts: u32,
    /// `tcp_synack_retries`.
    pub(crate) synack_retries: u32,
    /// `tcp_orphan_retries`: 0 stands for 8 (`tcp_orphan_retries()` in `net/ipv4/tcp_timer.c`).
    pub(crate) orphan_retries: u32,
    /// `tcp_retries2`: for sockets that a process still holds.
    pub(crate) retries2: u32,
    /// `tcp_fin_timeout`: how long an orphan may stay in `FIN_WAIT2`.
    pub(crate) fin_timeout: Duration,
    /// `tcp_rto_max_ms` (Linux 6.15+), else the constant 120 s.
    pub(crate) rto_max: Duration,
    /// `tcp_max_tw_buckets`: minisockets that the namespace may have.
    pub(crate) max_tw_buckets: u64,
    pub(crate) tw_reuse: TwReuse,
    /// `tcp_tw_reuse_delay` (Linux 6.14+), else 1 s: so old a `TIME_WAIT` must be to be reused.
    pub(crate) tw_reuse_delay: Duration,
    /// `tcp_timestamps` is not 0; without them nothing is reused.
    pub(crate) has_timestamps: bool,
    /// `ip_local_port_range`: ports that `connect()` chooses from.
    pub(crate) ephemeral_ports: RangeInclusive<u16>,
    /// `ip_local_reserved_ports`: ports it leaves out, in ascending order, without overlaps.
    pub(crate) reserved_ports: Vec<RangeInclusive<u16>>,
    /// `TCPTimeWaitOverflow` in /proc/net/netstat: closes that skipped `TIME_WAIT` so far.
    pub(crate) time_wait_overflows: u64,
}

/// `tcp_tw_reuse`: whose `TIME_WAIT` ports `connect()` may take again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TwReuse {
    Never,
    Always,
    Loopback,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            syn_retries: 6,
            syn_linear_timeouts: 4,
            synack_retries: 5,
            orphan_retries: 0,
            retries2: 15,
            fin_timeout: Duration::from_mins(1),
            rto_max: Duration::from_mins(2),
            max_tw_buckets: 131_072,
            tw_reuse: TwReuse::Loopback,
            tw_reuse_delay: Duration::from_secs(1),
            has_timestamps: true,
            ephemeral_ports: 32_768..=60_999,
            reserved_ports: Vec::new(),
            time_wait_overflows: 0,
        }
    }
}
