//! Processes that misbehave: Python scripts that a test leads by their standard input and output.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;

use rustix::process::{Pid, Signal, kill_process_group};

use super::netns::Netns;

/// See the script.
const PUPPET: &str = include_str!("../programs/puppet.py");

/// A script that runs in a namespace, with every process it forks; killed on drop. It also ends by
/// itself within the time that it gives itself, and then every wait for its answer fails.
pub(crate) struct Program {
    child: Child,
    input: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Program {
    pub(crate) fn start(netns: &Netns, script: &str, arguments: &str) -> Self {
        let mut command = Command::new("python3");
        command
            .args(["-c", script])
            .args(arguments.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        let mut child = netns.enter(|| command.spawn().unwrap());
        Self {
            input: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// One that does as it is told.
    pub(crate) fn puppet(netns: &Netns) -> Self {
        Self::start(netns, PUPPET, "")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints.
    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the program ended: {line:?}");
        line.trim_end().to_owned()
    }

    /// Has it obey a command; its answer.
    pub(crate) fn tell(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}").unwrap();
        self.answer()
    }

    /// The same, where the answer is a number: a port, a descriptor, a pid.
    pub(crate) fn ask<T: FromStr>(&mut self, command: &str) -> T {
        let answer = self.tell(command);
        let number = answer.parse().ok();
        number.unwrap_or_else(|| panic!("{command}: {answer}"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}
