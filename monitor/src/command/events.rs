//! `tcplinger events`: every transition as it happens, with its duration.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Abandoned, NO_LOG, STDOUT, clock, logging, netns, runtime, stdout_style, stop_signal};
use tokio::time::timeout;

use crate::cli::{Color, EventsArgs, Format};
use crate::clock::{Suspensions, monotonic, nanoseconds};
use crate::config;
use crate::daemon::Wakeups;
use crate::output::Clock;
use crate::output::json::EventLines;
use crate::output::text::EventTable;
use crate::probe::{self, Attach, Probe};
use crate::tcp::{Subject, Transition};
use crate::track::{Filter, Sockets};

/// The longest sleep while nothing happens.
const SLEEP_AT_MOST: Duration = Duration::from_secs(1);
/// Transitions printed before the signals get their turn.
const BATCH: usize = 1 << 12;
/// Pause between two looks at the ring while there is traffic: short enough to look live.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) fn run(args: EventsArgs, color: Color) -> Result<ExitCode> {
    probe::ensure_privileged()?;
    logging::start_detached(Format::Text, color).context(NO_LOG)?;
    let netns = netns::inode_of(args.filter.netns.as_ref())?;
    let program = config::program(&args.program);
    if netns.is_some() && program.attach == Attach::Classic {
        return Err(probe::Error::NoNamespaces.into());
    }
    let probe = Probe::attach(&program)?;
    for note in &probe.capabilities().notes {
        tracing::warn!("degraded: {note}");
    }
    if netns.is_some() && probe.capabilities().program == "classic" {
        return Err(probe::Error::NoNamespaces.into());
    }
    let filter = config::filter(args.states, args.filter, netns);
    if let Some(state) = filter.silent_state() {
        tracing::warn!(
            "no transition matches {state}: the kernel announces neither its start nor \
                        its end"
        );
    }
    let mut printer = Printer {
        probe,
        lost: 0,
        filter,
        left: args.count,
        sockets: Sockets::default(),
        suspensions: Suspensions::new(),
        newest_ns: 0,
        lines: match args.format {
            Format::Json => Lines::Json(EventLines::default()),
            Format::Text => Lines::Text(EventTable::new(stdout_style(color))),
        },
        out: BufWriter::with_capacity(1 << 16, io::stdout().lock()),
    };
    runtime()?.block_on(async {
        let stop = stop_signal(args.duration, Abandoned::PRINTER)?;
        tokio::select! {
            ended = printer.print() => ended,
            () = stop => Ok(()),
        }
    })?;
    printer.print_rest()?;
    let unknown = printer.sockets.dropped();
    if unknown > 0 {
        tracing::warn!(
            sockets = unknown,
            "too many sockets: some transitions have no duration"
        );
    }
    Ok(ExitCode::SUCCESS)
}

struct Printer {
    probe: Probe,
    lost: u64,
    filter: Filter,
    /// How many to print yet; None for no limit.
    left: Option<u64>,
    /// What their last transitions were.
    sockets: Sockets,
    suspensions: Suspensions,
    /// Time of the newest transition taken.
    newest_ns: u64,
    lines: Lines,
    out: BufWriter<StdoutLock<'static>>,
}

enum Lines {
    Json(EventLines),
    Text(EventTable),
}

impl Printer {
    /// Prints until the wanted number is reached.
    async fn print(&mut self) -> Result<()> {
        let wakeups = Wakeups::new(self.probe.descriptor()?)?;
        while self.left != Some(0) {
            let before = self.newest_ns;
            let has_more = self.print_waiting()?;
            self.out.flush().context(STDOUT)?;
            if has_more {
                tokio::task::yield_now().await;
            } else if self.newest_ns != before || !self.probe.arm()? {
                tokio::time::sleep(PAUSE).await;
            } else {
                // A wakeup may be lost.
                if let Ok(woken) = timeout(SLEEP_AT_MOST, wakeups.next()).await {
                    woken?;
                }
            }
        }
        Ok(())
    }

    /// Prints what waits in the ring, a batch at most; true when there may be more.
    fn print_waiting(&mut self) -> Result<bool> {
        self.note_losses()?;
        if self.suspensions.is_news() {
            self.sockets.note_suspension();
        }
        let clock = clock();
        let Self {
            probe,
            filter,
            left,
            sockets,
            newest_ns,
            lines,
            out,
            ..
        } = self;
        let mut result = Ok(());
        let has_more = probe.drain(BATCH, |transition| {
            *newest_ns = transition.ktime_ns;
            if transition.subject != Subject::Socket {
                return;
            }
            let applied = sockets.apply(transition);
            if applied.is_repeated() && transition.is_nested {
                // Both programs took it.
                return;
            }
            if result.is_ok() && *left != Some(0) && filter.matches(transition) {
                result = lines.write(out, clock, transition, applied.after());
                *left = left.map(|left| left - 1);
            }
        });
        probe.flush_log();
        result.context(STDOUT)?;
        Ok(has_more)
    }

    /// Prints what had happened by now and was not printed yet.
    fn print_rest(&mut self) -> Result<()> {
        let now_ns = nanoseconds(monotonic());
        while self.left != Some(0) && self.print_waiting()? && self.newest_ns <= now_ns {}
        self.out.flush().context(STDOUT)
    }

    /// After a loss no socket's last transition is certain any more.
    fn note_losses(&mut self) -> Result<()> {
        let lost = self.probe.totals()?.lost;
        if lost > self.lost {
            tracing::warn!(
                lost = lost - self.lost,
                total = lost,
                "events lost: the reader is too slow or --ring-size too small"
            );
            self.lost = lost;
            self.sockets.forget_all();
        }
        Ok(())
    }
}

impl Lines {
    fn write(
        &mut self,
        out: &mut impl Write,
        clock: Clock,
        transition: &Transition,
        after: Option<Duration>,
    ) -> io::Result<()> {
        match self {
            Self::Json(lines) => lines.write(out, clock, transition, after),
            Self::Text(table) => table.write(out, clock, transition, after),
        }
    }
}
