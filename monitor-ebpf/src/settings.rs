//! What every program needs: the frozen [`SETTINGS`], loads by the offsets in them, and a socket's
//! cookie. No program knows an offset of its own.
#![expect(
    clippy::inline_always,
    reason = "the verifier follows a pointer's BTF type through one function only"
)]

use core::ptr;

use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use monitor_ebpf::Settings;

#[unsafe(no_mangle)]
pub(crate) static SETTINGS: Settings = Settings::NONE;

pub(crate) const IPPROTO_TCP: u16 = 6;
pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;

/// One field of [`SETTINGS`].
macro_rules! setting {
    ($field:ident) => {
        $crate::settings::frozen(&$crate::settings::SETTINGS.$field)
    };
}
pub(crate) use setting;

/// Volatile: the value is not the one the compiler sees.
#[inline(always)]
pub(crate) fn frozen(field: &u32) -> u32 {
    // SAFETY: a reference is a valid pointer.
    unsafe { ptr::read_volatile(field) }
}

/// Loads a `T` at an offset of a kernel structure.
///
/// # Safety
/// `base` is a pointer that the verifier knows by its BTF type, and a `T` lies at `offset` of it.
/// (A stale or null pointer reads as zero: the JIT guards such loads.)
#[inline(always)]
pub(crate) unsafe fn load<T>(base: *const u8, offset: u32) -> T {
    // SAFETY: the caller's promise.
    unsafe { ptr::read_volatile(base.add(offset as usize).cast()) }
}

/// The socket's cookie: read where it has one, else made.
///
/// # Safety
/// `sk` is a `struct sock` that the verifier knows by its BTF type, and `has_cookie` is set.
#[inline(always)]
pub(crate) unsafe fn cookie(sk: *const u8) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        match load(sk, setting!(skc_cookie)) {
            0 => bpf_get_socket_cookie(sk.cast_mut().cast()),
            cookie => cookie,
        }
    }
}
