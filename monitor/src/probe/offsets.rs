//! Field offsets of the running kernel, from its BTF. None is ever assumed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use btf_rs::{Backend, Btf, BtfType, Member, Type};
use monitor_ebpf::{ABSENT, Settings};
use rustix::fs::{MemfdFlags, memfd_create};

use super::Error;

/// Where the kernel shows its own types (5.4+, `CONFIG_DEBUG_INFO_BTF`).
pub(super) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Fills in the offsets that the BTF-typed transition programs need.
///
/// # Errors
/// The file cannot be read or parsed, or lacks a field that the programs cannot do without.
pub(super) fn for_transitions(path: &Path) -> Result<Settings, Error> {
    let btf = parse(path)?;
    let need = |structure, field| need(&btf, structure, field);
    let bit = |field: &'static str| {
        let structure = "sock_flags";
        enumerator(&btf, structure, field).ok_or(Error::NoField { structure, field })
    };
    let cgroup = || {
        Some((
            offset(&btf, "sock", "sk_cgrp_data.cgroup")?,
            offset(&btf, "cgroup", "kn")?,
            offset(&btf, "kernfs_node", "id")?,
        ))
    };
    // Before Linux 5.15 `sk_cgrp_data` is no typed pointer: do without the cgroup there.
    let (sk_cgroup, cgroup_kn, kn_id) = cgroup().unwrap_or((ABSENT, ABSENT, ABSENT));
    Ok(Settings {
        sk_protocol: need("sock", "sk_protocol")?,
        sk_err: need("sock", "sk_err")?,
        skc_family: need("sock", "__sk_common.skc_family")?,
        skc_num: need("sock", "__sk_common.skc_num")?,
        skc_dport: need("sock", "__sk_common.skc_dport")?,
        skc_rcv_saddr: need("sock", "__sk_common.skc_rcv_saddr")?,
        skc_daddr: need("sock", "__sk_common.skc_daddr")?,
        skc_v6_rcv_saddr: need("sock", "__sk_common.skc_v6_rcv_saddr")?,
        skc_v6_daddr: need("sock", "__sk_common.skc_v6_daddr")?,
        skc_cookie: need("sock", "__sk_common.skc_cookie")?,
        skc_bound_dev_if: need("sock", "__sk_common.skc_bound_dev_if")?,
        skc_flags: need("sock", "__sk_common.skc_flags")?,
        sock_done_bit: bit("SOCK_DONE")?,
        sock_dead_bit: bit("SOCK_DEAD")?,
        skc_net: need("sock", "__sk_common.skc_net.net")?,
        net_inum: need("net", "ns.inum")?,
        net_cookie: offset(&btf, "net", "net_cookie").unwrap_or(ABSENT),
        sk_cgroup,
        cgroup_kn,
        kn_id,
        task_flags: need("task_struct", "flags")?,
        task_tgid: need("task_struct", "tgid")?,
        task_comm: need("task_struct", "comm")?,
        inet_sport: need("tcp_sock", "inet_conn.icsk_inet.inet_sport")?,
        // Minisockets are an extra.
        tw_substate: offset(&btf, "inet_timewait_sock", "tw_substate").unwrap_or(ABSENT),
        tw_timer: offset(&btf, "inet_timewait_sock", "tw_timer").unwrap_or(ABSENT),
        ..Settings::NONE
    })
}

/// Fills in the offsets that the iterator over descriptors needs.
///
/// # Errors
/// The file cannot be read or parsed, or lacks one of the fields.
pub(super) fn for_holders(path: &Path) -> Result<Settings, Error> {
    let btf = parse(path)?;
    let need = |structure, field| need(&btf, structure, field);
    Ok(Settings {
        sk_protocol: need("sock", "sk_protocol")?,
        skc_family: need("sock", "__sk_common.skc_family")?,
        skc_state: need("sock", "__sk_common.skc_state")?,
        skc_cookie: need("sock", "__sk_common.skc_cookie")?,
        skc_net: need("sock", "__sk_common.skc_net.net")?,
        net_inum: need("net", "ns.inum")?,
        socket_sk: need("socket", "sk")?,
        task_tgid: need("task_struct", "tgid")?,
        ..Settings::NONE
    })
}

fn parse(path: &Path) -> Result<Btf, Error> {
    mapped(path)
        .or_else(|_| Btf::from_file(path))
        .map_err(|source| Error::Btf {
            path: path.to_owned(),
            reason: source.to_string(),
        })
}

/// Maps a copy of the file. Reading all of it into tables, for two dozen names, would take ten times
/// as long; and sysfs lets the file itself be mapped on the newest kernels only.
fn mapped(path: &Path) -> Result<Btf, btf_rs::Error> {
    let mut copy = File::from(memfd_create("btf", MemfdFlags::CLOEXEC).map_err(io::Error::from)?);
    copy.write_all(&fs::read(path)?)?;
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    Btf::from_file_with_backend(path, Backend::Mmap)
}

fn need(btf: &Btf, structure: &'static str, field: &'static str) -> Result<u32, Error> {
    offset(btf, structure, field).ok_or(Error::NoField { structure, field })
}

/// Byte offset of a dotted field path in a structure; anonymous members are looked through.
fn offset(btf: &Btf, structure: &str, path: &str) -> Option<u32> {
    let mut current = btf
        .resolve_types_by_name(structure)
        .ok()?
        .into_iter()
        .find(|found| matches!(found, Type::Struct(_)))?;
    let mut bits = 0;
    for name in path.split('.') {
        let (at, member) = find(btf, &current, name)?;
        bits += at;
        current = unqualified(btf, &member)?;
    }
    Some(bits / 8)
}

/// A member by name, with its offset in bits from the start of `container`.
fn find(btf: &Btf, container: &Type, name: &str) -> Option<(u32, Member)> {
    let (Type::Struct(container) | Type::Union(container)) = container else {
        return None;
    };
    for member in &container.members {
        let member_name = btf.resolve_name(member).unwrap_or_default();
        if member_name == name {
            return Some((member.bit_offset(), member.clone()));
        }
        if member_name.is_empty() {
            let inner = unqualified(btf, member)?;
            if let Some((at, found)) = find(btf, &inner, name) {
                return Some((member.bit_offset() + at, found));
            }
        }
    }
    None
}

/// The type behind a member, without typedefs and qualifiers.
fn unqualified(btf: &Btf, member: &dyn BtfType) -> Option<Type> {
    let mut current = btf.resolve_chained_type(member).ok()?;
    while let Type::Typedef(_) | Type::Const(_) | Type::Volatile(_) | Type::TypeTag(_) = &current {
        current = btf.resolve_chained_type(current.as_btf_type()?).ok()?;
    }
    Some(current)
}

fn enumerator(btf: &Btf, enumeration: &str, name: &str) -> Option<u32> {
    let types = btf.resolve_types_by_name(enumeration).ok()?;
    types.iter().find_map(|found| match found {
        Type::Enum(found) => found
            .members
            .iter()
            .find(|member| btf.resolve_name(*member).is_ok_and(|found| found == name))
            .map(btf_rs::EnumMember::val),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mapped_copy_tells_what_the_file_tells() {
        let path = Path::new(VMLINUX);
        let (mapped, read) = (mapped(path).unwrap(), Btf::from_file(path).unwrap());
        for (structure, field) in [
            ("sock", "__sk_common.skc_net.net"),
            ("tcp_sock", "inet_conn.icsk_inet.inet_sport"),
            ("socket", "sk"),
        ] {
            let found = offset(&mapped, structure, field);
            assert!(found.is_some(), "{structure}.{field}");
            assert_eq!(found, offset(&read, structure, field));
        }
        let done = enumerator(&mapped, "sock_flags", "SOCK_DONE");
        assert!(done.is_some());
        assert_eq!(done, enumerator(&read, "sock_flags", "SOCK_DONE"));
        assert_eq!(offset(&mapped, "socket", "no_such_field"), None);
    }
}
