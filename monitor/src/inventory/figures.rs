//! The figures the kernel keeps anyway, at a price that does not grow with the sockets.

use super::Error;
use super::files::{Directory, columns, pairs};
use super::worker::monotonic_ns;

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
    /// Segments sent since the namespace began, retransmissions left out.
    pub(crate) segments_sent: u64,
    /// `CLOCK_MONOTONIC`: all of them were read between these two.
    pub(crate) read_from_ns: u64,
    pub(crate) read_until_ns: u64,
}

impl Figures {
    /// Reads the namespace whose /proc/net is `net`; `buffer` is scratch space worth keeping.
    pub(super) fn read(net: &Directory, buffer: &mut Vec<u8>) -> Result<Self, Error> {
        let mut figures = Self {
            read_from_ns: monotonic_ns(),
            ..Self::default()
        };
        let sockstat = net.read("sockstat", buffer)?;
        figures.take_sockstat(sockstat.unwrap_or_default())?;
        if let Some(text) = net.read("sockstat6", buffer)? {
            [figures.inuse_ipv6] =
                required("sockstat6", ["inuse"], pairs(text, "TCP6:", ["inuse"]))?;
        }
        figures.take_snmp(net.read("snmp", buffer)?.unwrap_or_default())?;
        figures.read_until_ns = monotonic_ns();
        Ok(figures)
    }

    fn take_sockstat(&mut self, text: &[u8]) -> Result<(), Error> {
        const FIELDS: [&str; 2] = ["inuse", "tw"];
        [self.inuse_ipv4, self.minisockets] =
            required("sockstat", FIELDS, pairs(text, "TCP:", FIELDS))?;
        Ok(())
    }

    fn take_snmp(&mut self, text: &[u8]) -> Result<(), Error> {
        const FIELDS: [&str; 3] = ["CurrEstab", "InSegs", "OutSegs"];
        let established;
        [established, self.segments_received, self.segments_sent] =
            required("snmp", FIELDS, columns(text, "Tcp:", FIELDS))?;
        // A socket that changes CPU while the kernel adds its counters up can leave -1.
        self.established_or_close_wait = established.cast_signed().max(0).cast_unsigned();
        Ok(())
    }
}

/// Every value found under its name, or the name of the first that is missing.
pub(super) fn required<const N: usize>(
    file: &'static str,
    names: [&'static str; N],
    found: [Option<u64>; N],
) -> Result<[u64; N], Error> {
    for (field, value) in names.into_iter().zip(found) {
        if value.is_none() {
            return Err(Error::Parse { file, field });
        }
    }
    Ok(found.map(Option::unwrap_or_default))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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

    /// The figures of a namespace whose files have these texts.
    fn figures(sockstat: &str, snmp: &str) -> Result<Figures, Error> {
        let mut figures = Figures::default();
        figures.take_sockstat(sockstat.as_bytes())?;
        figures.take_snmp(snmp.as_bytes())?;
        Ok(figures)
    }

    #[test]
    fn figures_are_found_by_name() {
        let expected = Figures {
            inuse_ipv4: 13,
            minisockets: 3,
            established_or_close_wait: 14,
            segments_received: 61,
            segments_sent: 58,
            ..Figures::default()
        };
        assert_eq!(figures(SOCKSTAT, SNMP).unwrap(), expected);
        assert_eq!(pairs(SOCKSTAT6.as_bytes(), "TCP6:", ["inuse"]), [Some(8)]);
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = figures("TCP: inuse 13 orphan 0\n", SNMP).unwrap_err();
        assert_eq!(error.to_string(), "sockstat has no number for tw");
        let snmp = SNMP.replace("CurrEstab", "Other");
        let error = figures(SOCKSTAT, &snmp).unwrap_err();
        assert_eq!(error.to_string(), "snmp has no number for CurrEstab");
    }

    #[test]
    fn a_count_below_zero_is_none() {
        let snmp = SNMP.replace(" 14 61", " 18446744073709551615 61");
        let figures = figures(SOCKSTAT, &snmp).unwrap();
        assert_eq!(figures.established_or_close_wait, 0);
        assert_eq!(figures.segments_received, 61);
    }

    #[test]
    fn the_running_kernel_has_every_figure() {
        let before = monotonic_ns();
        let net = Directory::open(Path::new("/proc/thread-self/net")).unwrap();
        let figures = Figures::read(&net, &mut Vec::new()).unwrap();
        assert!(before <= figures.read_from_ns);
        assert!(figures.read_from_ns < figures.read_until_ns);
        assert!(figures.read_until_ns <= monotonic_ns());
    }
}
