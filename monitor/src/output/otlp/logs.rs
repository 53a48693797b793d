//! Findings as OTLP logs: a record for each change. Attributes have the names of the semantic
//! conventions where there is one; else `tcplinger.` and the name that the JSON output has.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::{IntoValue, any, attribute, conventional, scope};
use crate::output::metrics::severity_name;
use crate::output::{Clock, Escaped};
use crate::track::stuck::{Change, Endpoint, Finding, Notice, Owner, Severity};

/// A request with these notices.
pub(crate) fn export_request<'a>(
    notices: impl Iterator<Item = &'a Notice>,
    clock: Clock,
    resource: Resource,
    now_unix_ns: u64,
) -> ExportLogsServiceRequest {
    let records = notices.map(|notice| record(notice, clock, now_unix_ns));
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(resource),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope()),
                log_records: records.collect(),
                ..ScopeLogs::default()
            }],
            ..ResourceLogs::default()
        }],
    }
}

fn record(notice: &Notice, clock: Clock, now_unix_ns: u64) -> LogRecord {
    let finding = &notice.finding;
    let (number, text) = match (notice.event, finding.severity) {
        (Change::Eased | Change::Cleared, _) => (SeverityNumber::Info, "INFO"),
        (_, Severity::Critical) => (SeverityNumber::Error, "ERROR"),
        _ => (SeverityNumber::Warn, "WARN"),
    };
    let event = match notice.event {
        Change::Raised => "raised",
        Change::Worsened => "worsened",
        Change::Eased => "eased",
        Change::Cleared => "cleared",
    };
    let wall_ns = clock.wall(notice.ktime_ns).as_nanosecond();
    LogRecord {
        time_unix_nano: u64::try_from(wall_ns).unwrap_or_default(),
        observed_time_unix_nano: now_unix_ns,
        severity_number: number.into(),
        severity_text: text.to_owned(),
        body: Some(any(shown(&finding.reason))),
        attributes: attributes(finding),
        event_name: format!("tcplinger.finding.{event}"),
        ..LogRecord::default()
    }
}

/// Text of another process.
fn shown(text: &str) -> String {
    Escaped(text).to_string()
}

fn attributes(finding: &Finding) -> Vec<KeyValue> {
    let mut all = Attributes(Vec::with_capacity(40));
    all.network(finding);
    if let Some(owner) = finding.owners.first() {
        all.owner(owner);
    }
    all.finding(finding);
    all.0
}

struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn add(&mut self, key: &str, value: impl IntoValue) {
        self.0.push(attribute(key, value));
    }

    /// Adds what is there.
    fn maybe(&mut self, key: &str, value: Option<impl IntoValue>) {
        if let Some(value) = value {
            self.add(key, value);
        }
    }

    fn network(&mut self, finding: &Finding) {
        self.add("network.transport", "tcp");
        self.maybe("network.type", family(finding));
        self.add("network.connection.state", conventional(finding.state));
        self.maybe("network.local.address", address(finding.local));
        self.maybe("network.local.port", port(finding.local));
        self.maybe("network.peer.address", address(finding.remote));
        self.maybe("network.peer.port", port(finding.remote));
    }

    fn owner(&mut self, owner: &Owner) {
        let process = &owner.process;
        let exe = process.exe.as_deref();
        let name = exe.and_then(|exe| exe.rsplit('/').next());
        self.add("process.pid", process.pid);
        self.maybe("process.executable.name", name.map(shown));
        self.maybe("process.user.id", process.uid);
        self.maybe("container.id", process.container.as_deref().map(shown));
        self.maybe("k8s.pod.uid", process.pod.as_deref().map(shown));
        self.add("tcplinger.comm", shown(&process.comm));
        self.maybe("tcplinger.fd", owner.fd);
        self.maybe("tcplinger.unit", process.unit.as_deref().map(shown));
        self.maybe("tcplinger.open_files", process.open_files);
        self.maybe("tcplinger.file_limit", process.file_limit);
    }

    fn finding(&mut self, finding: &Finding) {
        self.add("tcplinger.severity", severity_name(finding.severity));
        self.add("tcplinger.rule", shown(&finding.rule));
        self.add("tcplinger.state", finding.state.name());
        self.add("tcplinger.age_seconds", finding.age_seconds);
        self.add("tcplinger.age_is_lower_bound", finding.age_is_lower_bound);
        self.add("tcplinger.netns", finding.netns);
        // An identifier, and more than an OTLP number can hold.
        self.maybe("tcplinger.cookie", finding.cookie.map(|it| it.to_string()));
        self.add("tcplinger.sockets", finding.sockets);
        self.add("tcplinger.recv_queue_bytes", finding.recv_queue_bytes);
        self.add("tcplinger.send_queue_bytes", finding.send_queue_bytes);
        self.add("tcplinger.retransmits", finding.retransmits);
        self.maybe("tcplinger.timer", finding.timer.as_deref());
        for (key, number) in [
            ("timer_expires_seconds", finding.timer_expires_seconds),
            ("last_data_sent_seconds", finding.last_data_sent_seconds),
            (
                "last_data_received_seconds",
                finding.last_data_received_seconds,
            ),
            ("rate_per_second", finding.rate_per_second),
            ("exhausted_in_seconds", finding.exhausted_in_seconds),
        ] {
            self.maybe(&format!("tcplinger.{key}"), number);
        }
        self.add("tcplinger.is_orphaned", finding.is_orphaned);
        self.add("tcplinger.owners", finding.owners.len() as u64);
        let pids = finding.owners.iter().map(|owner| owner.process.pid);
        self.add("tcplinger.owner_pids", Pids(pids));
        self.add("tcplinger.advice", shown(&finding.advice));
    }
}

struct Pids<I>(I);

impl<I: Iterator<Item = u32>> IntoValue for Pids<I> {
    fn into_value(self) -> Value {
        let values = self.0.map(any).collect();
        Value::ArrayValue(ArrayValue { values })
    }
}

/// As in the counts: a v4-mapped address is one of IPv6.
fn family(finding: &Finding) -> Option<&'static str> {
    [finding.local, finding.remote]
        .into_iter()
        .find_map(|end| match end {
            Endpoint::Socket(socket) if socket.is_ipv4() => Some("ipv4"),
            Endpoint::Address(address) if address.is_ipv4() => Some("ipv4"),
            Endpoint::Socket(_) | Endpoint::Address(_) => Some("ipv6"),
            Endpoint::Any | Endpoint::Port(_) => None,
        })
}

fn address(end: Endpoint) -> Option<String> {
    match end {
        Endpoint::Socket(socket) => Some(socket.ip().to_string()),
        Endpoint::Address(address) => Some(address.to_string()),
        Endpoint::Any | Endpoint::Port(_) => None,
    }
}

fn port(end: Endpoint) -> Option<u32> {
    match end {
        Endpoint::Socket(socket) => Some(socket.port().into()),
        Endpoint::Port(port) => Some(port.into()),
        Endpoint::Any | Endpoint::Address(_) => None,
    }
}

#[cfg(test)]
mod tests;
