//! What the doctor found: one row a requirement.

use serde::Serialize;

/// How a requirement stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Ok,
    /// Works with less.
    Degraded,
    Missing,
    /// Could not be told.
    Unknown,
}

impl Outcome {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

/// One requirement: what it is, how it stands, and what to do.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DoctorRow {
    pub(crate) name: &'static str,
    pub(crate) outcome: Outcome,
    /// What is there, a value or the kernel's refusal; one line.
    pub(crate) found: String,
    /// What it is needed for.
    pub(crate) why: String,
    /// What to type or change, where something helps.
    pub(crate) mend: Option<String>,
}
