//! Connections: so many at a time, each for as long as its client keeps up.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{CONNECTION, HeaderValue};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::admission::Admission;
use super::pace::{Pace, Paced};
use super::tls::Tls;
use super::{events, routes, stopped};
use crate::publish::shared::{Dropped, Shared};

/// Connections at a time; further ones wait in the kernel's backlog.
pub(super) const CONNECTIONS: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// With fewer places left than that, a connection ends with its answer: who keeps one without need
/// must not keep others out.
const SCARCE: usize = CONNECTIONS / 4;
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
    pub(super) places: Arc<Semaphore>,
    /// Turns true when the daemon ends.
    pub(super) stop: watch::Receiver<bool>,
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
    /// Accepts for ever. `is_loopback` tells whether only this host can reach the listener.
    pub(super) async fn keep_accepting(self: Arc<Self>, listener: TcpListener, is_loopback: bool) {
        while let Ok(place) = Arc::clone(&self.places).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let gate = Arc::clone(&self);
                    drop(tokio::spawn(async move {
                        let _place = place;
                        let _open = Open::new(&gate.shared.tallies.http_connections);
                        gate.receive(stream, is_loopback).await;
                    }));
                }
                Err(error) => {
                    tracing::debug!("cannot accept a connection: {error}");
                    sleep(BACK_OFF).await;
                }
            }
        }
    }

    async fn receive(&self, stream: TcpStream, is_loopback: bool) {
        // An answer is written in one go: there is nothing to wait for.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return self.serve(stream, is_loopback).await;
        };
        match timeout(HANDSHAKE, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream, is_loopback).await,
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

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin, is_loopback: bool) {
        let pace = Arc::new(Pace::default());
        let service = service_fn(async |request: Request<Incoming>| {
            pace.note_asked();
            let response = self.answer(request, is_loopback).await;
            if response.extensions().get::<events::Endless>().is_some() {
                pace.note_stream();
            }
            Ok::<_, Infallible>(response)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // From the first byte on `Paced` is stricter.
            .header_read_timeout(IDLE)
            .max_buf_size(LONGEST_HEAD)
            .max_headers(MOST_HEADERS)
            .serve_connection(TokioIo::new(Paced::new(stream, Arc::clone(&pace))), service);
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
        if pace.was_slow() {
            self.shared.tallies.note_http_dropped(Dropped::Slow);
        } else if is_garbage {
            self.shared.tallies.note_http_dropped(Dropped::Protocol);
        }
    }

    async fn answer(&self, request: Request<Incoming>, is_loopback: bool) -> Response {
        let mut response = match self.admission.check(&request, is_loopback) {
            Ok(()) => {
                let routes = TowerToHyperService::new(self.router.clone());
                routes
                    .call(request)
                    .await
                    .unwrap_or_else(|never| match never {})
            }
            Err(refusal) => routes::refused(&refusal),
        };
        routes::protect(response.headers_mut());
        if self.places.available_permits() < SCARCE {
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.shared
            .tallies
            .note_http_answer(response.status().as_u16());
        response
    }
}
