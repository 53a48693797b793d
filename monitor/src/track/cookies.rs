//! Tables keyed by socket cookie.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table with a value for each socket.
pub(super) type ByCookie<T> = HashMap<u64, T, BuildHasherDefault<CookieHasher>>;

/// Spreads cookies over a table with one multiplication. The kernel counts cookies up
/// (`__sock_gen_cookie()` in `net/core/sock_diag.c`), so nobody outside can choose colliding ones
/// and the standard library's keyed hash would be spent for nothing.
#[derive(Debug, Default)]
pub(super) struct CookieHasher(u64);

impl Hasher for CookieHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, cookie: u64) {
        // 2^64 divided by the golden ratio; the rotation brings the well-mixed high bits down to
        // where the table takes its slot from.
        let mixed = (self.0 ^ cookie).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed.rotate_left(32);
    }
}
