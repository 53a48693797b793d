//! The figures the kernel keeps anyway, at a price that does not grow with the sockets.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::Error;

/// One namespace's figures. Each is exact when nothing moves; they are read one after the other,
/// and each is a sum over CPUs, so a busy namespace's are a few sockets apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Full IPv4 sockets that are listed in a hash table: listeners and connections, neither
    /// requests nor minisockets (`sock_prot_inuse_add()` in `net/ipv4/inet_hashtables.c`).
    pub(crate) inuse_ipv4: u64,
    /// The same for IPv6, v4-mapped sockets included; 0 where IPv6 is off.
    pub(crate) inuse_ipv6: u64,
    /// Minisockets of both families, in either substate (`tw`).
    pub(crate) minisockets: u64,
    /// `CurrEstab`. Kernels older than June 2024 (6.10, and the stable releases of that time)
    /// leave `CLOSE_WAIT` out (`tcp_set_state()` in `net/ipv4/tcp.c`).
    pub(crate) established_or_close_wait: u64,
    /// Segments received since the namespace began, bad ones included.
    pub(crate) segments_received: u64,
}

impl Figures {
    /// Reads the calling thread's namespace; `text` is scratch space worth keeping.
    pub(super) fn read(text: &mut String) -> Result<Self, Error> {
        let mut figures = Self::default();
        load(Path::new("/proc/thread-self/net/sockstat"), text)?;
        (figures.inuse_ipv4, figures.minisockets) = parse_sockstat(text)?;
        figures.inuse_ipv6 = match load(Path::new("/proc/thread-self/net/sockstat6"), text) {
            Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => 0,
            loaded => loaded.and_then(|()| parse_sockstat6(text))?,
        };
        load(Path::new("/proc/thread-self/net/snmp"), text)?;
        (figures.established_or_close_wait, figures.segments_received) = parse_snmp(text)?;
        Ok(figures)
    }
}

pub(super) fn load(path: &Path, text: &mut String) -> Result<(), Error> {
    text.clear();
    File::open(path)
        .and_then(|mut file| file.read_to_string(text))
        .map_err(Error::reading(path))?;
    Ok(())
}

fn parse_sockstat(text: &str) -> Result<(u64, u64), Error> {
    let field = |name| required("sockstat", name, pair(text, "TCP:", name));
    Ok((field("inuse")?, field("tw")?))
}

fn parse_sockstat6(text: &str) -> Result<u64, Error> {
    required("sockstat6", "inuse", pair(text, "TCP6:", "inuse"))
}

fn parse_snmp(text: &str) -> Result<(u64, u64), Error> {
    let field = |name| required("snmp", name, column(text, "Tcp:", name));
    // A socket that changes CPU while the kernel adds its counters up can leave -1.
    let established = field("CurrEstab")?.cast_signed().max(0).cast_unsigned();
    Ok((established, field("InSegs")?))
}

pub(super) fn required(
    file: &'static str,
    field: &'static str,
    word: Option<&str>,
) -> Result<u64, Error> {
    word.and_then(|word| word.parse().ok())
        .ok_or(Error::Parse { file, field })
}

/// The word after `name` in the line that starts with `label`.
fn pair<'a>(text: &'a str, label: &str, name: &str) -> Option<&'a str> {
    let mut words = text
        .lines()
        .find_map(|line| line.strip_prefix(label))?
        .split(' ');
    words.find(|word| *word == name)?;
    words.next()
}

/// The value under `name`, in the two lines that start with `label`: names, then values.
pub(super) fn column<'a>(text: &'a str, label: &str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(label));
    let at = lines.next()?.split(' ').position(|word| word == name)?;
    lines.next()?.split(' ').nth(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKSTAT: &str = "\
sockets: used 42
TCP: inuse 13 orphan 0 tw 3 alloc 25 mem 249
UDP: inuse 1 mem 0
";
    const SOCKSTAT6: &str = "TCP6: inuse 8\nUDP6: inuse 0\nFRAG6: inuse 0 memory 0\n";
    const SNMP: &str = "\
Ip: Forwarding DefaultTTL InReceives
Ip: 2 64 92
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets \
CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors
Tcp: 1 200 120000 -1 12 10 0 0 14 61 58 0 0 0 0
";

    #[test]
    fn figures_are_found_by_name() {
        assert_eq!(parse_sockstat(SOCKSTAT).unwrap(), (13, 3));
        assert_eq!(parse_sockstat6(SOCKSTAT6).unwrap(), 8);
        assert_eq!(parse_snmp(SNMP).unwrap(), (14, 61));
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = parse_sockstat("TCP: inuse 13 orphan 0\n").unwrap_err();
        assert_eq!(error.to_string(), "sockstat has no number for tw");
        let error = parse_snmp(&SNMP.replace("CurrEstab", "Other")).unwrap_err();
        assert_eq!(error.to_string(), "snmp has no number for CurrEstab");
    }

    #[test]
    fn a_count_below_zero_is_none() {
        let text = SNMP.replace(" 14 61", " 18446744073709551615 61");
        assert_eq!(parse_snmp(&text).unwrap(), (0, 61));
    }

    #[test]
    fn the_running_kernel_has_every_figure() {
        Figures::read(&mut String::new()).unwrap();
    }
}
