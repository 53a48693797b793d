//! The one thread that moves between network namespaces, and what it can be asked.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::files::Directory;
use super::namespaces::{self, Depth, Discovery, Namespace};
use super::visit::Home;
use super::wire::Extensions;
use super::{
    Answer, Dump, Error, ExactQuery, Figures, Query, Row, StateSet, exact, limits, proc_net,
    sock_diag,
};
use crate::clock::{monotonic, nanoseconds};
use crate::tcp::{Evidence, Limits};

/// The sockets of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) rows: Vec<Row>,
    pub(crate) dump: Dump,
    /// They come from /proc/net, without cookies: the kernel has no `tcp_diag`.
    pub(crate) is_fallback: bool,
    pub(crate) cost: Cost,
}

/// What a survey of one namespace found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Survey<T> {
    pub(crate) found: T,
    pub(crate) limits: Limits,
    /// Nothing but /proc/net could be asked, which knows neither cookies nor `struct tcp_info`.
    pub(crate) is_fallback: bool,
    pub(crate) cost: Cost,
}

/// The sockets of one namespace that were asked for one by one.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::struct_field_names,
    reason = "shorter, they would not tell what the times are of"
)]
pub(crate) struct Asked {
    /// One for each socket wanted, in their order.
    pub(crate) answers: Vec<Answer>,
    /// `CLOCK_MONOTONIC`: the kernel was asked between these two.
    pub(crate) asked_from_ns: u64,
    pub(crate) asked_until_ns: u64,
    pub(crate) cost: Cost,
}

/// What a walk over the sockets cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Time on the CPU, in the kernel or out of it.
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
}

type Job = Box<dyn FnOnce(&mut ThreadState) + Send>;

/// A handle on the thread, which answers in the order it is asked and ends with its last handle.
///
/// Each request names the function that takes the answer; it runs on that thread, so it should do
/// no more than pass the answer on. It is dropped uncalled when the thread has stopped, as it does
/// after [`Error::Return`]: from then on it would count one namespace's sockets as another's.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    jobs: mpsc::Sender<Job>,
}

impl Worker {
    /// Starts the thread in the namespace of the caller.
    pub(crate) fn spawn() -> Result<Self, Error> {
        Self::spawn_from(Home::of_this_thread()?)
    }

    fn spawn_from(home: Home) -> Result<Self, Error> {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("inventory".to_owned())
            .spawn(move || {
                let mut state = ThreadState {
                    home,
                    net: None,
                    buffer: Vec::new(),
                };
                for job in queue {
                    job(&mut state);
                    if state.home.is_lost() {
                        tracing::error!(
                            "cannot return to the daemon's own network namespace: counts stop here"
                        );
                        break;
                    }
                }
            })
            .map_err(|cause| Error::Spawn { cause })?;
        Ok(Self { jobs })
    }

    /// Asks which namespaces there are.
    pub(crate) fn discover(
        &self,
        depth: Depth,
        reply: impl FnOnce(Result<Discovery, Error>) + Send + 'static,
    ) {
        self.enqueue(move |_| reply(namespaces::discover(Path::new("/proc"), depth)));
    }

    /// Asks which of these can still be entered where they were found: the daemon's main thread may not
    /// look at other processes.
    pub(crate) fn still_there(
        &self,
        namespaces: Vec<Namespace>,
        reply: impl FnOnce(Vec<Namespace>) + Send + 'static,
    ) {
        self.enqueue(move |_| {
            let there = namespaces.into_iter().filter(Namespace::is_there);
            reply(there.collect());
        });
    }

    /// Asks for the figures of each namespace; they come with its inode number.
    pub(crate) fn figures(
        &self,
        namespaces: Vec<Namespace>,
        reply: impl FnOnce(Vec<(u32, Result<Figures, Error>)>) + Send + 'static,
    ) {
        self.enqueue(move |state| {
            let figures = namespaces
                .iter()
                .map(|namespace| (namespace.inode, state.figures(namespace)));
            reply(figures.collect());
        });
    }

    /// Asks each namespace for some of its sockets, with [`crate::tcp::TcpInfo`] when `is_explained`;
    /// the answers come with the namespace's inode number.
    pub(crate) fn ask(
        &self,
        wanted: Vec<(Namespace, Vec<ExactQuery>)>,
        is_explained: bool,
        reply: impl FnOnce(Vec<(u32, Result<Asked, Error>)>) + Send + 'static,
    ) {
        self.enqueue(move |state| {
            let asked = wanted.iter().map(|(namespace, wanted)| {
                (namespace.inode, state.ask(namespace, wanted, is_explained))
            });
            reply(asked.collect());
        });
    }

    /// Asks for the sockets of a namespace in any of `states`.
    pub(crate) fn snapshot(
        &self,
        namespace: Namespace,
        states: StateSet,
        reply: impl FnOnce(Result<Snapshot, Error>) + Send + 'static,
    ) {
        self.enqueue(move |state| reply(state.snapshot(&namespace, states)));
    }

    /// Asks for the limits of each namespace; they come with its inode number.
    pub(crate) fn limits(
        &self,
        namespaces: Vec<Namespace>,
        reply: impl FnOnce(Vec<(u32, Result<Limits, Error>)>) + Send + 'static,
    ) {
        self.enqueue(move |state| {
            let limits = namespaces
                .iter()
                .map(|namespace| (namespace.inode, state.limits(namespace)));
            reply(limits.collect());
        });
    }

    /// Asks for the MPTCP connections of each namespace; they come with its inode number. None where the
    /// kernel does not list them.
    pub(crate) fn mptcp(
        &self,
        namespaces: Vec<Namespace>,
        reply: impl FnOnce(Vec<(u32, Result<Option<Vec<Evidence>>, Error>)>, Cost) + Send + 'static,
    ) {
        self.enqueue(move |state| {
            let meter = Meter::start();
            let found = namespaces
                .iter()
                .map(|namespace| (namespace.inode, state.mptcp(namespace)));
            let found = found.collect();
            reply(found, meter.stop());
        });
    }

    /// Folds each socket of a namespace that is asked for into `found`, on the thread, so that they
    /// need not be kept. A socket that changes during the walk counts as it was met first.
    pub(crate) fn survey<T: Send + 'static>(
        &self,
        namespace: Namespace,
        query: Query,
        found: T,
        take: impl FnMut(&mut T, &Evidence) + Send + 'static,
        reply: impl FnOnce(Result<Survey<T>, Error>) + Send + 'static,
    ) {
        self.enqueue(move |state| reply(state.survey(&namespace, query, found, take)));
    }

    /// Runs something on the thread, between two requests.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.enqueue(move |_| job());
    }

    fn enqueue(&self, job: impl FnOnce(&mut ThreadState) + Send + 'static) {
        // A thread that has stopped drops the job, and the reply with it: the asker sees that.
        drop(self.jobs.send(Box::new(job)));
    }
}

/// Asks and waits: `wait(|reply| worker.discover(depth, reply))`.
pub(crate) fn wait<T: Send + 'static>(
    ask: impl FnOnce(Box<dyn FnOnce(T) + Send>),
) -> Result<T, Error> {
    let (sender, receiver) = mpsc::channel();
    ask(Box::new(move |answer| drop(sender.send(answer))));
    receiver.recv().map_err(|_| Error::Stopped)
}

/// What the thread works with.
struct ThreadState {
    home: Home,
    /// This thread's /proc/net, which follows it from namespace to namespace.
    net: Option<Directory>,
    buffer: Vec<u8>,
}

impl ThreadState {
    fn figures(&mut self, namespace: &Namespace) -> Result<Figures, Error> {
        let (net, buffer) = (net(&mut self.net)?, &mut self.buffer);
        self.home.visit(namespace, || Figures::read(net, buffer))
    }

    fn limits(&mut self, namespace: &Namespace) -> Result<Limits, Error> {
        let (net, buffer) = (net(&mut self.net)?, &mut self.buffer);
        self.home
            .visit(namespace, || limits::read(Path::new("/proc"), net, buffer))
    }

    fn ask(
        &self,
        namespace: &Namespace,
        wanted: &[ExactQuery],
        is_explained: bool,
    ) -> Result<Asked, Error> {
        let meter = Meter::start();
        let extensions = if is_explained {
            Extensions::Info
        } else {
            Extensions::None
        };
        let (asked_from_ns, answers, asked_until_ns) = self.home.visit(namespace, || {
            let from = monotonic_ns();
            let answers = exact::ask(namespace.inode, wanted, extensions)?;
            Ok((from, answers, monotonic_ns()))
        })?;
        Ok(Asked {
            answers,
            asked_from_ns,
            asked_until_ns,
            cost: meter.stop(),
        })
    }

    fn survey<T>(
        &mut self,
        namespace: &Namespace,
        query: Query,
        mut found: T,
        mut take: impl FnMut(&mut T, &Evidence),
    ) -> Result<Survey<T>, Error> {
        let meter = Meter::start();
        let netns = namespace.inode;
        let (net, buffer) = (net(&mut self.net)?, &mut self.buffer);
        let (limits, is_fallback) = self.home.visit(namespace, || {
            let limits = limits::read(Path::new("/proc"), net, buffer)?;
            let mut take = |evidence: &Evidence| take(&mut found, evidence);
            match sock_diag::survey(netns, query, &mut take) {
                Err(Error::NoTcpDiag { .. }) => {
                    proc_net::fallback_survey(netns, query.states, take)?;
                    Ok((limits, true))
                }
                outcome => outcome.map(|_| (limits, false)),
            }
        })?;
        Ok(Survey {
            found,
            limits,
            is_fallback,
            cost: meter.stop(),
        })
    }

    fn mptcp(&self, namespace: &Namespace) -> Result<Option<Vec<Evidence>>, Error> {
        let mut found = Vec::new();
        let netns = namespace.inode;
        self.home.visit(namespace, || {
            let listed = sock_diag::mptcp(netns, |evidence| found.push(evidence))?;
            Ok(listed.map(|()| found))
        })
    }

    fn snapshot(&self, namespace: &Namespace, states: StateSet) -> Result<Snapshot, Error> {
        let meter = Meter::start();
        let mut rows = Vec::new();
        let (dump, is_fallback) =
            self.home
                .visit(namespace, || match sock_diag::dump(states, &mut rows) {
                    Err(Error::NoTcpDiag { .. }) => {
                        Ok((proc_net::fallback_dump(states, &mut rows)?, true))
                    }
                    outcome => Ok((outcome?, false)),
                })?;
        Ok(Snapshot {
            rows,
            dump,
            is_fallback,
            cost: meter.stop(),
        })
    }
}

/// The directory is the thread's, but each look into it goes to the namespace that the thread is in
/// (`get_proc_task_net()` in `fs/proc/proc_net.c`, Linux 6.18).
fn net(opened: &mut Option<Directory>) -> Result<&Directory, Error> {
    let directory = match opened.take() {
        Some(directory) => directory,
        None => Directory::open(Path::new("/proc/thread-self/net"))?,
    };
    Ok(opened.insert(directory))
}

/// Measures what the calling thread spends.
pub(crate) struct Meter {
    cpu: Duration,
    wall: Instant,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self {
            cpu: thread_cpu_time(),
            wall: Instant::now(),
        }
    }

    pub(crate) fn stop(&self) -> Cost {
        Cost {
            cpu: thread_cpu_time().saturating_sub(self.cpu),
            wall: self.wall.elapsed(),
        }
    }
}

pub(super) fn monotonic_ns() -> u64 {
    nanoseconds(monotonic())
}

fn thread_cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::namespaces::Way;
    use super::super::visit;
    use super::*;
    use crate::tcp::{Ends, Family, State};

    fn here() -> Namespace {
        let path = Path::new("/proc/self/ns/net");
        let inode = rustix::fs::stat(path).unwrap().st_ino;
        Namespace {
            inode: u32::try_from(inode).unwrap(),
            name: None,
            way: Way::Path(path.to_owned()),
        }
    }

    #[test]
    fn the_own_namespace_is_found_and_visited() {
        let _listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let worker = Worker::spawn().unwrap();
        let found = wait(|reply| worker.discover(Depth::Threads, reply));
        let here = here();
        let namespaces = found.unwrap().unwrap().namespaces;
        assert!(namespaces.iter().any(|found| found.inode == here.inode));

        let states = StateSet::of(&[State::Listen]);
        match wait(|reply| worker.snapshot(here.clone(), states, reply)).unwrap() {
            Err(Error::NotPermitted { inode }) => assert_eq!(inode, here.inode),
            outcome => assert!(!outcome.unwrap().rows.is_empty()),
        }
    }

    #[test]
    fn a_survey_folds_every_socket_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let worker = Worker::spawn().unwrap();
        let here = here();
        let states = StateSet::of(&[State::Listen]);
        let take = move |found: &mut Vec<u32>, evidence: &Evidence| {
            if evidence.local == local {
                found.push(evidence.netns);
            }
        };
        let survey = |reply| worker.survey(here.clone(), states.plain(), Vec::new(), take, reply);
        match wait(survey).unwrap() {
            Err(Error::NotPermitted { inode }) => assert_eq!(inode, here.inode),
            outcome => {
                let survey = outcome.unwrap();
                assert_eq!(survey.found, [here.inode]);
                assert!(survey.limits.max_tw_buckets > 0);
            }
        }
    }

    #[test]
    fn single_sockets_are_asked_for_by_namespace() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (local, none) = (listener.local_addr().unwrap(), "0.0.0.0:0".parse().unwrap());
        let wanted = ExactQuery {
            cookie: None,
            interface: 0,
            ends: Ends::new(Family::Ipv4, local, none),
        };
        let worker = Worker::spawn().unwrap();
        let here = here();
        let mut missing = here.clone();
        missing.inode = 1;
        let namespaces = [here.clone(), missing].map(|one| (one, vec![wanted.clone()]));
        let before = monotonic_ns();
        let asked = wait(|reply| worker.ask(namespaces.into(), false, reply)).unwrap();
        let [(inode, Ok(asked)), (1, Err(Error::Gone { inode: 1 }))] = &asked[..] else {
            panic!("{asked:?}");
        };
        assert_eq!(*inode, here.inode);
        assert!(before <= asked.asked_from_ns && asked.asked_from_ns < asked.asked_until_ns);
        let [Answer::Socket(found)] = &asked.answers[..] else {
            panic!("{asked:?}");
        };
        assert_eq!((found.state, found.netns), (State::Listen, here.inode));
    }

    #[test]
    fn another_namespace_in_its_place_is_not_entered() {
        let worker = Worker::spawn().unwrap();
        let mut moved = here();
        moved.inode = 1;
        let mut missing = here();
        missing.way = Way::Path("/proc/self/ns/none".into());
        let figures = wait(|reply| worker.figures(vec![moved, missing], reply)).unwrap();
        assert_eq!(figures.len(), 2);
        for (inode, outcome) in figures {
            assert!(matches!(outcome, Err(Error::Gone { inode: gone }) if gone == inode));
        }
    }

    #[test]
    fn a_thread_that_cannot_return_stops() {
        let Some((namespace, _keep)) = visit::tests::another_namespace() else {
            return;
        };
        let worker = Worker::spawn_from(Home::without_return()).unwrap();
        let asked = vec![namespace.clone(), here()];
        let figures = wait(|reply| worker.figures(asked, reply)).unwrap();
        let is_lost = |(_, outcome): &(u32, Result<Figures, Error>)| {
            matches!(outcome, Err(Error::Return { .. }))
        };
        assert_eq!(figures.iter().filter(|one| is_lost(one)).count(), 2);
        let later = wait(|reply| worker.figures(vec![here()], reply));
        assert!(matches!(later, Err(Error::Stopped)));
    }

    #[test]
    fn a_reply_that_never_comes_is_an_error() {
        assert!(matches!(wait::<()>(drop), Err(Error::Stopped)));
    }
}
