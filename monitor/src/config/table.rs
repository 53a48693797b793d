//! A table of the configuration file, read key by key: an unknown key, a value of the wrong type
//! or one that means nothing is refused with its place in the file.

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use crate::cli::value::nearest;

/// Characters of a value that a refusal repeats.
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
}

/// What a value may be, and what it means.
pub(super) struct Shape<T> {
    pub(super) form: Form,
    /// As it is written in the file.
    pub(super) example: &'static str,
    /// Numbers come as they are written, integers in decimal.
    pub(super) parse: fn(&str) -> Result<T, String>,
}

/// Types of TOML.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Text,
    Number,
    TextOrNumber,
    Boolean,
}

/// A value that is there.
pub(super) struct Found<T> {
    pub(super) value: T,
    /// Bytes from the start of the file.
    pub(super) at: usize,
    /// As it may be shown.
    pub(super) shown: String,
}

/// One table of the file.
pub(super) struct Table<'d> {
    /// Where a key in it is, in words: `in [leak]`.
    place: String,
    /// Bytes from the start of the file.
    pub(super) at: usize,
    entries: &'d DeTable<'d>,
}

impl<'d> Table<'d> {
    /// What the file holds above its first table.
    pub(super) fn root(entries: &'d DeTable<'d>) -> Self {
        Self {
            place: "at the top level".to_owned(),
            at: 0,
            entries,
        }
    }

    /// # Errors
    /// The first key that is none of `keys`.
    pub(super) fn ensure_only(&self, keys: &[&str]) -> Result<(), Flaw> {
        let unknown = self.keys().filter(|(key, _)| !keys.contains(key));
        match unknown.min_by_key(|(_, at)| *at) {
            None => Ok(()),
            Some((key, at)) => Err(Flaw::new(
                at,
                format!(
                    "unknown key {} {}; did you mean `{}`? (valid: {})",
                    quoted(key),
                    self.place,
                    nearest(key, keys),
                    keys.join(", ")
                ),
            )),
        }
    }

    /// Every key with its place.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&'d str, usize)> {
        let keys = self.entries.keys();
        keys.map(|key| (&**key.get_ref(), key.span().start))
    }

    /// The table at `key`, whose header is `[path]`.
    pub(super) fn table(&self, key: &str, path: &str) -> Result<Option<Self>, Flaw> {
        let Some((at, value)) = self.entry(key) else {
            return Ok(None);
        };
        match value.get_ref() {
            DeValue::Table(entries) => Ok(Some(Self {
                place: format!("in [{path}]"),
                at,
                entries,
            })),
            other => Err(Flaw::new(
                at,
                format!("`{path}` is {}; write a table, [{path}]", kind(other)),
            )),
        }
    }

    /// The tables at `key`, each under a header `[[key]]`.
    pub(super) fn tables(&self, key: &str) -> Result<Vec<Self>, Flaw> {
        let Some((at, value)) = self.entry(key) else {
            return Ok(Vec::new());
        };
        let refused = |at, value: &DeValue<'_>| {
            let what = format!("`{key}` is {}; write tables, each [[{key}]]", kind(value));
            Flaw::new(at, what)
        };
        let DeValue::Array(items) = value.get_ref() else {
            return Err(refused(at, value.get_ref()));
        };
        let tables = items.iter().map(|item| match item.get_ref() {
            DeValue::Table(entries) => Ok(Self {
                place: format!("in [[{key}]]"),
                at: item.span().start,
                entries,
            }),
            other => Err(refused(item.span().start, other)),
        });
        tables.collect()
    }

    /// The value of `key`, if it is there.
    pub(super) fn find<T>(&self, key: &str, shape: &Shape<T>) -> Result<Option<Found<T>>, Flaw> {
        let found = self.entry(key).map(|(_, value)| shape.read(key, value));
        found.transpose()
    }

    /// The same without its place.
    pub(super) fn get<T>(&self, key: &str, shape: &Shape<T>) -> Result<Option<T>, Flaw> {
        Ok(self.find(key, shape)?.map(|found| found.value))
    }

    /// The value of a key that must be there.
    pub(super) fn require<T>(&self, key: &str, shape: &Shape<T>) -> Result<Found<T>, Flaw> {
        self.find(key, shape)?.ok_or_else(|| {
            let (place, example) = (&self.place, shape.example);
            let what = format!("`{key}` is missing {place}; add for example {key} = {example}");
            Flaw::new(self.at, what)
        })
    }

    /// The values of `key`, one or a list; empty only where it is not there.
    pub(super) fn list<T>(&self, key: &str, shape: &Shape<T>) -> Result<Vec<T>, Flaw> {
        let Some((_, value)) = self.entry(key) else {
            return Ok(Vec::new());
        };
        let read = |item| shape.read(key, item).map(|found| found.value);
        match value.get_ref() {
            DeValue::Array(items) if items.is_empty() => Err(Flaw::new(
                value.span().start,
                format!(
                    "`{key} = []` matches nothing; leave the key out, or give for example \
                     {key} = [{}]",
                    shape.example
                ),
            )),
            DeValue::Array(items) => items.iter().map(read).collect(),
            _ => Ok(vec![read(value)?]),
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The place of a key, and its value.
    fn entry(&self, key: &str) -> Option<(usize, &'d Spanned<DeValue<'d>>)> {
        let (key, value) = self.entries.get_key_value(key)?;
        Some((key.span().start, value))
    }
}

impl<T> Shape<T> {
    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Found<T>, Flaw> {
        let at = value.span().start;
        let value = value.get_ref();
        let Some((text, shown)) = self.form.text(value) else {
            let (kind, wanted, example) = (kind(value), self.form.name(), self.example);
            let what = format!("`{key}` is {kind}; give {wanted}, for example {key} = {example}");
            return Err(Flaw::new(at, what));
        };
        match (self.parse)(&text) {
            Ok(value) => Ok(Found { value, at, shown }),
            Err(why) => Err(Flaw::new(at, format!("`{key} = {shown}`: {why}"))),
        }
    }
}

impl Form {
    const fn name(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Number => "a number",
            Self::TextOrNumber => "a number or a string",
            Self::Boolean => "true or false",
        }
    }

    /// The value as text, and as it may be shown; None where it is of another type.
    fn text(self, value: &DeValue<'_>) -> Option<(String, String)> {
        let plain = |text: String| Some((text.clone(), clipped(&text)));
        match (self, value) {
            (Self::Text | Self::TextOrNumber, DeValue::String(text)) => {
                Some((text.to_string(), clipped(&format!("{text:?}"))))
            }
            (Self::Number | Self::TextOrNumber, DeValue::Integer(number)) => plain(decimal(number)),
            (Self::Number | Self::TextOrNumber, DeValue::Float(number)) => {
                plain(number.as_str().to_owned())
            }
            (Self::Boolean, DeValue::Boolean(value)) => plain(value.to_string()),
            _ => None,
        }
    }
}

/// TOML has hexadecimal, octal and binary integers, too.
fn decimal(number: &DeInteger<'_>) -> String {
    match i128::from_str_radix(number.as_str(), number.radix()) {
        Ok(value) => value.to_string(),
        // Too large: whoever parses it refuses it.
        Err(_) => number.to_string(),
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A key of the file as a refusal names it.
pub(super) fn quoted(key: &str) -> String {
    format!("`{}`", clipped(&key.escape_debug().to_string()))
}

fn clipped(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
    }
}
