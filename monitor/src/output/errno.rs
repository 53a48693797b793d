//! Names of the errors a TCP socket can die of.

use std::fmt;

/// A positive errno as its name, or as its number where it is none of TCP's.
pub(super) struct Errno(pub(super) u32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match i32::try_from(self.0).unwrap_or(0) {
            libc::ECONNABORTED => "ECONNABORTED",
            libc::ECONNREFUSED => "ECONNREFUSED",
            libc::ECONNRESET => "ECONNRESET",
            libc::EACCES => "EACCES",
            libc::EHOSTDOWN => "EHOSTDOWN",
            libc::EHOSTUNREACH => "EHOSTUNREACH",
            libc::EINVAL => "EINVAL",
            libc::EMSGSIZE => "EMSGSIZE",
            libc::ENETDOWN => "ENETDOWN",
            libc::ENETUNREACH => "ENETUNREACH",
            libc::ENOMEM => "ENOMEM",
            libc::ENOPROTOOPT => "ENOPROTOOPT",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            libc::EPERM => "EPERM",
            libc::EPIPE => "EPIPE",
            libc::EPROTO => "EPROTO",
            libc::ETIMEDOUT => "ETIMEDOUT",
            _ => return write!(f, "{}", self.0),
        };
        f.write_str(name)
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
