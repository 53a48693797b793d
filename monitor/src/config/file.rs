//! The configuration file: found, read, and refused with file, line and what to type.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use thiserror::Error as ThisError;
use toml::de::DeTable;

use super::table::{Flaw, Form, Shape, Table, quoted};
use super::{publish, rules};
use crate::cli::{Format, ProgramChoice, value};
use crate::publish::{Http, Settings};
use crate::track::stuck::Rules;

/// Where a file is looked for that nobody named.
const DEFAULT_PATH: &str = "/etc/tcplinger.toml";
/// Bytes; far more than anyone writes by hand.
const LONGEST: u64 = 1 << 20;

/// What the TOML parser says of a key or a table that is there already.
const DUPLICATE: &str = "duplicate key";

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

/// `[daemon]`: the flags of `run`, by the same names.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Daemon {
    pub(super) interval: Option<Duration>,
    pub(super) summary_every: Option<Duration>,
    pub(super) transitions: Option<bool>,
    pub(super) log_format: Option<Format>,
    /// Percent of one CPU.
    pub(super) walk_budget: Option<f64>,
    pub(super) program_stats: Option<bool>,
    pub(super) control: Option<PathBuf>,
    pub(super) group: Option<String>,
    pub(super) program: Option<ProgramChoice>,
    /// Bytes.
    pub(super) ring_size: Option<u32>,
    pub(super) bpf_log: Option<LevelFilter>,
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
        "the configuration {} is a pipe, and who writes it may never end; put it in a file",
        shown(path)
    )]
    Pipe { path: PathBuf },
    #[error(
        "anybody may write the configuration {path}, and it decides what a daemon of root does; \
         type chmod o-w {path}",
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

fn shown(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

/// The file at `path`, which must be there; without a path, the default one where there is one.
///
/// # Errors
/// It cannot be read, or the first thing in it that is wrong.
pub(crate) fn load(path: Option<&Path>) -> Result<File, Error> {
    load_or(path, Path::new(DEFAULT_PATH))
}

pub(super) fn load_or(path: Option<&Path>, default: &Path) -> Result<File, Error> {
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

fn read(path: &Path) -> Result<File, Error> {
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
        let what = "this is not UTF-8; save the file as UTF-8 text";
        Flaw::new(error.valid_up_to(), what)
    })?;
    let entries = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(text.len(), |span| span.start);
        let message = error.message();
        // The parser names a key that is there twice only by its place.
        let key = error.span().filter(|_| message == DUPLICATE);
        match key.and_then(|span| text.get(span)) {
            Some(key) => Flaw::new(at, format!("{} is there twice; keep one", quoted(key))),
            None => Flaw::new(at, format!("this is not TOML: {message}")),
        }
    })?;
    let root = Table::root(entries.get_ref());
    root.ensure_only(&[
        "daemon", "http", "otlp", "findings", "ages", "leak", "ports", "socket", "count",
    ])?;
    Ok(File {
        daemon: daemon(&root)?,
        rules: rules::read(&root, text)?,
        publish: publish::read(&root)?,
    })
}

/// Line, and character in it, of a byte; both from 1 on.
pub(super) fn position(bytes: &[u8], at: usize) -> (usize, usize) {
    let before = bytes.get(..at).unwrap_or(bytes);
    let lines = before.split(|byte| *byte == b'\n');
    let last = lines.clone().next_back().unwrap_or_default();
    let column = String::from_utf8_lossy(last).chars().count() + 1;
    (lines.count(), column)
}

fn daemon(root: &Table<'_>) -> Result<Daemon, Flaw> {
    let Some(table) = root.table("daemon", "daemon")? else {
        return Ok(Daemon::default());
    };
    table.ensure_only(&[
        "interval",
        "summary_every",
        "transitions",
        "log_format",
        "walk_budget",
        "program_stats",
        "control",
        "group",
        "program",
        "ring_size",
        "bpf_log",
    ])?;
    Ok(Daemon {
        interval: table.get("interval", &text("\"1s\"", value::interval))?,
        summary_every: table.get("summary_every", &text("\"60s\"", value::duration))?,
        transitions: table.get("transitions", &rules::SWITCH)?,
        log_format: table.get("log_format", &text("\"json\"", value::choice))?,
        walk_budget: table.get("walk_budget", &rules::PERCENT)?,
        program_stats: table.get("program_stats", &rules::SWITCH)?,
        control: table.get("control", &text("\"/run/tcplinger.sock\"", value::path))?,
        group: table.get("group", &text("\"monitoring\"", value::group))?,
        program: table.get("program", &text("\"auto\"", value::choice))?,
        ring_size: table.get("ring_size", &RING_SIZE)?,
        bpf_log: table.get("bpf_log", &text("\"off\"", value::level))?,
    })
}

const RING_SIZE: Shape<u32> = Shape {
    form: Form::TextOrNumber,
    example: "\"8MiB\"",
    parse: value::ring_size,
};

const fn text<T>(example: &'static str, parse: fn(&str) -> Result<T, String>) -> Shape<T> {
    Shape {
        form: Form::Text,
        example,
        parse,
    }
}
