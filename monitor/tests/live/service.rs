//! What the service manager hears: ready with the first snapshot, signs of life, a reload, the end.

use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Daemon, PATIENCE, Scratch, eventually};

/// Where the daemon tells what it tells.
struct Manager(UnixDatagram);

impl Manager {
    fn new(scratch: &Scratch) -> Self {
        let socket = UnixDatagram::bind(scratch.path("notify")).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        Self(socket)
    }

    /// The next message.
    fn next(&self) -> String {
        let mut message = [0; 4096];
        let length = self.0.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..length]).into_owned()
    }

    /// The next one that is no sign of life.
    fn next_news(&self) -> String {
        loop {
            let message = self.next();
            if !message.starts_with("WATCHDOG=1") {
                return message;
            }
        }
    }
}

fn managed(scratch: &Scratch, config: &str, watchdog_us: u32) -> Daemon {
    let socket = scratch.path("notify");
    let script = format!(
        "NOTIFY_SOCKET={} WATCHDOG_USEC={watchdog_us} WATCHDOG_PID=$$ exec \"$0\" \"$@\"",
        socket.display()
    );
    Daemon::wrapped(&["sh", "-c", &script], &format!("--config {config}"))
}

#[test]
fn the_manager_hears_of_the_first_snapshot_of_reloads_and_of_the_end() {
    let scratch = Scratch::new();
    let manager = Manager::new(&scratch);
    let config = scratch.write("");
    let mut daemon = managed(&scratch, &config, 600_000_000);
    assert!(manager.next_news().starts_with("READY=1\n"));
    assert!(daemon.log().contains("first snapshot taken"));

    daemon.signal(Signal::HUP);
    let reloading = manager.next_news();
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    let ready = manager.next_news();
    assert_eq!(ready, "READY=1\nSTATUS=watching");

    scratch.write("[nonsense]\n");
    daemon.signal(Signal::HUP);
    assert!(manager.next_news().starts_with("RELOADING=1"));
    let refused = manager.next_news();
    assert!(
        refused.starts_with("READY=1\nSTATUS=") && refused.contains("refused"),
        "{refused}"
    );

    assert!(daemon.end(Signal::TERM).success());
    assert_eq!(manager.next_news(), "STOPPING=1");
}

#[test]
fn a_daemon_that_no_longer_drains_gives_no_sign_of_life() {
    let scratch = Scratch::new();
    let manager = Manager::new(&scratch);
    let config = scratch.write("");
    let daemon = managed(&scratch, &config, 900_000);
    manager.next_news();
    // Nothing happens on the host, perhaps: it gives signs all the same. What was too much for the
    // socket while nobody read is dropped.
    let begin = Instant::now();
    for _ in 0..20 {
        assert_eq!(manager.next(), "WATCHDOG=1");
    }
    assert!(
        begin.elapsed() >= Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );

    daemon.signal(Signal::STOP);
    thread::sleep(Duration::from_millis(300));
    manager.0.set_nonblocking(true).unwrap();
    while manager.0.recv(&mut [0; 64]).is_ok() {}
    thread::sleep(Duration::from_secs(1));
    assert!(
        manager.0.recv(&mut [0; 64]).is_err(),
        "a sign of life of one that is stopped"
    );
    daemon.signal(Signal::CONT);
    let again = eventually(PATIENCE, || manager.0.recv(&mut [0; 64]).ok());
    assert!(again.is_some());
}
