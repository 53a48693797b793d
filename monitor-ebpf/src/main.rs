//! The eBPF programs. On any other target this is an empty program, so that the whole workspace
//! builds, lints and documents in one pass.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod transitions;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
