//! What both pushes share: who sends, the bytes on the wire, and what the collector answers.

mod logs;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use crate::tcp::State;
pub(crate) use logs::export_request;

/// This daemon on the host of that name. The name is the instance, too: it stays the same when the
/// daemon starts anew, so that its series go on.
pub(crate) fn resource(host: &str) -> Resource {
    Resource {
        attributes: vec![
            attribute("service.name", "tcplinger"),
            attribute("service.version", env!("CARGO_PKG_VERSION")),
            attribute("service.instance.id", host),
            attribute("host.name", host),
            attribute("os.type", "linux"),
        ],
        ..Resource::default()
    }
}

/// What the figures and the records were made by.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: env!("CARGO_BIN_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// A state by the name that `network.connection.state` has for it.
pub(super) const fn conventional(state: State) -> &'static str {
    match state {
        State::FinWait1 => "fin_wait_1",
        State::FinWait2 => "fin_wait_2",
        State::SynRecv | State::NewSynRecv => "syn_received",
        State::Close => "closed",
        other => other.name(),
    }
}

/// A request as it goes over the wire.
pub(crate) fn encode(request: &impl Message) -> Vec<u8> {
    request.encode_to_vec()
}

/// What a collector did not take of a request that it answered with 200, and its words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Partial {
    /// Data points, or log records.
    pub(crate) rejected: u64,
    pub(crate) message: String,
}

/// Reads the answer to metrics. One that is no OTLP says nothing against the 200 that it came with.
pub(crate) fn partial_metrics(body: &[u8]) -> Partial {
    let answer = ExportMetricsServiceResponse::decode(body).unwrap_or_default();
    let partial = answer.partial_success.unwrap_or_default();
    Partial::new(partial.rejected_data_points, partial.error_message)
}

/// Reads the answer to logs, likewise.
pub(crate) fn partial_logs(body: &[u8]) -> Partial {
    let answer = ExportLogsServiceResponse::decode(body).unwrap_or_default();
    let partial = answer.partial_success.unwrap_or_default();
    Partial::new(partial.rejected_log_records, partial.error_message)
}

impl Partial {
    fn new(rejected: i64, message: String) -> Self {
        Self {
            rejected: u64::try_from(rejected).unwrap_or(0),
            message,
        }
    }
}

/// `google.rpc.Status`, which comes with a refusal.
#[derive(Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
}

/// What a collector says about a refusal; empty where it says nothing, or not in OTLP.
pub(crate) fn refusal(body: &[u8]) -> String {
    Status::decode(body).unwrap_or_default().message
}

pub(super) fn attribute(key: &str, value: impl IntoValue) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(any(value)),
        ..KeyValue::default()
    }
}

fn any(value: impl IntoValue) -> AnyValue {
    AnyValue {
        value: Some(value.into_value()),
    }
}

/// What an attribute can be made of.
pub(super) trait IntoValue {
    fn into_value(self) -> Value;
}

impl IntoValue for &str {
    fn into_value(self) -> Value {
        Value::StringValue(self.to_owned())
    }
}

impl IntoValue for String {
    fn into_value(self) -> Value {
        Value::StringValue(self)
    }
}

impl IntoValue for bool {
    fn into_value(self) -> Value {
        Value::BoolValue(self)
    }
}

impl IntoValue for f64 {
    fn into_value(self) -> Value {
        Value::DoubleValue(self)
    }
}

impl IntoValue for u32 {
    fn into_value(self) -> Value {
        Value::IntValue(i64::from(self))
    }
}

impl IntoValue for u64 {
    /// Counts: none comes near 2^63.
    fn into_value(self) -> Value {
        Value::IntValue(i64::try_from(self).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;

    use super::*;

    #[test]
    fn what_was_not_taken_is_read() {
        let answer = ExportLogsServiceResponse {
            partial_success: Some(ExportLogsPartialSuccess {
                rejected_log_records: 3,
                error_message: "too old".to_owned(),
            }),
        };
        let partial = partial_logs(&encode(&answer));
        assert_eq!((partial.rejected, &*partial.message), (3, "too old"));
        for nothing in [&b""[..], b"<html>", b"{}", &[0xff; 40]] {
            assert_eq!(partial_logs(nothing), Partial::default());
            assert_eq!(partial_metrics(nothing), Partial::default());
        }
    }

    #[test]
    fn a_refusal_has_words() {
        // code 3, message "no"
        assert_eq!(refusal(&[0x08, 0x03, 0x12, 0x02, b'n', b'o']), "no");
        assert_eq!(refusal(b"<html>not found"), "");
    }
}
