//! `tcplinger events --format json` as a process whose lines are collected.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use super::daemon::tcplinger_through;
use super::netns::Netns;
use super::{PATIENCE, eventually};

/// Events of one namespace from the moment it was made; stopped on drop.
pub(crate) struct EventStream {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl EventStream {
    /// With more arguments to `events`; returns when the stream is known to flow.
    pub(crate) fn of(netns: &Netns, arguments: &str) -> Self {
        Self::through(&[], netns, arguments)
    }

    /// The same, through a command that ends in an exec of what follows it.
    pub(crate) fn through(wrapper: &[&str], netns: &Netns, arguments: &str) -> Self {
        let arguments = format!("events --netns {} {arguments}", netns.inode());
        let mut child = tcplinger_through(wrapper, &arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sink, stdout) = (Arc::clone(&lines), child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        let stream = Self { child, lines };
        stream.wait_until_flowing(netns);
        stream
    }

    /// Pokes the namespace until something shows up, and then until nothing more does.
    fn wait_until_flowing(&self, netns: &Netns) {
        let flows = eventually(PATIENCE, || {
            netns.enter(|| drop(TcpListener::bind("127.0.0.1:0").unwrap()));
            (!self.lines().is_empty()).then_some(())
        });
        assert!(flows.is_some(), "no event arrives");
    }

    /// Every line so far, as it came.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The events (in JSON) that have this local or remote port, once there are `number` of them.
    pub(crate) fn of_port(&self, port: u16, number: usize) -> Vec<Value> {
        let suffix = format!(":{port}");
        let has_port = |end: &Value| end.as_str().is_some_and(|end| end.ends_with(&suffix));
        let read = || {
            let lines = self.lines();
            let events = lines
                .iter()
                .map(|line| serde_json::from_str::<Value>(line).unwrap());
            events
                .filter(|event| has_port(&event["local"]) || has_port(&event["remote"]))
                .collect::<Vec<_>>()
        };
        eventually(PATIENCE, || {
            Some(read()).filter(|events| events.len() >= number)
        })
        .unwrap_or_else(|| panic!("fewer than {number} events: {:#?}", read()))
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
