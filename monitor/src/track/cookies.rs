//! Tables keyed by socket cookie, or by the inode number of a namespace.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

type Build = BuildHasherDefault<NumberHasher>;

/// A table with a value for each socket.
pub(super) type ByCookie<T> = HashMap<u64, T, Build>;

/// A set of sockets.
pub(super) type Cookies = HashSet<u64, Build>;

/// A table with a value for each network namespace.
pub(super) type ByNetns<T> = HashMap<u32, T, Build>;

/// Spreads numbers over a table with one multiplication. The kernel counts cookies and inodes up
/// (`__sock_gen_cookie()` in `net/core/sock_diag.c`), so nobody outside can choose colliding ones
/// and the standard library's keyed hash would be spent for nothing.
#[derive(Debug, Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio; the rotation brings the well-mixed high bits down to
        // where the table takes its slot from.
        let mixed = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed.rotate_left(32);
    }
}
