//! What is published: `[http]`, `[otlp]`, `[findings]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::table::{Flaw, Form, Shape, Table};
use crate::cli::value::{self, Listen};
use crate::publish::{Findings, Http, Otlp, Settings};

pub(super) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9817);
const OTLP_INTERVAL: Duration = Duration::from_secs(15);
const ROTATE_AT: u64 = 16 << 20;
const KEEP: u32 = 4;

const ADDRESS: Shape<Listen> = text("\"127.0.0.1:9817\"", value::listen);
const PATH: Shape<PathBuf> = text("\"/etc/tcplinger.token\"", value::path);
const OUTPUT: Shape<PathBuf> = text("\"/var/log/tcplinger.jsonl\"", value::path);
const ENDPOINT: Shape<String> = text("\"http://127.0.0.1:4318\"", value::endpoint);
const INTERVAL: Shape<Duration> = text("\"15s\"", value::push_interval);
const SIZE: Shape<u64> = Shape {
    form: Form::TextOrNumber,
    example: "\"16MiB\"",
    parse: value::file_size,
};
const FILES: Shape<u32> = Shape {
    form: Form::Number,
    example: "4",
    parse: value::files,
};

const fn text<T>(example: &'static str, parse: fn(&str) -> Result<T, String>) -> Shape<T> {
    Shape {
        form: Form::Text,
        example,
        parse,
    }
}

/// Every outlet.
pub(super) fn read(root: &Table<'_>) -> Result<Settings, Flaw> {
    Ok(Settings {
        http: match root.table("http", "http")? {
            Some(table) => http(&table)?,
            None => listening(Vec::new(), Http::default()),
        },
        otlp: match root.table("otlp", "otlp")? {
            Some(table) => otlp(&table)?,
            None => None,
        },
        findings: match root.table("findings", "findings")? {
            Some(table) => findings(&table)?,
            None => None,
        },
    })
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

fn http(table: &Table<'_>) -> Result<Http, Flaw> {
    table.ensure_only(&["listen", "bearer_token_file", "tls_certificate", "tls_key"])?;
    let listen = table.list("listen", &ADDRESS)?;
    if Listen::is_contradictory(&listen) {
        let what = "`listen` is both \"off\" and an address; give one or the other";
        return Err(Flaw::new(table.at, what));
    }
    let certificate = table.get("tls_certificate", &PATH)?;
    let key = table.get("tls_key", &PATH)?;
    let tls = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => return Err(unpaired(table, "tls_key", "tls_certificate")),
        (None, Some(_)) => return Err(unpaired(table, "tls_certificate", "tls_key")),
    };
    let http = Http {
        bearer_token_file: table.get("bearer_token_file", &PATH)?,
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

fn unpaired(table: &Table<'_>, missing: &str, given: &str) -> Flaw {
    let what = format!("`{given}` needs `{missing}`; give both, or neither");
    Flaw::new(table.at, what)
}

/// None without an endpoint.
fn otlp(table: &Table<'_>) -> Result<Option<Otlp>, Flaw> {
    table.ensure_only(&["endpoint", "interval", "bearer_token_file", "tls_ca"])?;
    let interval = table.get("interval", &INTERVAL)?;
    let bearer_token_file = table.get("bearer_token_file", &PATH)?;
    let tls_ca = table.get("tls_ca", &PATH)?;
    let endpoint = table.get("endpoint", &ENDPOINT)?;
    Ok(endpoint.map(|endpoint| Otlp {
        endpoint,
        interval: interval.unwrap_or(OTLP_INTERVAL),
        bearer_token_file,
        tls_ca,
    }))
}

/// None without a file.
fn findings(table: &Table<'_>) -> Result<Option<Findings>, Flaw> {
    table.ensure_only(&["file", "rotate_at", "keep"])?;
    let rotate_at = table.get("rotate_at", &SIZE)?;
    let keep = table.get("keep", &FILES)?;
    let file = table.get("file", &OUTPUT)?;
    Ok(file.map(|file| Findings {
        path: (file.as_os_str() != "stdout").then_some(file),
        rotate_at: rotate_at.unwrap_or(ROTATE_AT),
        keep: keep.unwrap_or(KEEP),
    }))
}
