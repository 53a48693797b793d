//! tcplinger: counts the sockets of every TCP state on this host and shows their transitions.

mod cli;
mod clock;
mod command;
mod config;
mod daemon;
mod inventory;
mod output;
mod probe;
mod publish;
mod sandbox;
mod survey;
mod tcp;
mod track;

use std::process::ExitCode;

fn main() -> ExitCode {
    command::run(cli::parse()).unwrap_or_else(|error| {
        if command::is_closed_stdout(&error) {
            return ExitCode::SUCCESS;
        }
        command::say_last(format!("tcplinger: {error:#}"));
        command::exit_code(&error)
    })
}
