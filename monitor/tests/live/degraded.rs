//! Less kernel and less privilege: what still works agrees with `ss`, what does not says why.

use std::fs;
use std::process::{Command, Output};

use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _};

use crate::harness::{Daemon, EveryState, Scratch, output, tcplinger};

/// Hides directories of /sys from what follows. New namespaces still show up under /run/netns.
const PRIVATE_MOUNTS: [&str; 4] = ["unshare", "--mount", "--propagation", "slave"];
const WITHOUT_BTF: &str = "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\"";
const WITHOUT_BTF_AND_TRACEFS: &str = "for hidden in btf tracing debug; do \
     mount -t tmpfs none /sys/kernel/$hidden || exit 99; done; exec \"$0\" \"$@\"";

/// A command as seen by a process from which `script` has hidden something.
fn behind(script: &str, command: &Command) -> Output {
    let [unshare, flags @ ..] = PRIVATE_MOUNTS;
    output(
        Command::new(unshare)
            .args(flags)
            .args(["sh", "-c", script])
            .arg(command.get_program())
            .args(command.get_args()),
    )
}

fn assert_refused(output: &Output, code: i32, message: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(message), "{stderr}");
}

#[test]
fn without_btf_the_classic_tracepoint_serves() {
    let [unshare, mount, propagation, slave] = PRIVATE_MOUNTS;
    let wrapper = [unshare, mount, propagation, slave, "sh", "-c", WITHOUT_BTF];
    let daemon = Daemon::wrapped(&wrapper, "");
    assert!(daemon.log().contains("classic"), "{}", daemon.log());
    let sockets = EveryState::new();
    sockets.assert_agrees(&daemon);
    sockets.release();
    sockets.assert_agrees(&daemon);
}

#[test]
fn the_classic_tracepoint_by_choice() {
    let daemon = Daemon::with("--program classic");
    let sockets = EveryState::new();
    sockets.assert_agrees(&daemon);
    sockets.release();
    sockets.assert_agrees(&daemon);
}

#[test]
fn btf_is_demanded_and_missing() {
    let command = tcplinger("events --duration 1s --program btf");
    assert_refused(&behind(WITHOUT_BTF, &command), 4, "BTF");
}

#[test]
fn neither_btf_nor_tracefs() {
    let command = tcplinger("events --duration 1s");
    assert_refused(&behind(WITHOUT_BTF_AND_TRACEFS, &command), 4, "tracefs");
}

#[test]
fn without_privilege() {
    let scratch = Scratch::new();
    // The build's own directory may be closed to others.
    let program = scratch.path("tcplinger");
    fs::copy(tcplinger("").get_program(), &program).unwrap();
    for verb in ["run", "events"] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(&program).args([verb, "--duration=1s"]);
        assert_refused(&output(&mut command), 3, "CAP_");
    }
}

#[test]
fn an_object_that_is_none() {
    let scratch = Scratch::new();
    let garbage = scratch.path("garbage.o");
    fs::write(&garbage, "this is not ELF").unwrap();
    for path in ["/nonexistent/tcplinger.o", garbage.to_str().unwrap()] {
        let command = &mut tcplinger(&format!("events --duration 1s --bpf-object {path}"));
        assert_refused(&output(command), 1, path);
    }
}

/// The real object, but for its first instruction: `r0 = *(u64 *)(r10 + 8)`, a read above the stack.
#[test]
fn a_program_that_the_verifier_rejects() {
    let object = include_bytes!(concat!(env!("OUT_DIR"), "/monitor-ebpf"));
    let elf: ElfFile64<'_> = ElfFile64::parse(&object[..]).unwrap();
    let section = elf.section_by_name("tp_btf/inet_sock_set_state").unwrap();
    let (offset, _) = section.file_range().unwrap();
    let start = usize::try_from(offset).unwrap();
    let mut broken = object.to_vec();
    broken[start..start + 8].copy_from_slice(&[0x79, 0xa0, 8, 0, 0, 0, 0, 0]);
    let scratch = Scratch::new();
    let path = scratch.path("broken.o");
    fs::write(&path, broken).unwrap();
    let arguments = format!(
        "events --duration 1s --program btf --bpf-object {}",
        path.display()
    );
    let output = output(tcplinger(&arguments).env("TMPDIR", scratch.path("")));
    assert_refused(&output, 4, "verifier rejected program");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let log = stderr
        .split("its full log is in ")
        .nth(1)
        .expect("the log's path");
    let log = log.split(';').next().unwrap();
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("R10"), "{log}");
}

#[test]
fn a_kernel_too_old() {
    // To this process the kernel gives its release as 2.6.x (personality(2), UNAME26).
    let mut command = Command::new("setarch");
    command.args(["--uname-2.6", tcplinger("").get_program().to_str().unwrap()]);
    command.args(["events", "--duration=1s"]);
    assert_refused(&output(&mut command), 4, "too old");
}
