//! Ephemeral ports and `TIME_WAIT` buckets in use, for people.

use std::io::{self, Write};
use std::time::Duration;

use super::super::fit::{Fit, fit_columns};
use super::{Elapsed, Escaped, Style, or_dash, write_table};
use crate::track::PortReport;
use crate::track::phrase::{percent, rate, signed_rate};
use crate::track::stuck::Severity;

/// Writes a row for each pair of local address and destination, then one for each namespace's
/// buckets.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_ports(
    out: &mut impl Write,
    style: Style,
    fit: Fit,
    report: &PortReport,
    hidden: usize,
) -> io::Result<()> {
    let title = [
        "LOCAL",
        "REMOTE",
        "NETNS",
        "USED",
        "OF",
        "USE",
        "TIME_WAIT",
        "REUSABLE",
        "RATE/S",
        "LASTS",
    ];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    rows.extend(report.ports.iter().map(|row| {
        vec![
            row.local.to_string(),
            row.remote.to_string(),
            netns(row.netns, row.netns_name.as_deref()),
            row.used.to_string(),
            row.capacity.to_string(),
            percent(row.used_ratio),
            row.time_wait.to_string(),
            row.reusable.to_string(),
            or_dash(row.rate_per_second.map(signed_rate)).to_string(),
            lasts(row.exhausted_in_seconds),
        ]
    }));
    // Where there is little room: what nobody misses first, then what can be read from the rest.
    for title in ["REUSABLE", "OF", "TIME_WAIT"] {
        if fit_columns(&mut rows, &[12, 14, 6], fit.width) {
            break;
        }
        drop_column(&mut rows, title);
    }
    let _: bool = fit_columns(&mut rows, &[8, 10, 5], fit.width);
    let severities = report.ports.iter().map(|row| row.severity);
    write_table(out, 3, &rows, paints(style, severities))?;
    if hidden > 0 {
        writeln!(out, "\nand {hidden} more; --all --top 0 shows all of them")?;
    }
    let title = [
        "NETNS",
        "MINISOCKETS",
        "LIMIT",
        "USE",
        "OVERFLOWS",
        "RATE/S",
    ];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    rows.extend(report.buckets.iter().map(|row| {
        vec![
            netns(row.netns, row.netns_name.as_deref()),
            row.time_wait.to_string(),
            row.limit.to_string(),
            percent(row.ratio),
            row.overflows.to_string(),
            or_dash(row.overflow_rate_per_second.map(rate)).to_string(),
        ]
    }));
    writeln!(out)?;
    write_table(
        out,
        1,
        &rows,
        paints(style, report.buckets.iter().map(|row| row.severity)),
    )?;
    let uncounted: u64 = report.buckets.iter().map(|row| row.uncounted).sum();
    if uncounted > 0 {
        writeln!(
            out,
            "\n{uncounted} sockets to further destinations are not shown"
        )?;
    }
    Ok(())
}

fn netns(inode: u32, name: Option<&str>) -> String {
    name.map_or_else(|| inode.to_string(), |name| Escaped(name).to_string())
}

fn drop_column(rows: &mut [Vec<String>], title: &str) {
    let column = rows
        .first()
        .and_then(|titles| titles.iter().position(|one| one == title));
    if let Some(column) = column {
        for row in rows.iter_mut().filter(|row| row.len() > column) {
            row.remove(column);
        }
    }
}

fn paints(
    style: Style,
    severities: impl Iterator<Item = Severity>,
) -> impl Iterator<Item = anstyle::Style> {
    let paint = move |severity| match severity {
        Severity::None => anstyle::Style::new(),
        severity => style.of_severity(severity),
    };
    std::iter::once(anstyle::Style::new()).chain(severities.map(paint))
}

fn lasts(seconds: Option<f64>) -> String {
    let span = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    or_dash(span.map(Elapsed)).to_string()
}
