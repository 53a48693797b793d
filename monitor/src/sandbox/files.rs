//! Which files a thread may read and write, and whether it may use TCP: by landlock.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};

use super::Duty;

/// What is asked for; an older kernel enforces what it knows of it.
const KNOWN: ABI = ABI::V6;
/// What everybody on the host may read, most of it: users and groups, authorities, the resolver.
const COMMON: [&str; 5] = ["/etc", "/lib", "/lib64", "/run", "/usr"];
/// What the daemon reads of the kernel, and of itself.
const KERNEL: [&str; 2] = ["/proc", "/sys"];
/// Where a reload may begin to write findings.
const LOGS: [&str; 4] = ["/tmp", "/var/lib/tcplinger", "/var/log", "/var/tmp"];

/// Files that are named by the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) read: Vec<PathBuf>,
    pub(crate) written: Vec<PathBuf>,
    /// Sockets, which are removed at the end.
    pub(crate) sockets: Vec<PathBuf>,
}

/// Directories, with all below them.
struct Reach {
    read: Vec<PathBuf>,
    written: Vec<PathBuf>,
    sockets: Vec<PathBuf>,
}

impl Files {
    fn reach(&self) -> Reach {
        let common = COMMON.iter().chain(&KERNEL).map(PathBuf::from);
        // The service manager makes links of these.
        let real = |log: &&str| Path::new(*log).canonicalize().ok();
        let logs = || LOGS.iter().filter_map(real);
        Reach {
            read: common
                .chain(logs())
                .chain(self.read.iter().flat_map(|path| folders(path)))
                .collect(),
            written: logs()
                .chain(self.written.iter().flat_map(|path| folders(path)))
                .collect(),
            sockets: self.sockets.iter().flat_map(|path| folders(path)).collect(),
        }
    }

    /// The first of those wanted that is not within reach of these.
    pub(super) fn lacks(&self, wanted: &Self) -> Option<PathBuf> {
        let reach = self.reach();
        let is_outside = |path: &&PathBuf, within: &[PathBuf]| {
            let is_within =
                |folder: &PathBuf| within.iter().any(|within| folder.starts_with(within));
            // What is not there is told as that.
            folders(path)
                .iter()
                .any(|folder| folder.exists() && !is_within(folder))
        };
        let read = wanted.read.iter();
        let mut read = read.filter(|path| is_outside(path, &reach.read));
        let written = wanted.written.iter();
        let mut written = written.filter(|path| is_outside(path, &reach.written));
        read.next().or_else(|| written.next()).cloned()
    }
}

/// The directories of a file by its name, and of what a link there leads to: who replaces a file makes
/// another one, which a rule about the file itself would not know.
fn folders(path: &Path) -> Vec<PathBuf> {
    let parent = |path: &Path| {
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        parent.unwrap_or(Path::new(".")).to_owned()
    };
    let named = parent(path);
    let named = named.canonicalize().unwrap_or(named);
    let target = path.canonicalize().ok().map(|target| parent(&target));
    let target = target.filter(|target| *target != named);
    [named].into_iter().chain(target).collect()
}

/// For the main thread, which may listen and read the configuration again.
pub(super) fn seal(files: &Files) -> Result<(), String> {
    enforce(&files.reach(), BitFlags::EMPTY, BitFlags::EMPTY)
}

pub(super) fn confine(duty: Duty<'_>) -> Result<(), String> {
    let nothing = || Reach {
        read: Vec::new(),
        written: Vec::new(),
        sockets: Vec::new(),
    };
    let reading = |paths: &[PathBuf]| Reach {
        read: COMMON
            .iter()
            .map(PathBuf::from)
            .chain(paths.iter().flat_map(|path| folders(path)))
            .collect(),
        ..nothing()
    };
    let tcp = AccessNet::from_all(KNOWN);
    let scope = Scope::AbstractUnixSocket.into();
    match duty {
        Duty::Quiet => enforce(&nothing(), tcp, scope),
        Duty::Server(paths) => enforce(&reading(paths), tcp, scope),
        Duty::Pusher(paths) => enforce(&reading(paths), AccessNet::BindTcp.into(), scope),
        Duty::Writer(path) => {
            let written = path.map(folders).unwrap_or_default();
            enforce(
                &Reach {
                    written,
                    ..nothing()
                },
                tcp,
                scope,
            )
        }
    }
}

/// Nothing but `reach` from now on, and nothing that is `refused`.
fn enforce(
    reach: &Reach,
    refused: BitFlags<AccessNet>,
    scope: BitFlags<Scope>,
) -> Result<(), String> {
    let status = try_enforce(reach, refused, scope)
        .map_err(|error| format!("files stay within reach: {error}"))?;
    match status {
        RulesetStatus::NotEnforced => Err(
            "files stay within reach: this kernel has no landlock (Linux 5.13 or later, \
             lsm=...,landlock)"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

fn try_enforce(
    reach: &Reach,
    refused: BitFlags<AccessNet>,
    scope: BitFlags<Scope>,
) -> Result<RulesetStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let socket = AccessFs::MakeSock | AccessFs::RemoveFile;
    let write =
        read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::RemoveFile;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?;
    if !refused.is_empty() {
        ruleset = ruleset.handle_access(refused)?;
    }
    if !scope.is_empty() {
        ruleset = ruleset.scope(scope)?;
    }
    let status = ruleset
        .create()?
        .add_rules(path_beneath_rules(&reach.read, read))?
        .add_rules(path_beneath_rules(&reach.written, write))?
        .add_rules(path_beneath_rules(&reach.sockets, socket))?
        .restrict_self()?;
    Ok(status.ruleset)
}
