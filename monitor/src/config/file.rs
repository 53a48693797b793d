//! The configuration file: found, read, and refused with file, line and what to type.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{self, PathBuf};

use serde::Deserialize;
use thiserror::Error as ThisError;
use toml::Spanned;
use toml::de::{DeTable, Deserializer};

use super::field::{
    Field, Group, Interval, LogFormat, LogLevel, Path, Percent, Program, RingSize, Span, Switch,
    Table,
};
use super::publish::{self, FindingsTable, HttpTable, OtlpTable};
use super::refusal::{Flaw, position};
use super::rules::{self, AgesTable, CountTable, LeakTable, Names, PortsTable, SocketTable};
use crate::publish::{Http, Settings};
use crate::track::stuck::Rules;

/// Where a file is looked for that nobody named.
const DEFAULT_PATH: &str = "/etc/tcplinger.toml";
/// Bytes; far more than anyone writes by hand.
const LONGEST: u64 = 1 << 20;

/// What the file says; everything in it is optional.
#[derive(Debug, PartialEq)]
pub(crate) struct File {
    pub(super) daemon: Daemon,
    pub(crate) rules: Rules,
    pub(super) publish: Settings,
}

impl Default for File {
    fn default() -> Self {
        Self {
            daemon: Daemon::default(),
            rules: Rules::default(),
            publish: Settings {
                http: publish::listening(Vec::new(), Http::default()),
                ..Settings::default()
            },
        }
    }
}

/// The tables of the file.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Tables {
    daemon: Table<Daemon>,
    http: Option<Spanned<Table<HttpTable>>>,
    otlp: Table<OtlpTable>,
    findings: Table<FindingsTable>,
    ages: Table<BTreeMap<Spanned<String>, Table<AgesTable>>>,
    leak: Table<LeakTable>,
    ports: Table<PortsTable>,
    socket: Vec<Spanned<Table<SocketTable>>>,
    count: Vec<Spanned<Table<CountTable>>>,
}

/// `[daemon]`: the flags of `run`, by the same names.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Daemon {
    pub(super) interval: Option<Field<Interval>>,
    pub(super) summary_every: Option<Field<Span>>,
    pub(super) transitions: Option<Field<Switch>>,
    pub(super) log_format: Option<Field<LogFormat>>,
    /// Percent of one CPU.
    pub(super) walk_budget: Option<Field<Percent>>,
    pub(super) program_stats: Option<Field<Switch>>,
    pub(super) control: Option<Field<Path>>,
    pub(super) group: Option<Field<Group>>,
    pub(super) program: Option<Field<Program>>,
    /// Bytes.
    pub(super) ring_size: Option<Field<RingSize>>,
    pub(super) bpf_log: Option<Field<LogLevel>>,
}

/// Why a configuration is refused.
#[derive(Debug, ThisError)]
pub(crate) enum Error {
    #[error(
        "cannot read the configuration {}: {reason}; make it a readable file, or name another \
         with --config PATH",
        shown(path)
    )]
    Unreadable { path: PathBuf, reason: io::Error },
    #[error(
        "the configuration {} is larger than 1 MiB: is it the right file?",
        shown(path)
    )]
    TooLarge { path: PathBuf },
    #[error(
        "the configuration {} is a pipe, which may never end; put it in a file",
        shown(path)
    )]
    Pipe { path: PathBuf },
    #[error(
        "the configuration {path} is world-writable, but it controls a root daemon; run chmod o-w \
         {path}",
        path = shown(path)
    )]
    WorldWritable { path: PathBuf },
    #[error("{}:{line}:{column}: {what}", shown(path))]
    Refused {
        path: PathBuf,
        /// From 1 on.
        line: usize,
        /// Characters, from 1 on.
        column: usize,
        what: String,
    },
}

impl Error {
    /// Whether somebody else could read it.
    pub(crate) fn is_missing_privilege(&self) -> bool {
        let denied = io::ErrorKind::PermissionDenied;
        matches!(self, Self::Unreadable { reason, .. } if reason.kind() == denied)
    }
}

fn shown(path: &path::Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

/// The file at `path`, which must be there; without a path, the default one where there is one.
///
/// # Errors
/// It cannot be read, or the first thing in it that is wrong.
pub(crate) fn load(path: Option<&path::Path>) -> Result<File, Error> {
    load_or(path, path::Path::new(DEFAULT_PATH))
}

pub(super) fn load_or(path: Option<&path::Path>, default: &path::Path) -> Result<File, Error> {
    match path {
        Some(path) => read(path),
        None => match read(default) {
            Err(Error::Unreadable { reason, .. }) if reason.kind() == io::ErrorKind::NotFound => {
                Ok(File::default())
            }
            result => result,
        },
    }
}

fn read(path: &path::Path) -> Result<File, Error> {
    let unreadable = |reason| Error::Unreadable {
        path: path.to_owned(),
        reason,
    };
    // A pipe that nobody writes to must not hold up the open, nor a terminal the read.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(unreadable)?;
    // Of what is open, not of what the path names by now.
    let found = file.metadata().map_err(unreadable)?;
    let path = path.to_owned();
    if found.file_type().is_fifo() {
        return Err(Error::Pipe { path });
    }
    if found.is_file() && found.mode() & libc::S_IWOTH != 0 {
        return Err(Error::WorldWritable { path });
    }
    let mut bytes = Vec::new();
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(Error::TooLarge { path });
    }
    parse(&bytes).map_err(|Flaw { at, what }| {
        let (line, column) = position(&bytes, at);
        Error::Refused {
            path,
            line,
            column,
            what,
        }
    })
}

/// What the text of a file says.
pub(super) fn parse(bytes: &[u8]) -> Result<File, Flaw> {
    let text = str::from_utf8(bytes).map_err(|error| {
        let what = "not UTF-8; save the file as UTF-8 text";
        Flaw::new(error.valid_up_to(), what)
    })?;
    let root = DeTable::parse(text).map_err(|error| Flaw::of_syntax(&error, text))?;
    let tables = Tables::deserialize(Deserializer::from(root))
        .map_err(|error| Flaw::of_entry(&error, text))?;
    let mut names = Names::new();
    let sockets = tables.socket.into_iter();
    let counts = tables.count.into_iter();
    let rules = Rules {
        ages: rules::ages(tables.ages.0, text)?,
        leak: tables.leak.0.into(),
        ports: tables.ports.0.try_into()?,
        sockets: sockets
            .map(|table| rules::socket(table, text, &mut names))
            .collect::<Result<_, _>>()?,
        counts: counts
            .map(|table| rules::count(table, text, &mut names))
            .collect::<Result<_, _>>()?,
    };
    rules::ensure_unique(names, text)?;
    Ok(File {
        daemon: tables.daemon.0,
        rules,
        publish: Settings {
            http: publish::http(tables.http)?,
            otlp: publish::otlp(tables.otlp.0),
            findings: publish::findings(tables.findings.0),
        },
    })
}
