//! A verdict on one socket, with everything that explains it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::tcp::{Process, State};
use crate::track::phrase::rendered;

/// How bad it is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// It lingers, and that is all.
    #[default]
    None,
    Warning,
    Critical,
}

/// How long a socket has been in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Age {
    pub(crate) span: Duration,
    /// It may be longer: nobody saw it enter the state.
    pub(crate) is_lower_bound: bool,
}

/// The verdict on one socket; its JSON form is the documented one. Text of other processes in it is
/// raw: escape it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// `default`, or the name of a configured rule.
    pub(crate) rule: String,
    #[serde(serialize_with = "name_of", deserialize_with = "state_named")]
    pub(crate) state: State,
    pub(crate) age_seconds: f64,
    pub(crate) age_is_lower_bound: bool,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// An MPTCP connection, and not a TCP socket below one.
    #[serde(rename = "mptcp")]
    pub(crate) is_mptcp: bool,
    /// Inode number.
    pub(crate) netns: u32,
    /// None where only /proc/net could be asked.
    pub(crate) cookie: Option<u64>,
    /// Always 1: lists of incidents have the same field.
    pub(crate) sockets: u64,
    /// Not read by the application.
    pub(crate) recv_queue_bytes: u64,
    /// Not acknowledged by the peer.
    pub(crate) send_queue_bytes: u64,
    /// In a row, without an answer.
    pub(crate) retransmits: u64,
    /// The timer that runs: `retransmit`, `keepalive`, `time_wait` or `probe`.
    pub(crate) timer: Option<String>,
    pub(crate) timer_expires_seconds: Option<f64>,
    pub(crate) last_data_sent_seconds: Option<f64>,
    pub(crate) last_data_received_seconds: Option<f64>,
    /// Of incidents; null here, for who reads both lists.
    pub(crate) rate_per_second: Option<f64>,
    /// Likewise.
    pub(crate) exhausted_in_seconds: Option<f64>,
    /// Every process that holds it; empty where none does.
    pub(crate) owners: Vec<Owner>,
    /// No process holds it any more: `close()` was called, or the process is gone.
    pub(crate) is_orphaned: bool,
    /// What keeps it where it is, in one sentence that follows from the above.
    pub(crate) reason: String,
    /// What the reason is made from once more when it is shown later; empty where nothing in it moves.
    #[serde(skip)]
    pub(crate) template: String,
    /// What to do.
    pub(crate) advice: String,
}

impl Finding {
    /// As it is so much later, as far as nothing has happened.
    pub(crate) fn later(&self, later: Duration) -> Self {
        let seconds = later.as_secs_f64();
        let mut aged = self.clone();
        aged.age_seconds += seconds;
        for ago in [
            &mut aged.last_data_sent_seconds,
            &mut aged.last_data_received_seconds,
        ] {
            *ago = ago.map(|ago| ago + seconds);
        }
        let left = aged.timer_expires_seconds;
        aged.timer_expires_seconds = left.map(|left| (left - seconds).max(0.0));
        if !self.template.is_empty() {
            aged.reason = rendered(&self.template, later);
        }
        aged
    }
}

/// One holder of a socket.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Owner {
    pub(crate) process: Arc<Process>,
    /// None where it holds the listener that the socket waits at, and not the socket itself.
    pub(crate) fd: Option<u32>,
}

/// [`Owner`] in JSON.
#[derive(Serialize, Deserialize)]
struct OwnerForm {
    pid: u32,
    comm: String,
    fd: Option<u32>,
    uid: Option<u32>,
    exe: Option<String>,
    unit: Option<String>,
    container: Option<String>,
    pod: Option<String>,
    open_files: Option<u64>,
    file_limit: Option<u64>,
}

impl Serialize for Owner {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let process = Process::clone(&self.process);
        OwnerForm {
            pid: process.pid,
            comm: process.comm,
            fd: self.fd,
            uid: process.uid,
            exe: process.exe,
            unit: process.unit,
            container: process.container,
            pod: process.pod,
            open_files: process.open_files,
            file_limit: process.file_limit,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = OwnerForm::deserialize(deserializer)?;
        Ok(Self {
            process: Arc::new(Process {
                pid: form.pid,
                comm: form.comm,
                exe: form.exe,
                uid: form.uid,
                unit: form.unit,
                container: form.container,
                pod: form.pod,
                open_files: form.open_files,
                file_limit: form.file_limit,
            }),
            fd: form.fd,
        })
    }
}

/// One end of a socket, or of a group of sockets: `*` for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Endpoint {
    Any,
    /// `*:8080`.
    Port(u16),
    /// `10.0.0.1:*`.
    Address(IpAddr),
    Socket(SocketAddr),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.pad("*"),
            Self::Port(port) => f.pad(&format!("*:{port}")),
            Self::Address(IpAddr::V4(address)) => f.pad(&format!("{address}:*")),
            Self::Address(IpAddr::V6(address)) => f.pad(&format!("[{address}]:*")),
            Self::Socket(address) => address.fmt(f),
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("{text:?} is no endpoint");
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(address) = text.strip_suffix(":*") {
            let bare = address
                .strip_prefix('[')
                .and_then(|bare| bare.strip_suffix(']'));
            let address = bare.unwrap_or(address).parse();
            return address.map(Self::Address).map_err(|_| unknown());
        }
        match text.strip_prefix("*:") {
            Some(port) => port.parse().map(Self::Port).map_err(|_| unknown()),
            None => text.parse().map(Self::Socket).map_err(|_| unknown()),
        }
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde calls"
)]
pub(crate) fn name_of<S: Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.name())
}

pub(crate) fn state_named<'de, D: Deserializer<'de>>(deserializer: D) -> Result<State, D::Error> {
    let name = String::deserialize(deserializer)?;
    name.parse().map_err(de::Error::custom)
}
