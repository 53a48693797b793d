//! Users and groups: whose a connection on this host is, and who is in a group.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use super::exact::{self, Answer, ExactQuery};
use super::proc_net::fallback_survey;
use super::wire::Extensions;
use super::{Error, StateSet};
use crate::tcp::{Ends, Evidence, Family};

const ROOT: &str = "/";

/// The user who owns the socket with these ends in the caller's network namespace, as this host
/// numbers users; None where none does any more (it was closed), and where nobody can tell.
pub(crate) fn socket_owner(local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let family = match local {
        SocketAddr::V4(_) => Family::Ipv4,
        SocketAddr::V6(_) => Family::Ipv6,
    };
    let ends = Ends::new(family, local, remote);
    let owner = |socket: &Evidence| (socket.inode != 0).then_some(socket.uid);
    let wanted = ExactQuery {
        cookie: None,
        interface: 0,
        ends: ends.clone(),
    };
    match exact::ask(0, &[wanted], Extensions::None) {
        Ok(answers) => match answers.first() {
            Some(Answer::Socket(socket)) => owner(socket),
            _ => None,
        },
        Err(Error::NoTcpDiag { .. }) => {
            let mut found = None;
            let take = |socket: &Evidence| {
                if Ends::new(family, socket.local, socket.remote) == ends {
                    found = owner(socket);
                }
            };
            fallback_survey(0, StateSet::ALL, take).ok()?;
            found
        }
        Err(_) => None,
    }
}

/// The number of a group, given by that or by its name in /etc/group; None where there is none.
pub(crate) fn group_number(group: &str) -> Option<u32> {
    group_number_in(Path::new(ROOT), group)
}

fn group_number_in(root: &Path, group: &str) -> Option<u32> {
    if let Ok(number) = group.parse() {
        return Some(number);
    }
    let groups = read(root, "etc/group");
    let named = groups
        .lines()
        .find_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
    named?.split(':').nth(1)?.parse().ok()
}

/// Whether a user is in a group, as /etc/passwd and /etc/group have it.
pub(crate) fn is_member(user: u32, group: u32) -> bool {
    is_member_in(Path::new(ROOT), user, group)
}

fn is_member_in(root: &Path, user: u32, group: u32) -> bool {
    let is = |number: Option<&str>, wanted: u32| number.is_some_and(|it| it.parse() == Ok(wanted));
    let users = read(root, "etc/passwd");
    let groups = read(root, "etc/group");
    users.lines().any(|line| {
        let mut fields = line.split(':');
        let name = fields.next().unwrap_or_default();
        if name.is_empty() || !is(fields.nth(1), user) {
            return false;
        }
        is(fields.next(), group)
            || groups.lines().any(|line| {
                let mut fields = line.split(':');
                let members = is(fields.nth(2), group).then(|| fields.next()).flatten();
                members.is_some_and(|members| members.split(',').any(|member| member == name))
            })
    })
}

/// What cannot be read is empty: it lets nobody in.
fn read(root: &Path, file: &str) -> String {
    let bytes = fs::read(root.join(file)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustix::process::geteuid;

    use super::*;

    #[test]
    fn the_owner_of_a_socket_is_found_until_it_is_closed() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let ends = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let (_server, _) = listener.accept().unwrap();
            assert_eq!(socket_owner(ends.0, ends.1), Some(geteuid().as_raw()));
            drop(client);
            // What is left of it has owner 0 for the kernel, and is nobody's.
            assert_eq!(socket_owner(ends.0, ends.1), None);
        }
    }

    #[test]
    fn members_are_told_by_both_files() {
        let root = std::env::temp_dir().join(format!("tcplinger-users-{}", std::process::id()));
        fs::create_dir_all(root.join("etc")).unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:\nbob:x:1001:50::/:\n\
                      broken\n:x:1003:50::/:\nann2:x:1004:1004::/:\n";
        let group = "root:x:0:\nstaff:x:50:\nmonitoring:x:60:bob,ann\nmon:x:61:\nbad:x:y:ann\n";
        fs::write(root.join("etc/passwd"), passwd).unwrap();
        fs::write(root.join("etc/group"), group).unwrap();
        for (name, number) in [
            ("monitoring", Some(60)),
            ("mon", Some(61)),
            ("70", Some(70)),
            ("moni", None),
            ("bad", None),
            ("", None),
        ] {
            assert_eq!(group_number_in(&root, name), number, "{name}");
        }
        let members = |group| {
            let users = 0..2_000;
            users
                .filter(|user| is_member_in(&root, *user, group))
                .collect::<Vec<u32>>()
        };
        assert_eq!(members(60), [1000, 1001]);
        assert_eq!(members(50), [1001]);
        assert_eq!(members(1000), [1000]);
        assert!(members(61).is_empty());
        fs::remove_dir_all(&root).unwrap();
        assert!(!is_member_in(&root, 1000, 60));
    }
}
