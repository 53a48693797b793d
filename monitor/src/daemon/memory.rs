//! Keeps the allocator from holding on to what one busy moment took.

/// One heap for all threads, and large blocks that are returned when they are freed. Call it before
/// other threads start.
#[cfg(target_env = "gnu")]
pub(crate) fn keep_small() {
    const LARGE: libc::c_int = 128 << 10;
    // SAFETY: it may be called at any time; setting a threshold keeps glibc from raising it.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Returns free memory to the kernel.
#[cfg(target_env = "gnu")]
pub(super) fn return_freed() {
    // SAFETY: it may be called at any time; it touches free memory alone.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Other allocators do it by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn keep_small() {}

/// Other allocators do it by themselves.
#[cfg(not(target_env = "gnu"))]
pub(super) fn return_freed() {}
