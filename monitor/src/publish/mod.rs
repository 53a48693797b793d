//! What the daemon tells the world: the HTTP server, the push to a collector, findings in a file.
//!
//! Each outlet has a thread of its own and takes what it needs from [`Shared`]; none can hold the
//! daemon up, and what an outlet is too slow for is dropped and counted.

mod backlog;
mod findings;
mod history;
mod http;
mod otlp;
mod places;
mod shared;
mod threads;

use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use thiserror::Error as ThisError;

use crate::track::stuck::Notice;
use crate::track::{Sample, Sink};
pub(crate) use places::{Place, Places};
use shared::Shared;
use threads::Threads;

/// Where to publish what.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    pub(crate) http: Http,
    pub(crate) otlp: Option<Otlp>,
    pub(crate) findings: Option<Findings>,
}

/// The HTTP server.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Http {
    /// None to leave it out.
    pub(crate) listen: Vec<SocketAddr>,
    /// Nobody asked for it: where it cannot listen, the daemon goes on without.
    pub(crate) is_default: bool,
    /// File with the token that clients must show.
    pub(crate) bearer_token_file: Option<PathBuf>,
    /// PEM files: certificate chain, private key.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
}

/// The push of metrics and findings by OTLP over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Otlp {
    /// Base URL: `http://127.0.0.1:4318`.
    pub(crate) endpoint: String,
    /// Between two pushes of the metrics.
    pub(crate) interval: Duration,
    pub(crate) bearer_token_file: Option<PathBuf>,
    /// PEM file with the authorities to trust in place of the system's.
    pub(crate) tls_ca: Option<PathBuf>,
}

/// Findings as JSON lines.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Findings {
    /// None for stdout.
    pub(crate) path: Option<PathBuf>,
    /// Bytes from which on a file is rotated.
    pub(crate) rotate_at: u64,
    /// Rotated files kept: `NAME.1` is the newest.
    pub(crate) keep: u32,
}

/// Why it cannot be published.
#[derive(Debug, ThisError)]
pub(crate) enum Error {
    #[error(transparent)]
    Http(#[from] http::Error),
    #[error(
        "[otlp] endpoint {endpoint:?} is no URL: {why}; give one such as http://127.0.0.1:4318"
    )]
    Endpoint { endpoint: String, why: String },
    #[error(
        "cannot read the token in {}: {why}; put it there as one line, for root only to \
         read, or leave bearer_token_file out",
        path.display()
    )]
    Token { path: PathBuf, why: String },
    #[error(
        "cannot read the authorities in {}: {source}; name a PEM file with the certificates to \
         trust, or leave [otlp] tls_ca out for the system's",
        path.display()
    )]
    Authorities { path: PathBuf, source: io::Error },
    #[error(
        "this system trusts no authority, so no collector can be reached by https: install \
         ca-certificates, or name a PEM file as [otlp] tls_ca"
    )]
    NoAuthorities,
    #[error("cannot write findings to {}: {why}", path.display())]
    FindingsFile { path: PathBuf, why: String },
    #[error("cannot start a thread to publish: {0}; look at ulimit -u")]
    Thread(io::Error),
}

/// Opens a regular file: a pipe that nobody writes to must not hold up who opens it.
fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("that is no regular file"))
    }
}

/// The outlets, at work.
#[derive(Debug)]
pub(crate) struct Publisher {
    shared: Arc<Shared>,
    /// That take every notice.
    sinks: Vec<Sink>,
    threads: Threads,
    /// Ends when it is dropped.
    _http: Option<http::Server>,
}

impl Publisher {
    /// Opens every outlet.
    ///
    /// # Errors
    /// One that was asked for cannot be opened.
    pub(crate) fn start(settings: &Settings) -> Result<Self, Error> {
        let shared = Arc::new(Shared::new());
        let mut threads = Threads::default();
        let mut sinks = Vec::new();
        if let Some(settings) = &settings.otlp {
            otlp::start(settings, &shared, &mut threads)?;
            sinks.push(Sink::OtlpLogs);
        }
        if let Some(settings) = &settings.findings {
            findings::start(settings, &shared, &mut threads)?;
            sinks.push(Sink::Findings);
        }
        Ok(Self {
            _http: http::Server::start(&settings.http, &shared)?,
            shared,
            sinks,
            threads,
        })
    }

    /// Lets the outlets say their last words, for a second at most.
    pub(crate) fn finish(&self) {
        if !self.threads.end() {
            tracing::warn!("an outlet hangs: what it had not told yet is lost");
        }
    }

    /// Takes the newest figures.
    pub(crate) fn publish(&self, sample: Sample) {
        self.shared.publish(sample);
    }

    /// Takes what has changed among the findings.
    pub(crate) fn announce<'a>(&self, notices: impl Iterator<Item = &'a Notice>) {
        self.shared.announce(notices);
    }

    /// So many notices were gone before they could be announced.
    pub(crate) fn note_missed(&self, missed: u64) {
        self.shared.note_missed(&self.sinks, missed);
    }

    /// Waits until an outlet wants figures that are newer than the latest.
    pub(crate) async fn asked_for_fresh(&self) {
        self.shared.wanted().await;
    }

    /// The ring was drained just now.
    pub(crate) fn note_drained(&self, now: Duration) {
        self.shared.note_drained(now);
    }
}
