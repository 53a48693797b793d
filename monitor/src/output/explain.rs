//! `tcplinger explain STATE`: what a state means, what keeps a socket in it, what ends it, with the
//! sysctls as they are in one namespace. And the rules that flag sockets, as a table.

mod rules;
mod states;
mod sysctls;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

use serde::Serialize;

pub(crate) use self::rules::{rules_table, write_rules};
use self::states::{StateText, state_text};
use self::sysctls::{Sysctl, sysctls};
use super::Style;
use crate::tcp::{Limits, RawState, State};
use crate::track::phrase::Span;
use crate::track::stuck::Threshold;

/// Columns of the text.
const WIDTH: usize = 80;

/// Everything that there is to say about one state.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    #[serde(rename = "state")]
    name: &'static str,
    #[serde(skip)]
    state: State,
    meaning: &'static str,
    kept_by: &'static str,
    ended_by: &'static str,
    normal: &'static str,
    sysctls: Vec<Sysctl>,
    /// Null where sockets in that state are never flagged by their age.
    flagged: Option<Flagged>,
    advice: &'static str,
}

/// From which ages on a socket is flagged.
#[derive(Debug, Serialize)]
struct Flagged {
    warning_seconds: f64,
    critical_seconds: f64,
    derivation: String,
    #[serde(skip)]
    text: String,
}

/// Explains a state, with the sysctls and the ages of one namespace.
pub(crate) fn explanation(
    state: State,
    limits: &Limits,
    threshold: Option<&Threshold>,
) -> Explanation {
    let StateText {
        meaning,
        kept_by,
        ended_by,
        normal,
        advice,
    } = state_text(state);
    Explanation {
        name: state.name(),
        state,
        meaning,
        kept_by,
        ended_by,
        normal,
        sysctls: sysctls(state, limits),
        flagged: threshold.map(Flagged::new),
        advice,
    }
}

impl Flagged {
    fn new(threshold: &Threshold) -> Self {
        let Threshold { ages, derivation } = threshold;
        let (warning, critical) = (Span(ages.warning), Span(ages.critical));
        Self {
            warning_seconds: ages.warning.as_secs_f64(),
            critical_seconds: ages.critical.as_secs_f64(),
            derivation: derivation.clone(),
            text: format!("warning from {warning}, critical from {critical}. Why: {derivation}."),
        }
    }
}

impl Explanation {
    /// Writes paragraphs under titles, no line wider than 80 columns.
    ///
    /// # Errors
    /// Those of `out`.
    pub(crate) fn write_text(&self, out: &mut impl Write, style: Style) -> io::Result<()> {
        let colour = style.of_state(RawState::Known(self.state));
        writeln!(out, "{colour}{}{colour:#}", self.name.to_uppercase())?;
        paragraph(out, "What it means", self.meaning)?;
        paragraph(out, "What keeps a socket in it", self.kept_by)?;
        paragraph(out, "What ends it", self.ended_by)?;
        paragraph(out, "How long is normal", self.normal)?;
        if !self.sysctls.is_empty() {
            writeln!(out, "\nSysctls of this namespace")?;
        }
        for sysctl in &self.sysctls {
            writeln!(out, "  {} = {}", sysctl.name, sysctl.value)?;
            wrap(out, 6, &sysctl.effect)?;
        }
        let never = "Never by age.";
        let flagged = self.flagged.as_ref();
        paragraph(
            out,
            "When tcplinger flags it",
            flagged.map_or(never, |flagged| &flagged.text),
        )?;
        paragraph(out, "What to do", self.advice)
    }
}

fn paragraph(out: &mut impl Write, title: &str, text: &str) -> io::Result<()> {
    writeln!(out, "\n{title}")?;
    wrap(out, 2, text)
}

/// Breaks lines between words; a word that is too long for one stands alone.
fn wrap(out: &mut impl Write, indent: usize, text: &str) -> io::Result<()> {
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column == 0 {
            write!(out, "{:indent$}{word}", "")?;
            column = indent + length;
        } else if column + 1 + length > WIDTH {
            write!(out, "\n{:indent$}{word}", "")?;
            column = indent + length;
        } else {
            write!(out, " {word}")?;
            column += 1 + length;
        }
    }
    writeln!(out)
}
