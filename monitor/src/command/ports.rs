//! `tcplinger ports`: how much of the ephemeral ports and `TIME_WAIT` buckets is in use.

use std::cmp::Reverse;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::source::Source;
use super::{STDOUT, logging, stdout_fit, stdout_style};
use crate::cli::{Color, Format, PortOrder, PortsArgs};
use crate::config;
use crate::output::{json, text};
use crate::track::stuck::Severity;
use crate::track::{PortRow, seconds};

/// What uses less of its ports is left out.
const LEAST_SHARE: f64 = 0.005;

pub(super) fn run(args: &PortsArgs, color: Color) -> Result<ExitCode> {
    let file = config::load(args.source.config.as_deref())?;
    logging::start(Format::Text, color);
    let mut source = Source::open(&args.source, file, args.netns.as_ref())?;
    let mut report = source.ports(args.sample)?;
    match args.sort {
        // What fails now, then what will fail soonest.
        PortOrder::Pressure => report.ports.sort_by_key(|row| {
            let left = row.exhausted_in_seconds.map_or(Duration::MAX, seconds);
            (left, Reverse(row.severity), Reverse(share(row)))
        }),
        PortOrder::Use => report.ports.sort_by_key(|row| Reverse(share(row))),
        PortOrder::Used => report.ports.sort_by_key(|row| Reverse(row.used)),
        PortOrder::TimeWait => report.ports.sort_by_key(|row| Reverse(row.time_wait)),
    }
    let all = report.ports.len();
    if args.format == Format::Text && !args.all {
        report.ports.retain(|row| row.used_ratio >= LEAST_SHARE);
        report
            .buckets
            .retain(|row| row.ratio >= LEAST_SHARE || row.severity > Severity::None);
    }
    let top = if args.top == 0 { usize::MAX } else { args.top };
    report.ports.truncate(top);
    let hidden = all - report.ports.len();
    let mut out = io::stdout().lock();
    match args.format {
        Format::Text => {
            text::write_ports(&mut out, stdout_style(color), stdout_fit(), &report, hidden)
                .and_then(|()| text::write_source(&mut out, source.name()))
        }
        Format::Json => json::write(&mut out, &report),
    }
    .and_then(|()| out.flush())
    .context(STDOUT)?;
    Ok(ExitCode::SUCCESS)
}

/// In whole millionths, to sort by.
fn share(row: &PortRow) -> u64 {
    u64::from(row.used) * 1_000_000 / u64::from(row.capacity.max(1))
}
