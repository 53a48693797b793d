//! Two programs for one tracepoint, `sock:inet_sock_set_state`: the BTF-typed one sees the socket
//! itself, the classic one only what the tracepoint copies. Either counts every TCP transition and
//! writes a record of it.
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
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_task_btf,
    bpf_jiffies64, bpf_skc_to_tcp_sock,
};
use aya_ebpf::macros::{btf_tracepoint, map, tracepoint};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use aya_log_ebpf::{debug, trace};
use monitor_ebpf::marks::{self, Event, MARKS, Mark, Marks, Memory};
use monitor_ebpf::{
    ABSENT, BOUND_TO_DEVICE, COMM_WORDS, COUNTER_SETS, Counters, FROM_SOCKET, LongRecord,
    NAMESPACES, NESTED, Namespace, ORPHAN, OWNER, PEER_FIN, Record, STATE_SLOTS,
};

use crate::rings::{reserve, submit};
use crate::settings::{AF_INET, AF_INET6, IPPROTO_TCP, cookie, load, setting};

#[map]
pub(crate) static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(COUNTER_SETS, 0);

/// A kernel thread, as those that finish a `close()` or work for MPTCP (`include/linux/sched.h`,
/// Linux 6.18; unchanged since 2.6.27). It owns no socket.
const PF_KTHREAD: u32 = 0x0020_0000;

// `include/net/tcp_states.h`, Linux 6.18; unchanged since 2.6.
const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;
const SYN_RECV: u32 = 3;
const FIN_WAIT1: u32 = 4;
const CLOSE: u32 = 7;
const CLOSE_WAIT: u32 = 8;
const LAST_ACK: u32 = 9;
const LISTEN: u32 = 10;

/// `struct sock *sk, int oldstate, int newstate`.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn socket_transition(ctx: BtfTracePointContext) -> i32 {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own map value.
    unsafe {
        marks::leave(&MarksOf(&raw mut (*counters).marks), &event(&ctx));
        observe(&ctx, counters, 0);
    }
    0
}

/// Takes the transitions that the kernel keeps from [`socket_transition`]: it runs no program
/// inside itself, and a packet's softirq can interrupt the one that watches a `close()`
/// (`__bpf_trace_run()` in `kernel/trace/bpf_trace.c`, Linux 6.18, which counts that as a
/// recursion miss). Attached second, so that it is called second; [`marks`] tells it which.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn nested_transition(ctx: BtfTracePointContext) -> i32 {
    let Some(first) = COUNTERS.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own map value.
    if unsafe { marks::take(&MarksOf(&raw mut (*first).marks), &event(&ctx)) } {
        return 0;
    }
    // Counters of its own: those of the first program may be half-way through an addition.
    if let Some(counters) = COUNTERS.get_ptr_mut(1) {
        // SAFETY: this CPU's own map value.
        unsafe {
            (*counters).nested += 1;
            observe(&ctx, counters, NESTED);
        }
    }
    0
}

/// The marks of this CPU. Volatile: a softirq may change them between any two accesses.
struct MarksOf(*mut Marks);

impl MarksOf {
    /// Masked last, for the verifier.
    #[inline(always)]
    fn slot(&self, slot: u64) -> *mut Mark {
        let at = (slot as usize * size_of::<Mark>()) & ((MARKS - 1) * size_of::<Mark>());
        // SAFETY: in bounds by the mask.
        unsafe { self.0.cast::<u8>().add(at).cast() }
    }
}

// SAFETY of all: `MarksOf` is made of a pointer to this CPU's map value.
impl Memory for MarksOf {
    #[inline(always)]
    fn depth(&self) -> u64 {
        // SAFETY: see above.
        unsafe { ptr::read_volatile(&raw const (*self.0).depth) }
    }

    #[inline(always)]
    fn set_depth(&self, depth: u64) {
        // SAFETY: see above.
        unsafe { ptr::write_volatile(&raw mut (*self.0).depth, depth) }
    }

    #[inline(always)]
    fn socket(&self, slot: u64) -> u64 {
        // SAFETY: see above.
        unsafe { ptr::read_volatile(&raw const (*self.slot(slot)).socket) }
    }

    #[inline(always)]
    fn set_socket(&self, slot: u64, socket: u64) {
        // SAFETY: see above.
        unsafe { ptr::write_volatile(&raw mut (*self.slot(slot)).socket, socket) }
    }

    #[inline(always)]
    fn event(&self, slot: u64) -> u64 {
        // SAFETY: see above.
        unsafe { ptr::read_volatile(&raw const (*self.slot(slot)).event) }
    }

    #[inline(always)]
    fn set_event(&self, slot: u64, event: u64) {
        // SAFETY: see above.
        unsafe { ptr::write_volatile(&raw mut (*self.slot(slot)).event, event) }
    }
}

/// What tells this call's transition from others.
#[inline(always)]
fn event(ctx: &BtfTracePointContext) -> Event {
    let sk: *const u8 = ctx.arg(0);
    let (from, to) = states(ctx);
    // SAFETY: `sk` is the tracepoint's first argument, the offset is `sk_protocol`'s, and the helper
    // only reads a counter; a JIT makes it a load.
    let (protocol, ticks): (u16, _) =
        unsafe { (load(sk, setting!(sk_protocol)), bpf_jiffies64() as u32) };
    Event {
        socket: sk as u64,
        transition: from << 8 | to,
        ticks,
        // A system call's, or a kernel thread's in its place, with softirqs enabled. SCTP uses the
        // same numbers in softirqs.
        is_outermost: protocol == IPPROTO_TCP && is_owners(from, to),
    }
}

#[inline(always)]
fn states(ctx: &BtfTracePointContext) -> (u32, u32) {
    let (from, to): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    (from.cast_unsigned(), to.cast_unsigned())
}

/// Counts a transition and writes its record.
///
/// # Safety
/// `counters` is this CPU's map value.
#[inline(always)]
unsafe fn observe(ctx: &BtfTracePointContext, counters: *mut Counters, flags: u16) {
    let sk: *const u8 = ctx.arg(0);
    let (from, to) = states(ctx);
    // SAFETY: `sk` is the tracepoint's first argument, the offset is `sk_protocol`'s; the
    // caller's promise.
    let is_counted = unsafe {
        let protocol = load(sk, setting!(sk_protocol));
        count(ctx, counters, protocol, from, to)
    };
    if !is_counted {
        return;
    }
    // SAFETY: `sk` is the tracepoint's first argument, each slot is the one that was reserved, and
    // `counters` is what the caller promises.
    unsafe {
        let family = load(sk, setting!(skc_family));
        let is_owners = is_owners(from, to);
        if family == AF_INET && !is_owners {
            if let Some((mut slot, now)) = reserve::<Record>() {
                let record = slot.as_mut_ptr();
                write_states(record, now, family, from, to);
                (*record).flags = flags | write_socket(record, counters, sk, from, to);
                submit(slot);
                return;
            }
        } else if let Some((mut slot, now)) = reserve::<LongRecord>() {
            let long = slot.as_mut_ptr();
            let record = &raw mut (*long).record;
            write_states(record, now, family, from, to);
            (*record).flags =
                flags | write_socket(record, counters, sk, from, to) | write_owner(long, is_owners);
            if family == AF_INET6 {
                (*long).local = load(sk, setting!(skc_v6_rcv_saddr));
                (*long).remote = load(sk, setting!(skc_v6_daddr));
            }
            submit(slot);
            return;
        }
        count_lost(ctx, counters);
    }
}

/// The fallback for kernels without BTF: no cookie, no namespace, no cgroup, no socket error.
#[tracepoint(category = "sock", name = "inet_sock_set_state")]
pub(crate) fn copied_transition(ctx: TracePointContext) -> u32 {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else {
        return 0;
    };
    let protocol = if setting!(tp_protocol_size) == 1 {
        u16::from(copied::<u8>(&ctx, setting!(tp_protocol)))
    } else {
        copied::<u16>(&ctx, setting!(tp_protocol))
    };
    let from: u32 = copied(&ctx, setting!(tp_oldstate));
    let to: u32 = copied(&ctx, setting!(tp_newstate));
    // SAFETY: this CPU's own map value.
    if !unsafe { count(&ctx, counters, protocol, from, to) } {
        return 0;
    }
    let family: u16 = copied(&ctx, setting!(tp_family));
    let Some((mut slot, now)) = reserve::<LongRecord>() else {
        // SAFETY: as above.
        unsafe { count_lost(&ctx, counters) };
        return 0;
    };
    let long = slot.as_mut_ptr();
    // SAFETY: `long` is the reserved slot.
    unsafe {
        let record = &raw mut (*long).record;
        write_states(record, now, family, from, to);
        (*record).flags = write_owner(long, is_owners(from, to));
        (*record).cookie = 0;
        (*record).cgroup_id = 0;
        (*record).netns = 0;
        (*record).error = 0;
        (*record).local_port = copied(&ctx, setting!(tp_sport));
        (*record).remote_port = copied(&ctx, setting!(tp_dport));
        if family == AF_INET6 {
            (*long).local = copied(&ctx, setting!(tp_saddr_v6));
            (*long).remote = copied(&ctx, setting!(tp_daddr_v6));
        } else {
            (*record).local = copied(&ctx, setting!(tp_saddr));
            (*record).remote = copied(&ctx, setting!(tp_daddr));
        }
    }
    submit(slot);
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

/// Counts the call; true for a TCP transition.
///
/// # Safety
/// `counters` is this CPU's map value.
#[inline(always)]
unsafe fn count<C: EbpfContext>(
    ctx: &C,
    counters: *mut Counters,
    protocol: u16,
    from: u32,
    to: u32,
) -> bool {
    if protocol != IPPROTO_TCP {
        // SAFETY: the caller's promise.
        unsafe { (*counters).ignored += 1 };
        debug!(ctx, "ignored: protocol {} is not TCP", protocol);
        return false;
    }
    // Masked last: verifiers before Linux 6.12 forget the bounds of a sum of masked numbers once
    // the compiler has made it an OR.
    let cell = (from as usize * STATE_SLOTS + to as usize) & (STATE_SLOTS * STATE_SLOTS - 1);
    // SAFETY: the caller's promise; the index is masked to the array's bounds.
    unsafe {
        let first = (&raw mut (*counters).transitions).cast::<u64>();
        *first.add(cell) += 1;
    }
    trace!(ctx, "transition {} -> {}", from, to);
    true
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

/// # Safety
/// `counters` is this CPU's map value.
#[inline(always)]
unsafe fn count_lost<C: EbpfContext>(ctx: &C, counters: *mut Counters) {
    // SAFETY: the caller's promise.
    unsafe { (*counters).lost += 1 };
    debug!(ctx, "lost: the ring is full");
}

/// Time and states.
///
/// # Safety
/// `record` points to a reserved slot of the ring.
#[inline(always)]
pub(crate) unsafe fn write_states(record: *mut Record, now: u64, family: u16, from: u32, to: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        (*record).ktime_ns = now;
        (*record).family = family;
        (*record).from = from.min(255) as u8;
        (*record).to = to.min(255) as u8;
    }
}

/// Whether the current task is one; no where this kernel does not let a program tell.
#[inline(always)]
fn is_kernel_thread() -> bool {
    let offset = setting!(task_flags);
    if offset == ABSENT {
        return false;
    }
    // SAFETY: the helper gives the current task, the offset is that of its flags, and reading
    // them is checked.
    let bits: Result<u32, _> = unsafe {
        let task = bpf_get_current_task() as *const u8;
        bpf_probe_read_kernel(task.add(offset as usize).cast())
    };
    bits.is_ok_and(|bits| bits & PF_KTHREAD != 0)
}

/// The current task, where it is the owner; the flag that says so.
///
/// # Safety
/// `record` points to a reserved slot of the ring.
#[inline(always)]
unsafe fn write_owner(record: *mut LongRecord, is_owner: bool) -> u16 {
    if !is_owner {
        return 0;
    }
    if setting!(has_task) != 0 {
        // A load is a tenth of a helper that copies the same.
        // SAFETY: the current task, whose type the verifier knows, offsets from the running kernel's
        // BTF, and the caller's promise.
        unsafe {
            let task = bpf_get_current_task_btf() as *const u8;
            if load::<u32>(task, setting!(task_flags)) & PF_KTHREAD != 0 {
                return 0;
            }
            (*record).pid = load(task, setting!(task_tgid));
            (*record).comm = [
                load(task, setting!(task_comm)),
                load(task, setting!(task_comm) + 8),
            ];
        }
        return OWNER;
    }
    // SAFETY: the caller's promise; the helpers check what they read and write no more than they
    // are told.
    unsafe {
        if is_kernel_thread() {
            return 0;
        }
        (*record).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        bpf_get_current_comm((&raw mut (*record).comm).cast(), 8 * COMM_WORDS as u32);
    }
    OWNER
}

/// What is read from the socket itself; the flags that tell of it.
///
/// # Safety
/// `record` points to a reserved slot of the ring, `sk` to the tracepoint's `struct sock`, and `counters`
/// is this CPU's map value, of this program alone.
#[inline(always)]
unsafe fn write_socket(
    record: *mut Record,
    counters: *mut Counters,
    sk: *const u8,
    from: u32,
    to: u32,
) -> u16 {
    // SAFETY: the caller's promise, and offsets from the running kernel's BTF.
    unsafe {
        let is_incomplete = from == LISTEN && to == SYN_RECV && setting!(child_is_complete) == 0;
        (*record).cookie = if setting!(has_cookie) == 0 || is_incomplete {
            0
        } else {
            cookie(sk)
        };
        let error: u32 = load(sk, setting!(sk_err));
        (*record).error = error as u16;
        (*record).netns = netns(sk, counters);
        (*record).cgroup_id = cgroup_id(sk);
        (*record).local = load(sk, setting!(skc_rcv_saddr));
        (*record).remote = load(sk, setting!(skc_daddr));
        (*record).local_port = local_port(sk);
        (*record).remote_port = u16::from_be(load(sk, setting!(skc_dport)));
        let bits: u64 = load(sk, setting!(skc_flags));
        let mut flags = FROM_SOCKET;
        if bits >> setting!(sock_done_bit) & 1 == 1 {
            flags |= PEER_FIN;
        }
        if bits >> setting!(sock_dead_bit) & 1 == 1 {
            flags |= ORPHAN;
        }
        if load::<u32>(sk, setting!(skc_bound_dev_if)) != 0 {
            flags |= BOUND_TO_DEVICE;
        }
        flags
    }
}

/// The inode number of the socket's namespace. In the kernel it lies beside a count of references, which
/// every socket that is opened or closed changes, on whatever CPU: to wait for that memory takes as long
/// as half of the program. The cookie lies apart from what changes.
///
/// # Safety
/// `sk` is the tracepoint's `struct sock`; `counters` is this CPU's map value, of this program alone.
#[inline(always)]
unsafe fn netns(sk: *const u8, counters: *mut Counters) -> u32 {
    // SAFETY: the caller's promise, offsets from the running kernel's BTF, and a masked index.
    unsafe {
        let net: *const u8 = load(sk, setting!(skc_net));
        if setting!(net_cookie) == ABSENT {
            return load(net, setting!(net_inum));
        }
        let cookie: u64 = load(net, setting!(net_cookie));
        let known = (&raw mut (*counters).namespaces).cast::<Namespace>();
        let known = known.add(cookie as usize & (NAMESPACES - 1));
        if cookie == 0 || (*known).cookie != cookie {
            (*known).inum = u64::from(load::<u32>(net, setting!(net_inum)));
            (*known).cookie = cookie;
        }
        (*known).inum as u32
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
