//! A finding about many sockets at once.

use super::{Endpoint, Finding, Severity};
use crate::tcp::State;

impl Finding {
    /// One without anything that is true of single sockets only; the caller fills in the rest.
    pub(crate) fn of_group(severity: Severity, rule: &str, state: State, netns: u32) -> Self {
        Self {
            severity,
            rule: rule.to_owned(),
            state,
            age_seconds: 0.0,
            age_is_lower_bound: false,
            local: Endpoint::Any,
            remote: Endpoint::Any,
            is_mptcp: false,
            netns,
            cookie: None,
            sockets: 0,
            recv_queue_bytes: 0,
            send_queue_bytes: 0,
            retransmits: 0,
            timer: None,
            timer_expires_seconds: None,
            last_data_sent_seconds: None,
            last_data_received_seconds: None,
            rate_per_second: None,
            exhausted_in_seconds: None,
            owners: Vec::new(),
            is_orphaned: false,
            group: None,
            reason: String::new(),
            template: String::new(),
            advice: String::new(),
        }
    }
}
