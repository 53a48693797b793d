//! Colour: whether, and which.

use std::ffi::OsStr;

use anstyle::AnsiColor;

use super::Outcome;
use crate::tcp::{RawState, State};
use crate::track::stuck::Severity;

/// Whether text is coloured; decided once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Coloured,
}

impl Style {
    /// The user's demand decides; without one, a terminal is coloured unless `NO_COLOR` is set to
    /// anything but the empty string (<https://no-color.org>).
    pub(crate) fn decide(
        demand: Option<bool>,
        no_color: Option<&OsStr>,
        is_terminal: bool,
    ) -> Self {
        let is_refused = no_color.is_some_and(|value| !value.is_empty());
        if demand.unwrap_or(is_terminal && !is_refused) {
            Self::Coloured
        } else {
            Self::Plain
        }
    }

    /// The colour of a state: green for what carries data, cyan for what begins, yellow for what
    /// ends, red for what waits for its own program to close.
    pub(super) const fn of_state(self, state: RawState) -> anstyle::Style {
        match state {
            _ if self.is_plain() => anstyle::Style::new(),
            RawState::Known(State::Established) => AnsiColor::Green.on_default(),
            RawState::Known(
                State::SynSent | State::SynRecv | State::NewSynRecv | State::Listen,
            ) => AnsiColor::Cyan.on_default(),
            RawState::Known(State::Close) => anstyle::Style::new().dimmed(),
            RawState::Known(State::CloseWait) | RawState::Unknown(_) => AnsiColor::Red.on_default(),
            RawState::Known(_) => AnsiColor::Yellow.on_default(),
        }
    }

    pub(super) const fn of_severity(self, severity: Severity) -> anstyle::Style {
        match severity {
            _ if self.is_plain() => anstyle::Style::new(),
            Severity::None => anstyle::Style::new().dimmed(),
            Severity::Warning => AnsiColor::Yellow.on_default(),
            Severity::Critical => AnsiColor::Red.on_default(),
        }
    }

    pub(super) const fn of_outcome(self, outcome: Outcome) -> anstyle::Style {
        match outcome {
            _ if self.is_plain() => anstyle::Style::new(),
            Outcome::Ok => AnsiColor::Green.on_default(),
            Outcome::Degraded => AnsiColor::Yellow.on_default(),
            Outcome::Missing => AnsiColor::Red.on_default(),
            Outcome::Unknown => anstyle::Style::new().dimmed(),
        }
    }

    const fn is_plain(self) -> bool {
        matches!(self, Self::Plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_wins_then_no_color_then_the_terminal() {
        let decide = |demand, no_color: Option<&str>, is_terminal| {
            Style::decide(demand, no_color.map(OsStr::new), is_terminal)
        };
        assert_eq!(decide(None, None, true), Style::Coloured);
        assert_eq!(decide(None, None, false), Style::Plain);
        assert_eq!(decide(None, Some(""), true), Style::Coloured);
        assert_eq!(decide(None, Some("1"), true), Style::Plain);
        assert_eq!(decide(Some(true), Some("1"), false), Style::Coloured);
        assert_eq!(decide(Some(false), None, true), Style::Plain);
    }

    #[test]
    fn plain_text_has_no_escapes() {
        let state = RawState::Known(State::CloseWait);
        assert_eq!(Style::Plain.of_state(state).to_string(), "");
        assert_eq!(Style::Coloured.of_state(state).to_string(), "\x1b[31m");
    }
}
