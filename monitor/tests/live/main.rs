//! tcplinger on the live kernel, held to what `ss` says.
//!
//! Every test has network namespaces of its own, so the tests neither see each other nor the host;
//! only the kernel's tracepoint is shared. They need root, `ip`, `ss`, `nft` and util-linux.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and shows the daemon's log then"
)]

mod burst;
mod closes;
mod degraded;
mod harness;
mod lifecycle;
mod loss;
mod namespaces;
mod oddities;
mod stream;
mod usage;
