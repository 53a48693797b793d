//! Who holds which socket, where the kernel refuses iterators: every descriptor's link in /proc.
//!
//! A thread that keeps a descriptor table of its own (`unshare(CLONE_FILES)`) is not looked at.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use super::namespaces::{for_each_number, open_directory};
use crate::tcp::{Holder, State};

/// Every descriptor of one of `sockets`, which are listed by the inode number of their file with
/// cookie, namespace and state.
///
/// Processes that may not be looked into are passed over, as are those that end meanwhile.
pub(crate) fn fallback_holders(
    proc_root: &Path,
    sockets: &HashMap<u32, (u64, u32, State)>,
) -> Vec<Holder> {
    let mut holders = Vec::new();
    let Ok(root) = open_directory(rustix::fs::CWD, proc_root) else {
        return holders;
    };
    let mut path = String::new();
    // A directory that ends early, as that of a dying process does, has shown what there is.
    let _ = for_each_number(root.as_fd(), |name| {
        path.clear();
        if write!(path, "{name}/fd").is_ok()
            && let Ok(pid) = name.parse()
            && let Ok(directory) = open_directory(&root, Path::new(&path))
        {
            descriptors(directory.as_fd(), |fd, inode| {
                if let Some((cookie, netns, state)) = sockets.get(&inode).copied() {
                    holders.push(Holder {
                        cookie,
                        pid,
                        fd,
                        netns,
                        state,
                        family: None,
                        is_mptcp: false,
                    });
                }
            });
        }
    });
    holders
}

/// The inode number of the socket behind a descriptor.
pub(crate) fn socket_inode(proc_root: &Path, pid: u32, fd: u32) -> Option<u32> {
    let path = proc_root.join(format!("{pid}/fd/{fd}"));
    let mut target = [MaybeUninit::uninit(); 32];
    let (link, _) = rustix::fs::readlinkat_raw(rustix::fs::CWD, path, &mut target).ok()?;
    parse_link(link)
}

/// Calls `take` with the number and the inode of each descriptor that is a socket.
fn descriptors(directory: BorrowedFd<'_>, mut take: impl FnMut(u32, u32)) {
    let _ = for_each_number(directory, |name| {
        // A longer link is cut, and then none of a socket's.
        let mut target = [MaybeUninit::uninit(); 32];
        if let Ok((link, _)) = rustix::fs::readlinkat_raw(directory, name, &mut target)
            && let (Some(inode), Ok(fd)) = (parse_link(link), name.parse())
        {
            take(fd, inode);
        }
    });
}

/// `socket:[35204]` as its number.
fn parse_link(link: &[u8]) -> Option<u32> {
    let number = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn every_descriptor_of_a_socket_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = listener.try_clone().unwrap();
        let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
        let inode = u32::try_from(inode).unwrap();
        let sockets = HashMap::from([(inode, (7, 9, State::Listen))]);
        let mut holders = fallback_holders(Path::new("/proc"), &sockets);
        holders.sort();
        let mut expected = [&listener, &shared].map(|socket| Holder {
            cookie: 7,
            pid: std::process::id(),
            fd: u32::try_from(socket.as_raw_fd()).unwrap(),
            netns: 9,
            state: State::Listen,
            family: None,
            is_mptcp: false,
        });
        expected.sort();
        assert_eq!(holders, expected);
    }

    #[test]
    fn only_a_sockets_link_is_one() {
        assert_eq!(parse_link(b"socket:[35204]"), Some(35_204));
        assert_eq!(parse_link(b"socket:[4294967296]"), None);
        assert_eq!(parse_link(b"socket:[35204"), None);
        assert_eq!(parse_link(b"pipe:[35204]"), None);
        assert_eq!(parse_link(b"/tmp/socket:[35204]"), None);
    }
}
