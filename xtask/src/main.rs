//! The project's tooling: `cargo xtask VERB`. One module per verb, each with its `Args` and `run`.
//!
//! Everything it says goes to stderr, so that the output of a program it runs can be piped on.
#![expect(clippy::print_stderr, reason = "a build tool talks to its terminal")]

mod apt;
mod bench;
mod build;
mod check;
mod dist;
mod exec;
mod imports;
mod run;
mod setup;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::Parser as _;

#[derive(clap::Parser)]
#[command(name = "cargo xtask", about = "Build, run and test tcplinger")]
enum Verb {
    /// Install the compiler and the linker for the eBPF programs
    Setup(setup::Args),
    /// Build the release binary, target/release/tcplinger
    Build(build::Args),
    /// Build and run the daemon; needs root
    Run(run::Args),
    /// Run every test, including those on the live kernel; needs root
    Test(test::Args),
    /// Check format, lints, docs, dependencies and the import rule
    Check(check::Args),
    /// Measure what tcplinger costs, next to no monitor and to tcpstates; needs root
    Bench(bench::Args),
    /// Make what is handed to others: static binaries, packages, an image, manifests
    Dist(dist::Args),
    /// Boot other kernels under QEMU and run the release binary in each
    Vm(vm::Args),
    #[command(hide = true)]
    Show(run::ShowArgs),
    #[command(hide = true)]
    Load(bench::LoadArgs),
    #[command(hide = true)]
    Hold(bench::HoldArgs),
    #[command(hide = true)]
    Owners(bench::OwnersArgs),
    #[command(hide = true)]
    Scrape(bench::ScrapeArgs),
}

fn main() -> ExitCode {
    let result = match Verb::parse() {
        Verb::Setup(args) => setup::run(&args),
        Verb::Build(args) => build::run(&args),
        Verb::Run(args) => run::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Dist(args) => dist::run(&args),
        Verb::Vm(args) => vm::run(&args),
        Verb::Show(args) => run::show(&args),
        Verb::Load(args) => bench::run_load(&args),
        Verb::Hold(args) => bench::hold(&args),
        Verb::Owners(args) => bench::run_owners(&args),
        Verb::Scrape(args) => bench::run_scrape(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
