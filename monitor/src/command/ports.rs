//! `tcplinger ports`: how much of the ephemeral ports and `TIME_WAIT` buckets is in use.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::source::Source;
use super::{STDOUT, logging, stdout_style};
use crate::cli::{Color, Format, PortsArgs};
use crate::config;
use crate::output::{json, text};

pub(super) fn run(args: &PortsArgs, color: Color) -> Result<ExitCode> {
    let file = config::load(args.source.config.as_deref())?;
    logging::start(Format::Text, color);
    let mut source = Source::open(&args.source, file, args.netns.as_ref())?;
    let mut report = source.ports(args.sample)?;
    let top = if args.top == 0 { usize::MAX } else { args.top };
    let hidden = report.ports.len().saturating_sub(top);
    report.ports.truncate(top);
    let mut out = io::stdout().lock();
    match args.format {
        Format::Text => text::write_ports(&mut out, stdout_style(color), &report, hidden)
            .and_then(|()| text::write_source(&mut out, source.name())),
        Format::Json => json::write(&mut out, &report),
    }
    .and_then(|()| out.flush())
    .context(STDOUT)?;
    Ok(ExitCode::SUCCESS)
}
