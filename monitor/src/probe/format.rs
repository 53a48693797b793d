//! The classic tracepoint's field offsets, from its `format` file in tracefs.

use std::path::{Path, PathBuf};
use std::{fs, io};

use monitor_ebpf::Settings;

use super::Error;

/// Where tracefs may be mounted; the second is inside debugfs, on older hosts.
const ROOTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The tracepoint's `format` file.
///
/// # Errors
/// tracefs is not mounted, or this kernel (before 4.16) does not have the tracepoint.
pub(super) fn path() -> Result<PathBuf, Error> {
    let is_mounted = |root: &&Path| match root.join("events").symlink_metadata() {
        Ok(found) => found.is_dir(),
        // Closed to this process, but there.
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    };
    let mounted = ROOTS
        .into_iter()
        .map(Path::new)
        .find(is_mounted)
        .ok_or(Error::NoTracefs)?;
    let path = mounted.join("events/sock/inet_sock_set_state/format");
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NoTracepoint { path }),
        Err(source) => Err(Error::Read { path, source }),
        Ok(_) => Ok(path),
    }
}

/// Fills in the offsets that the classic program needs.
///
/// # Errors
/// As [`path`]; or the file cannot be read, or lacks a field.
pub(super) fn from_tracefs() -> Result<Settings, Error> {
    let path = path()?;
    let text = fs::read_to_string(&path).map_err(|source| Error::Read {
        path: path.clone(),
        source,
    })?;
    parse(&text)
}

fn parse(text: &str) -> Result<Settings, Error> {
    let offset = |name: &'static str| field(text, name).map(|(offset, _)| offset);
    let (tp_protocol, tp_protocol_size) = field(text, "protocol")?;
    Ok(Settings {
        tp_oldstate: offset("oldstate")?,
        tp_newstate: offset("newstate")?,
        tp_sport: offset("sport")?,
        tp_dport: offset("dport")?,
        tp_family: offset("family")?,
        tp_protocol,
        tp_protocol_size,
        tp_saddr: offset("saddr")?,
        tp_daddr: offset("daddr")?,
        tp_saddr_v6: offset("saddr_v6")?,
        tp_daddr_v6: offset("daddr_v6")?,
        ..Settings::NONE
    })
}

/// Offset and size of a field, from its line: `field:__u16 sport; offset:24; size:2; signed:0;`.
fn field(text: &str, name: &'static str) -> Result<(u32, u32), Error> {
    let number = |line: &str, key: &str| -> Option<u32> {
        let part = line
            .split(';')
            .find_map(|part| part.trim().strip_prefix(key));
        part?.parse().ok()
    };
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("field:"))
        .find(|line| {
            let declaration = line.split(';').next().unwrap_or_default();
            let declared = declaration.rsplit(' ').next().unwrap_or_default();
            declared.split('[').next() == Some(name)
        })
        .and_then(|line| Some((number(line, "offset:")?, number(line, "size:")?)))
        .ok_or(Error::NoField {
            structure: "tracepoint inet_sock_set_state",
            field: name,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux 5.4: `protocol` was one byte.
    const OLD: &str = "name: inet_sock_set_state
ID: 1305
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:const void * skaddr;	offset:8;	size:8;	signed:0;
	field:int oldstate;	offset:16;	size:4;	signed:1;
	field:int newstate;	offset:20;	size:4;	signed:1;
	field:__u16 sport;	offset:24;	size:2;	signed:0;
	field:__u16 dport;	offset:26;	size:2;	signed:0;
	field:__u16 family;	offset:28;	size:2;	signed:0;
	field:__u8 protocol;	offset:30;	size:1;	signed:0;
	field:__u8 saddr[4];	offset:31;	size:4;	signed:0;
	field:__u8 daddr[4];	offset:35;	size:4;	signed:0;
	field:__u8 saddr_v6[16];	offset:39;	size:16;	signed:0;
	field:__u8 daddr_v6[16];	offset:55;	size:16;	signed:0;

print fmt: \"family=%s\", REC->family
";

    #[test]
    fn offsets_are_read_not_assumed() {
        let settings = parse(OLD).unwrap();
        assert_eq!(settings.tp_oldstate, 16);
        assert_eq!((settings.tp_protocol, settings.tp_protocol_size), (30, 1));
        assert_eq!((settings.tp_saddr, settings.tp_saddr_v6), (31, 39));
        assert_eq!(settings.tp_daddr_v6, 55);
    }

    #[test]
    fn a_missing_field_is_named() {
        let without = OLD.replace("__u16 dport", "__u16 other");
        let message = parse(&without).unwrap_err().to_string();
        assert!(message.contains("dport"), "{message}");
    }
}
