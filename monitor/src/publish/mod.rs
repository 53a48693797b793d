//! What the daemon tells the world: the HTTP server, the push to a collector, findings in a file.
//!
//! Each outlet has a thread of its own and takes what it needs from [`Shared`]; none can hold the
//! daemon up, and what an outlet is too slow for is dropped and counted.

mod backlog;
mod files;
mod findings;
mod history;
mod http;
mod otlp;
mod places;
mod shared;
mod threads;

use std::cell::RefCell;
use std::fmt::{self, Debug, Formatter};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error as ThisError;

use crate::track::{Notice, Recent, Sample, Sink};
use files::{Stamp, stamps};
pub(crate) use places::{Place, Places};
use shared::Shared;
use threads::Outlet;

/// For the last words of every outlet together.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where to publish what.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    pub(crate) http: Http,
    pub(crate) otlp: Option<Otlp>,
    pub(crate) findings: Option<Findings>,
}

impl Settings {
    /// The files they name: those that are read, and those that are written.
    pub(crate) fn files(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let otlp = self.otlp.iter();
        let pushing = otlp.flat_map(|otlp| otlp.bearer_token_file.iter().chain(&otlp.tls_ca));
        let read = http::paths(&self.http).into_iter().chain(pushing.cloned());
        let written = self
            .findings
            .iter()
            .filter_map(|findings| findings.path.clone());
        (read.collect(), written.collect())
    }
}

/// The HTTP server.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Http {
    /// None to leave it out.
    pub(crate) listen: Vec<SocketAddr>,
    /// Nobody asked for it: where it cannot listen, the daemon goes on without, and without a token it
    /// shows figures only to who may use the control socket, too.
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
        "[otlp] endpoint {endpoint:?} is not a URL: {why}; give one such as http://127.0.0.1:4318"
    )]
    Endpoint { endpoint: String, why: String },
    #[error(
        "cannot read the token in {}: {why}; write it there as one line, readable only by root, \
         or omit bearer_token_file",
        path.display()
    )]
    Token { path: PathBuf, why: String },
    #[error(
        "cannot read the authorities in {}: {source}; name a PEM file with the certificates to \
         trust, or omit [otlp] tls_ca to use the system's",
        path.display()
    )]
    Authorities { path: PathBuf, source: io::Error },
    #[error(
        "this system has no certificate authorities, so https to a collector cannot work: install \
         ca-certificates, or set [otlp] tls_ca to a PEM file"
    )]
    NoAuthorities,
    #[error("cannot write findings to {}: {why}", path.display())]
    FindingsFile { path: PathBuf, why: String },
    #[error("cannot start a thread to publish: {0}; check ulimit -u")]
    Thread(#[from] io::Error),
}

/// Whether a client on this host, by the addresses of its socket and of ours, may see what is shown at
/// an address that nobody asked for.
type MayAsk = dyn Fn(SocketAddr, SocketAddr) -> bool + Send + Sync;

/// The users of this host who may ask.
#[derive(Clone)]
pub(crate) struct LocalUsers(Arc<MayAsk>);

impl LocalUsers {
    pub(crate) fn new(
        may_ask: impl Fn(SocketAddr, SocketAddr) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(may_ask))
    }

    fn may_ask(&self, client: SocketAddr, server: SocketAddr) -> bool {
        (self.0)(client, server)
    }
}

impl Debug for LocalUsers {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("LocalUsers(..)")
    }
}

/// The outlets, at work.
#[derive(Debug)]
pub(crate) struct Publisher {
    shared: Arc<Shared>,
    users: LocalUsers,
    outlets: RefCell<Open>,
}

/// What is open, each with what it was opened with.
#[derive(Debug, Default)]
struct Open {
    otlp: Option<(Otlp, Vec<Option<Stamp>>, Outlet)>,
    findings: Option<(Findings, Outlet)>,
    http: Option<http::Serving>,
}

impl Publisher {
    /// Opens every outlet.
    ///
    /// # Errors
    /// One that was asked for cannot be opened.
    pub(crate) fn start(settings: &Settings, users: LocalUsers) -> Result<Self, Error> {
        let publisher = Self {
            users,
            shared: Arc::new(Shared::new()),
            outlets: RefCell::default(),
        };
        publisher.reload(settings)?;
        Ok(publisher)
    }

    /// Opens what is new or has changed, and then ends what was there in its place. An outlet that
    /// would be opened as it is stays.
    ///
    /// # Errors
    /// One that is asked for cannot be opened: all stays as it was.
    pub(crate) fn reload(&self, settings: &Settings) -> Result<(), Error> {
        let mut outlets = self.outlets.borrow_mut();
        let otlp = match &settings.otlp {
            Some(wanted) => {
                let found = stamps(wanted.tls_ca.as_slice());
                let is_same = |(settings, stamps, _): &(Otlp, Vec<Option<Stamp>>, Outlet)| {
                    settings == wanted && *stamps == found
                };
                if outlets.otlp.as_ref().is_some_and(is_same) {
                    None
                } else {
                    let outlet = otlp::start(wanted, &self.shared)?;
                    Some(Some((wanted.clone(), found, outlet)))
                }
            }
            None => Some(None),
        };
        let findings = match &settings.findings {
            Some(wanted) => match &outlets.findings {
                Some((settings, _)) if settings == wanted => None,
                _ => {
                    let outlet = findings::start(wanted, &self.shared)?;
                    Some(Some((wanted.clone(), outlet)))
                }
            },
            None => Some(None),
        };
        let http = match &outlets.http {
            Some(serving) if serving.is_as(&settings.http) => None,
            serving => {
                let (shared, users) = (&self.shared, &self.users);
                let serving =
                    http::Serving::start(&settings.http, shared, users, serving.as_ref())?;
                Some(serving)
            }
        };
        // Nothing can fail any more. No notice is announced meanwhile: what was there before has all
        // that came so far, and what is new all that comes.
        if let Some(otlp) = otlp {
            outlets.otlp = otlp;
        }
        if let Some(findings) = findings {
            outlets.findings = findings;
        }
        if let Some(http) = http {
            http::Serving::end(std::mem::replace(&mut outlets.http, http));
        }
        Ok(())
    }

    /// Lets the outlets say their last words, for a second at most.
    pub(crate) fn finish(&self) {
        let outlets = self.outlets.borrow();
        let otlp = outlets.otlp.iter().map(|(.., outlet)| outlet);
        let findings = outlets.findings.iter().map(|(_, outlet)| outlet);
        let pushing: Vec<&Outlet> = otlp.chain(findings).collect();
        for outlet in &pushing {
            outlet.stop();
        }
        let deadline = Instant::now() + PATIENCE;
        if !pushing.iter().all(|outlet| outlet.has_ended_by(deadline)) {
            tracing::warn!("an output hangs: its unsent data is lost");
        }
    }

    /// Takes the newest figures.
    pub(crate) fn publish(&self, sample: Sample) {
        self.shared.publish(sample);
    }

    /// What the newest figures say beside the counts.
    pub(crate) fn recent(&self) -> Option<Recent> {
        let sample = self.shared.latest()?;
        Some(self.shared.recent(&sample))
    }

    /// Takes what has changed among the incidents.
    pub(crate) fn announce<'a>(&self, notices: impl Iterator<Item = &'a Notice>) {
        self.shared.announce(notices);
    }

    /// So many notices were gone before they could be announced.
    pub(crate) fn note_missed(&self, missed: u64) {
        let outlets = self.outlets.borrow();
        let otlp = outlets.otlp.is_some().then_some(Sink::OtlpLogs);
        let findings = outlets.findings.is_some().then_some(Sink::Findings);
        let sinks: Vec<Sink> = otlp.into_iter().chain(findings).collect();
        self.shared.note_missed(&sinks, missed);
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
