//! The simulated hosts: one listener, `/host/N/metrics` for each of them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::exposition::Exposition;

const WORKERS: usize = 4;
/// Lines of a request that are read at most.
const MOST_LINES: usize = 50;

pub(super) struct Hosts {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl Hosts {
    pub(super) fn serve(exposition: Exposition) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
        let mut hosts = Self {
            address: listener.local_addr()?,
            is_over: Arc::default(),
            workers: Vec::new(),
        };
        let (exposition, start) = (Arc::new(exposition), Instant::now());
        for _ in 0..WORKERS {
            let (exposition, is_over) = (Arc::clone(&exposition), Arc::clone(&hosts.is_over));
            let listener = listener.try_clone()?;
            hosts.workers.push(thread::spawn(move || {
                while let Ok((connection, _)) = listener.accept() {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    // A scrape that fails shows as a host that is down.
                    let _ = answer(&connection, &exposition, start.elapsed());
                }
            }));
        }
        Ok(hosts)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn path(host: usize) -> String {
        format!("/host/{host}/metrics")
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for _ in &self.workers {
            // Wakes one of them.
            let _ = TcpStream::connect(self.address);
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn answer(mut connection: &TcpStream, exposition: &Exposition, time: Duration) -> Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(connection).lines();
    let request = lines.next().context("no request")??;
    for line in lines.take(MOST_LINES) {
        if line?.is_empty() {
            break;
        }
    }
    let host = request
        .split_once("/host/")
        .and_then(|(_, rest)| rest.split_once("/metrics"))
        .and_then(|(host, _)| host.parse().ok());
    let (status, body) = match host {
        Some(host) => ("200 OK", exposition.of(host, time.as_secs_f64())),
        None => ("404 Not Found", String::new()),
    };
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}
