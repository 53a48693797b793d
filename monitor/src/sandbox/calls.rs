//! Which system calls fail with EPERM: by seccomp. A list of what is forbidden: an allocator, a runtime
//! or a C library that is updated may need a call that no list of ours would have.

use std::collections::BTreeMap;

use libc::{c_int, c_long};
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter, apply_filter_all_threads,
};

/// No thread starts programs, looks into another's memory, changes the system, or gets new rights.
const FORBIDDEN: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_personality,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_perf_event_open,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
];

/// What a thread that keeps capabilities must not do in addition.
const CHANGES: &[c_long] = &[
    libc::SYS_openat2,
    libc::SYS_truncate,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mkdirat,
    libc::SYS_fchmodat,
    libc::SYS_fchmod,
    libc::SYS_fchownat,
    libc::SYS_fchown,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
];

/// Older calls, which newer architectures have not.
#[cfg(target_arch = "x86_64")]
mod old {
    use libc::c_long;

    pub(super) const FORBIDDEN: &[c_long] = &[
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_iopl,
        libc::SYS_ioperm,
        libc::SYS_modify_ldt,
        libc::SYS_mknod,
    ];
    pub(super) const CHANGES: &[c_long] = &[
        libc::SYS_creat,
        libc::SYS_unlink,
        libc::SYS_rename,
        libc::SYS_renameat,
        libc::SYS_link,
        libc::SYS_symlink,
        libc::SYS_mkdir,
        libc::SYS_rmdir,
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_lchown,
        libc::SYS_utime,
        libc::SYS_utimes,
    ];
    /// With the place of its flags.
    pub(super) const OPEN: Option<(c_long, u8)> = Some((libc::SYS_open, 1));
}

#[cfg(not(target_arch = "x86_64"))]
mod old {
    use libc::c_long;

    pub(super) const FORBIDDEN: &[c_long] = &[];
    pub(super) const CHANGES: &[c_long] = &[libc::SYS_renameat];
    pub(super) const OPEN: Option<(c_long, u8)> = None;
}

/// Of `bpf()` (`enum bpf_cmd` in `include/uapi/linux/bpf.h`): look up, update, delete, next key, test and
/// ask about a descriptor, look up many, link an iterator and walk it. No program or map is made or taken.
const BPF: [u64; 8] = [1, 2, 3, 4, 15, 24, 28, 33];
const FAMILIES: [c_int; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];
/// `SOCK_TYPE_MASK` (`include/linux/net.h`).
const TYPE: u64 = 0xf;
const NAMESPACES: c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;
/// Flags of `open()` that change something.
const WRITING: [c_int; 4] = [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Forbids all threads of the process, and those to come, what none of them needs.
pub(super) fn forbid_in_all_threads() -> Result<(), String> {
    apply(daemon_filters(), apply_filter_all_threads)
}

/// Forbids the calling thread to change files, and any socket but those to ask the kernel by.
pub(super) fn forbid_changes() -> Result<(), String> {
    apply(looking_filters(), apply_filter)
}

pub(super) fn apply(
    filters: Result<Vec<BpfProgram>, BackendError>,
    apply: fn(seccompiler::BpfProgramRef<'_>) -> Result<(), seccompiler::Error>,
) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("no system call is forbidden: {error}");
    for filter in filters.map_err(|error| failed(&error))? {
        apply(&filter).map_err(|error| failed(&error))?;
    }
    Ok(())
}

pub(super) fn daemon_filters() -> Result<Vec<BpfProgram>, BackendError> {
    let mut rules = whole(FORBIDDEN.iter().chain(old::FORBIDDEN));
    let bpf = BPF.map(|command| (0, Ne, command));
    rules.insert(libc::SYS_bpf, vec![all(&bpf)?]);
    let other_family = FAMILIES.map(|family| (0, Ne, number(family)));
    let raw = |family| {
        let raw = number(libc::SOCK_RAW);
        all(&[(0, Eq, number(family)), (1, MaskedEq(TYPE), raw)])
    };
    rules.insert(
        libc::SYS_socket,
        vec![
            all(&other_family)?,
            raw(libc::AF_INET)?,
            raw(libc::AF_INET6)?,
        ],
    );
    // Threads are made, processes are not; and nobody gets a namespace of his own.
    let thread = number(libc::CLONE_THREAD);
    let mut clone = vec![all(&[(0, MaskedEq(thread), 0)])?];
    for flag in (0..31)
        .map(|bit| 1 << bit)
        .filter(|flag| NAMESPACES & flag != 0)
    {
        clone.push(all(&[(0, MaskedEq(number(flag)), number(flag))])?);
    }
    rules.insert(libc::SYS_clone, clone);
    // Its flags are in memory, where no filter sees them: a C library that misses it uses `clone()`.
    let clone3 = whole([libc::SYS_clone3].iter());
    Ok(vec![
        compile(rules, libc::EPERM)?,
        compile(clone3, libc::ENOSYS)?,
    ])
}

pub(super) fn looking_filters() -> Result<Vec<BpfProgram>, BackendError> {
    let mut rules = whole(CHANGES.iter().chain(old::CHANGES));
    for (call, flags) in [Some((libc::SYS_openat, 2)), old::OPEN]
        .into_iter()
        .flatten()
    {
        let writing = WRITING.map(|flag| all(&[(flags, MaskedEq(number(flag)), number(flag))]));
        rules.insert(call, writing.into_iter().collect::<Result<_, _>>()?);
    }
    let netlink = number(libc::AF_NETLINK);
    rules.insert(libc::SYS_socket, vec![all(&[(0, Ne, netlink)])?]);
    Ok(vec![compile(rules, libc::EPERM)?])
}

fn whole<'a>(calls: impl Iterator<Item = &'a c_long>) -> Rules {
    calls.map(|call| (*call, Vec::new())).collect()
}

/// Argument, comparison and value of each condition.
fn all(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, BackendError> {
    let conditions = conditions
        .iter()
        .map(|(argument, compare, value)| {
            SeccompCondition::new(*argument, Dword, compare.clone(), *value)
        })
        .collect::<Result<_, _>>()?;
    SeccompRule::new(conditions)
}

fn compile(rules: Rules, errno: c_int) -> Result<BpfProgram, BackendError> {
    let errno = SeccompAction::Errno(errno.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, errno, architecture)?.try_into()
}

fn number(flag: c_int) -> u64 {
    flag.unsigned_abs().into()
}
