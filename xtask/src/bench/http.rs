//! As much of HTTP as the bench needs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// No answer takes as long.
const PATIENCE: Duration = Duration::from_mins(1);

/// The body of the answer, which must be a 200.
pub(super) fn get(address: &str, path: &str) -> Result<String> {
    // HTTP/1.0: the answer ends with the connection, and is in one piece.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    let what = || format!("http://{address}{path}");
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
