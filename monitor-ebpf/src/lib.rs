//! The ABI between the eBPF programs and userspace: records, counters, settings.
//!
//! `no_std` and free of dependencies, so that both sides compile the very same layout. Ids and
//! fields are append-only; the assertions at the end fail the build when a layout moves.
#![no_std]

pub mod marks;

use marks::Marks;

/// States a transition counter can tell apart. The kernel has 13 (`enum` in
/// `include/net/tcp_states.h`, Linux 6.18); the next power of two lets the program mask an index.
pub const STATE_SLOTS: usize = 16;

/// Length of a command name in the kernel (`TASK_COMM_LEN` in `include/linux/sched.h`, Linux
/// 6.18): 16 bytes, in words.
pub const COMM_WORDS: usize = 2;

/// An offset that the running kernel does not have: the program leaves the field at zero.
pub const ABSENT: u32 = u32::MAX;

/// [`Record::flags`]: `pid` and `comm` belong to the task that owns the socket.
pub const OWNER: u16 = 1 << 0;
/// [`Record::flags`]: the peer's FIN had arrived (`SOCK_DONE` was set, by `tcp_fin()`).
pub const PEER_FIN: u16 = 1 << 1;
/// [`Record::flags`]: no process holds the socket any more (`SOCK_DEAD` was set, by
/// `sock_orphan()`).
pub const ORPHAN: u16 = 1 << 3;
/// [`Record::flags`]: `cookie`, `netns` and `error` were read from the socket itself.
pub const FROM_SOCKET: u16 = 1 << 2;
/// [`Record::flags`]: the program for what interrupts the first one wrote it.
pub const NESTED: u16 = 1 << 4;
/// [`Record::flags`]: of a minisocket, which left `FIN_WAIT2` for `TIME_WAIT` or for good.
pub const MINISOCKET: u16 = 1 << 5;
/// [`Record::flags`]: of a half-open request, whose SYN-ACK was retransmitted.
pub const REQUEST: u16 = 1 << 6;
/// [`Record::flags`]: bound to a device (`skc_bound_dev_if`), so that addresses alone do not find it.
pub const BOUND_TO_DEVICE: u16 = 1 << 7;

/// One TCP state transition, as the program writes it into the ring buffer: all of it where the
/// socket is IPv4 and its owner unknown, which most transitions are, else the start of a
/// [`LongRecord`]. Half the memory is half the cache misses.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// `CLOCK_MONOTONIC`, nanoseconds (`bpf_ktime_get_ns`).
    pub ktime_ns: u64,
    /// Socket cookie, the one `sock_diag` shows; 0 where the kernel could not give it.
    pub cookie: u64,
    /// Id of the socket's cgroup (v2 hierarchy); 0 where unknown.
    pub cgroup_id: u64,
    /// Inode number of the network namespace; 0 where unknown.
    pub netns: u32,
    /// Local IPv4 address, network order; without meaning for IPv6.
    pub local: u32,
    /// Remote IPv4 address, likewise.
    pub remote: u32,
    /// Local port, host order; 0 while none is chosen.
    pub local_port: u16,
    /// Remote port, host order; 0 for a listener.
    pub remote_port: u16,
    /// `sk_err`: the socket's pending error as a positive errno, 0 for none.
    pub error: u16,
    /// Address family: `AF_INET` 2, `AF_INET6` 10.
    pub family: u16,
    /// State left, as the kernel numbers it.
    pub from: u8,
    /// State entered, as the kernel numbers it.
    pub to: u8,
    /// [`OWNER`], [`PEER_FIN`], [`ORPHAN`], [`FROM_SOCKET`], [`NESTED`], [`MINISOCKET`], [`REQUEST`],
    /// [`BOUND_TO_DEVICE`].
    pub flags: u16,
}

/// A [`Record`] with what does not fit into one. Text and addresses are words, not bytes: the eBPF
/// backend copies bytes one at a time. In memory they are what the kernel has.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongRecord {
    /// What every record has.
    pub record: Record,
    /// Command name of the owner, NUL-padded; only with [`OWNER`].
    pub comm: [u64; COMM_WORDS],
    /// Local IPv6 address, network order; without meaning for IPv4.
    pub local: [u32; 4],
    /// Remote IPv6 address, likewise.
    pub remote: [u32; 4],
    /// Process id (thread group, initial pid namespace) of the owner; only with [`OWNER`].
    pub pid: u32,
    /// Without meaning.
    pub reserved: u32,
}

/// Ring buffers at most.
pub const RINGS: u32 = 4;

/// One descriptor of a TCP or MPTCP socket, as the iterator writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderRecord {
    /// Socket cookie, the one `sock_diag` shows; 0 where none was drawn and the kernel could not
    /// draw one.
    pub cookie: u64,
    /// Inode number of the socket's network namespace.
    pub netns: u32,
    /// Process id (thread group, initial pid namespace).
    pub pid: u32,
    /// Descriptor number in that process.
    pub fd: u32,
    /// `IPPROTO_TCP` or `IPPROTO_MPTCP`.
    pub protocol: u16,
    /// The socket's state, as the kernel numbers it.
    pub state: u8,
    /// 1 for an IPv6 socket, whatever its peer's family.
    pub is_ipv6: u8,
}

/// `include/uapi/linux/in.h`, Linux 6.18, since 5.6.
pub const IPPROTO_MPTCP: u16 = 262;

/// Sets of [`Counters`] on each CPU: one for the program that watches, one for the program that
/// takes what interrupts it, one for those that tell what is no transition.
pub const COUNTER_SETS: u32 = 3;

/// Namespaces that one CPU remembers. A power of two: the program masks an index.
pub const NAMESPACES: usize = 8;

/// A network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// `net_cookie`, which no other namespace ever has; 0 for none.
    pub cookie: u64,
    /// Its inode number.
    pub inum: u64,
}

/// Counters of one CPU; userspace adds the CPUs and the sets up. They count every transition, whether or not
/// the ring had room for its record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Transitions `[from][to]`; numbers of [`STATE_SLOTS`] and above land in some other cell.
    pub transitions: [[u64; STATE_SLOTS]; STATE_SLOTS],
    /// Records lost because the ring was full.
    pub lost: u64,
    /// Calls for sockets of other protocols (MPTCP, SCTP, DCCP).
    pub ignored: u64,
    /// Transitions that interrupted the first program, and that the second one took.
    pub nested: u64,
    /// Namespaces that this CPU met last, by the lowest bits of their cookies.
    pub namespaces: [Namespace; NAMESPACES],
    /// Of what the first program took, until the second is called for it; in the first set only.
    pub marks: Marks,
}

/// What userspace tells the programs before they are loaded. Frozen read-only, so the verifier
/// takes every field for a constant: direct loads through `struct sock *` pass, and what is
/// switched off is dead code.
///
/// Offsets are bytes from the start of the named structure, [`ABSENT`] where there is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `struct sock`: `sk_protocol`.
    pub sk_protocol: u32,
    /// `struct sock`: `sk_err`.
    pub sk_err: u32,
    /// `struct sock`: `__sk_common.skc_family`.
    pub skc_family: u32,
    /// `struct sock`: `__sk_common.skc_num` (host order).
    pub skc_num: u32,
    /// `struct sock`: `__sk_common.skc_dport` (network order).
    pub skc_dport: u32,
    /// `struct sock`: `__sk_common.skc_rcv_saddr`.
    pub skc_rcv_saddr: u32,
    /// `struct sock`: `__sk_common.skc_daddr`.
    pub skc_daddr: u32,
    /// `struct sock`: `__sk_common.skc_v6_rcv_saddr`.
    pub skc_v6_rcv_saddr: u32,
    /// `struct sock`: `__sk_common.skc_v6_daddr`.
    pub skc_v6_daddr: u32,
    /// `struct sock`: `__sk_common.skc_cookie`.
    pub skc_cookie: u32,
    /// `struct sock`: `__sk_common.skc_flags`, the bit set of `enum sock_flags`.
    pub skc_flags: u32,
    /// Bit number of `SOCK_DONE` in `skc_flags`.
    pub sock_done_bit: u32,
    /// Bit number of `SOCK_DEAD` in `skc_flags`.
    pub sock_dead_bit: u32,
    /// `struct sock`: `__sk_common.skc_net.net`.
    pub skc_net: u32,
    /// `struct net`: `ns.inum`.
    pub net_inum: u32,
    /// `struct net`: `net_cookie` (5.12+).
    pub net_cookie: u32,
    /// `struct sock`: `sk_cgrp_data.cgroup`.
    pub sk_cgroup: u32,
    /// `struct cgroup`: `kn`.
    pub cgroup_kn: u32,
    /// `struct kernfs_node`: `id`.
    pub kn_id: u32,
    /// `struct tcp_sock`: `inet_conn.icsk_inet.inet_sport` (network order), which outlives the
    /// port binding.
    pub inet_sport: u32,
    /// Classic tracepoint: `oldstate`.
    pub tp_oldstate: u32,
    /// Classic tracepoint: `newstate`.
    pub tp_newstate: u32,
    /// Classic tracepoint: `sport` (host order).
    pub tp_sport: u32,
    /// Classic tracepoint: `dport` (host order).
    pub tp_dport: u32,
    /// Classic tracepoint: `family`.
    pub tp_family: u32,
    /// Classic tracepoint: `protocol`.
    pub tp_protocol: u32,
    /// Classic tracepoint: size of `protocol` in bytes (1 before Linux 5.6, then 2).
    pub tp_protocol_size: u32,
    /// Classic tracepoint: `saddr`.
    pub tp_saddr: u32,
    /// Classic tracepoint: `daddr`.
    pub tp_daddr: u32,
    /// Classic tracepoint: `saddr_v6`.
    pub tp_saddr_v6: u32,
    /// Classic tracepoint: `daddr_v6`.
    pub tp_daddr_v6: u32,
    /// `struct task_struct`: `flags`.
    pub task_flags: u32,
    /// 1 where `bpf_get_socket_cookie` may be called (5.12+), else 0.
    pub has_cookie: u32,
    /// 1 where a child socket is complete when LISTEN -> `SYN_RECV` fires (6.15+), else 0: its
    /// cookie is not its own yet and is left at zero.
    pub child_is_complete: u32,
    /// `struct sock`: `__sk_common.skc_state`, one byte.
    pub skc_state: u32,
    /// `struct socket`: `sk`.
    pub socket_sk: u32,
    /// `struct task_struct`: `tgid`.
    pub task_tgid: u32,
    /// `struct sock`: `__sk_common.skc_bound_dev_if`.
    pub skc_bound_dev_if: u32,
    /// `struct inet_timewait_sock`: `tw_substate`, one byte.
    pub tw_substate: u32,
    /// `struct inet_timewait_sock`: `tw_timer`.
    pub tw_timer: u32,
    /// `struct task_struct`: `comm`.
    pub task_comm: u32,
    /// 1 where `bpf_get_current_task_btf` may be called (5.11+), else 0.
    pub has_task: u32,
    /// Rings in use less one: which of them a CPU writes into is its number masked by this. Rings are a
    /// power of two, at most [`RINGS`].
    pub ring_mask: u32,
}

impl Settings {
    /// Nothing present, nothing switched on.
    pub const NONE: Self = Self {
        sk_protocol: ABSENT,
        sk_err: ABSENT,
        skc_family: ABSENT,
        skc_num: ABSENT,
        skc_dport: ABSENT,
        skc_rcv_saddr: ABSENT,
        skc_daddr: ABSENT,
        skc_v6_rcv_saddr: ABSENT,
        skc_v6_daddr: ABSENT,
        skc_cookie: ABSENT,
        skc_flags: ABSENT,
        sock_done_bit: 0,
        sock_dead_bit: 0,
        skc_net: ABSENT,
        net_inum: ABSENT,
        net_cookie: ABSENT,
        sk_cgroup: ABSENT,
        cgroup_kn: ABSENT,
        kn_id: ABSENT,
        inet_sport: ABSENT,
        tp_oldstate: ABSENT,
        tp_newstate: ABSENT,
        tp_sport: ABSENT,
        tp_dport: ABSENT,
        tp_family: ABSENT,
        tp_protocol: ABSENT,
        tp_protocol_size: 0,
        tp_saddr: ABSENT,
        tp_daddr: ABSENT,
        tp_saddr_v6: ABSENT,
        tp_daddr_v6: ABSENT,
        task_flags: ABSENT,
        has_cookie: 0,
        child_is_complete: 0,
        skc_state: ABSENT,
        socket_sk: ABSENT,
        task_tgid: ABSENT,
        skc_bound_dev_if: ABSENT,
        tw_substate: ABSENT,
        tw_timer: ABSENT,
        task_comm: ABSENT,
        has_task: 0,
        ring_mask: 0,
    };
}

const _: () = {
    assert!(size_of::<Record>() == 48);
    assert!(core::mem::offset_of!(Record, netns) == 24);
    assert!(core::mem::offset_of!(Record, local_port) == 36);
    assert!(core::mem::offset_of!(Record, flags) == 46);
    assert!(size_of::<LongRecord>() == 104);
    assert!(core::mem::offset_of!(LongRecord, comm) == 48);
    assert!(core::mem::offset_of!(LongRecord, local) == 64);
    assert!(core::mem::offset_of!(LongRecord, pid) == 96);
    assert!(size_of::<Marks>() == 8 * (2 * marks::MARKS + 1));
    assert!(
        size_of::<Counters>()
            == 8 * (STATE_SLOTS * STATE_SLOTS + 3 + 2 * NAMESPACES) + size_of::<Marks>()
    );
    assert!(size_of::<Settings>() == 43 * 4);
    assert!(size_of::<HolderRecord>() == 24);
    assert!(core::mem::offset_of!(HolderRecord, netns) == 8);
    assert!(core::mem::offset_of!(HolderRecord, protocol) == 20);
    assert!(core::mem::offset_of!(HolderRecord, state) == 22);
};
