//! The HTTP server (`monitor/docs/http.md`): metrics, page, API and health, on a thread of its own.
//! A client can be slow, hostile or many; what that costs is bounded here.

mod accept;
mod admission;
mod error;
mod events;
mod listen;
mod routes;
mod site;
mod slow_client;
mod tls;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::setpriority_process;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::files::{Stamp, stamps};
use super::places::Places;
use super::shared::Shared;
use super::threads::Outlet;
use super::{Http, LocalUsers};
use crate::sandbox::{self, Duty};
use accept::Gate;
use admission::Admission;
pub(crate) use error::Error;
use site::Site;
use tls::Tls;

/// What may be asked for without a token: these show no figures.
const PAGE: [&str; 5] = ["/", "/page.css", "/page.js", "/healthz", "/readyz"];
/// The draining of the stream goes first, however many clients there are: what waits here waits for
/// some milliseconds, what is not drained is lost.
const NICE: i32 = 5;
/// For all connections to end with the daemon.
const GRACE: Duration = Duration::from_millis(500);
/// For a server that another takes the place of, to accept nobody more.
const STOPS_ACCEPTING: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_millis(5);
/// Between two looks at the files of token and certificate.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// The server at work; it ends when this is dropped, within a second.
#[derive(Debug)]
pub(super) struct Server(Outlet);

/// The server, and what it was started with.
#[derive(Debug)]
pub(super) struct Serving {
    settings: Http,
    /// Of the files that the settings name.
    stamps: Vec<Option<Stamp>>,
    listeners: Vec<Listener>,
    server: Server,
}

#[derive(Debug)]
struct Listener {
    /// The address that was asked for; its port may be 0.
    asked: SocketAddr,
    bound: SocketAddr,
    socket: TcpListener,
}

impl Listener {
    fn open(address: SocketAddr) -> Result<Self, Error> {
        let socket = listen::open(address)?;
        Ok(Self {
            asked: address,
            bound: socket.local_addr().unwrap_or(address),
            socket,
        })
    }

    /// The same socket once more.
    fn again(&self) -> Result<Self, Error> {
        Ok(Self {
            asked: self.asked,
            bound: self.bound,
            socket: self.socket.try_clone().map_err(|error| {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::MFILE);
                Error::listening(self.asked, errno)
            })?,
        })
    }
}

impl Serving {
    /// Listens; None where there is nothing to listen at. The listeners of a server that was there
    /// `before` are kept.
    ///
    /// # Errors
    /// An address that was asked for cannot be had, or a file is no good.
    pub(super) fn start(
        settings: &Http,
        shared: &Arc<Shared>,
        users: &LocalUsers,
        before: Option<&Self>,
    ) -> Result<Option<Self>, Error> {
        if settings.listen.is_empty() {
            return Ok(None);
        }
        // Before the reading: what changes in between is seen as a change.
        let stamps = stamps(&paths(settings));
        let now = Instant::now();
        let users = settings.is_default.then(|| users.clone());
        let admission = Admission::new(settings.bearer_token_file.as_deref(), users, now)?;
        let tls = match &settings.tls {
            Some((certificate, key)) => Some(Tls::new(certificate, key, now)?),
            None => None,
        };
        let listeners = open(settings, before)?;
        if listeners.is_empty() {
            return Ok(None);
        }
        for listener in &listeners {
            announce(listener.bound, admission.has_token(), tls.is_some());
        }
        let sockets: Result<_, Error> = listeners
            .iter()
            .map(|listener| Ok((listener.again()?.socket, listener.bound)))
            .collect();
        Ok(Some(Self {
            settings: settings.clone(),
            stamps,
            listeners,
            server: Server::serve(sockets?, admission, tls, shared, paths(settings))?,
        }))
    }

    /// Whether another start with these settings would change nothing.
    pub(super) fn is_as(&self, settings: &Http) -> bool {
        self.settings == *settings && self.stamps == stamps(&paths(settings))
    }

    /// Ends one that another has taken the place of. It stops accepting first; its clients are not waited
    /// for.
    pub(super) fn end(serving: Option<Self>) {
        if let Some(serving) = &serving {
            serving.server.0.stop();
            serving
                .server
                .0
                .has_ended_by(Instant::now() + STOPS_ACCEPTING);
        }
        // Where no thread is left it ends here.
        let _ = thread::Builder::new().spawn(move || drop(serving));
    }
}

/// The files that the settings name.
pub(super) fn paths(settings: &Http) -> Vec<PathBuf> {
    let tls = settings.tls.iter().flat_map(|(chain, key)| [chain, key]);
    settings
        .bearer_token_file
        .iter()
        .chain(tls)
        .cloned()
        .collect()
}

impl Server {
    fn serve(
        listeners: Vec<(TcpListener, SocketAddr)>,
        admission: Admission,
        tls: Option<Tls>,
        shared: &Arc<Shared>,
        files: Vec<PathBuf>,
    ) -> Result<Self, Error> {
        let outlet = Outlet::start("http", |stop| {
            let site = Arc::new(Site::new(Arc::clone(shared), stop.clone()));
            let gate = Gate {
                router: routes::router(Arc::clone(&site)),
                admission,
                tls,
                shared: Arc::clone(shared),
                places: Arc::new(Places::default()),
                stop,
            };
            let runtime = Builder::new_current_thread().enable_all().build()?;
            Ok::<_, Error>(move || {
                sandbox::confine(Duty::Server(&files));
                run(&runtime, gate, listeners);
            })
        })?;
        Ok(Self(outlet))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.stop();
        self.0.has_ended_by(Instant::now() + 2 * GRACE);
    }
}

/// The listeners. Where nobody asked for them they may be missing.
fn open(settings: &Http, before: Option<&Serving>) -> Result<Vec<Listener>, Error> {
    let kept = before.map_or(&[][..], |before| &before.listeners);
    let mut listeners = Vec::new();
    for address in &settings.listen {
        let opened = match kept.iter().find(|kept| kept.asked == *address) {
            Some(kept) => kept.again(),
            None => Listener::open(*address),
        };
        match opened {
            Ok(listener) => listeners.push(listener),
            Err(error) if settings.is_default => {
                tracing::warn!("{error}; running without metrics and page over HTTP");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(listeners)
}

fn announce(address: SocketAddr, has_token: bool, has_tls: bool) {
    let scheme = if has_tls { "https" } else { "http" };
    tracing::info!(%address, "listening on {scheme}://{address}/");
    let missing = match (has_token, has_tls) {
        _ if address.ip().is_loopback() => return,
        (true, true) => return,
        (false, true) => "without a token: set [http] bearer_token_file",
        (true, false) => "with a token in clear text: set [http] tls_certificate and tls_key",
        (false, false) => {
            "without a token and in clear text: set [http] bearer_token_file, tls_certificate and \
             tls_key"
        }
    };
    tracing::warn!(%address, "other hosts can read this address, {missing}");
}

fn run(runtime: &Runtime, gate: Gate, listeners: Vec<(TcpListener, SocketAddr)>) {
    // Of this thread alone, on Linux. Nothing is lost where it is refused.
    let _ = setpriority_process(None, NICE);
    let mut stop = gate.stop.clone();
    let gate = Arc::new(gate);
    runtime.block_on(async {
        let mut accepting = Vec::new();
        for (listener, address) in listeners {
            let gate = Arc::clone(&gate);
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    accepting.push(tokio::spawn(gate.keep_accepting(listener)));
                }
                Err(error) => log_lost(address, &error),
            }
        }
        stopped(&mut stop).await;
        for accepting in accepting {
            accepting.abort();
        }
        let open = &gate.shared.tallies.http_connections;
        let all_ended = async {
            while open.load(Ordering::Relaxed) > 0 {
                sleep(LOOK).await;
            }
        };
        let _ = timeout(GRACE, all_ended).await;
    });
}

fn log_lost(address: SocketAddr, error: &io::Error) {
    tracing::error!(%address, "cannot serve here: {error}");
}

/// Ready when the daemon ends.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Fails where the other end is gone, which says the same.
    let _ = stop.wait_for(|is_over| *is_over).await;
}

#[cfg(test)]
mod tests;
