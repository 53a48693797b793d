//! Why the text of a configuration is refused, and where.

use std::ops::Range;

use toml::de::Error;

use crate::cli::value::did_you_mean;

/// Characters of the file that a refusal repeats.
const SHOWN: usize = 60;

/// What is wrong, and where.
#[derive(Debug, PartialEq)]
pub(super) struct Flaw {
    /// Bytes from the start of the file.
    pub(super) at: usize,
    pub(super) what: String,
}

impl Flaw {
    pub(super) fn new(at: usize, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { at, what }
    }

    /// What the parser refuses.
    pub(super) fn of_syntax(error: &Error, text: &str) -> Self {
        let span = error.span().unwrap_or(text.len()..text.len());
        let at = span.start;
        // The parser names a key that is there twice only by its place.
        if error.message() == "duplicate key" {
            let key = written(text, span);
            return Self::new(at, format!("`{key}` appears twice; keep one"));
        }
        Self::new(at, format!("not TOML: {}", error.message()))
    }

    /// What serde refuses: a key, the type of a value, or what it means.
    pub(super) fn of_entry(error: &Error, text: &str) -> Self {
        let span = error.span().unwrap_or_default();
        let at = span.start;
        let before = text.get(..at).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let message = error.message();
        let unknown = message.strip_prefix("unknown field ");
        if let Some((_, valid)) = unknown.and_then(|rest| rest.rsplit_once("`, expected ")) {
            let valid: Vec<&str> = valid.split('`').skip(1).step_by(2).collect();
            let key = written(text, span);
            let (meant, all) = (did_you_mean(&key, &valid), valid.join(", "));
            let headers = text.get(..start).unwrap_or_default().lines().rev();
            let place = headers.map(str::trim).find(|line| line.starts_with('['));
            let place = place.map_or("at the top level".to_owned(), |header| {
                format!("in {}", escaped(header))
            });
            let what = format!("unknown key `{key}` {place}; {meant}(valid: {all})");
            return Self::new(at, what);
        }
        let line = text.get(start..).and_then(|rest| rest.lines().next());
        let line = escaped(line.unwrap_or_default().trim());
        let expected = message
            .strip_prefix("invalid type: ")
            .and_then(|rest| rest.rsplit_once(", expected "));
        let what = match expected {
            Some((_, "a sequence")) => {
                "give a list of tables, each under [[double brackets]]".into()
            }
            Some((_, expected)) => format!("give {expected}"),
            None => message.to_owned(),
        };
        Self::new(at, format!("`{line}`: {what}"))
    }
}

/// Line, and character in it, of a byte; both from 1 on.
pub(super) fn position(bytes: &[u8], at: usize) -> (usize, usize) {
    let before = bytes.get(..at).unwrap_or(bytes);
    let lines = before.split(|byte| *byte == b'\n');
    let last = lines.clone().next_back().unwrap_or_default();
    let column = String::from_utf8_lossy(last).chars().count() + 1;
    (lines.count(), column)
}

/// A key or a value as the file has it.
pub(super) fn written(text: &str, span: Range<usize>) -> String {
    escaped(text.get(span).unwrap_or_default())
}

/// Text from the file, fit for one line of a message.
fn escaped(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    shown.replace(char::is_control, "\u{fffd}")
}
