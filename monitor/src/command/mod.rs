//! The verbs: each wires the rooms below together. What they share stands here.

mod check;
mod doctor;
mod events;
mod explain;
mod logging;
mod mptcp;
mod netns;
mod owners;
mod ports;
mod run;
mod source;
mod status;
mod stuck;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Cli, Color, Verb};
use crate::clock::realtime_minus_monotonic_ns;
use crate::daemon::control;
use crate::output::{Clock, Fit, Style};
use crate::probe::{self, Kind};
use crate::sandbox::{self, Duty};
use crate::{config, inventory};

pub(crate) use logging::say_last;

const NO_LOG: &str = "cannot start the log thread; check ulimit -u";
const STDOUT: &str = "cannot write to stdout";
/// A failure, or findings.
const FAILURE: u8 = 1;
/// A configuration that is refused counts as one.
const WRONG_USAGE: u8 = 2;
/// More privilege is needed.
const NO_PRIVILEGE: u8 = 3;
/// This kernel cannot do it.
const NO_KERNEL: u8 = 4;

/// Runs the verb; the exit code is 0 or says what was found.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    let ended = match cli.verb {
        Verb::Run(args) => run::run(&args, cli.color),
        Verb::Events(args) => events::run(args, cli.color),
        Verb::Status(args) => status::run(&args, cli.color),
        Verb::Stuck(args) => stuck::run(&args, cli.color),
        Verb::Owners(args) => owners::run(&args),
        Verb::Ports(args) => ports::run(&args, cli.color),
        Verb::Explain(args) => explain::run(&args, cli.color),
        Verb::Check(args) => check::run(args, cli.color),
        Verb::Doctor(args) => doctor::run(&args, cli.color),
    };
    logging::finish();
    ended
}

/// The exit code that belongs to a failure.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    let code = error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<probe::Error>() {
            return Some(match error.kind() {
                Kind::Privilege => NO_PRIVILEGE,
                Kind::Kernel => NO_KERNEL,
                Kind::Other => FAILURE,
            });
        }
        if let Some(error) = cause.downcast_ref::<config::Error>() {
            let code = if error.is_missing_privilege() {
                NO_PRIVILEGE
            } else {
                WRONG_USAGE
            };
            return Some(code);
        }
        match cause.downcast_ref() {
            Some(control::Error::NoRight { .. }) => return Some(NO_PRIVILEGE),
            Some(control::Error::NoGroup { .. }) => return Some(WRONG_USAGE),
            _ => {}
        }
        let error = cause.downcast_ref::<inventory::Error>()?;
        error.is_missing_privilege().then_some(NO_PRIVILEGE)
    });
    ExitCode::from(code.unwrap_or(FAILURE))
}

/// Whether all that happened is that the reader of our output has left, as `head` does.
pub(crate) fn is_closed_stdout(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// From the events' clock to the wall's, as the two stand now.
fn clock() -> Clock {
    Clock {
        realtime_minus_monotonic_ns: realtime_minus_monotonic_ns(),
    }
}

/// How to colour what goes to `stream`.
fn style(color: Color, stream: &impl io::IsTerminal) -> Style {
    let no_color = std::env::var_os("NO_COLOR");
    Style::decide(color.demand(), no_color.as_deref(), stream.is_terminal())
}

/// The room on stdout, where it is a terminal.
fn stdout_fit() -> Fit {
    let stdout = io::stdout();
    let size = rustix::termios::tcgetwinsize(&stdout).ok();
    match size.filter(|size| stdout.is_terminal() && size.ws_col > 0 && size.ws_row > 0) {
        Some(size) => Fit {
            width: size.ws_col.into(),
            height: size.ws_row.into(),
        },
        None => Fit::UNBOUNDED,
    }
}

fn stdout_style(color: Color) -> Style {
    style(color, &io::stdout())
}

/// One thread is enough: what takes time happens in the kernel or on the inventory's own thread.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")
}

/// What becomes of a verb that does not end in order after a signal.
#[derive(Clone, Copy, Debug)]
struct Abandoned {
    after: Duration,
    code: u8,
}

impl Abandoned {
    /// Every outlet has a second for its last words: something hangs.
    const DAEMON: Self = Self {
        after: Duration::from_secs(5),
        code: FAILURE,
    };
    /// It is stuck in a write to a pipe that nobody reads, which is the reader's affair.
    const PRINTER: Self = Self {
        after: Duration::from_secs(1),
        code: 0,
    };
}

/// Ready at SIGINT, SIGTERM, or the end of `duration`. Call it inside the runtime.
///
/// Ends the process some time after a signal where the verb does not.
fn stop_signal(
    duration: Option<Duration>,
    abandoned: Abandoned,
) -> Result<impl Future<Output = ()> + use<>> {
    let stopped = signalled()?;
    let guard = runtime()?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            sandbox::confine(Duty::Quiet);
            let is_stopped = guard.block_on(async {
                let Ok(stopped) = signalled() else {
                    return false;
                };
                stopped.await;
                true
            });
            if is_stopped {
                std::thread::sleep(abandoned.after);
                abandon(abandoned.code);
            }
        })
        .context("cannot start the thread for signals")?;
    Ok(async move {
        let end = async {
            match duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopped => {}
            () = end => {}
        }
    })
}

/// Ready at SIGINT or SIGTERM.
fn signalled() -> Result<impl Future<Output = ()> + use<>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[expect(clippy::exit, reason = "the thread that should return is stuck")]
fn abandon(code: u8) {
    logging::finish();
    std::process::exit(code.into());
}
