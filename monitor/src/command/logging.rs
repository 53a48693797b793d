//! Log lines on stderr: the daemon's own, and what the eBPF program says through aya-log.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::cli::{Color, Format};
use crate::output::Style;

/// The program's own lines carry its module path as their target; how much it says is decided
/// before it is loaded.
const PROGRAM: &str = "monitor_ebpf";

/// Starts logging; a second call changes nothing.
pub(super) fn start(format: Format, color: Color) {
    let levels = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target(PROGRAM, LevelFilter::TRACE);
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match format {
        Format::Json => layer.json().flatten_event(true).boxed(),
        Format::Text => {
            let is_coloured = super::style(color, &io::stderr()) == Style::Coloured;
            layer.with_target(false).with_ansi(is_coloured).boxed()
        }
    };
    // Fails only where a logger is set already.
    let _ = tracing_subscriber::registry()
        .with(levels)
        .with(layer)
        .try_init();
}
