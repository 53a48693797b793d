//! Private network namespaces that vanish with the test, and pairs of them on a wire.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{output, run};

/// A named network namespace with its loopback up; deleted on drop, also by a panic.
pub(crate) struct Netns {
    name: String,
    inode: u64,
    is_counted: bool,
}

/// Namespaces that exist, but for those of a test that is alone.
static COMPANY: Mutex<usize> = Mutex::new(0);
static COMPANY_LEFT: Condvar = Condvar::new();

/// The right to be alone: as long as it lasts, no other test makes a namespace.
pub(crate) struct Alone(#[expect(dead_code, reason = "held, not used")] MutexGuard<'static, usize>);

impl Alone {
    /// Waits until no other test has a namespace. A daemon sees all of them, and a crowd in one would
    /// make it slow for the others.
    pub(crate) fn wait() -> Self {
        let company = COMPANY.lock().unwrap_or_else(PoisonError::into_inner);
        let company = COMPANY_LEFT.wait_while(company, |others| *others > 0);
        Self(company.unwrap_or_else(PoisonError::into_inner))
    }
}

impl Netns {
    pub(crate) fn new() -> Self {
        *COMPANY.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self::make(true)
    }

    /// For the test that is alone.
    pub(crate) fn apart(_: &Alone) -> Self {
        Self::make(false)
    }

    fn make(is_counted: bool) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // The first `ip netns add` of a machine remounts /run/netns: one at a time.
        static ADDING: Mutex<()> = Mutex::new(());

        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tl-{}-{number}", process::id());
        {
            let _adding = ADDING.lock().unwrap_or_else(PoisonError::into_inner);
            run(Command::new("ip").args(["netns", "add", &name]));
        }
        let mut netns = Self {
            name,
            inode: 0,
            is_counted,
        };
        netns.inode = fs::metadata(netns.path()).unwrap().ino();
        netns.ip("link set lo up");
        netns
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The number by which tcplinger and the kernel know it.
    pub(crate) const fn inode(&self) -> u64 {
        self.inode
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs `job` on a thread inside the namespace. Sockets made there stay in it wherever they
    /// go; so do the commands it spawns.
    pub(crate) fn enter<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            let namespace = File::open(self.path()).unwrap();
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network).unwrap();
            job()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|cause| panic::resume_unwind(cause))
    }

    /// `ip` in the namespace, its arguments as one would type them.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let arguments = arguments.split_whitespace();
        run(Command::new("ip").args(["-n", &self.name]).args(arguments))
    }

    /// Sets `net.ipv4.<key>` in this namespace only.
    pub(crate) fn sysctl(&self, key: &str, value: &str) {
        // /proc/sys/net shows the namespace of whoever opens the file.
        self.enter(|| fs::write(format!("/proc/sys/net/ipv4/{key}"), value).unwrap());
    }

    /// Drops what arrives and matches (an nftables expression), until [`Self::heal`].
    pub(crate) fn drop_incoming(&self, matching: &str) {
        let rules = format!(
            "table inet loss {{ chain input {{ \
             type filter hook input priority filter; {matching} drop; }}; }}"
        );
        self.enter(|| run(Command::new("nft").arg(&rules)));
    }

    /// Lets everything in again.
    pub(crate) fn heal(&self) {
        self.enter(|| run(Command::new("nft").args(["delete", "table", "inet", "loss"])));
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // A second panic would abort the whole run; a name left behind harms nobody.
        let _ = output(Command::new("ip").args(["netns", "delete", &self.name]));
        if self.is_counted {
            *COMPANY.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
            COMPANY_LEFT.notify_all();
        }
    }
}

/// Two namespaces on one wire: `10.77.0.1` and `fd77::1` on the left, `.2` and `::2` right.
pub(crate) struct Veth {
    pub(crate) left: Netns,
    pub(crate) right: Netns,
}

impl Veth {
    /// What a server on the right binds, for each family.
    pub(crate) const RIGHT: [&str; 2] = ["10.77.0.2:0", "[fd77::2]:0"];

    pub(crate) fn new() -> Self {
        let (left, right) = (Netns::new(), Netns::new());
        let peer = right.name();
        left.ip(&format!(
            "link add wire type veth peer name wire netns {peer}"
        ));
        for (netns, host) in [(&left, 1), (&right, 2)] {
            netns.ip(&format!("address add 10.77.0.{host}/24 dev wire"));
            // No duplicate address detection: the address is usable at once.
            netns.ip(&format!("address add fd77::{host}/64 dev wire nodad"));
            netns.ip("link set wire up");
        }
        Self { left, right }
    }
}
