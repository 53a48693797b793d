//! Connections: at most [`CONNECTIONS`] at a time, each for as long as its client keeps up.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::admission::{Admission, Caller};
use super::slow_client::{Progress, TimedStream};
use super::tls::Tls;
use super::{events, routes, stopped};
use crate::publish::places::{Place, Places};
use crate::publish::shared::{Dropped, Shared};

/// Connections at a time where the limit on descriptors allows as many.
pub(super) const CONNECTIONS: usize = 256;
/// With whatever limit on descriptors.
const FEWEST: usize = 8;
/// Descriptors for all else: the programs, the inventory, the control socket, what is pushed.
const RESERVE: usize = 96;
/// What has places of its own however many ask for other things.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Between two requests on a connection.
const IDLE: Duration = Duration::from_secs(30);
/// Bytes of a request's line and headers; the least that hyper takes.
const LONGEST_HEAD: usize = 8 << 10;
const MOST_HEADERS: usize = 64;
/// What is under way when the daemon ends may go on for so long.
const GRACE: Duration = Duration::from_millis(300);
/// Without descriptors or memory nothing can be accepted for a while.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What all connections share.
pub(super) struct Gate {
    pub(super) router: Router,
    pub(super) admission: Admission,
    pub(super) tls: Option<Tls>,
    pub(super) shared: Arc<Shared>,
    pub(super) places: Arc<Places<IpAddr, Kind>>,
    /// Turns true when the daemon ends.
    pub(super) stop: watch::Receiver<bool>,
}

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The page, the API, or nothing yet.
    Other,
    /// One of [`PROBES`].
    Probe,
    /// Events, each second one that all streams share.
    Stream,
}

impl Kind {
    fn of(path: &str) -> Self {
        if PROBES.contains(&path) {
            Self::Probe
        } else {
            Self::Other
        }
    }

    /// Places of this kind under the limit on descriptors that is in force.
    fn most(self) -> usize {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let all = descriptors.saturating_sub(RESERVE);
        let eighth = all.clamp(FEWEST, CONNECTIONS) / 8;
        eighth
            * match self {
                Self::Other => 5,
                Self::Probe => 2,
                Self::Stream => 1,
            }
    }
}

/// A client's place, for the routes.
#[derive(Clone, Debug)]
pub(super) struct Client(Arc<Place<IpAddr, Kind>>);

impl Client {
    /// Whether there is a place for another event stream of this client; it is taken then.
    pub(super) fn may_stream(&self) -> bool {
        self.0.try_change_to(Kind::Stream, Kind::Stream.most())
    }
}

/// Whose connections share places: a host's has many addresses of its own in IPv6, and on loopback.
pub(super) fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            const NETWORK: u128 = !0 << 64;
            IpAddr::V6((u128::from(address) & NETWORK).into())
        }
        address if address.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        address => address,
    }
}

/// Counts a connection for as long as it is there.
struct Open<'a>(&'a AtomicU64);

impl<'a> Open<'a> {
    fn new(open: &'a AtomicU64) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    /// Accepts for ever.
    pub(super) async fn keep_accepting(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (client, most) = (client(peer.ip()), Kind::Other.most());
                    self.places.settle(Kind::Other, most).await;
                    let place = self.places.enter(client, Kind::Other, most);
                    let gate = Arc::clone(&self);
                    drop(tokio::spawn(async move {
                        let _open = Open::new(&gate.shared.tallies.http_connections);
                        let client = Client(Arc::new(place));
                        tokio::select! {
                            () = gate.receive(stream, &client) => {}
                            () = client.0.lost() => {
                                gate.shared.tallies.note_http_dropped(Dropped::Crowded);
                            }
                        }
                    }));
                }
                Err(error) => {
                    tracing::debug!("cannot accept a connection: {error}");
                    if !self.places.give_way(Kind::Other) {
                        sleep(BACK_OFF).await;
                    }
                }
            }
            // Who made room is closed, and who came is heard, before the next one comes.
            yield_now().await;
        }
    }

    async fn receive(&self, stream: TcpStream, client: &Client) {
        // An answer is written in one go: there is nothing to wait for.
        let _ = stream.set_nodelay(true);
        let caller = match (stream.peer_addr(), stream.local_addr()) {
            (Ok(peer), Ok(own)) => self.admission.caller(peer, own),
            // It has gone.
            _ => return,
        };
        let Some(tls) = &self.tls else {
            return self.serve(stream, client, caller).await;
        };
        match timeout(HANDSHAKE, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream, client, caller).await,
            Ok(Err(error)) => {
                // rustls' own verdict; all else is the client's end.
                if error.kind() == io::ErrorKind::InvalidData {
                    self.shared.tallies.note_http_dropped(Dropped::Tls);
                }
                tracing::debug!("TLS handshake: {error}");
            }
            Err(_) => self.shared.tallies.note_http_dropped(Dropped::Slow),
        }
    }

    async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        client: &Client,
        caller: Caller,
    ) {
        let progress = Arc::new(Progress::default());
        let service = service_fn(|request: Request<Incoming>| {
            progress.note_asked();
            client.0.set_busy(true);
            async {
                let response = self.answer(request, client, caller).await;
                if response.extensions().get::<events::Endless>().is_some() {
                    progress.note_stream();
                } else {
                    progress.note_answered();
                    client.0.set_busy(false);
                }
                Ok::<_, Infallible>(response)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // From the first byte on `TimedStream` is stricter.
            .header_read_timeout(IDLE)
            .max_buf_size(LONGEST_HEAD)
            .max_headers(MOST_HEADERS)
            .serve_connection(
                TokioIo::new(TimedStream::new(stream, Arc::clone(&progress))),
                service,
            );
        let mut connection = std::pin::pin!(connection);
        let mut stop = self.stop.clone();
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = stopped(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                timeout(GRACE, connection).await.unwrap_or(Ok(()))
            }
        };
        let is_garbage = ended.as_ref().is_err_and(hyper::Error::is_parse);
        if let Err(error) = ended {
            tracing::debug!("connection: {error}");
        }
        // A client may leave when it likes: what it was ended for is counted.
        if progress.was_slow() {
            self.shared.tallies.note_http_dropped(Dropped::Slow);
        } else if is_garbage {
            self.shared.tallies.note_http_dropped(Dropped::Protocol);
        }
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
        client: &Client,
        caller: Caller,
    ) -> Response {
        let mut response = match self.admission.check(&request, caller) {
            Ok(()) => {
                let kind = Kind::of(request.uri().path());
                client.0.change_to(kind, kind.most()).await;
                request.extensions_mut().insert(client.clone());
                let routes = TowerToHyperService::new(self.router.clone());
                routes
                    .call(request)
                    .await
                    .unwrap_or_else(|never| match never {})
            }
            Err(refusal) => routes::refused(&refusal),
        };
        routes::protect(response.headers_mut());
        self.shared
            .tallies
            .note_http_answer(response.status().as_u16());
        response
    }
}
