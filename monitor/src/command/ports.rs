//! `tcplinger ports`: how much of the ephemeral ports and `TIME_WAIT` buckets is in use.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::source::Source;
use super::{STDOUT, logging, stdout_style};
use crate::cli::{Color, Format, PortsArgs};
use crate::output::{json, text};
use crate::{config, probe};

pub(super) fn run(args: &PortsArgs, color: Color) -> Result<ExitCode> {
    let file = config::load(args.source.config.as_deref())?;
    probe::ensure_privileged()?;
    logging::start(Format::Text, color);
    let mut report = Source::open(&args.source, file, args.netns.as_ref())?.ports(args.sample)?;
    let top = if args.top == 0 { usize::MAX } else { args.top };
    let hidden = report.ports.len().saturating_sub(top);
    report.ports.truncate(top);
    let mut out = io::stdout().lock();
    match args.format {
        Format::Text => text::write_ports(&mut out, stdout_style(color), &report, hidden),
        Format::Json => json::write(&mut out, &report),
    }
    .and_then(|()| out.flush())
    .context(STDOUT)?;
    Ok(ExitCode::SUCCESS)
}
