//! The ring buffers that take the records, and the wakeup of their reader.
//!
//! CPUs that write into one ring take its lock and its position from each other. With both of two
//! CPUs at work that costs as much as the rest of the program, so that CPUs are spread over several
//! rings. The reader merges them by the time in each record.
#![expect(
    clippy::inline_always,
    reason = "the verifier follows a pointer's BTF type through one function only"
)]

use core::ptr;

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::maps::{Array, RingBuf};

use crate::settings::setting;

// Userspace sets the sizes before it loads the object.
#[map]
static RECORDS_0: RingBuf = RingBuf::with_byte_size(1 << 23, 0);
#[map]
static RECORDS_1: RingBuf = RingBuf::with_byte_size(1 << 12, 0);
#[map]
static RECORDS_2: RingBuf = RingBuf::with_byte_size(1 << 12, 0);
#[map]
static RECORDS_3: RingBuf = RingBuf::with_byte_size(1 << 12, 0);

/// 1 while the reader of the rings sleeps and wants to be woken.
#[map]
static SLEEPING: Array<u32> = Array::with_max_entries(1, 0);

/// Room for a record in this CPU's ring, and the time for it (`CLOCK_MONOTONIC`, nanoseconds). None
/// where the ring is full.
///
/// The time is read before the room is taken: so every record that lies before this one in its ring has
/// an earlier time than any later transition of this one's socket, and the reader can merge by time
/// without turning two transitions of a socket round.
#[inline(always)]
pub(crate) fn reserve<T: 'static>() -> Option<(RingBufEntry<T>, u64)> {
    // SAFETY: the helpers read a clock and a number.
    let (now, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    let ring = cpu & setting!(ring_mask);
    let slot = if ring & 2 == 0 {
        if ring & 1 == 0 {
            RECORDS_0.reserve(0)
        } else {
            RECORDS_1.reserve(0)
        }
    } else if ring & 1 == 0 {
        RECORDS_2.reserve(0)
    } else {
        RECORDS_3.reserve(0)
    };
    slot.map(|slot| (slot, now))
}

/// Hands a record to the reader, and wakes the reader once if it sleeps.
#[inline(always)]
pub(crate) fn submit<T>(slot: RingBufEntry<T>) {
    slot.submit(wakeup());
}

/// The look at the map is no call: the verifier puts the address in.
#[inline(always)]
fn wakeup() -> u64 {
    let Some(sleeping) = SLEEPING.get_ptr_mut(0) else {
        return u64::from(BPF_RB_NO_WAKEUP);
    };
    // SAFETY: the map's value. Programs on other CPUs may clear it, too: the reader is then woken
    // twice.
    unsafe {
        if ptr::read_volatile(sleeping) == 0 {
            return u64::from(BPF_RB_NO_WAKEUP);
        }
        ptr::write_volatile(sleeping, 0);
    }
    u64::from(BPF_RB_FORCE_WAKEUP)
}
