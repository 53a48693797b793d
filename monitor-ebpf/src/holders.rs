//! Who holds which socket: an iterator over every descriptor of every process. It runs only while
//! userspace reads it, and writes one [`HolderRecord`] for each descriptor of a TCP or MPTCP socket.

use aya_ebpf::helpers::generated::{bpf_seq_write, bpf_sock_from_file};
use monitor_ebpf::{HolderRecord, IPPROTO_MPTCP};

use crate::settings::{AF_INET, AF_INET6, IPPROTO_TCP, cookie, load, setting};

// `struct bpf_iter__task_file` (`kernel/bpf/task_iter.c`) and `struct bpf_iter_meta`
// (`include/linux/bpf.h`), Linux 6.18, unchanged since 5.8. Both are UAPI for iterators: every slot
// is 8 bytes wide.
const META: u32 = 0;
const TASK: u32 = 8;
const FD: u32 = 16;
const FILE: u32 = 24;
const META_SEQ: u32 = 0;

#[expect(clippy::cast_possible_truncation, reason = "it is 24")]
const RECORD: u32 = size_of::<HolderRecord>() as u32;

/// Looks at one descriptor; once more, without task and file, when there are no more.
///
/// # Safety
/// Only the kernel calls it, with a `struct bpf_iter__task_file`.
#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn socket_holder(ctx: *const u8) -> i32 {
    // SAFETY: the slots of the context, whose pointers the verifier knows by their BTF types, and
    // offsets from the running kernel's BTF. The file's reference, which the iterator holds, keeps
    // the socket.
    unsafe {
        let task: *const u8 = load(ctx, TASK);
        let file: *mut u8 = load(ctx, FILE);
        if task.is_null() || file.is_null() {
            return 0;
        }
        let socket = bpf_sock_from_file(file.cast());
        if socket.is_null() {
            return 0;
        }
        let sk: *const u8 = load(socket.cast(), setting!(socket_sk));
        if sk.is_null() {
            return 0;
        }
        let family: u16 = load(sk, setting!(skc_family));
        let protocol: u16 = load(sk, setting!(sk_protocol));
        let is_either = protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP;
        if (family != AF_INET && family != AF_INET6) || !is_either {
            return 0;
        }
        let state: u8 = load(sk, setting!(skc_state));
        let record = HolderRecord {
            cookie: if setting!(has_cookie) == 0 {
                load(sk, setting!(skc_cookie))
            } else {
                cookie(sk)
            },
            netns: load(load(sk, setting!(skc_net)), setting!(net_inum)),
            pid: load(task, setting!(task_tgid)),
            fd: load(ctx, FD),
            protocol,
            state,
            is_ipv6: (family == AF_INET6).into(),
        };
        let seq: *mut u8 = load(load(ctx, META), META_SEQ);
        // A full buffer is no loss: the kernel hands it over and calls again for this descriptor
        // (`bpf_seq_read()` in `kernel/bpf/bpf_iter.c`).
        bpf_seq_write(seq.cast(), (&raw const record).cast(), RECORD);
    }
    0
}
