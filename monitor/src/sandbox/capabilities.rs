//! Which capabilities a thread keeps.

use caps::{CapSet, Capability};

/// A capability that the main thread keeps, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Before Linux 5.19 even reading a map that is open takes it.
    Bpf,
    /// A reload may listen at a port below 1024.
    LowPorts,
    #[doc(hidden)]
    Looking(Capability),
}

/// For those who look at other processes and enter namespaces.
pub(super) const LOOKING: [Kept; 5] = [
    // `setns()` into a network namespace.
    Kept::Looking(Capability::CAP_SYS_ADMIN),
    // `/proc/PID/ns/net`, `/proc/PID/exe`, `pidfd_getfd()` of other users' processes.
    Kept::Looking(Capability::CAP_SYS_PTRACE),
    // `/proc/PID/fd` of other users' processes, and namespaces bound below closed directories.
    Kept::Looking(Capability::CAP_DAC_READ_SEARCH),
    // `SIOCGSKNS`: the namespace of a socket that nothing else leads to.
    Kept::Looking(Capability::CAP_NET_ADMIN),
    // The iterators, before Linux 5.19.
    Kept::Looking(Capability::CAP_BPF),
];

impl Kept {
    const fn capability(self) -> Capability {
        match self {
            Self::Bpf => Capability::CAP_BPF,
            Self::LowPorts => Capability::CAP_NET_BIND_SERVICE,
            Self::Looking(capability) => capability,
        }
    }
}

/// Takes every other capability from the calling thread.
pub(super) fn keep(kept: &[Kept]) -> Result<(), String> {
    let failed = |error| format!("capabilities stay as they are: {error}");
    let wanted: Vec<Capability> = kept.iter().map(|kept| kept.capability()).collect();
    let held = caps::read(None, CapSet::Permitted).map_err(failed)?;
    let left = held
        .into_iter()
        .filter(|capability| wanted.contains(capability))
        .collect();
    // No program is ever executed.
    caps::clear(None, CapSet::Inheritable).map_err(failed)?;
    caps::set(None, CapSet::Effective, &left).map_err(failed)?;
    caps::set(None, CapSet::Permitted, &left).map_err(failed)
}
