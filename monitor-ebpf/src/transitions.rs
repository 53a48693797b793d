//! Two programs for one tracepoint, `sock:inet_sock_set_state`: the BTF-typed one sees the socket
//! itself, the classic one only what the tracepoint copies. Either counts every TCP transition and
//! writes a record of it. They know no offset of their own: [`SETTINGS`] brings all of them.
#![expect(
    clippy::inline_always,
    reason = "the verifier follows a pointer's BTF type through one function only"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the signature that aya's macros call"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "what is cut off is zero: the high half of a shifted word, a number below 256"
)]

use core::ptr;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_socket_cookie, bpf_ktime_get_ns,
    bpf_skc_to_tcp_sock,
};
use aya_ebpf::macros::{btf_tracepoint, map, tracepoint};
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use aya_log_ebpf::{debug, trace};
use monitor_ebpf::{
    ABSENT, COMM_WORDS, Counters, FROM_SOCKET, OWNER, PEER_FIN, Record, STATE_SLOTS, Settings,
};

// Dual MIT/Apache-2.0 like the rest; the kernel wants a string it knows to be GPL-compatible.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings::NONE;

#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// Userspace sets the size before it loads the object.
#[map]
static TRANSITIONS: RingBuf = RingBuf::with_byte_size(1 << 24, 0);

const IPPROTO_TCP: u16 = 6;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

// `include/net/tcp_states.h`, Linux 6.18; unchanged since 2.6.
const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;
const SYN_RECV: u32 = 3;
const FIN_WAIT1: u32 = 4;
const CLOSE: u32 = 7;
const CLOSE_WAIT: u32 = 8;
const LAST_ACK: u32 = 9;
const LISTEN: u32 = 10;

/// One field of [`SETTINGS`].
macro_rules! setting {
    ($field:ident) => {
        frozen(&SETTINGS.$field)
    };
}

/// Volatile: the value is not the one the compiler sees.
#[inline(always)]
fn frozen(field: &u32) -> u32 {
    // SAFETY: a reference is a valid pointer.
    unsafe { ptr::read_volatile(field) }
}

/// Loads a `T` at an offset of a kernel structure.
///
/// # Safety
/// `base` is a pointer that the verifier knows by its BTF type, and a `T` lies at `offset` of it.
/// (A stale or null pointer reads as zero: the JIT guards such loads.)
#[inline(always)]
unsafe fn load<T>(base: *const u8, offset: u32) -> T {
    // SAFETY: the caller's promise.
    unsafe { ptr::read_volatile(base.add(offset as usize).cast()) }
}

/// `struct sock *sk, int oldstate, int newstate`.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn socket_transition(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let (from, to): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let (from, to) = (from.cast_unsigned(), to.cast_unsigned());
    // SAFETY: `sk` is the tracepoint's first argument, the offset is `sk_protocol`'s.
    let protocol: u16 = unsafe { load(sk, setting!(sk_protocol)) };
    if !count(&ctx, protocol, from, to) {
        return 0;
    }
    let Some(mut slot) = TRANSITIONS.reserve::<Record>(0) else {
        count_lost(&ctx);
        return 0;
    };
    let record = slot.as_mut_ptr();
    // SAFETY: `record` is the reserved slot, `sk` the tracepoint's first argument.
    unsafe {
        write_common(record, from, to, FROM_SOCKET);
        write_socket(record, sk, from, to);
    }
    slot.submit(u64::from(BPF_RB_NO_WAKEUP));
    0
}

/// The fallback for kernels without BTF: no cookie, no namespace, no cgroup, no socket error.
#[tracepoint(category = "sock", name = "inet_sock_set_state")]
pub(crate) fn copied_transition(ctx: TracePointContext) -> u32 {
    let protocol = if setting!(tp_protocol_size) == 1 {
        u16::from(copied::<u8>(&ctx, setting!(tp_protocol)))
    } else {
        copied::<u16>(&ctx, setting!(tp_protocol))
    };
    let from: u32 = copied(&ctx, setting!(tp_oldstate));
    let to: u32 = copied(&ctx, setting!(tp_newstate));
    if !count(&ctx, protocol, from, to) {
        return 0;
    }
    let Some(mut slot) = TRANSITIONS.reserve::<Record>(0) else {
        count_lost(&ctx);
        return 0;
    };
    let record = slot.as_mut_ptr();
    let family: u16 = copied(&ctx, setting!(tp_family));
    // SAFETY: `record` is the reserved slot.
    unsafe {
        write_common(record, from, to, 0);
        (*record).cookie = 0;
        (*record).cgroup_id = 0;
        (*record).netns = 0;
        (*record).error = 0;
        (*record).family = family;
        (*record).local_port = copied(&ctx, setting!(tp_sport));
        (*record).remote_port = copied(&ctx, setting!(tp_dport));
        if family == AF_INET6 {
            (*record).local = copied(&ctx, setting!(tp_saddr_v6));
            (*record).remote = copied(&ctx, setting!(tp_daddr_v6));
        } else {
            (*record).local = widened(copied(&ctx, setting!(tp_saddr)));
            (*record).remote = widened(copied(&ctx, setting!(tp_daddr)));
        }
    }
    slot.submit(u64::from(BPF_RB_NO_WAKEUP));
    0
}

/// A field of the classic tracepoint, zero where this kernel's format has none.
#[inline(always)]
fn copied<T: Default>(ctx: &TracePointContext, offset: u32) -> T {
    if offset == ABSENT {
        return T::default();
    }
    // SAFETY: tracefs gave the offset; the helper checks the address and fails softly.
    unsafe { bpf_probe_read_kernel(ctx.as_ptr().cast::<u8>().add(offset as usize).cast()) }
        .unwrap_or_default()
}

/// An IPv4 address where both families' are kept.
#[inline(always)]
const fn widened(address: u32) -> [u32; 4] {
    [address, 0, 0, 0]
}

/// Counts the call; true for a TCP transition.
#[inline(always)]
fn count<C: EbpfContext>(ctx: &C, protocol: u16, from: u32, to: u32) -> bool {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else {
        return false;
    };
    if protocol != IPPROTO_TCP {
        // SAFETY: this CPU's own map value.
        unsafe { (*counters).ignored += 1 };
        debug!(ctx, "ignored: protocol {} is not TCP", protocol);
        return false;
    }
    let mask = STATE_SLOTS - 1;
    // SAFETY: as above; both indices are masked to the array's bounds.
    unsafe {
        let first = (&raw mut (*counters).transitions).cast::<u64>();
        let cell = first.add((from as usize & mask) * STATE_SLOTS + (to as usize & mask));
        *cell += 1;
    }
    trace!(ctx, "transition {} -> {}", from, to);
    true
}

#[inline(always)]
fn count_lost<C: EbpfContext>(ctx: &C) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: this CPU's own map value.
        unsafe { (*counters).lost += 1 };
    }
    debug!(ctx, "lost: the ring is full");
}

/// Whether the current task is the socket's owner: these transitions happen in `connect()`,
/// `listen()`, `close()` and `shutdown()` only (`tcp_v4_connect`, `inet_csk_listen_start`,
/// `tcp_close_state`). Most others run in whatever task a packet interrupted.
#[inline(always)]
const fn is_owners(from: u32, to: u32) -> bool {
    match to {
        SYN_SENT | LISTEN => from == CLOSE,
        FIN_WAIT1 => from == ESTABLISHED || from == SYN_RECV,
        LAST_ACK => from == CLOSE_WAIT,
        _ => false,
    }
}

/// Time, states, and the owner where it is known.
///
/// # Safety
/// `record` points to a reserved slot of the ring.
#[inline(always)]
unsafe fn write_common(record: *mut Record, from: u32, to: u32, flags: u32) {
    // SAFETY: the caller's promise; the helpers write no more than they are told.
    unsafe {
        (*record).ktime_ns = bpf_ktime_get_ns();
        (*record).from = from.min(255) as u8;
        (*record).to = to.min(255) as u8;
        if is_owners(from, to) {
            (*record).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
            bpf_get_current_comm((&raw mut (*record).comm).cast(), 8 * COMM_WORDS as u32);
            (*record).flags = flags | OWNER;
        } else {
            (*record).pid = 0;
            (*record).comm = [0; COMM_WORDS];
            (*record).flags = flags;
        }
    }
}

/// Everything that is read from the socket itself.
///
/// # Safety
/// `record` points to a reserved slot of the ring, `sk` to the tracepoint's `struct sock`.
#[inline(always)]
unsafe fn write_socket(record: *mut Record, sk: *const u8, from: u32, to: u32) {
    // SAFETY: the caller's promise, and offsets from the running kernel's BTF.
    unsafe {
        let is_incomplete = from == LISTEN && to == SYN_RECV && setting!(child_is_complete) == 0;
        (*record).cookie = if setting!(has_cookie) == 0 || is_incomplete {
            0
        } else {
            bpf_get_socket_cookie(sk.cast_mut().cast())
        };
        (*record).error = load(sk, setting!(sk_err));
        let bits: u64 = load(sk, setting!(skc_flags));
        if bits >> setting!(sock_done_bit) & 1 == 1 {
            (*record).flags |= PEER_FIN;
        }
        let net = load(sk, setting!(skc_net));
        (*record).netns = load(net, setting!(net_inum));
        (*record).cgroup_id = cgroup_id(sk);
        let family: u16 = load(sk, setting!(skc_family));
        (*record).family = family;
        (*record).local_port = local_port(sk);
        (*record).remote_port = u16::from_be(load(sk, setting!(skc_dport)));
        if family == AF_INET {
            (*record).local = widened(load(sk, setting!(skc_rcv_saddr)));
            (*record).remote = widened(load(sk, setting!(skc_daddr)));
        } else {
            (*record).local = load(sk, setting!(skc_v6_rcv_saddr));
            (*record).remote = load(sk, setting!(skc_v6_daddr));
        }
    }
}

/// The id of the socket's cgroup, zero where this kernel does not let a program follow it.
///
/// # Safety
/// `sk` is the tracepoint's `struct sock`.
#[inline(always)]
unsafe fn cgroup_id(sk: *const u8) -> u64 {
    if setting!(sk_cgroup) == ABSENT {
        return 0;
    }
    // SAFETY: the three offsets are present together or not at all.
    unsafe {
        let cgroup = load(sk, setting!(sk_cgroup));
        let node = load(cgroup, setting!(cgroup_kn));
        load(node, setting!(kn_id))
    }
}

/// The local port. `skc_num` is cleared when a socket gives up an automatic port, which is before
/// its last transition fires (`tcp_set_state()`, `inet_put_port()`); `inet_sport` stays.
///
/// # Safety
/// `sk` is the tracepoint's `struct sock`, of a TCP socket.
#[inline(always)]
unsafe fn local_port(sk: *const u8) -> u16 {
    // SAFETY: the caller's promise.
    unsafe {
        let port: u16 = load(sk, setting!(skc_num));
        if port != 0 {
            return port;
        }
        let tcp = bpf_skc_to_tcp_sock(sk.cast_mut().cast());
        if tcp.is_null() {
            return 0;
        }
        u16::from_be(load(tcp.cast(), setting!(inet_sport)))
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
