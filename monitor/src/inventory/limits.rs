//! The sysctls of a namespace that decide how long its sockets linger.

use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use super::Error;
use super::figures::required;
use super::files::{Directory, columns};
use crate::tcp::{Limits, TwReuse};

/// Reads the calling thread's namespace, whose /proc/net is `net`; `buffer` is scratch space worth
/// keeping. A sysctl that the kernel does not have takes the value of kernels without it.
pub(super) fn read(
    proc_root: &Path,
    net: &Directory,
    buffer: &mut Vec<u8>,
) -> Result<Limits, Error> {
    let time_wait_overflows = time_wait_overflows(net, buffer)?;
    // Opened anew in each namespace: a directory of /proc/sys shows the one it was opened in.
    let directory = Directory::open(&proc_root.join("sys/net/ipv4"))?;
    let mut sysctls = Sysctls { directory, buffer };
    let usual = Limits::default();
    Ok(Limits {
        syn_retries: sysctls.number("tcp_syn_retries", usual.syn_retries)?,
        syn_linear_timeouts: sysctls.number("tcp_syn_linear_timeouts", 0)?,
        synack_retries: sysctls.number("tcp_synack_retries", usual.synack_retries)?,
        orphan_retries: sysctls.number("tcp_orphan_retries", usual.orphan_retries)?,
        retries2: sysctls.number("tcp_retries2", usual.retries2)?,
        fin_timeout: sysctls.time("tcp_fin_timeout", Duration::from_secs, usual.fin_timeout)?,
        rto_max: sysctls.time("tcp_rto_max_ms", Duration::from_millis, usual.rto_max)?,
        max_tw_buckets: sysctls.value("tcp_max_tw_buckets", usual.max_tw_buckets, tw_buckets)?,
        tw_reuse: sysctls.value("tcp_tw_reuse", usual.tw_reuse, tw_reuse)?,
        tw_reuse_delay: sysctls.time(
            "tcp_tw_reuse_delay",
            Duration::from_millis,
            usual.tw_reuse_delay,
        )?,
        has_timestamps: sysctls.number("tcp_timestamps", 1_u8)? != 0,
        ephemeral_ports: sysctls.value("ip_local_port_range", usual.ephemeral_ports, |range| {
            let (first, last) = range.split_once('\t')?;
            ports(first, last)
        })?,
        reserved_ports: sysctls.value("ip_local_reserved_ports", Vec::new(), port_list)?,
        time_wait_overflows,
    })
}

fn time_wait_overflows(net: &Directory, buffer: &mut Vec<u8>) -> Result<u64, Error> {
    const FIELD: [&str; 1] = ["TCPTimeWaitOverflow"];
    let text = net.read("netstat", buffer)?.unwrap_or_default();
    let [overflows] = required("netstat", FIELD, columns(text, "TcpExt:", FIELD))?;
    Ok(overflows)
}

fn tw_reuse(text: &str) -> Option<TwReuse> {
    match text {
        "0" => Some(TwReuse::Never),
        "1" => Some(TwReuse::Always),
        "2" => Some(TwReuse::Loopback),
        _ => None,
    }
}

/// Below zero stands for no limit: the kernel takes the number for an unsigned one
/// (`inet_twsk_alloc()` in `net/ipv4/inet_timewait_sock.c`, Linux 6.18).
fn tw_buckets(text: &str) -> Option<u64> {
    let buckets: i32 = text.parse().ok()?;
    Some(buckets.cast_unsigned().into())
}

/// `8080,9148-9200`, in ascending order and merged (`proc_do_large_bitmap()` in `kernel/sysctl.c`).
fn port_list(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    text.split(',')
        .filter(|range| !range.is_empty())
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            ports(first, last)
        })
        .collect()
}

fn ports(first: &str, last: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(first..=last)
}

/// The files of one directory, read one after the other.
struct Sysctls<'a> {
    directory: Directory,
    buffer: &'a mut Vec<u8>,
}

impl Sysctls<'_> {
    fn number<T: FromStr>(&mut self, name: &'static str, missing: T) -> Result<T, Error> {
        self.value(name, missing, |text| text.parse().ok())
    }

    /// Of 32 bits. Some may be set below zero, where they work as zero does.
    fn time(
        &mut self,
        name: &'static str,
        unit: fn(u64) -> Duration,
        missing: Duration,
    ) -> Result<Duration, Error> {
        self.value(name, missing, |text| {
            let number: i32 = text.parse().ok()?;
            Some(unit(number.max(0).cast_unsigned().into()))
        })
    }

    /// The text of one file, decoded; `missing` where the kernel has no such file.
    fn value<T>(
        &mut self,
        name: &'static str,
        missing: T,
        decode: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Error> {
        let Some(text) = self.directory.read(name, self.buffer)? else {
            return Ok(missing);
        };
        let text = str::from_utf8(text).ok();
        text.and_then(|text| decode(text.trim_ascii()))
            .ok_or(Error::Parse {
                file: "/proc/sys/net/ipv4",
                field: name,
            })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    // The end of the first two lines on Linux 6.18.
    const NETSTAT: &str = "\
TcpExt: SyncookiesSent TW TCPTimeWaitOverflow TCPReqQFullDoCookies
TcpExt: 0 641 17 1
IpExt: InNoRoutes
IpExt: 0
";

    /// A /proc of our own, removed when dropped.
    struct Proc(PathBuf);

    impl Proc {
        fn new(test: &str) -> Self {
            let name = format!("tcplinger-limits-{test}-{}", std::process::id());
            let root = std::env::temp_dir().join(name);
            fs::create_dir_all(root.join("sys/net/ipv4")).unwrap();
            fs::create_dir_all(root.join("thread-self/net")).unwrap();
            fs::write(root.join("thread-self/net/netstat"), NETSTAT).unwrap();
            Self(root)
        }

        fn set(&self, name: &str, text: &str) {
            fs::write(self.0.join("sys/net/ipv4").join(name), text).unwrap();
        }

        fn limits(&self) -> Result<Limits, Error> {
            let net = Directory::open(&self.0.join("thread-self/net")).unwrap();
            read(&self.0, &net, &mut Vec::new())
        }
    }

    impl Drop for Proc {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn every_sysctl_is_read_in_its_unit() {
        let proc = Proc::new("all");
        for (name, text) in [
            ("tcp_syn_retries", "1\n"),
            ("tcp_syn_linear_timeouts", "2\n"),
            ("tcp_synack_retries", "3\n"),
            ("tcp_orphan_retries", "4\n"),
            ("tcp_retries2", "5\n"),
            ("tcp_fin_timeout", "6\n"),
            ("tcp_rto_max_ms", "7000\n"),
            ("tcp_max_tw_buckets", "8\n"),
            ("tcp_tw_reuse", "1\n"),
            ("tcp_tw_reuse_delay", "1500\n"),
            ("tcp_timestamps", "0\n"),
            ("ip_local_port_range", "40000\t40100\n"),
            ("ip_local_reserved_ports", "8080,9148-9200\n"),
        ] {
            proc.set(name, text);
        }
        let expected = Limits {
            syn_retries: 1,
            syn_linear_timeouts: 2,
            synack_retries: 3,
            orphan_retries: 4,
            retries2: 5,
            fin_timeout: Duration::from_secs(6),
            rto_max: Duration::from_secs(7),
            max_tw_buckets: 8,
            tw_reuse: TwReuse::Always,
            tw_reuse_delay: Duration::from_millis(1500),
            has_timestamps: false,
            ephemeral_ports: 40_000..=40_100,
            reserved_ports: vec![8080..=8080, 9148..=9200],
            time_wait_overflows: 17,
        };
        assert_eq!(proc.limits().unwrap(), expected);
    }

    #[test]
    fn an_older_kernel_has_the_old_values() {
        let expected = Limits {
            syn_linear_timeouts: 0,
            time_wait_overflows: 17,
            ..Limits::default()
        };
        assert_eq!(Proc::new("older").limits().unwrap(), expected);
    }

    #[test]
    fn what_is_below_zero_means_what_it_means_to_the_kernel() {
        let proc = Proc::new("negative");
        proc.set("tcp_max_tw_buckets", "-1\n");
        proc.set("tcp_fin_timeout", "-60\n");
        let limits = proc.limits().unwrap();
        assert_eq!(limits.max_tw_buckets, u64::from(u32::MAX));
        assert_eq!(limits.fin_timeout, Duration::ZERO);
    }

    #[test]
    fn a_malformed_sysctl_is_named() {
        for (name, text) in [
            ("tcp_syn_retries", "\n"),
            ("tcp_fin_timeout", "1 2\n"),
            ("tcp_tw_reuse", "3\n"),
            ("ip_local_port_range", "40100\t40000\n"),
            ("ip_local_reserved_ports", "1-2-3\n"),
        ] {
            let proc = Proc::new("malformed");
            proc.set(name, text);
            let error = proc.limits().unwrap_err();
            let expected = format!("/proc/sys/net/ipv4 has no number for {name}");
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_long_list_is_read_whole() {
        let proc = Proc::new("long");
        let ports: Vec<String> = (1..5000)
            .step_by(2)
            .map(|port: u16| port.to_string())
            .collect();
        proc.set("ip_local_reserved_ports", &ports.join(","));
        assert_eq!(proc.limits().unwrap().reserved_ports.len(), 2500);
    }

    #[test]
    fn the_running_kernel_has_limits() {
        let net = Directory::open(Path::new("/proc/thread-self/net")).unwrap();
        let limits = read(Path::new("/proc"), &net, &mut Vec::new()).unwrap();
        assert!(limits.max_tw_buckets > 0 && limits.ephemeral_ports.start() > &0);
    }
}
