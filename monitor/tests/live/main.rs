//! tcplinger on the live kernel, held to what `ss` says.
//!
//! Every test has network namespaces of its own, so the tests neither see each other nor the host;
//! only the kernel's tracepoint is shared. They need root and the programs that `cargo xtask test`
//! installs: `ip`, `ss`, `nft`, `python3`, `openssl`, Prometheus, Chromium and others.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and shows the daemon's log then"
)]

mod answers;
mod burst;
mod clients;
mod clocks;
mod closes;
mod crowds;
mod degraded;
mod exactness;
mod explain;
mod five_causes;
mod harness;
mod http;
mod leaks;
mod lifecycle;
mod loss;
mod mptcp;
mod names;
mod namespaces;
mod neighbours;
mod notices;
mod oddities;
mod page;
mod pressure;
mod prometheus;
mod push;
mod reload;
mod rules;
mod sandbox;
mod servers;
mod service;
mod storm;
mod stream;
mod stuck;
mod unanswered;
mod unlisted;
mod usage;
