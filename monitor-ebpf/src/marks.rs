//! Which of two programs on one tracepoint takes an event, told by marks in memory of the CPU.
//!
//! The kernel runs no program inside itself on one CPU (`__bpf_trace_run()` in
//! `kernel/trace/bpf_trace.c`, Linux 6.18). A softirq can interrupt the first program, and the
//! first program is then not called for what happens in that softirq. The second program is, and
//! must take those events, and no others. So the first program leaves a mark of each event that it
//! takes, and the second one looks for the mark of each event that it is called for.
//!
//! Events in a softirq run from start to end and are not interrupted by others. Marks therefore
//! pile up as on a stack: what lies above an event's own mark belongs to softirqs that interrupted
//! the second program, where nobody is called to remove it. Such stale marks are harmless. They go
//! with the mark below them, with the next event that nothing can be below of
//! ([`Event::is_outermost`]), or by their age. A mark that cannot be kept because [`MARKS`] stale
//! ones are in its way leads to a duplicate, never to a loss.
//!
//! Kernels before that check run both programs for every event, one inside the other. The order of
//! the stores is right for them, too.
#![expect(
    clippy::inline_always,
    reason = "the verifier follows a pointer's BTF type through one function only"
)]

/// Marks that one CPU can hold. Two are in use at once; the rest is for stale ones. A power of two:
/// the program masks an index.
pub const MARKS: usize = 8;

/// Age in ticks from which a mark is stale: between 64 and 640 ms. Far longer than a softirq may
/// take (`MAX_SOFTIRQ_TIME`, 2 ms), and long enough for a virtual CPU that is not scheduled.
pub const STALE_TICKS: u32 = 64;

/// One mark.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Address of the `struct sock`; 0 for none.
    pub socket: u64,
    /// [`Event::transition`], and [`Event::ticks`] in the upper half.
    pub event: u64,
}

/// The marks of one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The oldest first.
    pub marks: [Mark; MARKS],
    /// How many of them there are.
    pub depth: u64,
}

/// What tells the events apart that can be under way on one CPU at once, and from those before them.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Address of the `struct sock`. In a program it is a pointer, with which the verifier allows no
    /// arithmetic.
    pub socket: u64,
    /// State left and state entered.
    pub transition: u32,
    /// The lower half of the kernel's tick counter.
    pub ticks: u32,
    /// It certainly interrupts no other event.
    pub is_outermost: bool,
}

/// The [`Marks`] of this CPU. A softirq may change them between any two calls.
pub trait Memory {
    /// [`Marks::depth`].
    fn depth(&self) -> u64;
    /// Sets [`Marks::depth`].
    fn set_depth(&self, depth: u64);
    /// [`Mark::socket`] of a slot below [`MARKS`].
    fn socket(&self, slot: u64) -> u64;
    /// Sets [`Mark::socket`].
    fn set_socket(&self, slot: u64, socket: u64);
    /// [`Mark::event`] of a slot below [`MARKS`].
    fn event(&self, slot: u64) -> u64;
    /// Sets [`Mark::event`].
    fn set_event(&self, slot: u64, event: u64);
}

/// For the first program: leaves a mark of the event.
#[inline(always)]
pub fn leave(memory: &impl Memory, event: &Event) {
    let mut slot = memory.depth();
    if slot != 0 {
        let newest = slot - 1;
        // One without a socket is just being left.
        let is_aged = || is_stale(memory.event(newest), event) && memory.socket(newest) != 0;
        if event.is_outermost || is_aged() {
            slot = 0;
        } else if slot >= MARKS as u64 {
            // Of all marks the newest is the least likely to be looked for.
            slot = MARKS as u64 - 1;
        }
    }
    // What interrupts this must not find here what was here before, and leaves its own marks above.
    memory.set_socket(slot, 0);
    memory.set_depth(slot + 1);
    memory.set_event(
        slot,
        u64::from(event.ticks) << 32 | u64::from(event.transition),
    );
    memory.set_socket(slot, event.socket);
}

/// For the second program: removes the mark of the event; false where there is none, because the first
/// program was not called for it.
#[inline(always)]
pub fn take(memory: &impl Memory, event: &Event) -> bool {
    let depth = memory.depth();
    for back in 1..=MARKS as u64 {
        if back > depth {
            break;
        }
        let slot = depth - back;
        // One after the other: the compiler would make one comparison of both, by arithmetic.
        if memory.socket(slot) != event.socket {
            continue;
        }
        let marked = memory.event(slot);
        if is_of(marked, event) && !is_stale(marked, event) {
            memory.set_depth(slot);
            return true;
        }
    }
    false
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
const fn is_of(marked: u64, event: &Event) -> bool {
    marked as u32 == event.transition
}

#[inline(always)]
const fn is_stale(marked: u64, event: &Event) -> bool {
    event.ticks.wrapping_sub((marked >> 32) as u32) > STALE_TICKS
}

#[cfg(test)]
mod tests;
