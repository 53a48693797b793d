//! Incidents as OTLP logs: a record for each change. Attributes have the names of the semantic
//! conventions where there is one; else `tcplinger.` and the name that the JSON output has.

use std::net::IpAddr;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::{IntoValue, any, attribute, conventional, scope};
use crate::output::metrics::severity_name;
use crate::output::{Clock, Escaped};
use crate::tcp::Family;
use crate::track::stuck::{Endpoint, Owner, Severity};
use crate::track::{Change, Incident, Notice};

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
    let incident = &notice.incident;
    let (number, text) = match (notice.event, incident.severity) {
        (Change::Eased | Change::Cleared, _) => (SeverityNumber::Info, "INFO"),
        (_, Severity::Critical) => (SeverityNumber::Error, "ERROR"),
        _ => (SeverityNumber::Warn, "WARN"),
    };
    let event = notice.event.name();
    let wall_ns = clock.wall(notice.ktime_ns).as_nanosecond();
    LogRecord {
        time_unix_nano: u64::try_from(wall_ns).unwrap_or_default(),
        observed_time_unix_nano: now_unix_ns,
        severity_number: number.into(),
        severity_text: text.to_owned(),
        body: Some(any(shown(&incident.reason))),
        attributes: attributes(incident),
        event_name: format!("tcplinger.finding.{event}"),
        ..LogRecord::default()
    }
}

/// Text of another process.
fn shown(text: &str) -> String {
    Escaped(text).to_string()
}

fn attributes(incident: &Incident) -> Vec<KeyValue> {
    let mut all = Attributes(Vec::with_capacity(40));
    all.network(incident);
    if let Some(owner) = incident.owners.first() {
        all.owner(owner);
    }
    all.incident(incident);
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

    fn network(&mut self, incident: &Incident) {
        let text = |address: IpAddr| address.to_string();
        let (local, remote) = match &incident.examples[..] {
            [only] if incident.sockets == 1 => {
                (Endpoint::Socket(only.local), Endpoint::Socket(only.remote))
            }
            _ => (incident.local, incident.remote),
        };
        self.add("network.transport", "tcp");
        let family = local.family().or_else(|| remote.family());
        // As in the counts: a v4-mapped address is one of IPv6.
        self.maybe("network.type", family.map(Family::name));
        self.add("network.connection.state", conventional(incident.state));
        self.maybe("network.local.address", local.address().map(text));
        self.maybe("network.local.port", local.port().map(u32::from));
        self.maybe("network.peer.address", remote.address().map(text));
        self.maybe("network.peer.port", remote.port().map(u32::from));
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

    fn incident(&mut self, incident: &Incident) {
        self.add("tcplinger.severity", severity_name(incident.severity));
        self.add("tcplinger.rule", shown(&incident.rule));
        self.add("tcplinger.state", incident.state.name());
        self.add("tcplinger.kind", incident.kind.name());
        self.maybe("tcplinger.oldest_seconds", incident.oldest_seconds);
        self.add("tcplinger.age_is_lower_bound", incident.age_is_lower_bound);
        self.add("tcplinger.netns", incident.netns);
        self.maybe(
            "tcplinger.netns_name",
            incident.netns_name.as_deref().map(shown),
        );
        self.add("tcplinger.sockets", incident.sockets);
        self.add("tcplinger.recv_queue_bytes", incident.recv_queue_bytes);
        self.add("tcplinger.send_queue_bytes", incident.send_queue_bytes);
        self.add("tcplinger.retransmits", incident.retransmits);
        self.maybe("tcplinger.rate_per_second", incident.rate_per_second);
        self.maybe(
            "tcplinger.exhausted_in_seconds",
            incident.exhausted_in_seconds,
        );
        self.add("tcplinger.is_orphaned", incident.is_orphaned);
        self.add("tcplinger.owners", incident.owners.len() as u64);
        let pids = incident.owners.iter().map(|owner| owner.process.pid);
        self.add("tcplinger.owner_pids", Pids(pids));
        self.add("tcplinger.advice", shown(&incident.advice));
    }
}

struct Pids<I>(I);

impl<I: Iterator<Item = u32>> IntoValue for Pids<I> {
    fn into_value(self) -> Value {
        let values = self.0.map(any).collect();
        Value::ArrayValue(ArrayValue { values })
    }
}

#[cfg(test)]
mod tests;
