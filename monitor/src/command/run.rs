//! `tcplinger run`: the daemon in the foreground.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use rustix::process::geteuid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::{Abandoned, NO_LOG, logging, runtime, stop_signal};
use crate::cli::{Color, RunArgs};
use crate::config::File;
use crate::daemon::control::{self, Claim};
use crate::daemon::{NOT_RELOADED, Settings, service};
use crate::publish::{LocalUsers, Publisher};
use crate::sandbox::{self, Files};
use crate::{config, daemon, inventory, probe};

/// For `systemctl status`.
const RELOAD_FAILED: &str = "watching by the old configuration: the new one is refused";

pub(super) fn run(args: &RunArgs, color: Color) -> Result<ExitCode> {
    daemon::keep_small();
    if args.sandbox.unwrap_or(true) {
        sandbox::turn_on();
    }
    let runtime = runtime()?;
    // Before all else: a signal that comes early waits, where it would end the process.
    let (stop, hangup) = {
        let _inside = runtime.enter();
        ignore_user_signals()?;
        let hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
        (stop_signal(args.duration, Abandoned::DAEMON)?, hangup)
    };
    let file = config::load(args.config.as_deref())?;
    probe::ensure_privileged()?;
    let settings = config::daemon(args, &file, logging::dropped);
    let group = group(config::group(args, &file))?;
    let claim = Claim::new(&config::control(args.control.as_deref(), &file), group)?;
    logging::start_detached(config::log_format(args, &file), color).context(NO_LOG)?;
    inventory::raise_file_limit();
    let publisher = Publisher::start(&settings.publish, LocalUsers::new(may_ask(group)))?;
    let mut reach = files(args, &settings);
    reach.sockets.push(claim.path().to_owned());
    let (sender, reloads) = mpsc::channel(1);
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = daemon::run(settings, claim, publisher, reach, reloads, stop) => ended,
            never = keep_reloading(args, &file, hangup, sender) => match never {},
        }
    });
    // An asker that takes its answer slowly does not hold up the end.
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}

fn group(named: Option<&str>) -> Result<Option<u32>, control::Error> {
    let number = |group: &str| {
        let unknown = || control::Error::NoGroup {
            group: group.to_owned(),
        };
        inventory::group_number(group).ok_or_else(unknown)
    };
    named.map(number).transpose()
}

/// Which clients on this host may see what the control socket tells: those that may use that.
fn may_ask(group: Option<u32>) -> impl Fn(SocketAddr, SocketAddr) -> bool {
    let own = geteuid().as_raw();
    move |client, server| {
        inventory::socket_owner(client, server).is_some_and(|user| {
            user == 0 || user == own || group.is_some_and(|group| inventory::is_member(user, group))
        })
    }
}

/// Reads the configuration again at each SIGHUP, and hands it on where it is good.
async fn keep_reloading(
    args: &RunArgs,
    started: &File,
    mut hangup: Signal,
    settings: mpsc::Sender<Settings>,
) -> Infallible {
    loop {
        if hangup.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        service::reloading();
        let path = args.config.clone();
        // A disk may be slow.
        let loaded = spawn_blocking(move || config::load(path.as_deref())).await;
        match loaded
            .map_err(anyhow::Error::from)
            .and_then(|loaded| Ok(loaded?))
        {
            Ok(file) => {
                for key in config::fixed_changes(args, started, &file) {
                    tracing::warn!("[daemon] {key} has changed; that needs a restart");
                }
                let new = config::daemon(args, &file, logging::dropped);
                if let Some(path) = sandbox::out_of_reach(&files(args, &new)) {
                    let path = path.display();
                    tracing::error!(
                        "{path}: the daemon has given up the right to reach that: restart it, or run it \
                         with --sandbox=false; {NOT_RELOADED}"
                    );
                    service::ready(RELOAD_FAILED);
                    continue;
                }
                // Fails only where the daemon ends.
                let _ = settings.send(new).await;
            }
            Err(error) => {
                tracing::error!("{error}; {NOT_RELOADED}");
                service::ready(RELOAD_FAILED);
            }
        }
    }
}

/// What the daemon has to reach as long as it runs.
fn files(args: &RunArgs, settings: &Settings) -> Files {
    let (outlets, written) = settings.publish.files();
    Files {
        read: args.config.iter().cloned().chain(outlets).collect(),
        written,
        sockets: Vec::new(),
    }
}

/// They mean nothing here, and would end the process.
fn ignore_user_signals() -> Result<()> {
    for kind in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
        // Once handled, for good.
        drop(signal(kind).context("cannot handle SIGUSR1 and SIGUSR2")?);
    }
    Ok(())
}
