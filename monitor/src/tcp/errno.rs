//! The errors a TCP socket can die of: Linux's numbers (`include/uapi/asm-generic/errno*.h`, 6.18).

use std::fmt;

/// A positive errno; shown by its name, or as its number where it is none of TCP's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) u32);

macro_rules! errnos {
    ($($name:ident = $number:literal,)*) => {
        $(pub(crate) const $name: u32 = $number;)*

        const NAMES: &[(u32, &str)] = &[$(($name, stringify!($name)),)*];
    };
}

errnos! {
    EPERM = 1,
    ENOMEM = 12,
    EACCES = 13,
    EINVAL = 22,
    EPIPE = 32,
    ENONET = 64,
    EPROTO = 71,
    EMSGSIZE = 90,
    ENOPROTOOPT = 92,
    EOPNOTSUPP = 95,
    ENETDOWN = 100,
    ENETUNREACH = 101,
    ECONNABORTED = 103,
    ECONNRESET = 104,
    ETIMEDOUT = 110,
    ECONNREFUSED = 111,
    EHOSTDOWN = 112,
    EHOSTUNREACH = 113,
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_where_known_and_numbers_elsewhere() {
        assert_eq!(Errno(104).to_string(), "ECONNRESET");
        assert_eq!(Errno(110).to_string(), "ETIMEDOUT");
        assert_eq!(Errno(4000).to_string(), "4000");
        assert_eq!(Errno(u32::MAX).to_string(), "4294967295");
    }
}
