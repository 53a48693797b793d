//! Programs that serve, that leak or that keep connecting, and what `tcplinger` says of them.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use super::daemon::{Daemon, tcplinger};
use super::netns::Netns;
use super::{PATIENCE, eventually, output, run};

/// A program in a namespace; ended on drop.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(netns: &Netns, command: &mut Command) -> Self {
        Self(netns.enter(|| {
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{command:?}: {error}"))
        }))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Politely, so that it ends its own children; it may be stopped.
        for signal in [Signal::CONT, Signal::TERM] {
            let _ = kill_process(Pid::from_child(&self.0), signal);
        }
        let ended = eventually(Duration::from_secs(5), || self.0.try_wait().ok().flatten());
        if ended.is_none() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// A Python script in a namespace, which answers every line with a line.
pub(crate) struct Script {
    program: Program,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Script {
    /// Returns when the script has said its first line.
    pub(crate) fn start(netns: &Netns, text: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new("python3");
        command
            .args(["-c", text])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut program = Program::start(netns, &mut command);
        let mut script = Self {
            input: program.0.stdin.take().unwrap(),
            output: BufReader::new(program.0.stdout.take().unwrap()),
            program,
        };
        script.line();
        script
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the script ended");
        line.trim_end().to_owned()
    }

    /// Says a line; the answer.
    pub(crate) fn tell(&mut self, words: &str) -> String {
        writeln!(self.input, "{words}").unwrap();
        self.line()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.program.pid()
    }
}

/// A server that keeps what it accepts until it is told otherwise: `close N` of them, `mend` (close
/// all, and from now on close when the peer has), `filled` (seconds since `accept()` failed first
/// for want of descriptors, else `no`).
pub(crate) const LEAKY_SERVER: &str = r#"
import resource, socket, sys, threading, time
name, address, port, limit = sys.argv[1:]
open("/proc/self/comm", "w").write(name)
resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), int(limit)))
kept, leaks, filled = [], True, None
listener = socket.create_server((address, int(port)), backlog=4096)
def serve():
    global filled
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            filled = filled or time.monotonic()
            time.sleep(0.01)
            continue
        if leaks:
            kept.append(connection)
        else:
            connection.recv(1)
            connection.close()
threading.Thread(target=serve, daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    words, answer = line.split(), "done"
    if words[0] == "mend":
        leaks = False
        words = ["close", len(kept)]
    if words[0] == "close":
        for _ in range(int(words[1])):
            kept.pop().close()
    if words[0] == "filled":
        answer = "no" if filled is None else time.monotonic() - filled
    print(answer, flush=True)
"#;

/// A leaky server called `name`, on `address` (`ip:port`), with `limit` descriptors.
pub(crate) fn leaky_server(netns: &Netns, name: &str, address: &str, limit: u32) -> Script {
    let (ip, port) = address.rsplit_once(':').unwrap();
    Script::start(netns, LEAKY_SERVER, &[name, ip, port, &limit.to_string()])
}

/// Something done at a steady rate on a thread in a namespace, until dropped.
pub(crate) struct Load {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Ends by itself when `job` says false.
    pub(crate) fn start(
        netns: &Netns,
        per_second: u32,
        mut job: impl FnMut() -> bool + Send + 'static,
    ) -> Self {
        let namespace = File::open(format!("/run/netns/{}", netns.name())).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let is_told = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network).unwrap();
            let start = Instant::now();
            let mut times = 0;
            while !is_told.load(Ordering::Relaxed) && job() {
                times += 1;
                // By the clock: what a busy machine delays is made up for.
                let next = start + Duration::from_secs(1) * times / per_second;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Self {
            is_over,
            thread: Some(thread),
        }
    }

    /// Stops, and waits until it has.
    pub(crate) fn end(mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().unwrap();
        assert!(thread.join().is_ok(), "the load failed");
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// `tcplinger` with arguments, about one namespace, asked of the daemon.
pub(crate) fn about(daemon: &Daemon, netns: &Netns, arguments: &str) -> Command {
    let inode = netns.inode();
    let mut command = tcplinger(&format!("{arguments} --netns {inode} --source daemon"));
    command.arg("--control").arg(daemon.control());
    command
}

/// What the daemon finds stuck in a namespace now.
pub(crate) fn stuck(daemon: &Daemon, netns: &Netns) -> Vec<Value> {
    list(&mut about(daemon, netns, "stuck --format json"))
}

/// All sockets of a namespace in `CLOSE_WAIT`, stuck or not.
pub(crate) fn close_waits(daemon: &Daemon, netns: &Netns) -> Vec<Value> {
    let all = "stuck --all --state close_wait --format json";
    let mut sockets = list(&mut about(daemon, netns, all));
    // Without the groups.
    sockets.retain(|found| !found["cookie"].is_null());
    sockets
}

/// What a `stuck` lists, held to its exit code.
pub(crate) fn list(command: &mut Command) -> Vec<Value> {
    let shown = output(command);
    let message = String::from_utf8_lossy(&shown.stderr);
    let listed: Vec<Value> =
        serde_json::from_slice(&shown.stdout).unwrap_or_else(|error| panic!("{error}: {message}"));
    let is_stuck = listed.iter().any(|finding| finding["severity"] != "none");
    let code = i32::from(is_stuck);
    assert_eq!(shown.status.code(), Some(code), "{listed:?} {message}");
    listed
}

/// Those of a rule.
pub(crate) fn stuck_by(daemon: &Daemon, netns: &Netns, rule: &str) -> Vec<Value> {
    let mut findings = stuck(daemon, netns);
    findings.retain(|finding| finding["rule"] == rule);
    findings
}

/// The one finding of a rule, once it is there.
pub(crate) fn finding(daemon: &Daemon, netns: &Netns, rule: &str) -> Value {
    let found = eventually(PATIENCE, || {
        Some(stuck_by(daemon, netns, rule)).filter(|found| !found.is_empty())
    });
    let mut found = found.unwrap_or_else(|| panic!("no {rule:?}: {:#?}", stuck(daemon, netns)));
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

/// `ports` about a namespace, from the daemon or from the kernel.
pub(crate) fn ports(daemon: &Daemon, netns: &Netns, source: &str) -> Value {
    let inode = netns.inode();
    let mut command = tcplinger(&format!(
        "ports --format json --netns {inode} --source {source}"
    ));
    command.arg("--control").arg(daemon.control());
    serde_json::from_str(&run(&mut command)).unwrap()
}

/// `stuck --watch --format json` about a namespace; stopped on drop.
pub(crate) struct Notices {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Notices {
    pub(crate) fn of(daemon: &Daemon, netns: &Netns) -> Self {
        let watch = "stuck --watch --interval 200ms --format json";
        let mut command = about(daemon, netns, watch);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sink, stdout) = (Arc::clone(&lines), child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Self { child, lines }
    }

    /// The changes of a rule's findings so far, in order.
    pub(crate) fn changes(&self, rule: &str) -> Vec<String> {
        let lines = self.lines.lock().unwrap().clone();
        let notices = lines
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        notices
            .filter(|notice| notice["rule"] == rule)
            .map(|notice| notice["event"].as_str().unwrap().to_owned())
            .collect()
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits for a change.
    pub(crate) fn wait_for(&self, rule: &str, change: &str) {
        let seen = eventually(PATIENCE, || {
            self.changes(rule)
                .iter()
                .any(|seen| seen == change)
                .then_some(())
        });
        assert!(seen.is_some(), "{rule} is not {change}: {:#?}", self.all());
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a configuration for `run`; the flag that names it.
pub(crate) fn config(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    format!("--config {}", path.display())
}
