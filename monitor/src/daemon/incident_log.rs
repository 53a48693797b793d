//! Incidents in the log: one line when one is raised, when it changes, when it is over.

use crate::output::Escaped;
use crate::track::stuck::Severity;
use crate::track::{Change, Notice};

/// Logs a notice. What other processes chose is escaped.
pub(super) fn log(notice: &Notice) {
    let incident = &notice.incident;
    let message = notice.event.name();
    let pids = incident.owners.iter();
    let pids: Vec<String> = pids.map(|owner| owner.process.pid.to_string()).collect();
    let pids = (!pids.is_empty()).then(|| pids.join(","));
    let (rule, reason) = (Escaped(&incident.rule), Escaped(&incident.reason));
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                kind = incident.kind.name(),
                %rule,
                state = incident.state.name(),
                netns = incident.netns,
                local = %incident.local,
                remote = %incident.remote,
                sockets = incident.sockets,
                oldest_seconds = incident.oldest_seconds,
                pids,
                "{message}: {reason}"
            )
        };
    }
    match (notice.event, incident.severity) {
        (Change::Cleared | Change::Eased, _) => line!(info),
        (_, Severity::Critical) => line!(error),
        _ => line!(warn),
    }
}
