//! What no state transition tells: a half-open request whose SYN-ACK is retransmitted, and a
//! minisocket that leaves `FIN_WAIT2`. Records of both go into the same ring, and count as no
//! transition.
#![expect(
    clippy::inline_always,
    reason = "the verifier follows a pointer's BTF type through one function only"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the signature that aya's macros call"
)]

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::macros::{btf_tracepoint, fentry, fexit, map};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext, FExitContext};
use aya_log_ebpf::trace;
use monitor_ebpf::{BOUND_TO_DEVICE, FROM_SOCKET, LongRecord, MINISOCKET, REQUEST, Record};

use crate::rings::{reserve, submit};
use crate::settings::{AF_INET, AF_INET6, load, setting};
use crate::transitions::{COUNTERS, write_states};

// `include/net/tcp_states.h`, Linux 6.18; unchanged since 4.4.
const FIN_WAIT2: u8 = 5;
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const NEW_SYN_RECV: u8 = 12;

/// The counters of these programs. They never count transitions.
const COUNTER_SET: u32 = 2;

/// The minisocket in `FIN_WAIT2` for which a segment is being processed on this CPU, 0 for none.
#[map]
static PROCESSED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// `const struct sock *sk, const struct request_sock *req`. Both structures start with a
/// `struct sock_common`, so that the offsets of the one are those of the other.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub(crate) fn request_retransmitted(ctx: BtfTracePointContext) -> i32 {
    let request: *const u8 = ctx.arg(1);
    // SAFETY: the tracepoint's argument, and offsets from the running kernel's BTF.
    unsafe { write(&ctx, &Typed(request), (NEW_SYN_RECV, NEW_SYN_RECV), REQUEST) };
    0
}

/// `struct inet_timewait_sock *tw`, and more that differs between kernels.
#[fentry(function = "tcp_timewait_state_process")]
pub(crate) fn minisocket_segment(ctx: FEntryContext) -> i32 {
    let minisocket: *const u8 = ctx.arg(0);
    if let Some(processed) = PROCESSED.get_ptr_mut(0) {
        let is_waiting = substate(minisocket) == FIN_WAIT2;
        // SAFETY: this CPU's own map value; softirqs do not interrupt each other.
        unsafe { *processed = if is_waiting { minisocket as u64 } else { 0 } };
    }
    0
}

/// As above: the peer's FIN has come if the substate is another now.
#[fexit(function = "tcp_timewait_state_process")]
pub(crate) fn minisocket_segment_processed(ctx: FExitContext) -> i32 {
    let minisocket: *const u8 = ctx.arg(0);
    let Some(processed) = PROCESSED.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own map value, and the function's argument.
    unsafe {
        if *processed == minisocket as u64 && substate(minisocket) == TIME_WAIT {
            *processed = 0;
            write(
                &ctx,
                &Checked(minisocket),
                (FIN_WAIT2, TIME_WAIT),
                MINISOCKET,
            );
        }
    }
    0
}

/// `struct timer_list *t`, in the minisocket whose time is over.
#[fentry(function = "tw_timer_handler")]
pub(crate) fn minisocket_timed_out(ctx: FEntryContext) -> i32 {
    let timer: *const u8 = ctx.arg(0);
    // SAFETY: `container_of()`; what is read there is checked.
    unsafe { write_end(&ctx, timer.sub(setting!(tw_timer) as usize)) };
    0
}

/// `struct inet_timewait_sock *tw`: a reset, a port that is used again, the end of a namespace.
#[fentry(function = "inet_twsk_deschedule_put")]
pub(crate) fn minisocket_descheduled(ctx: FEntryContext) -> i32 {
    // SAFETY: the function's argument.
    unsafe { write_end(&ctx, ctx.arg(0)) };
    0
}

/// # Safety
/// `minisocket` is a `struct inet_timewait_sock`.
#[inline(always)]
unsafe fn write_end(ctx: &FEntryContext, minisocket: *const u8) {
    if substate(minisocket) == FIN_WAIT2 {
        // SAFETY: the caller's promise.
        unsafe { write(ctx, &Checked(minisocket), (FIN_WAIT2, CLOSE), MINISOCKET) };
    }
}

#[inline(always)]
fn substate(minisocket: *const u8) -> u8 {
    // SAFETY: what is read is checked.
    unsafe { Checked(minisocket).read(setting!(tw_substate)) }
}

/// A kernel structure that starts with a `struct sock_common`.
trait Common {
    /// # Safety
    /// A `T` lies at the offset.
    unsafe fn read<T: Default>(&self, offset: u32) -> T;
    /// The inode number of its network namespace.
    ///
    /// # Safety
    /// As [`Self::read`], of the pointer to the namespace.
    unsafe fn netns(&self) -> u32;
}

/// One that the verifier knows by its BTF type.
struct Typed(*const u8);

/// One that it does not know: read through a helper, which fails softly.
struct Checked(*const u8);

impl Common for Typed {
    #[inline(always)]
    unsafe fn read<T: Default>(&self, offset: u32) -> T {
        // SAFETY: the caller's promise.
        unsafe { load(self.0, offset) }
    }

    #[inline(always)]
    unsafe fn netns(&self) -> u32 {
        // SAFETY: the caller's promise.
        unsafe { load(load(self.0, setting!(skc_net)), setting!(net_inum)) }
    }
}

impl Common for Checked {
    #[inline(always)]
    unsafe fn read<T: Default>(&self, offset: u32) -> T {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(self.0.add(offset as usize).cast()) }.unwrap_or_default()
    }

    #[inline(always)]
    unsafe fn netns(&self) -> u32 {
        // SAFETY: the caller's promise; the helper checks the addresses.
        unsafe {
            let net: u64 = self.read(setting!(skc_net));
            Self(net as *const u8).read(setting!(net_inum))
        }
    }
}

/// Writes the record of a step.
///
/// # Safety
/// `common` is what it says.
#[inline(always)]
unsafe fn write<C: EbpfContext>(ctx: &C, common: &impl Common, (from, to): (u8, u8), flag: u16) {
    if flag == MINISOCKET {
        trace!(ctx, "minisocket {} -> {}", from, to);
    } else {
        trace!(ctx, "SYN-ACK retransmitted");
    }
    // SAFETY: the caller's promise, offsets from the running kernel's BTF, and reserved slots.
    unsafe {
        let family: u16 = common.read(setting!(skc_family));
        if family == AF_INET {
            if let Some((mut slot, now)) = reserve::<Record>() {
                write_common(slot.as_mut_ptr(), now, common, family, (from, to), flag);
                submit(slot);
                return;
            }
        } else if family != AF_INET6 {
            return;
        } else if let Some((mut slot, now)) = reserve::<LongRecord>() {
            let long = slot.as_mut_ptr();
            write_common(
                &raw mut (*long).record,
                now,
                common,
                family,
                (from, to),
                flag,
            );
            (*long).local = common.read(setting!(skc_v6_rcv_saddr));
            (*long).remote = common.read(setting!(skc_v6_daddr));
            submit(slot);
            return;
        }
        if let Some(counters) = COUNTERS.get_ptr_mut(COUNTER_SET) {
            (*counters).lost += 1;
        }
    }
}

/// # Safety
/// `record` points to a reserved slot of the ring, and `common` is what it says.
#[inline(always)]
unsafe fn write_common(
    record: *mut Record,
    now: u64,
    common: &impl Common,
    family: u16,
    (from, to): (u8, u8),
    flag: u16,
) {
    // SAFETY: the caller's promise.
    unsafe {
        write_states(record, now, family, from.into(), to.into());
        (*record).cookie = common.read(setting!(skc_cookie));
        (*record).cgroup_id = 0;
        (*record).netns = common.netns();
        (*record).local = common.read(setting!(skc_rcv_saddr));
        (*record).remote = common.read(setting!(skc_daddr));
        (*record).local_port = common.read(setting!(skc_num));
        (*record).remote_port = u16::from_be(common.read(setting!(skc_dport)));
        (*record).error = 0;
        let is_bound = common.read::<u32>(setting!(skc_bound_dev_if)) != 0;
        let bound = if is_bound { BOUND_TO_DEVICE } else { 0 };
        (*record).flags = FROM_SOCKET | flag | bound;
    }
}
