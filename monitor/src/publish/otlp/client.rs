//! One request to the collector and its verdict. Redirects are not followed, no proxy is used, and
//! every request has a connection of its own, which no idle timeout can have closed before.

use std::io::{self, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::fmt::rfc2822;
use tokio_rustls::rustls::crypto::ring;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use ureq::http::{HeaderMap, StatusCode, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::signal::Verdict;
use crate::output::otlp::{Partial, refusal};
use crate::publish::files::{self, Token, Watched};
use crate::publish::{Error, Otlp};

/// Bytes of an answer that are read.
const LONGEST_ANSWER: u64 = 1 << 16;
const USER_AGENT: &str = concat!("tcplinger/", env!("CARGO_PKG_VERSION"));

#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    token: Option<Watched<Token, Error>>,
}

impl Client {
    /// # Errors
    /// The endpoint is no URL, or the token or the authorities cannot be read.
    pub(super) fn new(settings: &Otlp) -> Result<Self, Error> {
        let uri = url(&settings.endpoint).map_err(|why| Error::Endpoint {
            endpoint: settings.endpoint.clone(),
            why,
        })?;
        let token = match &settings.bearer_token_file {
            // Looked at before each request.
            Some(path) => {
                let (paths, every) = (vec![path.clone()], Duration::ZERO);
                Some(Watched::open(paths, token, every, Instant::now())?)
            }
            None => None,
        };
        let is_encrypted = uri.scheme_str() == Some("https");
        let authorities = match &settings.tls_ca {
            Some(path) => from_file(path)?,
            None if is_encrypted => from_system()?,
            None => Vec::new(),
        };
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .root_certs(RootCerts::Specific(Arc::new(authorities)));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(0)
            .proxy(None)
            .user_agent(USER_AGENT)
            .tls_config(tls.build());
        Ok(Self {
            agent: config.build().new_agent(),
            token,
        })
    }

    /// Sends a request; `read` reads the answer to one that was taken.
    pub(super) fn post(
        &self,
        url: &str,
        body: &[u8],
        timeout: Duration,
        read: fn(&[u8]) -> Partial,
    ) -> Verdict {
        let request = self
            .agent
            .post(url)
            .header(CONTENT_TYPE, "application/x-protobuf");
        let request = match &self.token {
            Some(token) => {
                let token = token.current(Instant::now());
                let token = String::from_utf8_lossy(token.bytes());
                request.header(AUTHORIZATION, format!("Bearer {token}"))
            }
            None => request,
        };
        let request = request.config().timeout_global(Some(timeout)).build();
        match caught(|| request.send(body)) {
            Ok(answer) => {
                let (head, mut body) = answer.into_parts();
                judge(head.status, &head.headers, &text(&mut body), read)
            }
            Err(why) => Verdict::NotNow { why, after: None },
        }
    }
}

/// ureq looks names up on a thread, and panics where the system has none left.
fn caught<T>(send: impl FnOnce() -> Result<T, ureq::Error>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(send)) {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("cannot start a thread to look up its name; check ulimit -u".to_owned()),
    }
}

fn url(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    let authority = uri.authority().filter(|found| !found.host().is_empty());
    let authority = authority.ok_or("it has no host")?;
    // A port that is no number is none to the parser.
    let has_more = authority.as_str().len() > authority.host().len();
    if has_more && authority.port_u16().is_none() {
        return Err("its port is not a number from 0 to 65535".to_owned());
    }
    Ok(uri)
}

/// As much of an answer as is read. One that breaks off, or takes too long, still has its status.
fn text(body: &mut Body) -> Vec<u8> {
    let mut text = Vec::new();
    let _ = body.as_reader().take(LONGEST_ANSWER).read_to_end(&mut text);
    text
}

/// What an answer means (OTLP 1.x, "OTLP/HTTP Response").
fn judge(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    read: fn(&[u8]) -> Partial,
) -> Verdict {
    if status.is_success() {
        return Verdict::Taken(read(body));
    }
    let words = refusal(body);
    let why = match &*words {
        _ if status.is_redirection() => {
            format!("HTTP {status}: redirects are not followed; use the collector's own URL")
        }
        "" => format!("HTTP {status}"),
        words => format!("HTTP {status}: {words}"),
    };
    if ![429, 502, 503, 504].contains(&status.as_u16()) {
        return Verdict::Refused { why };
    }
    let after = headers.get(RETRY_AFTER);
    let after = after.and_then(|after| wish(after.to_str().ok()?, SystemTime::now()));
    Verdict::NotNow { why, after }
}

/// `Retry-After`: seconds, or a date.
fn wish(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = rfc2822::DateTimeParser::new()
        .parse_timestamp(text.trim())
        .ok()?;
    let date = SystemTime::from(date);
    Some(date.duration_since(now).unwrap_or_default())
}

fn token(paths: &[PathBuf]) -> Result<Token, Error> {
    let path = paths.first().map_or(Path::new(""), PathBuf::as_path);
    let bytes = files::read(path, Some("the bearer token")).map_err(|error| error.to_string());
    let token = bytes.and_then(|bytes| Token::new(&bytes).map_err(str::to_owned));
    token.map_err(|why| Error::Token {
        path: path.to_owned(),
        why,
    })
}

fn from_file(path: &Path) -> Result<Vec<Certificate<'static>>, Error> {
    let fail = |source| Error::Authorities {
        path: path.to_owned(),
        source,
    };
    let pem = files::read(path, None).map_err(fail)?;
    let items = parse_pem(&pem).filter_map(Result::ok);
    let found: Vec<_> = items
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return Err(fail(io::Error::other("it contains no certificate")));
    }
    Ok(found)
}

fn from_system() -> Result<Vec<Certificate<'static>>, Error> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err(Error::NoAuthorities);
    }
    let certificates = found.certs.iter();
    Ok(certificates
        .map(|der| Certificate::from_der(der).to_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use ureq::http::HeaderValue;

    use super::*;
    use crate::output::otlp::partial_logs;

    fn verdict(status: u16, retry_after: Option<&'static str>) -> Verdict {
        let mut headers = HeaderMap::new();
        if let Some(after) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(after));
        }
        let status = StatusCode::from_u16(status).unwrap();
        judge(status, &headers, b"", partial_logs)
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for status in [200, 202, 204] {
            let nothing = Verdict::Taken(Partial::default());
            assert_eq!(verdict(status, None), nothing, "{status}");
        }
        for status in [301, 308, 400, 401, 404, 413, 500, 501] {
            let verdict = verdict(status, Some("7"));
            assert!(matches!(verdict, Verdict::Refused { .. }), "{status}");
        }
        for status in [429, 502, 503, 504] {
            let Verdict::NotNow { after, why } = verdict(status, Some("7")) else {
                panic!("{status}");
            };
            assert_eq!(after, Some(Duration::from_secs(7)));
            assert!(why.contains(&status.to_string()), "{why}");
        }
    }

    #[test]
    fn a_pipe_that_nobody_writes_to_holds_up_nothing() {
        use rustix::fs::{CWD, Mode, mkfifoat};

        let name = format!("tcplinger-fifo-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let refused = [
            token(std::slice::from_ref(&path)).unwrap_err(),
            from_file(&path).unwrap_err(),
        ];
        std::fs::remove_file(&path).unwrap();
        for refused in refused.map(|error| error.to_string()) {
            assert!(refused.contains("not a regular file"), "{refused}");
        }
    }

    #[test]
    fn a_panic_is_a_failure_like_others() {
        let why = caught::<()>(|| panic!("no thread")).unwrap_err();
        assert!(why.contains("ulimit -u"), "{why}");
        let why = caught::<()>(|| Err(ureq::Error::HostNotFound)).unwrap_err();
        assert_eq!(why, ureq::Error::HostNotFound.to_string());
    }

    #[test]
    fn a_url_has_a_host_and_perhaps_a_port() {
        for good in ["http://a", "https://a:4318/otlp", "http://[::1]:4318"] {
            assert_eq!(url(good).map(drop), Ok(()), "{good}");
        }
        for bad in [
            "http://a:port",
            "http://a:99999",
            "http://a:",
            "http://:1",
            "/x",
            "http://[",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wish_is_seconds_or_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_770);
        let seconds = |number| Some(Duration::from_secs(number));
        for (text, expected) in [
            ("0", seconds(0)),
            (" 120 ", seconds(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", seconds(7)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", seconds(0)),
            ("-1", None),
            ("soon", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(wish(text, now), expected, "{text}");
        }
    }
}
