//! What is where.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    RETRY_AFTER, VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get};

use super::accept::Client;
use super::admission::Refusal;
use super::events;
use super::site::{Asked, Site};
use crate::clock::monotonic;
use crate::output::json::api;
use crate::output::metrics::Form;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// The page loads its own two files and asks this daemon; nothing else, and nothing inline.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// The ring is looked at some ten times a second.
const DRAIN_OVERDUE: Duration = Duration::from_secs(5);
/// A sample is taken every second, unless a walk of very large tables is under way.
const SAMPLE_OVERDUE: Duration = Duration::from_secs(10);

pub(super) fn router(site: Arc<Site>) -> Router {
    let page = |content_type, text: &'static [u8]| {
        get(async move || respond(StatusCode::OK, content_type, "no-cache", text))
    };
    let json = |asked: Asked| -> MethodRouter<Arc<Site>> {
        get(async move |State(site): State<Arc<Site>>| {
            if asked == Asked::Status {
                site.shared.freshen(monotonic()).await;
            }
            figures(&site, asked, JSON)
        })
    };
    Router::new()
        .route(
            "/",
            page(
                "text/html; charset=utf-8",
                include_bytes!("../page/index.html"),
            ),
        )
        .route(
            "/page.css",
            page(
                "text/css; charset=utf-8",
                include_bytes!("../page/page.css"),
            ),
        )
        .route(
            "/page.js",
            page(
                "text/javascript; charset=utf-8",
                include_bytes!("../page/page.js"),
            ),
        )
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/v1/status", json(Asked::Status))
        .route("/api/v1/stuck", json(Asked::Stuck))
        .route("/api/v1/ports", json(Asked::Ports))
        .route("/api/v1/owners", json(Asked::Owners))
        .route("/api/v1/history", json(Asked::History))
        .route("/api/v1/events", get(stream))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(site)
}

/// What every answer tells a browser.
pub(super) fn protect(headers: &mut HeaderMap) {
    let own = HeaderValue::from_static;
    headers.insert(CONTENT_SECURITY_POLICY, own(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, own("nosniff"));
    headers.insert(REFERRER_POLICY, own("no-referrer"));
}

/// An answer in place of one from the routes. The connection ends with it.
pub(super) fn refused(refusal: &Refusal) -> Response {
    let mut response = error(refusal.status, refusal.why);
    let headers = response.headers_mut();
    // What else the client sends is not looked at.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if refusal.status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

async fn metrics(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    let accepted = headers.get_all(ACCEPT).iter();
    let accepted: Vec<&str> = accepted.filter_map(|value| value.to_str().ok()).collect();
    let form = Form::accepted(&accepted.join(","));
    site.shared.freshen(monotonic()).await;
    let mut response = figures(&site, Asked::Metrics(form), form.content_type());
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept"));
    response
}

async fn healthz(State(site): State<Arc<Site>>) -> Response {
    let sample = site.shared.latest().map(|sample| sample.taken);
    match check_health(site.shared.drained(), sample, monotonic()) {
        Ok(()) => ok(),
        Err(why) => error(StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

async fn readyz(State(site): State<Arc<Site>>) -> Response {
    match site.shared.latest() {
        Some(_) => ok(),
        None => not_ready(),
    }
}

async fn stream(
    State(site): State<Arc<Site>>,
    Extension(client): Extension<Client>,
    method: Method,
) -> Response {
    if site.shared.latest().is_none() {
        return not_ready();
    }
    if method == Method::HEAD {
        return respond(
            StatusCode::OK,
            "text/event-stream",
            "no-store",
            Body::empty(),
        );
    }
    if !client.may_stream() {
        return later("too many event streams; use /api/v1/status, or retry later");
    }
    let body = Body::new(events::stream(site));
    let mut response = respond(StatusCode::OK, "text/event-stream", "no-store", body);
    response.extensions_mut().insert(events::Endless);
    response
}

async fn no_such_path() -> Response {
    let why = "not found; there are /, /metrics, /healthz, /readyz and, under /api/v1: status, \
               stuck, ports, owners, history, events";
    error(StatusCode::NOT_FOUND, why)
}

async fn no_such_method() -> Response {
    let why = "method not allowed; use GET or HEAD";
    error(StatusCode::METHOD_NOT_ALLOWED, why)
}

fn figures(site: &Site, asked: Asked, content_type: &'static str) -> Response {
    match site.answer(asked) {
        Ok(Some(bytes)) => respond(StatusCode::OK, content_type, "no-store", bytes),
        Ok(None) => not_ready(),
        Err(reason) => {
            let why = format!("the answer cannot be written: {reason}; please report this");
            error(StatusCode::INTERNAL_SERVER_ERROR, &why)
        }
    }
}

fn ok() -> Response {
    respond(StatusCode::OK, TEXT, "no-store", "ok\n")
}

fn not_ready() -> Response {
    later("the first snapshot is not taken yet; retry in a second")
}

fn later(why: &str) -> Response {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, why);
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn error(status: StatusCode, why: &str) -> Response {
    let mut body = Vec::new();
    // Into memory, where nothing fails; without its text the status would have to do.
    let _ = api::write_error(&mut body, why);
    respond(status, JSON, "no-store", body)
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    cache: &'static str,
    body: impl Into<Body>,
) -> Response {
    let headers = [(CONTENT_TYPE, content_type), (CACHE_CONTROL, cache)];
    (status, headers, body.into()).into_response()
}

/// Whether the stream is attached and drained; else why not. All times on one clock.
fn check_health(
    drained: Option<Duration>,
    sample: Option<Duration>,
    now: Duration,
) -> Result<(), String> {
    let since = |then: Duration| now.saturating_sub(then);
    match (drained.map(since), sample.map(since)) {
        (None, _) => Err("the stream is not attached yet; ask again in a second".to_owned()),
        (Some(idle), _) if idle >= DRAIN_OVERDUE => Err(format!(
            "the stream was last drained {} s ago; is the daemon stopped, or short of CPU time? \
             Look into its log",
            idle.as_secs()
        )),
        (_, Some(age)) if age >= SAMPLE_OVERDUE => Err(format!(
            "the last figures are {} s old; is the daemon short of CPU time? Look into its log",
            age.as_secs()
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthy_is_who_drains_and_samples() {
        let at = |seconds| Some(Duration::from_secs(seconds));
        let now = Duration::from_secs(100);
        assert_eq!(check_health(at(99), at(99), now), Ok(()));
        assert_eq!(check_health(at(99), None, now), Ok(()));
        // Stamped after `now` was read.
        assert_eq!(check_health(at(101), at(101), now), Ok(()));
        for (drained, sample, why) in [
            (None, None, "not attached"),
            (at(95), at(99), "drained 5 s ago"),
            (at(99), at(90), "10 s old"),
        ] {
            let told = check_health(drained, sample, now).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }
}
