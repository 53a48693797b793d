//! A collector: takes OTLP over HTTP, decodes it with the official messages, and behaves as badly as
//! it is told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message;

use super::{PATIENCE, eventually};

/// What it does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manners {
    /// Takes it.
    Good,
    /// Never answers.
    Silent,
    /// Answers a byte a second.
    Trickling,
    /// Answers no HTTP.
    Garbled,
    /// Answers with this status, and a wish to be asked again in a second.
    Refusing(u16),
}

/// What it was sent.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) metrics: Vec<ExportMetricsServiceRequest>,
    pub(crate) logs: Vec<ExportLogsServiceRequest>,
    /// Refused.
    refused: Vec<ExportLogsServiceRequest>,
    /// The header lines of each request, in lower case.
    pub(crate) heads: Vec<Vec<String>>,
}

/// On a port of its own; ended on drop.
pub(crate) struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Received>>,
    manners: Arc<Mutex<Manners>>,
    asked: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

impl Collector {
    pub(crate) fn start(manners: Manners) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), manners)
    }

    pub(crate) fn at(address: SocketAddr, manners: Manners) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let mut collector = Self {
            address: listener.local_addr().unwrap(),
            received: Arc::default(),
            manners: Arc::new(Mutex::new(manners)),
            asked: Arc::default(),
            is_over: Arc::default(),
            listening: None,
        };
        let (received, manners) = (&collector.received, &collector.manners);
        let (received, manners) = (Arc::clone(received), Arc::clone(manners));
        let (asked, is_over) = (Arc::clone(&collector.asked), Arc::clone(&collector.is_over));
        collector.listening = Some(thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                asked.fetch_add(1, Ordering::Relaxed);
                let (received, manners) = (Arc::clone(&received), *manners.lock().unwrap());
                let is_over = Arc::clone(&is_over);
                thread::spawn(move || serve(&stream, manners, &received, &is_over));
            }
        }));
        collector
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The table of a configuration that pushes here.
    pub(crate) fn config(&self) -> String {
        format!(
            "[otlp]\nendpoint = \"http://{}\"\ninterval = \"1s\"\n",
            self.address
        )
    }

    pub(crate) fn behave(&self, manners: Manners) {
        *self.manners.lock().unwrap() = manners;
    }

    /// Connections so far.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Looks at what came until there is an answer.
    pub(crate) fn wait_for<T>(&self, what: &str, look: impl Fn(&Received) -> Option<T>) -> T {
        let found = eventually(PATIENCE, || look(&self.received.lock().unwrap()));
        found.unwrap_or_else(|| panic!("no {what}: {:#?}", self.received.lock().unwrap().logs))
    }

    /// The log records about a network namespace so far, in order.
    pub(crate) fn records(&self, netns: u64) -> Vec<LogRecord> {
        self.received.lock().unwrap().records(netns)
    }

    /// Refused requests with records about a network namespace.
    pub(crate) fn refused(&self, netns: u64) -> usize {
        let received = self.received.lock().unwrap();
        let is_about = |request: &&_| !records(std::slice::from_ref(*request), netns).is_empty();
        received.refused.iter().filter(is_about).count()
    }
}

impl Received {
    pub(crate) fn records(&self, netns: u64) -> Vec<LogRecord> {
        records(&self.logs, netns)
    }
}

/// The log records about a network namespace, in order.
fn records(requests: &[ExportLogsServiceRequest], netns: u64) -> Vec<LogRecord> {
    let resources = requests.iter().flat_map(|request| &request.resource_logs);
    let scopes = resources.flat_map(|resource| &resource.scope_logs);
    let records = scopes.flat_map(|scope| &scope.log_records);
    let netns = i64::try_from(netns).unwrap();
    let is_there =
        |record: &&LogRecord| integer(&record.attributes, "tcplinger.netns") == Some(netns);
    records.filter(is_there).cloned().collect()
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

fn serve(
    mut stream: &TcpStream,
    manners: Manners,
    received: &Mutex<Received>,
    is_over: &AtomicBool,
) {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_lowercase());
    }
    let length = head
        .iter()
        .find_map(|line| line.strip_prefix("content-length: "));
    let Some(length) = length.and_then(|length| length.parse().ok()) else {
        return;
    };
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let answer: &[u8] = match manners {
        Manners::Good => {
            received.lock().unwrap().take(head, &body);
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"
        }
        Manners::Garbled => b"\x00\xff220 mail.example.com ESMTP\r\n\r\n",
        Manners::Refusing(status) => {
            if head[0].starts_with("post /v1/logs ") {
                let request = Message::decode(&*body).unwrap();
                received.lock().unwrap().refused.push(request);
            }
            let answer = format!(
                "HTTP/1.1 {status} No\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\n\x12\x02no"
            );
            let _ = stream.write_all(answer.as_bytes());
            return;
        }
        Manners::Silent | Manners::Trickling => {
            let mut bytes = b"HTTP/1.1 200 OK\r\nX-Slow: "
                .iter()
                .chain([b'x'].iter().cycle());
            while !is_over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(100));
                let is_gone = match manners {
                    Manners::Trickling => bytes
                        .next()
                        .is_none_or(|byte| stream.write_all(&[*byte]).is_err()),
                    _ => matches!(stream.take(1).read(&mut [0]), Ok(0)),
                };
                if is_gone {
                    return;
                }
            }
            return;
        }
    };
    let _ = stream.write_all(answer);
}

impl Received {
    fn take(&mut self, head: Vec<String>, body: &[u8]) {
        if head[0].starts_with("post /v1/metrics ") {
            self.metrics.push(Message::decode(body).unwrap());
        } else if head[0].starts_with("post /v1/logs ") {
            self.logs.push(Message::decode(body).unwrap());
        } else {
            panic!("{head:?}");
        }
        self.heads.push(head);
    }
}

/// The value of an attribute.
pub(crate) fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    let mut found = attributes.iter().filter(|attribute| attribute.key == key);
    let only = found.next();
    assert!(found.next().is_none(), "{key} comes twice");
    only?.value.as_ref()?.value.as_ref()
}

/// That of an attribute that is a text.
pub(crate) fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match value(attributes, key)? {
        Value::StringValue(text) => Some(text),
        other => panic!("{key} is no text: {other:?}"),
    }
}

/// That of an attribute that is a number.
pub(crate) fn integer(attributes: &[KeyValue], key: &str) -> Option<i64> {
    match value(attributes, key)? {
        Value::IntValue(number) => Some(*number),
        other => panic!("{key} is no number: {other:?}"),
    }
}

/// The text of a body.
pub(crate) fn body(record: &LogRecord) -> &str {
    match &record.body {
        Some(AnyValue {
            value: Some(Value::StringValue(text)),
        }) => text,
        other => panic!("no text: {other:?}"),
    }
}
