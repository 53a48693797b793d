//! Who is let in: requests that are short enough, from a page of ours or with the token.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Request, StatusCode, Version};
use hyper::body::Body;

use super::{CHECK_EVERY, Error, PAGE};
use crate::publish::LocalUsers;
use crate::publish::files::{Token, Watched};

/// Bytes of path and query.
const LONGEST_TARGET: usize = 1_024;
/// Bytes: what is shorter can be guessed.
const SHORTEST_TOKEN: usize = 16;

/// Why a request is not answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) why: &'static str,
}

/// Lets requests in, or not.
#[derive(Debug)]
pub(super) struct Admission {
    token: Option<Watched<Token, Error>>,
    /// Who may ask without a token; None for everybody.
    users: Option<LocalUsers>,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Nothing is asked of who it is, or it is one who may ask.
    Any,
    /// Another user of this host.
    Stranger,
}

impl Admission {
    /// # Errors
    /// There is no good token in the file.
    pub(super) fn new(
        token_file: Option<&Path>,
        users: Option<LocalUsers>,
        now: Instant,
    ) -> Result<Self, Error> {
        let token = match token_file {
            Some(path) => {
                let paths = vec![path.to_owned()];
                Some(Watched::open(paths, read_token, CHECK_EVERY, now)?)
            }
            None => None,
        };
        Ok(Self { token, users })
    }

    /// Whose a new connection is.
    pub(super) fn caller(&self, client: SocketAddr, server: SocketAddr) -> Caller {
        match &self.users {
            Some(users) if self.token.is_none() && !users.may_ask(client, server) => {
                Caller::Stranger
            }
            _ => Caller::Any,
        }
    }

    pub(super) const fn has_token(&self) -> bool {
        self.token.is_some()
    }

    pub(super) fn check<B: Body>(
        &self,
        request: &Request<B>,
        caller: Caller,
    ) -> Result<(), Refusal> {
        let target = request.uri().path_and_query();
        if target.is_some_and(|target| target.as_str().len() > LONGEST_TARGET) {
            let why = "path and query are longer than 1,024 bytes; no page here needs that";
            return refuse(StatusCode::URI_TOO_LONG, why);
        }
        if !request.body().is_end_stream() {
            let why = "the request has a body; send GET or HEAD without one";
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, why);
        }
        let is_open = PAGE.contains(&request.uri().path());
        match &self.token {
            Some(token) => {
                if is_open || is_shown(&token.current(Instant::now()), request.headers()) {
                    return Ok(());
                }
                let why = "the bearer token is missing or wrong; send the token in the daemon's \
                           bearer_token_file as \"Authorization: Bearer TOKEN\"";
                refuse(StatusCode::UNAUTHORIZED, why)
            }
            None if caller == Caller::Stranger && !is_open => {
                let why = "only root and members of the daemon's [daemon] group may read this; \
                           join the group, or set bearer_token_file or listen in [http]";
                refuse(StatusCode::FORBIDDEN, why)
            }
            None => ensure_local_name(request),
        }
    }
}

const fn refuse(status: StatusCode, why: &'static str) -> Result<(), Refusal> {
    Err(Refusal { status, why })
}

/// A foreign page can have its own name point to this host (DNS rebinding) and then read what is
/// here as its own: its requests carry that name, and no page can be served under an address of ours.
fn ensure_local_name<B>(request: &Request<B>) -> Result<(), Refusal> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    let text = host.map(|host| host.to_str().unwrap_or_default());
    let named = request.uri().authority().map(Authority::as_str);
    if second.is_some() || (text.is_none() && request.version() > Version::HTTP_10) {
        let why = "there must be exactly one Host header; send one";
        return refuse(StatusCode::BAD_REQUEST, why);
    }
    if text.into_iter().chain(named).all(is_local_name) {
        return Ok(());
    }
    let why = "the Host header is neither an IP address nor localhost (protection against DNS \
               rebinding); use the IP address, or set bearer_token_file in [http]";
    refuse(StatusCode::FORBIDDEN, why)
}

/// Whether a host, with a port or without, is an IP address or `localhost`.
fn is_local_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let is_plain = !host.contains('@');
    let literal = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let is_address = match literal {
        Some(literal) => literal.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.parse::<std::net::Ipv4Addr>().is_ok(),
    };
    is_plain && (is_address || name.eq_ignore_ascii_case("localhost"))
}

/// What clients must show.
fn read_token(paths: &[PathBuf]) -> Result<Token, Error> {
    let path = paths.first().map_or(Path::new(""), PathBuf::as_path);
    let bytes = Error::reading(path, "the bearer token", true)?;
    let refused = |what| Error::Token {
        path: path.to_owned(),
        what,
    };
    let token = Token::new(&bytes).map_err(refused)?;
    if token.bytes().len() < SHORTEST_TOKEN {
        return Err(refused(
            "it has fewer than 16 characters, and can be guessed",
        ));
    }
    Ok(token)
}

fn is_shown(token: &Token, headers: &HeaderMap) -> bool {
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    let (Some(shown), None) = (shown.next(), shown.next()) else {
        return false;
    };
    let (scheme, shown) = shown.as_bytes().split_at(shown.len().min(b"Bearer ".len()));
    scheme.eq_ignore_ascii_case(b"Bearer ") && token.is(shown.trim_ascii())
}

#[cfg(test)]
mod tests {
    use axum::http::Uri;
    use axum::http::header::HeaderValue;
    use http_body_util::{Empty, Full};
    use hyper::body::Bytes;

    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_local_names() {
        for host in [
            "localhost",
            "LOCALHOST:9817",
            "127.0.0.1",
            "127.0.0.1:9817",
            "10.1.2.3:80",
            "[::1]",
            "[::1]:9817",
        ] {
            assert!(is_local_name(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9817",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost@evil.example",
            "127.0.0.1@localhost",
            "::1",
            "[::1",
            "localhost/..",
            "127.1",
            "0x7f.1",
        ] {
            assert!(!is_local_name(host), "{host}");
        }
    }

    fn request(target: &str, headers: &[(&'static str, &str)]) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = target.parse::<Uri>().unwrap();
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).unwrap();
            request.headers_mut().append(*name, value);
        }
        request
    }

    fn status(admission: &Admission, request: &Request<impl Body>) -> u16 {
        let checked = admission.check(request, Caller::Any);
        checked.map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    #[test]
    fn a_stranger_sees_the_page_without_figures_unless_a_token_is_asked_for() {
        let (root, stranger) = (
            "127.0.0.1:1".parse().unwrap(),
            "127.0.0.1:2".parse().unwrap(),
        );
        let server = "127.0.0.1:9817".parse().unwrap();
        let users = LocalUsers::new(move |client, _| client == root);
        let mut admission = Admission::new(None, Some(users), Instant::now()).unwrap();
        let caller = |admission: &Admission, client| admission.caller(client, server);
        assert_eq!(caller(&admission, root), Caller::Any);
        assert_eq!(caller(&admission, stranger), Caller::Stranger);
        for (path, is_open) in [("/", true), ("/healthz", true), ("/metrics", false)] {
            let request = request(path, &[("host", "localhost")]);
            let checked = admission.check(&request, Caller::Stranger);
            assert_eq!(checked.is_ok(), is_open, "{path}");
            assert!(admission.check(&request, Caller::Any).is_ok());
        }
        admission.users = None;
        assert_eq!(caller(&admission, stranger), Caller::Any);
    }

    #[test]
    fn without_a_token_the_host_must_be_local() {
        let admission = Admission {
            token: None,
            users: None,
        };
        let asked = |target, headers: &[(&'static str, &str)]| {
            status(&admission, &request(target, headers))
        };
        assert_eq!(asked("/metrics", &[("host", "127.0.0.1:9817")]), 200);
        assert_eq!(asked("/", &[("host", "evil.example")]), 403);
        assert_eq!(asked("/metrics", &[]), 400);
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(asked("/metrics", &twice), 400);
        // What is asked for by its whole address counts, too.
        let local = [("host", "localhost")];
        assert_eq!(asked("http://evil.example/metrics", &local), 403);
        let mut old = request("/metrics", &[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(status(&admission, &old), 200);
    }

    #[test]
    fn with_a_token_only_the_page_and_health_are_open() {
        let name = format!("tcplinger-token-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let admission = Admission::new(Some(&path), None, Instant::now()).unwrap();
        let asked = |target, shown: &[&str]| {
            let headers: Vec<_> = shown
                .iter()
                .map(|shown| ("authorization", *shown))
                .collect();
            status(&admission, &request(target, &headers))
        };
        for open in PAGE {
            assert_eq!(asked(open, &[]), 200, "{open}");
        }
        assert_eq!(asked("/metrics", &["Bearer 0123456789abcdef"]), 200);
        assert_eq!(asked("/metrics", &["bearer  0123456789abcdef"]), 200);
        for wrong in [
            "Bearer 0123456789abcdeX",
            "Bearer X123456789abcdef",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdefg",
            "Bearer ",
            "Bearer",
            "",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
        ] {
            assert_eq!(asked("/metrics", &[wrong]), 401, "{wrong}");
        }
        assert_eq!(asked("/metrics", &[]), 401);
        assert_eq!(asked("/nothing", &[]), 401);
        let right = "Bearer 0123456789abcdef";
        assert_eq!(asked("/metrics", &[right, right]), 401);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn bodies_and_long_addresses_are_refused() {
        let admission = Admission {
            token: None,
            users: None,
        };
        let long = format!("/{}", "x".repeat(LONGEST_TARGET));
        assert_eq!(status(&admission, &request(&long, &[])), 414);
        let posted = request("/", &[("host", "localhost")]);
        let posted = posted.map(|_| Full::new(Bytes::from_static(b"x")));
        assert_eq!(status(&admission, &posted), 413);
    }

    #[test]
    fn tokens_that_can_be_guessed_are_refused() {
        let name = format!("tcplinger-guessed-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_token(std::slice::from_ref(&path))
        };
        for bad in [
            "",
            "\n",
            "short",
            "fifteen-letters",
            "two words of a phrase",
            "ünïcödé-ünïcödé",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        for good in [
            "0123456789abcdef",
            "0123456789abcdef\n",
            "0123456789abcdef\r\n",
        ] {
            assert_eq!(read(good).unwrap().bytes(), b"0123456789abcdef");
        }
        std::fs::remove_file(path).unwrap();
    }
}
