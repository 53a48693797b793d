//! Findings in the log: one line when a finding is raised, when it changes, when it is over.

use crate::output::Escaped;
use crate::track::stuck::{Change, Notice, Severity};

/// Logs a notice. What other processes chose is escaped.
pub(super) fn log(notice: &Notice) {
    let finding = &notice.finding;
    let message = match notice.event {
        Change::Raised => "raised",
        Change::Worsened => "worsened",
        Change::Eased => "eased",
        Change::Cleared => "cleared",
    };
    let pids: Vec<String> = finding
        .owners
        .iter()
        .map(|owner| owner.process.pid.to_string())
        .collect();
    let pids = (!pids.is_empty()).then(|| pids.join(","));
    let (rule, reason) = (Escaped(&finding.rule), Escaped(&finding.reason));
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                %rule,
                state = finding.state.name(),
                netns = finding.netns,
                local = %finding.local,
                remote = %finding.remote,
                cookie = finding.cookie,
                age_seconds = finding.age_seconds,
                pids,
                "{message}: {reason}"
            )
        };
    }
    match (notice.event, finding.severity) {
        (Change::Cleared | Change::Eased, _) => line!(info),
        (_, Severity::Critical) => line!(error),
        _ => line!(warn),
    }
}
