//! What the text of a flag, or of a value in the configuration, means: durations, sizes, ports,
//! networks, states, namespaces.
//!
//! Every refusal says what is wrong and gives a text that works.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use ipnet::IpNet;
use jiff::SignedDuration;
use log::LevelFilter;

use super::OwnerOrder;
use crate::tcp::State;

/// How much the eBPF program may log.
pub(crate) const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The greatest age of a rule.
const YEAR_HOURS: u64 = 365 * 24;

/// A network namespace as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Netns {
    /// File name under `/run/netns`, or `host` for the initial namespace.
    Name(String),
    /// Inode number.
    Inode(u32),
}

/// Where the HTTP server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    Off,
    At(SocketAddr),
}

impl Listen {
    /// Whether it is to be off and on at once.
    pub(crate) fn is_contradictory(all: &[Self]) -> bool {
        all.contains(&Self::Off) && all.iter().any(|listen| *listen != Self::Off)
    }
}

/// A time above zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
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
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if (Duration::from_millis(100)..=Duration::from_hours(1)).contains(&time) {
        Ok(time)
    } else {
        Err("out of range; give 100ms to 1h, for example 1s".to_owned())
    }
}

/// An age, or another time in a rule: above zero, a year at most.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time <= Duration::from_hours(YEAR_HOURS) {
        Ok(time)
    } else {
        Err(format!(
            "out of range; give at most {YEAR_HOURS}h, for example 5m"
        ))
    }
}

/// The time over which growth is watched: 2 s to an hour.
pub(crate) fn window(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if (Duration::from_secs(2)..=Duration::from_hours(1)).contains(&time) {
        Ok(time)
    } else {
        Err("out of range; give 2s to 1h, for example 60s".to_owned())
    }
}

/// The time between two pushes: 1 s to an hour.
pub(crate) fn push_interval(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if (Duration::from_secs(1)..=Duration::from_hours(1)).contains(&time) {
        Ok(time)
    } else {
        Err("out of range; give 1s to 1h, for example 15s".to_owned())
    }
}

/// A share from 0.01 to 100 percent, with or without the sign.
pub(crate) fn percent(text: &str) -> Result<f64, String> {
    text.strip_suffix('%')
        .unwrap_or(text)
        .parse()
        .ok()
        .filter(|share| (0.01..=100.0).contains(share))
        .ok_or_else(|| "give a number from 0.01 to 100, for example 1 or 0.5".to_owned())
}

/// Bytes of a ring buffer: a power of two (`ringbuf_map_alloc()` in `kernel/bpf/ringbuf.c` takes
/// nothing else) from 64 KiB to 1 GiB.
pub(crate) fn ring_size(text: &str) -> Result<u32, String> {
    let example = "give a power of two from 64KiB to 1GiB, for example 16MiB";
    let bytes = bytes(text, example)?;
    match u32::try_from(bytes) {
        Ok(bytes) if (1 << 16..=1 << 30).contains(&bytes) => {
            if bytes.is_power_of_two() {
                Ok(bytes)
            } else {
                Err(format!("the kernel takes powers of two only; {example}"))
            }
        }
        _ => Err(format!("out of range; {example}")),
    }
}

/// Bytes at which a file is rotated: 64 KiB to 1 TiB.
pub(crate) fn file_size(text: &str) -> Result<u64, String> {
    let example = "give a size from 64KiB to 1024GiB, for example 16MiB";
    let bytes = bytes(text, example)?;
    if (1 << 16..=1 << 40).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(format!("out of range; {example}"))
    }
}

/// A whole number with `KiB`, `MiB` or `GiB`, or none of them.
fn bytes(text: &str, example: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.trim_start_matches(digits).to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "kib" => 10,
        "mib" => 20,
        "gib" => 30,
        unit => return Err(format!("unknown unit {unit:?} (KiB, MiB, GiB); {example}")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("not a whole number of bytes; {example}"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("out of range; {example}"))
}

/// Rotated files that are kept: 1 to 1,000.
pub(crate) fn files(text: &str) -> Result<u32, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (1..=1000).contains(number));
    number.ok_or_else(|| "give a number of files from 1 to 1000, for example 4".to_owned())
}

/// An address with its port, or `off`.
pub(crate) fn listen(text: &str) -> Result<Listen, String> {
    if text == "off" {
        return Ok(Listen::Off);
    }
    text.parse().map(Listen::At).map_err(|_| {
        let why = match text.parse::<IpAddr>() {
            Ok(_) => "the port is missing",
            Err(_) => "not an IP address with a port",
        };
        format!(
            "{why}; give one such as 127.0.0.1:9817, [::1]:9817 or 0.0.0.0:9817 (every IPv4 \
             address of the host), or off"
        )
    })
}

/// The base URL of a collector.
pub(crate) fn endpoint(text: &str) -> Result<String, String> {
    let rest = text
        .strip_prefix("http://")
        .or(text.strip_prefix("https://"));
    let host = rest.and_then(|rest| rest.split('/').next());
    let has_more = text.contains(['?', '#']);
    let is_printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    match host {
        Some(host)
            if !host.is_empty() && is_printable && !host.contains('@') && !has_more =>
        {
            Ok(text.trim_end_matches('/').to_owned())
        }
        Some(_) if has_more => Err(
            "the URL must not contain `?` or `#`, because paths are appended to it; give one such as \
             http://127.0.0.1:4318"
                .to_owned(),
        ),
        _ => Err(
            "not the URL of a collector; give one such as http://127.0.0.1:4318 or \
             https://otel.example.com:4318"
                .to_owned(),
        ),
    }
}

/// Asks for the name that was most likely meant, with a space at the end; empty where none is near.
pub(crate) fn did_you_mean(typed: &str, names: &[&str]) -> String {
    let names = names.iter();
    let distances = names.map(|name| (strsim::damerau_levenshtein(typed, name), name));
    match distances.min() {
        Some((distance, meant)) if distance <= (typed.chars().count() / 3).max(2) => {
            format!("did you mean `{meant}`? ")
        }
        _ => String::new(),
    }
}

/// A state, in this tool's spelling or that of `ss`.
pub(crate) fn state(text: &str) -> Result<State, String> {
    text.parse()
        .map_err(|unknown| format!("{unknown}; {}", advice(text, &State::ALL)))
}

/// A state that sockets linger in.
pub(crate) fn lingering_state(text: &str) -> Result<State, String> {
    let known: Result<State, _> = text.parse();
    match known {
        Ok(state) if state.is_lingering() => Ok(state),
        Ok(state) => Err(format!(
            "no socket is stuck in {state}; give one of {}",
            State::LINGERING.map(State::name).join(", ")
        )),
        Err(unknown) => Err(format!("{unknown}; {}", advice(text, &State::LINGERING))),
    }
}

/// Which of the states was meant, and which there are.
fn advice(text: &str, states: &[State]) -> String {
    let typed = text.to_ascii_lowercase().replace('-', "_");
    let names: Vec<&str> = states.iter().map(|state| state.name()).collect();
    let (meant, all) = (did_you_mean(&typed, &names), names.join(", "));
    format!("{meant}The states are {all}")
}

/// `total`, or a state.
pub(super) fn order(text: &str) -> Result<OwnerOrder, String> {
    if text == "total" {
        return Ok(OwnerOrder::Total);
    }
    state(text)
        .map(OwnerOrder::State)
        .map_err(|why| format!("{why}; or `total`"))
}

/// One of the names that clap knows for `T`.
pub(crate) fn choice<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let values = T::value_variants().iter();
        let values: Vec<_> = values.filter_map(ValueEnum::to_possible_value).collect();
        let names: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
        one_of(text, &names)
    })
}

/// A level of [`LEVELS`].
pub(crate) fn level(text: &str) -> Result<LevelFilter, String> {
    text.parse().map_err(|_| one_of(text, &LEVELS))
}

/// What `text` names.
pub(crate) fn named<T: Copy>(text: &str, names: &[(&str, T)]) -> Result<T, String> {
    let found = names.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        one_of(text, &names)
    })
}

/// `true` or `false`.
pub(crate) fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "give true or false".to_owned())
}

/// Refuses `text` where it should be one of `names`.
pub(crate) fn one_of(text: &str, names: &[&str]) -> String {
    let (meant, all) = (did_you_mean(text, names), names.join(", "));
    format!("{meant}(valid: {all})")
}

/// A port that a transition can show.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => {
            Err("not a port; give a number from 1 to 65535, for example 443".to_owned())
        }
        Ok(port) => Ok(port),
    }
}

/// A port, or a range of ports.
pub(crate) fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let example = "give a number from 1 to 65535, or a range such as \"9000-9010\"";
    let bound =
        |text: &str| port(text.trim()).map_err(|_| format!("{text:?} is not a port; {example}"));
    match text.split_once('-') {
        // A sign, not a range.
        None | Some(("", _)) => bound(text).map(|port| port..=port),
        Some((first, last)) => {
            let range = bound(first)?..=bound(last)?;
            if range.is_empty() {
                Err(format!("the range ends before it begins; {example}"))
            } else {
                Ok(range)
            }
        }
    }
}

/// A network; host bits are dropped, and a bare address stands for itself alone.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let why = match text.split_once('/') {
        _ if text.parse::<SocketAddr>().is_ok() => {
            "that includes a port; use --local-port or --remote-port for it".to_owned()
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
        None => "not an IP address".to_owned(),
    };
    Err(format!(
        "{why}; give a network or an address, for example 10.0.0.0/8 or 2001:db8::1"
    ))
}

/// What a shell would match a name with; it is not empty.
pub(crate) fn pattern(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err(
            "nothing matches an empty pattern; give one such as nginx or \"rsync*\"".into(),
        );
    }
    Ok(text.to_owned())
}

/// A pattern for units: `NAME`, `NAME of user UID` or `NAME of container ID`.
pub(crate) fn unit_pattern(text: &str) -> Result<String, String> {
    if let Some((_, manager)) = text.split_once(" of ")
        && !["user ", "container ", "*"]
            .iter()
            .any(|kind| manager.starts_with(kind))
    {
        return Err(format!(
            "not a pattern for units: {text:?}; give one such as nginx.service, \"nginx.service of user 1000\" \
             or \"* of container *\""
        ));
    }
    pattern(text)
}

/// A path that a file can have.
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("not a path; give one such as /run/tcplinger.sock".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// A group: its name, or its number.
pub(crate) fn group(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains([':', ',', '\n', '\0']) {
        return Err("not a group; give its name or its number".to_owned());
    }
    Ok(text.to_owned())
}

/// A namespace: digits are an inode number, all else a name.
pub(crate) fn netns(text: &str) -> Result<Netns, String> {
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
        Err(format!("not a valid name or number; {example}"))
    }
}

#[cfg(test)]
mod tests;
