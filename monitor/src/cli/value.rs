//! What the text of a flag means: durations, sizes, ports, networks, states, namespaces.
//!
//! Every refusal says what is wrong and gives a text that works.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use jiff::SignedDuration;

use crate::tcp::State;

/// A network namespace as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Netns {
    /// File name under `/run/netns`, or `host` for the initial namespace.
    Name(String),
    /// Inode number.
    Inode(u32),
}

/// A time above zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let example = "give a time such as 500ms, 10s, 2m or 1h";
    let signed: SignedDuration = text
        .parse()
        .map_err(|_| format!("not a number with a unit; {example}"))?;
    match Duration::try_from(signed) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err(format!("the time must be above zero; {example}")),
    }
}

/// A time from 100 ms to an hour.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if (Duration::from_millis(100)..=Duration::from_hours(1)).contains(&time) {
        Ok(time)
    } else {
        Err("out of range; give 100ms to 1h, for example 1s".to_owned())
    }
}

/// A share from 0.01 to 100 percent, with or without the sign.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    text.strip_suffix('%')
        .unwrap_or(text)
        .parse()
        .ok()
        .filter(|share| (0.01..=100.0).contains(share))
        .ok_or_else(|| "give a number from 0.01 to 100, for example 1 or 0.5".to_owned())
}

/// Bytes of a ring buffer: a power of two (`ringbuf_map_alloc()` in `kernel/bpf/ringbuf.c` takes
/// nothing else) from 64 KiB to 1 GiB.
pub(super) fn ring_size(text: &str) -> Result<u32, String> {
    let example = "give a power of two from 64KiB to 1GiB, for example 16MiB";
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text
        .trim_start_matches(digits)
        .to_ascii_lowercase()
        .as_str()
    {
        "" | "b" => 0,
        "kib" => 10,
        "mib" => 20,
        "gib" => 30,
        unit => return Err(format!("unknown unit {unit:?} (KiB, MiB, GiB); {example}")),
    };
    let number: u32 = digits
        .parse()
        .map_err(|_| format!("not a whole number of bytes; {example}"))?;
    match number.checked_mul(1 << shift) {
        Some(bytes) if !(1 << 16..=1 << 30).contains(&bytes) => {
            Err(format!("out of range; {example}"))
        }
        Some(bytes) if bytes.is_power_of_two() => Ok(bytes),
        Some(_) => Err(format!("the kernel takes powers of two only; {example}")),
        None => Err(format!("out of range; {example}")),
    }
}

/// A state, in this tool's spelling or that of `ss`.
pub(super) fn state(text: &str) -> Result<State, String> {
    text.parse().map_err(|unknown| {
        let typed = text.to_ascii_lowercase().replace('-', "_");
        let names = State::ALL.map(State::name);
        let nearest = names
            .into_iter()
            .min_by_key(|name| strsim::damerau_levenshtein(&typed, name))
            .unwrap_or_default();
        format!(
            "{unknown}; did you mean `{nearest}`? The states are {}",
            names.join(", ")
        )
    })
}

/// A port that a transition can show.
pub(super) fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => {
            Err("not a port; give a number from 1 to 65535, for example 443".to_owned())
        }
        Ok(port) => Ok(port),
    }
}

/// A network; host bits are dropped, and a bare address stands for itself alone.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let why = match text.split_once('/') {
        _ if text.parse::<SocketAddr>().is_ok() => {
            "that has a port, for which there are --local-port and --remote-port".to_owned()
        }
        Some((address, prefix)) => match address.parse::<IpAddr>() {
            Ok(address) => {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                match prefix.parse().map(|prefix| IpNet::new(address, prefix)) {
                    Ok(Ok(network)) => return Ok(network.trunc()),
                    _ => format!("the prefix {prefix:?} is not a number from 0 to {bits}"),
                }
            }
            Err(_) => format!("{address:?} is not an IP address"),
        },
        None => "that is not an IP address".to_owned(),
    };
    Err(format!(
        "{why}; give a network or an address, for example 10.0.0.0/8 or 2001:db8::1"
    ))
}

/// A namespace: digits are an inode number, all else a name.
pub(super) fn netns(text: &str) -> Result<Netns, String> {
    let example =
        "give a name that `ip netns` lists, `host`, or an inode number such as 4026531840";
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        return match text.parse() {
            Ok(0) | Err(_) => Err(format!("no namespace has this inode number; {example}")),
            Ok(inode) => Ok(Netns::Inode(inode)),
        };
    }
    // What `ip netns add` refuses too: it must be one file name under /run/netns.
    let is_name =
        !matches!(text, "" | "." | "..") && text.len() <= 255 && !text.contains(['/', '\0']);
    if is_name {
        Ok(Netns::Name(text.to_owned()))
    } else {
        Err(format!("neither a file name nor a number; {example}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_a_positive_value() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_mins(90)));
        for wrong in ["10", "", "-1s", "0s", "1 fortnight", "1s ago"] {
            let refusal = duration(wrong).expect_err(wrong);
            assert!(
                refusal.contains("500ms, 10s, 2m or 1h"),
                "{wrong}: {refusal}"
            );
        }
        assert!(interval("99ms").is_err() && interval("61m").is_err());
        assert_eq!(interval("100ms"), Ok(Duration::from_millis(100)));
    }

    #[test]
    fn shares_are_bounded() {
        assert_eq!(percent("0.5"), Ok(0.5));
        assert_eq!(percent("100%"), Ok(100.0));
        for wrong in ["0", "100.1", "NaN", "inf", "-1", "", "%", "one"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ring_sizes_are_powers_of_two() {
        assert_eq!(ring_size("65536"), Ok(1 << 16));
        assert_eq!(ring_size("64KiB"), Ok(1 << 16));
        assert_eq!(ring_size("16mib"), Ok(1 << 24));
        assert_eq!(ring_size("1GiB"), Ok(1 << 30));
        for wrong in [
            "",
            "MiB",
            "15MiB",
            "32KiB",
            "2GiB",
            "16MB",
            "16 MiB",
            "4294967296GiB",
            "1.5MiB",
        ] {
            let refusal = ring_size(wrong).expect_err(wrong);
            assert!(refusal.contains("for example 16MiB"), "{wrong}: {refusal}");
        }
    }

    #[test]
    fn a_mistyped_state_names_the_nearest() {
        assert_eq!(state("TIME-WAIT"), Ok(State::TimeWait));
        assert_eq!(state("fin-wait-2"), Ok(State::FinWait2));
        for (typed, meant) in [
            ("time_wiat", "time_wait"),
            ("CLOSE-WAI", "close_wait"),
            ("lsiten", "listen"),
        ] {
            let refusal = state(typed).expect_err(typed);
            assert!(
                refusal.contains(&format!("did you mean `{meant}`?")),
                "{refusal}"
            );
        }
    }

    #[test]
    fn networks_say_what_is_wrong() {
        let accepted = |text: &str| network(text).map(|network| network.to_string());
        assert_eq!(accepted("10.1.2.3/8"), Ok("10.0.0.0/8".to_owned()));
        assert_eq!(accepted("10.1.2.3"), Ok("10.1.2.3/32".to_owned()));
        assert_eq!(accepted("2001:db8::1"), Ok("2001:db8::1/128".to_owned()));
        assert_eq!(accepted("::/0"), Ok("::/0".to_owned()));
        for (wrong, why) in [
            ("10.0.0.0/33", "\"33\" is not a number from 0 to 32"),
            ("::/129", "from 0 to 128"),
            ("10.0.0/8", "\"10.0.0\" is not an IP address"),
            ("localhost", "not an IP address"),
            ("10.0.0.1:80", "--remote-port"),
            ("", "not an IP address"),
        ] {
            let refusal = network(wrong).expect_err(wrong);
            assert!(
                refusal.contains(why) && refusal.contains("10.0.0.0/8"),
                "{refusal}"
            );
        }
    }

    #[test]
    fn ports_and_namespaces() {
        assert_eq!(port("1"), Ok(1));
        assert!(
            ["0", "65536", "-1", "http", ""]
                .iter()
                .all(|text| port(text).is_err())
        );
        assert_eq!(netns("4026531840"), Ok(Netns::Inode(4_026_531_840)));
        assert_eq!(netns("web-1"), Ok(Netns::Name("web-1".to_owned())));
        for wrong in [
            "",
            "0",
            "99999999999",
            "/run/netns/web",
            "..",
            &"x".repeat(256),
        ] {
            assert!(
                netns(wrong).is_err_and(|refusal| refusal.contains("ip netns")),
                "{wrong}"
            );
        }
    }
}
