//! What is published: `[http]`, `[otlp]`, `[findings]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::field::{Address, Endpoint, Field, FileSize, Files, List, Path, PushInterval, Table};
use super::refusal::Flaw;
use crate::cli::value::Listen;
use crate::publish::{Findings, Http, Otlp};

pub(super) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9817);
const OTLP_INTERVAL: Duration = Duration::from_secs(15);
const ROTATE_AT: u64 = 16 << 20;
const KEEP: u32 = 4;

/// `[http]`.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct HttpTable {
    listen: List<Address>,
    bearer_token_file: Option<Field<Path>>,
    tls_certificate: Option<Field<Path>>,
    tls_key: Option<Field<Path>>,
}

/// `[otlp]`.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct OtlpTable {
    endpoint: Option<Field<Endpoint>>,
    interval: Option<Field<PushInterval>>,
    bearer_token_file: Option<Field<Path>>,
    tls_ca: Option<Field<Path>>,
}

/// `[findings]`.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FindingsTable {
    file: Option<Field<Path>>,
    rotate_at: Option<Field<FileSize>>,
    keep: Option<Field<Files>>,
}

/// Where to listen: what the file or a flag says, or the default.
pub(super) fn listening(listen: Vec<Listen>, http: Http) -> Http {
    let is_default = listen.is_empty();
    let asked = listen.into_iter().filter_map(|listen| match listen {
        Listen::Off => None,
        Listen::At(address) => Some(address),
    });
    Http {
        listen: if is_default {
            vec![LISTEN]
        } else {
            asked.collect()
        },
        is_default,
        ..http
    }
}

pub(super) fn http(table: Option<Spanned<Table<HttpTable>>>) -> Result<Http, Flaw> {
    let Some(table) = table else {
        return Ok(listening(Vec::new(), Http::default()));
    };
    let at = table.span().start;
    let HttpTable {
        listen: List(listen),
        bearer_token_file,
        tls_certificate,
        tls_key,
    } = table.into_inner().0;
    if Listen::is_contradictory(&listen) {
        let what = "`listen` is both \"off\" and an address; give one or the other";
        return Err(Flaw::new(at, what));
    }
    let unpaired = |missing: &str, given: &str| {
        let what = format!("`{given}` needs `{missing}`; give both, or neither");
        Err(Flaw::new(at, what))
    };
    let tls = match (tls_certificate, tls_key) {
        (Some(certificate), Some(key)) => Some((certificate.0, key.0)),
        (None, None) => None,
        (Some(_), None) => return unpaired("tls_key", "tls_certificate"),
        (None, Some(_)) => return unpaired("tls_certificate", "tls_key"),
    };
    let http = Http {
        bearer_token_file: bearer_token_file.map(|path| path.0),
        tls,
        ..Http::default()
    };
    // The default alone does not make an address that was asked for.
    let is_default = listen.is_empty() || listen == [Listen::At(LISTEN)];
    Ok(Http {
        is_default,
        ..listening(listen, http)
    })
}

/// None without an endpoint.
pub(super) fn otlp(table: OtlpTable) -> Option<Otlp> {
    Some(Otlp {
        endpoint: table.endpoint?.0,
        interval: table.interval.map_or(OTLP_INTERVAL, |interval| interval.0),
        bearer_token_file: table.bearer_token_file.map(|path| path.0),
        tls_ca: table.tls_ca.map(|path| path.0),
    })
}

/// None without a file.
pub(super) fn findings(table: FindingsTable) -> Option<Findings> {
    let file = table.file?.0;
    Some(Findings {
        path: (file.as_os_str() != "stdout").then_some(file),
        rotate_at: table.rotate_at.map_or(ROTATE_AT, |size| size.0),
        keep: table.keep.map_or(KEEP, |files| files.0),
    })
}
