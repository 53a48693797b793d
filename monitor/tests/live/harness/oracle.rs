//! What `ss` says, and the one assertion everything here is about: tcplinger says the same.

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::daemon::Daemon;
use super::netns::Netns;
use super::{PATIENCE, eventually, run};

/// An address family by its name in the JSON.
pub(crate) type Family = &'static str;
pub(crate) const V4: Family = "ipv4";
pub(crate) const V6: Family = "ipv6";

/// Who asks for the counts gets those of this moment: two questions find them right.
const AT_ONCE: Duration = Duration::from_millis(400);
/// As long as the daemon itself says that they are in doubt, which a busy neighbour can cause.
const IN_DOUBT: Duration = Duration::from_secs(3);

/// `ss`'s names beside tcplinger's. `ss` has one name for a half-open request and a socket in
/// `SYN_RECV`, so the two are counted as one here.
pub(super) const STATES: [(&str, &str); 12] = [
    ("ESTAB", "established"),
    ("SYN-SENT", "syn_sent"),
    ("SYN-RECV", "syn_recv"),
    ("SYN-RECV", "new_syn_recv"),
    ("FIN-WAIT-1", "fin_wait1"),
    ("FIN-WAIT-2", "fin_wait2"),
    ("TIME-WAIT", "time_wait"),
    ("UNCONN", "close"),
    ("CLOSE-WAIT", "close_wait"),
    ("LAST-ACK", "last_ack"),
    ("LISTEN", "listen"),
    ("CLOSING", "closing"),
];

/// Sockets by family and state (as `ss` spells it); never a zero.
pub(crate) type Sockets = BTreeMap<(Family, String), u64>;

/// Sockets of one namespace as `ss` sees them now.
pub(crate) fn ss(netns: &Netns) -> Sockets {
    let mut sockets = Sockets::new();
    for (family, flag) in [(V4, "-4"), (V6, "-6")] {
        let rows = netns.enter(|| run(Command::new("ss").args([flag, "-tanH"])));
        for row in rows.lines() {
            let state = row.split_whitespace().next().unwrap();
            *sockets.entry((family, state.to_owned())).or_default() += 1;
        }
    }
    sockets
}

/// `tcplinger status --format json`, held to its own arithmetic.
pub(crate) struct Status(Value);

impl Status {
    /// All twelve states everywhere, families add up to namespaces, namespaces to the whole.
    pub(crate) fn new(json: Value) -> Self {
        let mut whole = BTreeMap::<_, u64>::new();
        for namespace in json["namespaces"].as_array().unwrap() {
            let mut families = BTreeMap::<_, u64>::new();
            for (_, state) in STATES {
                for family in [V4, V6] {
                    *families.entry(state).or_default() +=
                        count(&namespace["family"][family], state);
                }
                let sockets = count(&namespace["sockets"], state);
                assert_eq!(sockets, families[state], "{state} by family: {namespace}");
                *whole.entry(state).or_default() += sockets;
            }
        }
        for (_, state) in STATES {
            let sockets = count(&json["sockets"], state);
            assert_eq!(sockets, whole[state], "{state} by namespace: {json}");
        }
        Self(json)
    }

    /// What is said of the namespace with this inode number.
    pub(crate) fn namespace(&self, inode: u64) -> Option<&Value> {
        let mut namespaces = self.0["namespaces"].as_array().unwrap().iter();
        namespaces.find(|namespace| namespace["netns"] == inode)
    }

    /// Sockets of one namespace in `ss`'s terms; none where the namespace is not listed.
    pub(crate) fn sockets(&self, netns: &Netns) -> Sockets {
        let mut sockets = Sockets::new();
        let Some(namespace) = self.namespace(netns.inode()) else {
            return sockets;
        };
        assert_eq!(namespace["name"], netns.name());
        for family in [V4, V6] {
            for (spelling, state) in STATES {
                let number = count(&namespace["family"][family], state);
                // `ss` lists no socket in CLOSE.
                if number > 0 && state != "close" {
                    *sockets.entry((family, spelling.to_owned())).or_default() += number;
                }
            }
        }
        sockets
    }

    /// Whether the counts of this namespace are said to be in doubt.
    fn is_in_doubt(&self, netns: &Netns) -> bool {
        let namespace = self.namespace(netns.inode());
        namespace.is_some_and(|namespace| namespace["in_doubt"] == true)
    }

    pub(crate) fn received_events(&self) -> u64 {
        self.0["events"]["received"].as_u64().unwrap()
    }

    pub(crate) fn dropped_log_lines(&self) -> u64 {
        self.0["log_lines_dropped"].as_u64().unwrap()
    }

    /// Sockets that the kernel had otherwise than its events told.
    pub(crate) fn drifted_sockets(&self) -> u64 {
        self.0["drift"].as_u64().unwrap()
    }

    pub(crate) fn lost_events(&self) -> u64 {
        self.0["events"]["lost"].as_u64().unwrap()
    }
}

fn count(states: &Value, state: &str) -> u64 {
    assert_eq!(
        states.as_object().map(serde_json::Map::len),
        Some(12),
        "{states}"
    );
    if state == "close" && states[state].is_null() {
        // Where no walk of descriptors is possible.
        return 0;
    }
    states[state]
        .as_u64()
        .unwrap_or_else(|| panic!("no {state} in {states}"))
}

impl Netns {
    /// Waits until `ss` shows these sockets and no others. Every scenario goes through here before
    /// it compares: the state it is about was really there.
    pub(crate) fn settle(&self, wanted: &[(Family, &str, u64)]) {
        let wanted: Sockets = wanted
            .iter()
            .map(|&(family, state, number)| ((family, state.to_owned()), number))
            .collect();
        let arrived = eventually(PATIENCE, || (ss(self) == wanted).then_some(()));
        assert!(
            arrived.is_some(),
            "ss has {:?}, the scenario needs {wanted:?}",
            ss(self)
        );
    }
}

impl Netns {
    /// What is in it now.
    pub(crate) fn sockets(&self) -> Sockets {
        ss(self)
    }

    /// Waits until `ss` shows the same twice in 100 ms, and returns it.
    pub(crate) fn rest(&self) -> Option<Sockets> {
        eventually(PATIENCE, || {
            let sockets = ss(self);
            thread::sleep(Duration::from_millis(100));
            Some(sockets).filter(|sockets| *sockets == ss(self))
        })
    }
}

/// The daemon's counts of `netns`, and those of a fresh walk, equal `ss`'s in every state and
/// family: at once, or soon where the daemon says that they are in doubt. Timers run between the
/// readings, so `ss` is asked on both sides and only counts when it did not change.
pub(crate) fn assert_agrees(daemon: &Daemon, netns: &Netns) {
    for source in ["daemon", "kernel"] {
        let start = Instant::now();
        loop {
            let waited = start.elapsed();
            let before = ss(netns);
            let status = daemon.status(source);
            let patience = if status.is_in_doubt(netns) {
                IN_DOUBT
            } else {
                AT_ONCE
            };
            let is_late = waited > patience;
            let shown = status.sockets(netns);
            let is_still = before == ss(netns);
            if is_still && shown == before {
                break;
            }
            assert!(
                !(is_late && is_still),
                "--source {source} has {shown:?}, ss has {before:?} in {}",
                netns.name()
            );
            assert!(
                start.elapsed() < PATIENCE,
                "{} never came to rest",
                netns.name()
            );
        }
    }
}
