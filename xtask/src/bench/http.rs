//! As much of HTTP as the bench needs, on both sides.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// No answer takes as long.
const PATIENCE: Duration = Duration::from_mins(1);

/// The body of the answer, which must be a 200.
pub(super) fn get(address: &str, path: &str) -> Result<String> {
    ask(
        address,
        &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n"),
    )
}

/// Likewise, for a form of these fields.
pub(super) fn post(address: &str, path: &str, fields: &[(&str, &str)]) -> Result<String> {
    let form: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    let form = form.join("&");
    let request = format!(
        "POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}",
        form.len()
    );
    ask(address, &request)
}

/// HTTP/1.0: the answer ends with the connection, and is in one piece.
fn ask(address: &str, request: &str) -> Result<String> {
    let what = || format!("http://{address}: {}", request.lines().next().unwrap_or(""));
    let try_ask = || -> Result<String> {
        let mut connection = TcpStream::connect(address)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.write_all(request.as_bytes())?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        if head.split(' ').nth(1) != Some("200") {
            bail!("{}: {body}", head.lines().next().unwrap_or(""));
        }
        Ok(body.to_owned())
    };
    try_ask().with_context(what)
}

fn encoded(value: &str) -> String {
    let mut encoded = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Host and port of the address that a log line tells.
pub(super) fn address_in(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("http://")?;
    let (address, _) = rest.split_once('/')?;
    Some(address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_a_log_line() {
        let line = "2026-11-22T10:00:00Z  INFO listening on http://127.0.0.1:34567/";
        assert_eq!(address_in(line).as_deref(), Some("127.0.0.1:34567"));
        assert_eq!(address_in("nothing here"), None);
    }

    #[test]
    fn a_query_survives_a_form() {
        assert_eq!(encoded("a{b=~\".*\"}"), "a%7Bb%3D%7E%22%2E%2A%22%7D");
    }
}
