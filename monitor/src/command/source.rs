//! Whom to ask what is stuck: a running daemon, or the kernel itself, once or again and again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use serde::de::DeserializeOwned;

use super::{mptcp, netns};
use crate::cli::{Netns, SourceArgs, SourceChoice};
use crate::clock::{monotonic, nanoseconds};
use crate::config::{self, File};
use crate::daemon::control::{self, Error, Question};
use crate::inventory::{Namespace, StateSet, Survey, Worker, wait};
use crate::output::json;
use crate::probe;
use crate::survey::{self, Descriptors, Found, HolderSource, JudgedSockets, LingeringSockets};
use crate::tcp::Evidence;
use crate::track::stuck::{CountBoard, Rules};
use crate::track::{
    ActiveIncidents, Census, Mptcp, PortReport, PortTally, Pressure, Report, Scope, Snapshot,
};

/// The control socket of `monitor/dist/systemd/tcplinger.service`.
const SERVICE_CONTROL: &str = "/run/tcplinger/control.sock";

/// Who answers.
pub(super) enum Source {
    Daemon {
        control: PathBuf,
        /// The namespace that is wanted; None for all.
        netns: Option<u32>,
    },
    Kernel(Box<Kernel>),
}

/// Which list is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// Single sockets in place of incidents.
    pub(super) each: bool,
    /// With those that are not stuck.
    pub(super) all: bool,
}

/// Who is asked, by the flags, the configuration and who is there.
pub(super) enum Asked {
    /// The daemon at this control socket.
    Daemon(PathBuf),
    Kernel,
}

impl Asked {
    /// # Errors
    /// The daemon that must be asked does not answer as it should, or only root may ask the kernel.
    pub(super) fn choose(args: &SourceArgs, file: &File) -> Result<Self> {
        let control = control(args, file);
        let kernel = || probe::ensure_privileged().map(|()| Self::Kernel);
        match args.source {
            SourceChoice::Kernel => Ok(kernel()?),
            SourceChoice::Daemon => Ok(Self::Daemon(control)),
            SourceChoice::Auto => match control::greet(&control) {
                Ok(()) => Ok(Self::Daemon(control)),
                Err(Error::NotRunning { .. }) => Ok(kernel()?),
                Err(error @ (Error::Stale { .. } | Error::Hung { .. } | Error::NoRight { .. })) => {
                    let Ok(kernel) = kernel() else {
                        // Who may not ask the kernel learns what is wrong with the daemon.
                        return Err(error.into());
                    };
                    tracing::warn!("{error}; asking the kernel instead: ages are lower bounds");
                    Ok(kernel)
                }
                Err(error) => Err(error.into()),
            },
        }
    }
}

/// Where the daemon is asked: as named, or by default where the service answers if nothing is at the
/// default path.
fn control(args: &SourceArgs, file: &File) -> PathBuf {
    let named = config::control(args.control.as_deref(), file);
    let is_default = args.control.is_none() && named == config::control(None, &File::default());
    let service = Path::new(SERVICE_CONTROL);
    if is_default && !named.exists() && service.exists() {
        return service.to_owned();
    }
    named
}

impl Source {
    /// Decides who is asked, by the flags and by who is there.
    ///
    /// # Errors
    /// Those of [`Asked::choose`], or the kernel cannot be asked.
    pub(super) fn open(args: &SourceArgs, file: File, wanted: Option<&Netns>) -> Result<Self> {
        match Asked::choose(args, &file)? {
            Asked::Daemon(control) => {
                if args.config.is_some() {
                    tracing::warn!("the daemon uses its own rules; --source kernel uses these");
                }
                let netns = match wanted {
                    // Who may only ask the daemon cannot find it out otherwise.
                    Some(wanted) if probe::ensure_privileged().is_err() => {
                        let status = super::status::from_daemon(&control, Some(wanted))?;
                        status.namespaces.first().map(|known| known.netns)
                    }
                    wanted => netns::inode_of(wanted)?,
                };
                Ok(Self::Daemon { control, netns })
            }
            Asked::Kernel => {
                let kernel = Kernel::open(file.rules, wanted)?;
                Ok(Self::Kernel(Box::new(kernel)))
            }
        }
    }

    /// Who answers, for people.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Daemon { .. } => "daemon",
            Self::Kernel(_) => "kernel",
        }
    }

    /// The incidents, or single sockets, and the notices after the first `known` ever given.
    pub(super) fn report(&mut self, wanted: Wanted, known: u64) -> Result<Report> {
        let Wanted { each, all } = wanted;
        match self {
            Self::Daemon { control, netns } => {
                let netns = *netns;
                let mut report: Report = asked(
                    control,
                    Question::Stuck {
                        each,
                        all,
                        netns,
                        known,
                    },
                )?;
                let is_wanted = |found: u32| netns.is_none_or(|netns| netns == found);
                report
                    .notices
                    .retain(|notice| is_wanted(notice.incident.netns));
                Ok(report)
            }
            Self::Kernel(kernel) => kernel.report(wanted, known),
        }
    }

    /// Ports and buckets in use; where no rates are known yet, those between two looks `sample` apart.
    pub(super) fn ports(&mut self, sample: Duration) -> Result<PortReport> {
        let report = self.look_at_ports()?;
        let mut buckets = report.buckets.iter();
        let has_rates = report.ports.iter().all(|row| row.rate_per_second.is_some())
            && buckets.all(|row| row.overflow_rate_per_second.is_some());
        if has_rates {
            return Ok(report);
        }
        sleep(sample);
        self.look_at_ports()
    }

    fn look_at_ports(&mut self) -> Result<PortReport> {
        match self {
            Self::Daemon { control, netns } => {
                let mut report: PortReport = asked(control, Question::Ports)?;
                let is_wanted = |found: u32| netns.is_none_or(|netns| netns == found);
                report.ports.retain(|row| is_wanted(row.netns));
                report.buckets.retain(|row| is_wanted(row.netns));
                Ok(report)
            }
            Self::Kernel(kernel) => kernel.ports(),
        }
    }
}

/// The kernel, asked without a daemon. What it was asked before gives lower bounds of ages.
pub(super) struct Kernel {
    worker: Worker,
    namespaces: Vec<Namespace>,
    rules: Arc<Rules>,
    holder_source: HolderSource,
    census: Census,
    active: ActiveIncidents,
    counts: CountBoard,
    pressure: Pressure,
    mptcp: BTreeMap<u32, Mptcp>,
}

impl Kernel {
    fn open(rules: Rules, wanted: Option<&Netns>) -> Result<Self> {
        let worker = Worker::spawn()?;
        Ok(Self {
            namespaces: netns::find(&worker, wanted)?,
            worker,
            rules: Arc::new(rules),
            holder_source: HolderSource::open(),
            census: Census::default(),
            active: ActiveIncidents::default(),
            counts: CountBoard::default(),
            pressure: Pressure::default(),
            mptcp: BTreeMap::new(),
        })
    }

    fn report(&mut self, wanted: Wanted, known: u64) -> Result<Report> {
        let now_ns = nanoseconds(monotonic());
        let mut lingering = LingeringSockets::new(Arc::new(survey::names(&self.namespaces)));
        for namespace in &self.namespaces {
            let netns = namespace.inode;
            let taken: Result<Survey<Found>, _> = wait(|reply| {
                let namespace = namespace.clone();
                let found = Found::default();
                let query = survey::LINGERING;
                self.worker
                    .survey(namespace, query, found, Found::take, reply);
            })?;
            let Some(taken) = netns::unless_gone(namespace, taken)? else {
                continue;
            };
            if taken.is_fallback {
                tracing::warn!(netns, "{}", survey::NO_TCP_DIAG);
            }
            let snapshot = Snapshot {
                scope: Scope::LINGERING,
                has_cookies: !taken.is_fallback,
                is_alone: true,
                began_ns: now_ns,
            };
            let sockets = taken.found.iter(netns);
            let seen = sockets.map(|socket| survey::seen(&socket, now_ns));
            // Nothing was counted, so nothing is corrected.
            let _: u64 = self.census.finish(netns, snapshot, seen);
            lingering.add(netns, taken.found, taken.limits);
        }
        self.add_mptcp(&mut lingering, now_ns)?;
        lingering.set_ages(|socket| {
            Some(match self.since(socket) {
                Some(since) => survey::watched(since, now_ns),
                None => survey::unwatched(socket),
            })
        });
        let look = JudgedSockets::new(lingering, &self.holder_source, Arc::clone(&self.rules));
        let incidents = look.incidents(&[], &mut self.counts, Duration::from_nanos(now_ns));
        // Every namespace was looked at.
        self.active.update(now_ns, incidents, |_| true);
        let (incidents, sockets) = if wanted.each {
            (Vec::new(), look.findings(wanted.all).collect())
        } else {
            (self.active.ranked(now_ns, |_| true), Vec::new())
        };
        Ok(Report {
            states: look.lingering(|_| true, |_| None),
            ..self.active.report(sockets, incidents, known)
        })
    }

    /// Adds the MPTCP connections that linger, and remembers when each was first seen to.
    fn add_mptcp(&mut self, lingering: &mut LingeringSockets, now_ns: u64) -> Result<()> {
        let descriptors = Descriptors::read(&self.holder_source).and_then(Result::ok);
        let listed = mptcp::list(&self.worker, &self.namespaces, descriptors.as_ref())?;
        let mut before = std::mem::take(&mut self.mptcp);
        for (netns, found) in listed.unwrap_or_default() {
            let mut known = before.remove(&netns).unwrap_or_default();
            known.take(found, now_ns);
            lingering.add_mptcp(netns, known.lingering());
            self.mptcp.insert(netns, known);
        }
        Ok(())
    }

    fn since(&self, socket: &Evidence) -> Option<(u64, bool)> {
        if !socket.is_mptcp {
            return self.census.since(socket);
        }
        let known = self.mptcp.get(&socket.netns)?;
        Some((known.since(socket.cookie, socket.state)?, true))
    }

    fn ports(&mut self) -> Result<PortReport> {
        for namespace in &self.namespaces {
            let inode = namespace.inode;
            let taken: Result<Survey<PortTally>, _> = wait(|reply| {
                let (namespace, tally) = (namespace.clone(), PortTally::new(inode));
                self.worker.survey(
                    namespace,
                    StateSet::ALL.plain(),
                    tally,
                    PortTally::take,
                    reply,
                );
            })?;
            if let Some(survey) = netns::unless_gone(namespace, taken)? {
                self.pressure
                    .take(monotonic(), survey.found, &survey.limits);
            }
        }
        let names = survey::names(&self.namespaces);
        Ok(self.pressure.report(&self.rules.ports).named(&names))
    }
}

/// Has the daemon answer.
fn asked<T: DeserializeOwned>(control: &Path, question: Question) -> Result<T, Error> {
    let answer = control::ask(control, question)?;
    json::read(&answer).map_err(|error| control::bad_answer(control, &error))
}
