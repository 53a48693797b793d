use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::process::{self, Command};

use rustix::net::sockopt::socket_cookie;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;
use crate::tcp::State;

/// A process's TCP sockets, of this network namespace: descriptor -> cookie, state.
fn held_by(pid: u32, holders: &Holders) -> BTreeMap<u32, (u64, State)> {
    let netns = fs::metadata("/proc/self/ns/net").unwrap().ino();
    let mut found = BTreeMap::new();
    let take = |holder: Holder| {
        if holder.pid == pid {
            assert_eq!(u64::from(holder.netns), netns);
            let before = found.insert(holder.fd, (holder.cookie, holder.state));
            assert_eq!(before, None, "descriptor {} came twice", holder.fd);
        }
    };
    holders.read(take).unwrap();
    found
}

fn number(socket: &impl AsFd) -> u32 {
    socket.as_fd().as_raw_fd().try_into().unwrap()
}

fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn is_send_and_sync<T: Send + Sync>(_: &T) {}

#[test]
fn every_descriptor_of_a_tcp_socket_is_listed_with_its_cookie_and_state() {
    let holders = Holders::load().unwrap();
    is_send_and_sync(&holders);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listener6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let (mut client, server) = pair(&listener);
    let (mut client6, mut server6) = pair(&listener6);
    client6.shutdown(Shutdown::Write).unwrap();
    // Its answer acknowledges the FIN.
    server6.write_all(b"x").unwrap();
    client6.read_exact(&mut [0]).unwrap();
    let shared = server.try_clone().unwrap();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (unix, _other) = UnixStream::pair().unwrap();
    // Before anybody asks for the cookies, so that the program has to draw them.
    let found = held_by(process::id(), &holders);
    for (name, fd, state) in [
        ("listener", listener.as_fd(), State::Listen),
        ("listener6", listener6.as_fd(), State::Listen),
        ("client", client.as_fd(), State::Established),
        ("server", server.as_fd(), State::Established),
        ("shared", shared.as_fd(), State::Established),
        ("client6", client6.as_fd(), State::FinWait2),
        ("server6", server6.as_fd(), State::CloseWait),
    ] {
        let cookie = socket_cookie(fd).unwrap();
        assert_ne!(cookie, 0, "{name}");
        assert_eq!(found.get(&number(&fd)), Some(&(cookie, state)), "{name}");
    }
    assert_eq!(found[&number(&server)], found[&number(&shared)]);
    assert!(!found.contains_key(&number(&udp)) && !found.contains_key(&number(&unix)));
    // A second pass sees what has changed since.
    drop((server, shared));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let found = held_by(process::id(), &holders);
    assert_eq!(found[&number(&client)].1, State::CloseWait);
}

#[test]
fn a_pass_of_many_reads_loses_nothing() {
    let holders = Holders::load().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let limit = Rlimit {
        current: Some(4096),
        ..getrlimit(Resource::Nofile)
    };
    if getrlimit(Resource::Nofile)
        .current
        .is_some_and(|now| now < 4096)
    {
        setrlimit(Resource::Nofile, limit).unwrap();
    }
    // Twice what one read takes.
    let shared: Vec<_> = (0..2 * BUFFER / RECORD)
        .map(|_| listener.try_clone().unwrap())
        .collect();
    let found = held_by(process::id(), &holders);
    let cookie = socket_cookie(&listener).unwrap();
    for descriptor in &shared {
        assert_eq!(
            found.get(&number(descriptor)),
            Some(&(cookie, State::Listen))
        );
    }
}

#[test]
fn a_socket_that_a_child_inherited_has_two_holders() {
    let holders = Holders::load().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let inherited = OwnedFd::from(listener.try_clone().unwrap());
    let mut child = Command::new("sleep")
        .arg("60")
        .stdin(inherited)
        .spawn()
        .unwrap();
    let found = held_by(child.id(), &holders);
    child.kill().unwrap();
    child.wait().unwrap();
    let held = (socket_cookie(&listener).unwrap(), State::Listen);
    // Nothing of its others: it may not have closed yet what closes on exec.
    assert_eq!(found.get(&0), Some(&held));
    let own = held_by(process::id(), &holders);
    assert_eq!(own.get(&number(&listener)), Some(&held));
    assert_eq!(held_by(child.id(), &holders), BTreeMap::new());
}

#[test]
fn an_expected_refusal_leaves_no_log_behind() {
    let path = std::env::temp_dir().join(format!("refusal-{}.log", process::id()));
    let verifier = |verdict: &str| {
        File::create_new(&path).unwrap().write_all(b"log").unwrap();
        refusal(Error::Verifier {
            program: PROGRAM,
            verdict: verdict.to_owned(),
            log: Some(path.clone()),
        })
    };
    // As 5.10 and as 5.11 would put it for a helper they do not have.
    for verdict in [
        "invalid func unknown#162",
        "unknown func bpf_sock_from_file#162",
    ] {
        let error = verifier(verdict);
        assert!(matches!(error, Error::NoIterator { .. }), "{error}");
        assert!(error.to_string().contains(verdict));
        assert!(!path.exists());
    }
    let error = verifier("invalid mem access 'scalar'");
    assert!(matches!(error, Error::Verifier { .. }), "{error}");
    fs::remove_file(&path).unwrap();
}

#[test]
fn an_unknown_state_is_skipped() {
    let bytes = |state: u8| {
        let mut bytes = [0; RECORD];
        bytes[16..20].copy_from_slice(&7_u32.to_ne_bytes());
        bytes[20..22].copy_from_slice(&262_u16.to_ne_bytes());
        bytes[22] = state;
        bytes[23] = 1;
        bytes
    };
    let holder = decode(&bytes(8)).unwrap();
    assert_eq!((holder.fd, holder.state), (7, State::CloseWait));
    assert!(holder.is_mptcp && holder.family == Some(Family::Ipv6));
    for unknown in [0, 13, 255] {
        assert_eq!(decode(&bytes(unknown)), None);
    }
}
