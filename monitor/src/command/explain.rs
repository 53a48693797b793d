//! `tcplinger explain STATE`: what a state means, with this host's own limits.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::{STDOUT, netns, stdout_style};
use crate::cli::{Color, ExplainArgs, Format};
use crate::config;
use crate::inventory::{Worker, wait};
use crate::output::{explain, json};
use crate::track::stuck::threshold;

pub(super) fn run(args: &ExplainArgs, color: Color) -> Result<ExitCode> {
    let rules = config::load(None)?.rules;
    let worker = Worker::spawn()?;
    let namespaces = match args.netns.as_ref() {
        None => netns::own(&worker)?,
        wanted => netns::find(&worker, wanted)?,
    };
    let mut out = io::stdout().lock();
    for (_, limits) in wait(|reply| worker.limits(namespaces, reply))? {
        let limits = limits.context("cannot read the namespace's sysctls")?;
        let is_flagged = args.state.is_lingering();
        let threshold = is_flagged.then(|| threshold(&rules, args.state, &limits));
        let explanation = explain::explanation(args.state, &limits, threshold.as_ref());
        match args.format {
            Format::Text => explanation.write_text(&mut out, stdout_style(color)),
            Format::Json => json::write(&mut out, &explanation),
        }
        .context(STDOUT)?;
    }
    out.flush().context(STDOUT)?;
    Ok(ExitCode::SUCCESS)
}
