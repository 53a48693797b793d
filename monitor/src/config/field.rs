//! What a value in the configuration file may be: its TOML type, its meaning, and an example for
//! the refusal of anything else.

use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use wildmatch::WildMatch;

use crate::cli::value::{self, Listen};
use crate::cli::{Format, Netns, ProgramChoice};
use crate::tcp::State;
use crate::track::stuck::{Per, UnitPattern};

/// Rules of findings that no configuration names.
const BUILT_IN: [&str; 4] = ["default", "leak", "ephemeral_ports", "time_wait_buckets"];

/// Types of TOML.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Form {
    Text,
    Number,
    TextOrNumber,
    Boolean,
}

/// A kind of value.
pub(super) trait Kind {
    type Value;
    const FORM: Form;
    /// As it is written in the file.
    const EXAMPLE: &'static str;

    /// Numbers come in decimal.
    fn parse(text: &str) -> Result<Self::Value, String>;
}

macro_rules! kinds {
    ($($name:ident: $value:ty = $form:ident, $example:literal, $parse:expr;)*) => {$(
        #[derive(Debug, PartialEq)]
        pub(super) struct $name;

        impl Kind for $name {
            type Value = $value;
            const FORM: Form = Form::$form;
            const EXAMPLE: &'static str = $example;

            fn parse(text: &str) -> Result<$value, String> {
                $parse(text)
            }
        }
    )*};
}

kinds! {
    Address: Listen = Text, "\"127.0.0.1:9817\"", value::listen;
    Age: Duration = Text, "\"5m\"", value::age;
    Endpoint: String = Text, "\"http://127.0.0.1:4318\"", value::endpoint;
    FileSize: u64 = TextOrNumber, "\"16MiB\"", value::file_size;
    Files: u32 = Number, "4", value::files;
    Group: String = Text, "\"monitoring\"", value::group;
    Growth: u64 = Number, "20", positive;
    Inode: u32 = Number, "4026531840", inode;
    Interval: Duration = Text, "\"1s\"", value::interval;
    Lingering: State = Text, "\"close_wait\"", value::lingering_state;
    LogFormat: Format = Text, "\"json\"", value::choice;
    LogLevel: LevelFilter = Text, "\"off\"", value::level;
    Name: String = Text, "\"slow backups\"", rule_name;
    Network: IpNet = Text, "\"10.0.0.0/8\"", value::network;
    Number: u64 = Number, "1000", number;
    Owner: Per = Text, "\"process\"", |text| value::named(text, &Per::NAMES);
    Path: PathBuf = Text, "\"/etc/tcplinger/file\"", value::path;
    Pattern: WildMatch = Text, "\"nginx*\"", |text| value::pattern(text).map(|text| WildMatch::new(&text));
    Percent: f64 = TextOrNumber, "80", value::percent;
    Ports: RangeInclusive<u16> = TextOrNumber, "8080", value::ports;
    Program: ProgramChoice = Text, "\"auto\"", value::choice;
    PushInterval: Duration = Text, "\"15s\"", value::push_interval;
    RingSize: u32 = TextOrNumber, "\"8MiB\"", value::ring_size;
    Span: Duration = Text, "\"60s\"", value::duration;
    Switch: bool = Boolean, "true", value::switch;
    Unit: UnitPattern = Text, "\"nginx.service\"", |text| value::unit_pattern(text).map(|text| UnitPattern::new(&text));
    Window: Duration = Text, "\"60s\"", value::window;
}

fn rule_name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("the name is empty; say what the rule is for".to_owned());
    }
    if BUILT_IN.contains(&text) {
        let names = BUILT_IN.join(", ");
        return Err(format!(
            "the names {names} belong to built-in rules; choose another"
        ));
    }
    Ok(text.to_owned())
}

fn number(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| "give a whole number, 0 or more, for example 1000".to_owned())
}

fn positive(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("give a whole number, 1 or more, for example 20".to_owned()),
        Ok(number) => Ok(number),
    }
}

fn inode(text: &str) -> Result<u32, String> {
    match value::netns(text) {
        Ok(Netns::Inode(inode)) => Ok(inode),
        _ => {
            Err("give an inode number, for example 4026531840 (tcplinger status shows them)".into())
        }
    }
}

/// A value of that kind.
#[derive(Debug, PartialEq)]
pub(super) struct Field<K: Kind>(pub(super) K::Value);

impl<'de, K: Kind> Deserialize<'de> for Field<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wanted = Wanted::<K, false>(PhantomData);
        let value = deserializer.deserialize_any(&wanted)?.pop();
        value
            .map(Self)
            .ok_or_else(|| D::Error::invalid_length(0, &&wanted))
    }
}

/// What a flag says, else the file.
pub(super) fn either<K: Kind<Value: Clone>>(
    flag: Option<&K::Value>,
    file: Option<&Field<K>>,
) -> Option<K::Value> {
    flag.or(file.map(|field| &field.0)).cloned()
}

/// The values of a key, one or a list; empty only where the key is not there.
pub(super) struct List<K: Kind>(pub(super) Vec<K::Value>);

impl<K: Kind> Default for List<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, K: Kind> Deserialize<'de> for List<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(&Wanted::<K, true>(PhantomData))
            .map(Self)
    }
}

/// Takes a value of one kind, or a list of them.
struct Wanted<K, const LIST: bool>(PhantomData<K>);

impl<K: Kind, const LIST: bool> Wanted<K, LIST> {
    fn parse<E: Error>(&self, form: Form, text: &str) -> Result<Vec<K::Value>, E> {
        if K::FORM == form || (K::FORM == Form::TextOrNumber && form != Form::Boolean) {
            K::parse(text).map(|value| vec![value]).map_err(E::custom)
        } else {
            Err(E::invalid_type(Unexpected::Other(text), &self))
        }
    }
}

macro_rules! visits {
    ($($name:ident: $type:ty = $form:ident;)*) => {$(
        fn $name<E: Error>(self, value: $type) -> Result<Self::Value, E> {
            self.parse(Form::$form, &value.to_string())
        }
    )*};
}

impl<'de, K: Kind, const LIST: bool> Visitor<'de> for &Wanted<K, LIST> {
    type Value = Vec<K::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match K::FORM {
            Form::Text => "a string",
            Form::Number => "a number",
            Form::TextOrNumber => "a number or a string",
            Form::Boolean => "true or false",
        };
        write!(f, "{form}, for example {}", K::EXAMPLE)
    }

    visits! {
        visit_str: &str = Text;
        visit_bool: bool = Boolean;
        visit_i64: i64 = Number;
        visit_u64: u64 = Number;
        visit_i128: i128 = Number;
        visit_u128: u128 = Number;
        visit_f64: f64 = Number;
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        if !LIST {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        let mut values = Vec::new();
        while let Some(Field(value)) = items.next_element::<Field<K>>()? {
            values.push(value);
        }
        if values.is_empty() {
            let example = K::EXAMPLE;
            let what = format!(
                "an empty list matches nothing; omit the key, or give for example \
                         [{example}]"
            );
            return Err(A::Error::custom(what));
        }
        Ok(values)
    }
}

/// A table: what serde derives would take a list for one, too.
#[derive(Default)]
pub(super) struct Table<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyTable(PhantomData))
    }
}

struct AnyTable<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for AnyTable<T> {
    type Value = Table<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(entries)).map(Table)
    }
}
