//! The push to a collector: OTLP over HTTP, metrics at an interval, findings as they change.
//!
//! One thread does it, and every request has a limit in time, so a collector that is down, hangs or
//! talks nonsense costs that thread and nothing else. Metrics are cumulative: of them only the newest
//! are worth another attempt. Notices wait, as many as there is room for.

mod client;
mod signal;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backlog::Backlog;
use super::shared::{Shared, unix_ns};
use super::threads::Outlet;
use super::{Error, Otlp};
use crate::output::metrics::{Exposed, otlp as metrics};
use crate::output::otlp::{self as format, Partial};
use crate::sandbox::{self, Duty};
use crate::track::{Sample, Sink};
use client::Client;
use signal::{Signal, Verdict};

/// Of one request, from the name's lookup to the last byte of the answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// For the requests at the daemon's end, all together.
const LAST_WORDS: Duration = Duration::from_millis(900);
/// Notices in one request.
const BATCH: usize = 512;
/// A notice waits so long for company.
const COMPANY: Duration = Duration::from_secs(1);
/// Until the first sample is there, or the next.
const NO_SAMPLE_YET: Duration = Duration::from_millis(100);

pub(super) struct Exporter {
    shared: Arc<Shared>,
    client: Client,
    interval: Duration,
    host: String,
    metrics: Signal,
    metrics_due: Instant,
    /// When the figures that were taken last were of (`CLOCK_MONOTONIC`).
    pushed: Option<Duration>,
    logs: Signal,
    backlog: Backlog,
    /// When the oldest notice that waits came.
    waiting_since: Option<Instant>,
}

/// Starts to push.
///
/// # Errors
/// The settings do not hold: the token or the authorities cannot be read.
pub(super) fn start(settings: &Otlp, shared: &Arc<Shared>) -> Result<Outlet, Error> {
    let uname = rustix::system::uname();
    let make = |stop| {
        let exporter = Exporter {
            client: Client::new(settings)?,
            interval: settings.interval,
            host: uname.nodename().to_string_lossy().into_owned(),
            metrics: Signal::new(Sink::OtlpMetrics, &settings.endpoint),
            metrics_due: Instant::now(),
            pushed: None,
            logs: Signal::new(Sink::OtlpLogs, &settings.endpoint),
            backlog: Backlog::new(shared.notices(), stop)?,
            waiting_since: None,
            shared: Arc::clone(shared),
        };
        let files: Vec<PathBuf> = settings.bearer_token_file.iter().cloned().collect();
        Ok::<_, Error>(move || {
            sandbox::confine(Duty::Pusher(&files));
            exporter.run();
        })
    };
    let outlet = Outlet::start("otlp", make)?;
    tracing::info!(endpoint = settings.endpoint, "pushing by OTLP");
    Ok(outlet)
}

impl Exporter {
    fn run(mut self) {
        loop {
            let due = self.logs_due();
            let due = due.map_or(self.metrics_due, |due| due.min(self.metrics_due));
            self.wait(due);
            if self.backlog.is_over() {
                return self.end();
            }
            let now = Instant::now();
            if self.logs_due().is_some_and(|due| due <= now) {
                self.push_logs(TIMEOUT);
            }
            if self.metrics_due <= now {
                self.push_metrics(TIMEOUT);
            }
        }
    }

    fn wait(&mut self, until: Instant) {
        let dropped = self.backlog.wait(Some(until));
        self.shared.tallies.note_dropped(Sink::OtlpLogs, dropped);
        self.logs.note_dropped(dropped);
        if self.waiting_since.is_none() && self.backlog.len() > 0 {
            self.waiting_since = Some(Instant::now());
        }
    }

    fn logs_due(&self) -> Option<Instant> {
        let since = self.waiting_since?;
        let company = if self.backlog.len() < BATCH {
            COMPANY
        } else {
            Duration::ZERO
        };
        Some((since + company).max(self.logs.not_before()))
    }

    fn push_logs(&mut self, timeout: Duration) -> Verdict {
        let batch = self.backlog.len().min(BATCH);
        let request = format::export_request(
            self.backlog.iter().take(batch),
            self.shared.clock(),
            format::resource(&self.host),
            unix_ns(),
        );
        let body = format::encode(&request);
        let answer = self
            .client
            .post(&self.logs.url, &body, timeout, format::partial_logs);
        let tallies = &self.shared.tallies;
        let is_settled = match &answer {
            Verdict::Taken(Partial { rejected, .. }) => {
                let rejected = (*rejected).min(batch as u64);
                tallies.note_exported(Sink::OtlpLogs, batch as u64 - rejected);
                tallies.note_dropped(Sink::OtlpLogs, rejected);
                self.logs.note_dropped(rejected);
                true
            }
            Verdict::Refused { .. } => {
                tallies.note_dropped(Sink::OtlpLogs, batch as u64);
                self.logs.note_dropped(batch as u64);
                true
            }
            Verdict::NotNow { .. } => false,
        };
        if is_settled {
            drop(self.backlog.take(batch));
            let is_more_waiting = self.backlog.len() > 0;
            self.waiting_since = self.waiting_since.filter(|_| is_more_waiting);
        }
        self.logs.note(&answer, Instant::now());
        answer
    }

    fn push_metrics(&mut self, timeout: Duration) {
        // Two pushes of one moment are two values for one time, which some collectors refuse.
        let is_new = |sample: &Arc<Sample>| self.pushed != Some(sample.taken);
        let Some(sample) = self.shared.latest().filter(is_new) else {
            self.metrics_due = Instant::now() + NO_SAMPLE_YET;
            return;
        };
        let exposed = Exposed {
            sample: &sample,
            outlets: &self.shared.tallies.outlets(),
        };
        let resource = format::resource(&self.host);
        let request = metrics::export_request(exposed, resource, self.shared.started_unix_ns);
        let body = format::encode(&request);
        let answer = self
            .client
            .post(&self.metrics.url, &body, timeout, format::partial_metrics);
        if matches!(answer, Verdict::Taken(_)) {
            self.pushed = Some(sample.taken);
            self.shared.tallies.note_exported(Sink::OtlpMetrics, 1);
        } else {
            self.shared.tallies.note_dropped(Sink::OtlpMetrics, 1);
            self.metrics.note_dropped(1);
        }
        let now = Instant::now();
        self.metrics.note(&answer, now);
        self.metrics_due = self
            .metrics
            .next(&answer, self.metrics_due, self.interval, now);
    }

    /// What is left, and the last figures, as far as the time goes and the collector takes them.
    fn end(mut self) {
        let deadline = Instant::now() + LAST_WORDS;
        let left =
            || Some(deadline.saturating_duration_since(Instant::now())).filter(|it| !it.is_zero());
        while self.backlog.len() > 0
            && let Some(timeout) = left()
            && !matches!(self.push_logs(timeout), Verdict::NotNow { .. })
        {}
        let lost = self.backlog.len() as u64;
        self.shared.tallies.note_dropped(Sink::OtlpLogs, lost);
        if lost > 0 {
            tracing::warn!(findings = lost, "not pushed before the daemon ended");
        }
        if !self.metrics.is_in_trouble()
            && let Some(timeout) = left()
        {
            self.push_metrics(timeout);
        }
    }
}
