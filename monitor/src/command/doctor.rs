//! `tcplinger doctor`: everything this host must offer, all rows at once.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::{NO_KERNEL, NO_PRIVILEGE, STDOUT, netns, stdout_style};
use crate::cli::{Color, DoctorArgs, Format};
use crate::inventory::{Error, StateSet, Worker, wait};
use crate::output::{DoctorRow, Outcome, json, text};
use crate::probe::{self, Attach, BpfLog, Capabilities, Extra, Finding, Options, Probe};

pub(super) fn run(args: &DoctorArgs, color: Color) -> Result<ExitCode> {
    let mut rows: Vec<DoctorRow> = probe::findings().into_iter().map(row).collect();
    rows.extend(program());
    rows.push(inventory());
    let mut out = io::stdout().lock();
    match args.format {
        Format::Json => json::write_doctor(&mut out, &rows),
        Format::Text => text::write_doctor(&mut out, stdout_style(color), &rows),
    }
    .context(STDOUT)?;
    out.flush().context(STDOUT)?;
    let is_missing = |row: &DoctorRow| row.outcome == Outcome::Missing;
    Ok(match rows.iter().find(|row| is_missing(row)) {
        None => ExitCode::SUCCESS,
        Some(row) if row.name == "privilege" => ExitCode::from(NO_PRIVILEGE),
        Some(_) => ExitCode::from(NO_KERNEL),
    })
}

fn row(finding: Finding) -> DoctorRow {
    DoctorRow {
        name: finding.name,
        outcome: match finding.outcome {
            probe::Outcome::Yes => Outcome::Ok,
            probe::Outcome::Degraded => Outcome::Degraded,
            probe::Outcome::No => Outcome::Missing,
            probe::Outcome::CouldNotTell => Outcome::Unknown,
        },
        found: finding.found,
        why: finding.why.to_owned(),
        mend: finding.mend,
    }
}

/// Loads the program for a moment, as `run` and `events` would.
fn program() -> [DoctorRow; 3] {
    let options = Options {
        attach: Attach::Auto,
        ring_bytes: 1 << 16,
        log: BpfLog::Off,
        tells_cgroups: true,
        object: None,
    };
    let attached = Probe::attach(&options);
    let extra = |of: fn(&Capabilities) -> &Extra| match &attached {
        Err(_) => (Outcome::Unknown, "the program does not run".to_owned()),
        Ok(probe) => match of(probe.capabilities()) {
            Ok(()) => (Outcome::Ok, "loaded and attached".to_owned()),
            Err(reason) => (Outcome::Degraded, reason.clone()),
        },
    };
    let (requests, minisockets) = (
        extra(|capabilities| &capabilities.requests),
        extra(|capabilities| &capabilities.minisockets),
    );
    let program = attached_program(&attached);
    let extra = |name, (outcome, found), why: &str| DoctorRow {
        name,
        outcome,
        found,
        why: why.to_owned(),
        mend: None,
    };
    [
        program,
        extra(
            "requests",
            requests,
            "reports half-open connections without an answer at once; without it the next walk \
             finds them, and the counts are still right",
        ),
        extra(
            "minisockets",
            minisockets,
            "reports when a closed socket stops waiting for its peer's FIN; without it the next \
             walk separates FIN_WAIT2 from TIME_WAIT, and their sum is still right",
        ),
    ]
}

/// How the program is attached, or why not.
fn attached_program(attached: &Result<Probe, probe::Error>) -> DoctorRow {
    let (outcome, found, mend) = match attached {
        Err(error) => (Outcome::Missing, error.to_string(), None),
        Ok(probe) => {
            let capabilities = probe.capabilities();
            let notes = capabilities.notes.join("; ");
            match (capabilities.is_identifying, capabilities.program) {
                (true, _) => (
                    Outcome::Ok,
                    "BTF-typed, loaded and attached".to_owned(),
                    None,
                ),
                (false, program) => (
                    Outcome::Degraded,
                    format!("only the {program} program, without cookies: {notes}"),
                    Some("boot Linux 5.12 or later with BTF".to_owned()),
                ),
            }
        }
    };
    DoctorRow {
        name: "program",
        outcome,
        found,
        why: "reports every transition; without cookies in the events, counts come from a table \
              walk after each change"
            .to_owned(),
        mend,
    }
}

/// Walks this host's namespaces, as `status` would.
fn inventory() -> DoctorRow {
    let walk = || -> Result<(usize, bool)> {
        let worker = Worker::spawn()?;
        let namespaces = netns::find(&worker, None)?;
        let mut entered = 0;
        let mut is_fallback = false;
        for namespace in &namespaces {
            let asked = namespace.clone();
            match wait(|reply| worker.snapshot(asked, StateSet::of(&[]), reply))? {
                // It ended since it was found.
                Err(Error::Gone { .. }) => continue,
                taken => is_fallback |= taken?.is_fallback,
            }
            entered += 1;
        }
        Ok((entered, is_fallback))
    };
    let (outcome, found, mend) = match walk() {
        Err(error) => (Outcome::Missing, format!("{error:#}"), None),
        Ok((entered, true)) => (
            Outcome::Degraded,
            format!("{entered} namespaces, through /proc/net/tcp only"),
            Some("modprobe tcp_diag".to_owned()),
        ),
        Ok((entered, false)) => (
            Outcome::Ok,
            format!("sock_diag, {entered} namespaces entered"),
            None,
        ),
    };
    DoctorRow {
        name: "inventory",
        outcome,
        found,
        why: "lists the sockets that are older than tcplinger and corrects the counts; without \
              sock_diag there are no cookies, and it costs more"
            .to_owned(),
        mend,
    }
}
