//! Which unit, container and pod a process belongs to, told from its cgroup paths.
//!
//! Pure: the conventions of systemd, the container engines and the kubelet, as far as known; a path
//! that follows none of them tells nothing. Whoever may make a cgroup chooses its name: a name counts
//! only where the host's systemd or an engine gives the names. What a user's systemd names is told as
//! that user's, what is inside a container as that container's.

/// What a process belongs to. Every text is another's choice: escape it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// systemd unit, as `systemctl` takes it; no slice, and no scope that is a container. `NAME` is the
    /// host's, `NAME of user UID` a user's, `NAME of container ID` a container's: a unit's name has no
    /// space.
    pub(super) unit: Option<String>,
    /// Id, or name where the engine (LXC, systemd-nspawn) goes by names.
    pub(super) container: Option<String>,
    /// Kubernetes pod uid; that of a static pod has no dashes.
    pub(super) pod: Option<String>,
}

impl Place {
    /// Decodes the text of `/proc/<pid>/cgroup`: a line for each hierarchy (`man 7 cgroups`).
    ///
    /// Where several are mounted, engines and systemd may use different ones: the line that tells
    /// most counts, and of equals one of systemd's own.
    pub(super) fn parse(text: &str) -> Self {
        let places = text.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let is_systemds = matches!(fields.next()?, "" | "name=systemd");
            Some((Self::of_path(fields.next()?), is_systemds))
        });
        let told = places.max_by_key(|(place, is_systemds)| {
            let Self {
                unit,
                container,
                pod,
            } = place;
            (
                container.is_some(),
                pod.is_some(),
                unit.is_some(),
                *is_systemds,
            )
        });
        told.map(|(place, _)| place).unwrap_or_default()
    }

    /// The outermost of each kind counts: what it was made for may give names of its own below.
    fn of_path(path: &str) -> Self {
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        let mut names = path.split('/').filter(|name| !matches!(*name, "" | ".."));
        let mut place = Self::default();
        // A unit is below slices alone (`cg_path_get_unit()` in systemd).
        let mut is_below_slices = true;
        let mut parent = "";
        while let Some(name) = names.next() {
            let is_engines = place.container.is_none()
                && place
                    .unit
                    .as_deref()
                    .is_none_or(|unit| has_containers(unit, name));
            let container = container(parent, name).filter(|_| is_engines);
            place.pod = place.pod.or_else(|| pod(name).filter(|_| is_engines));
            // A container's scope is the engine's way of making a cgroup; its service is a unit.
            if let Some((name, kind)) = unit(name)
                && is_below_slices
                && place.unit.is_none()
                && (container.is_none() || kind != "scope")
            {
                match (&place.container, user_of_manager(&name)) {
                    (Some(container), _) => {
                        place.unit = Some(format!("{name} of container {container}"));
                    }
                    (None, Some(user)) => {
                        let unit = unit_of_manager(names);
                        let of_user = unit.map(|unit| format!("{unit} of user {user}"));
                        place.unit = of_user.or(Some(name));
                        return place;
                    }
                    (None, None) => place.unit = Some(name),
                }
            }
            is_below_slices = container.is_some() || is_below_slices && is_slice(name);
            place.container = place.container.or(container);
            parent = name;
        }
        place
    }
}

/// Whether a cgroup of that name, below `unit`, may be a container: most units give their cgroups any
/// name they like.
fn has_containers(unit: &str, name: &str) -> bool {
    const ENGINES: [&str; 6] = ["docker", "containerd", "crio", "kubelet", "k3s", "rke2"];
    let stem = unit.strip_suffix(".service").unwrap_or(unit);
    let stem = stem.split(['-', '@']).next().unwrap_or(stem);
    // `podman run --cgroups=split`, as quadlets have it.
    ENGINES.contains(&stem) || name.starts_with("libpod-payload-")
}

fn is_slice(name: &str) -> bool {
    name.strip_suffix(".slice").is_some()
}

/// The user whose systemd runs in that unit of the host's.
fn user_of_manager(unit: &str) -> Option<u32> {
    let user = unit.strip_prefix("user@")?.strip_suffix(".service")?;
    user.parse().ok()
}

/// The unit that a user's systemd made, from the names below its own cgroup.
fn unit_of_manager<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let first = names.into_iter().find(|name| !is_slice(name))?;
    unit(first).map(|(name, _)| name)
}

/// The systemd unit a cgroup is made for, and its kind, unless that is a slice.
fn unit(name: &str) -> Option<(String, &str)> {
    const KINDS: [&str; 5] = ["service", "scope", "socket", "mount", "swap"];
    // Where a unit is called as one of the kernel's files is (`cg_escape()` in systemd).
    let name = name.strip_prefix('_').unwrap_or(name);
    let (stem, kind) = name.rsplit_once('.')?;
    // `VALID_CHARS_WITH_AT` in systemd's unit-name.c.
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    let is_unit = !stem.is_empty() && stem.bytes().all(is_valid) && KINDS.contains(&kind);
    is_unit.then(|| (name.to_owned(), kind))
}

/// The container a cgroup is made for, whose parent's name is `parent`.
fn container(parent: &str, name: &str) -> Option<String> {
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    // `docker-<id>.scope`, `cri-containerd-<id>.scope`, `libpod-payload-<id>`,
    // `system.slice:docker:<id>`, or the id alone. A conmon stands beside its container.
    let is_monitor = stem.contains("conmon-");
    if let Some(id) = stem.rsplit(['-', ':']).next()
        && is_id(id)
        && !is_monitor
    {
        return Some(id.to_owned());
    }
    if let Some(name) = name.strip_prefix("lxc.payload.") {
        return named(name);
    }
    match parent {
        "lxc" | "lxc.payload" => named(name),
        "machine.slice" => {
            let booted = name.strip_prefix("systemd-nspawn@");
            let booted = booted.and_then(|rest| rest.strip_suffix(".service"));
            let registered = || name.strip_prefix("machine-")?.strip_suffix(".scope");
            // libvirt registers its virtual machines in the same way.
            let machine = unescape(booted.or_else(registered)?);
            (!machine.starts_with("qemu-")).then_some(machine)
        }
        _ => None,
    }
}

fn named(name: &str) -> Option<String> {
    (!name.is_empty()).then(|| name.to_owned())
}

/// The uid in `pod<uid>`, `kubepods-burstable-pod<uid>.slice` or the like; systemd's driver writes
/// its dashes as `_`.
fn pod(name: &str) -> Option<String> {
    let name = name.split(':').next()?;
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let uid = name
        .strip_prefix("pod")
        .or_else(|| Some(name.rsplit_once("-pod")?.1))?
        .replace('_', "-");
    is_uid(&uid).then_some(uid)
}

/// 256 bits, as every engine that goes by ids has them.
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A UUID, or the 128-bit hash that the kubelet gives a static pod.
fn is_uid(text: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text.len() {
        32 => is_hex(text),
        36 => {
            let lengths = text.split('-').map(str::len);
            lengths.eq([8, 4, 4, 4, 12]) && text.split('-').all(is_hex)
        }
        _ => false,
    }
}

/// A machine's name from its unit's. Undoes `unit_name_escape()` of systemd: `\x2d` is `-`. Bytes that are not UTF-8 are replaced.
fn unescape(mut name: &str) -> String {
    let mut plain = Vec::with_capacity(name.len());
    while let Some((before, after)) = name.split_once("\\x") {
        plain.extend(before.bytes());
        let digits = after.get(..2).unwrap_or_default();
        // `from_str_radix` takes a sign.
        match u8::from_str_radix(digits, 16) {
            Ok(byte) if !digits.starts_with('+') => {
                plain.push(byte);
                name = after.get(2..).unwrap_or_default();
            }
            _ => {
                plain.extend(b"\\x");
                name = after;
            }
        }
    }
    plain.extend(name.bytes());
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3f4f8a3e9c3bd2c6f1a57ae3ac9a4e3a8a6b0c0d1e2f30415263748596a7b8c9";
    const UID: &str = "0f2a2bfc-8a1e-4b0c-9d0e-6a1b2c3d4e5f";

    /// Unit, container and pod of a path in which `ID`, `UID` and `U_I_D` stand for samples.
    fn told(path: &str) -> [Option<String>; 3] {
        let path = path
            .replace("U_I_D", &UID.replace('-', "_"))
            .replace("UID", UID)
            .replace("ID", ID);
        let place = Place::parse(&format!("0::{path}\n"));
        [place.unit, place.container, place.pod]
    }

    fn text(text: &str) -> Option<String> {
        (!text.is_empty()).then(|| text.to_owned())
    }

    #[test]
    fn units_are_what_systemd_made() {
        for (path, unit) in [
            ("/", ""),
            ("/system.slice/nginx.service", "nginx.service"),
            ("/init.scope", "init.scope"),
            (
                "/user.slice/user-1000.slice/session-3.scope",
                "session-3.scope",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service",
                "foo.service of user 1000",
            ),
            (
                "/user.slice/user-0.slice/user@0.service/init.scope",
                "init.scope of user 0",
            ),
            (
                "/system.slice/system-getty.slice/getty@tty1.service",
                "getty@tty1.service",
            ),
            (
                r"/system.slice/dev-disk-by\x2duuid-1.swap",
                r"dev-disk-by\x2duuid-1.swap",
            ),
            ("/system.slice/nginx.service/workers", "nginx.service"),
            ("/system.slice/nginx.service (deleted)", "nginx.service"),
            ("/../../system.slice/cron.service", "cron.service"),
            ("/user@7.service/user@8.service", "user@8.service of user 7"),
            ("/user@me.service/x.service", "user@me.service"),
            ("/user@+1.service/x.service", ""),
            // Whoever may make a cgroup chooses its name.
            (
                "/system.slice/web.service/system.slice/nginx.service",
                "web.service",
            ),
            ("/user.slice/user-7.slice/user@7.service", "user@7.service"),
            (
                "/user.slice/user-7.slice/user@7.service/x/nginx.service",
                "user@7.service",
            ),
            (
                "/user@7.service/app.slice/_nginx.service of user 8.service",
                "user@7.service",
            ),
            ("/jobs/nginx.service", ""),
            ("/system.slice/_cpu.service", "cpu.service"),
            ("/system.slice", ""),
            ("/system.slice/.service", ""),
            ("/process_api/4c1a4edd1f1e67e08cf462e3d33571e2", ""),
        ] {
            assert_eq!(told(path), [text(unit), None, None], "{path}");
        }
    }

    #[test]
    fn containers_of_every_engine_are_known() {
        for (path, unit, container) in [
            ("/system.slice/docker-ID.scope", "", ID),
            ("/docker/ID", "", ID),
            ("/docker/ID/init.scope", "init.scope of container ID", ID),
            (
                "/system.slice/containerd.service/system.slice:docker:ID",
                "containerd.service",
                ID,
            ),
            ("/machine.slice/libpod-ID.scope/container", "", ID),
            (
                "/system.slice/web.service/libpod-payload-ID",
                "web.service",
                ID,
            ),
            ("/libpod_parent/libpod-ID", "", ID),
            (
                "/system.slice/containerd.service/kubepods:cri-containerd:ID",
                "containerd.service",
                ID,
            ),
            // The engine's name for the outer one; the inner one is what that says.
            ("/docker/ID/docker/ID", "", ID),
            ("/default/nerdctl-ID.scope", "", ID),
            ("/ecs/ab12/ID", "", ID),
            ("/lxc/web", "", "web"),
            (
                "/lxc/web/system.slice/ssh.service",
                "ssh.service of container web",
                "web",
            ),
            ("/lxc.payload.web", "", "web"),
            (
                "/lxc.payload.web/system.slice/ssh.service",
                "ssh.service of container web",
                "web",
            ),
            (r"/machine.slice/machine-my\x2dbox.scope", "", "my-box"),
            (
                "/machine.slice/systemd-nspawn@box.service/payload",
                "systemd-nspawn@box.service",
                "box",
            ),
        ] {
            let expected = [text(&unit.replace("ID", ID)), text(container), None];
            assert_eq!(told(path), expected, "{path}");
        }
    }

    #[test]
    fn what_only_resembles_a_container_is_none() {
        for (path, unit) in [
            ("/lxc.monitor.web", ""),
            ("/lxc/", ""),
            ("/docker/abcdef012345", ""),
            ("/system.slice/docker-abc.scope", "docker-abc.scope"),
            (
                r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt",
                r"machine-qemu\x2d1\x2dvm.scope",
            ),
            ("/pods/podcast", ""),
            (
                "/user.slice/user-7.slice/user@7.service/user.slice/docker-ID.scope",
                "docker-ID.scope of user 7",
            ),
            ("/user@7.service/kubepods/podUID/ID", "user@7.service"),
            (
                "/user@7.service/machine.slice/machine-x.scope",
                "machine-x.scope of user 7",
            ),
            ("/system.slice/web.service/docker-ID.scope", "web.service"),
            ("/system.slice/web.service/podUID/lxc/web", "web.service"),
            (
                "/user.slice/user-7.slice/session-3.scope/docker/ID",
                "session-3.scope",
            ),
        ] {
            let unit = unit.replace("ID", ID);
            assert_eq!(told(path), [text(&unit), None, None], "{path}");
        }
        let [unit, container, _] = told("/machine.slice/libpod-conmon-ID.scope");
        assert_eq!(
            (unit, container),
            (Some(format!("libpod-conmon-{ID}.scope")), None)
        );
    }

    #[test]
    fn pods_are_known_in_both_spellings() {
        let burstable = "/kubepods.slice/kubepods-burstable.slice";
        for path in [
            format!("{burstable}/kubepods-burstable-podU_I_D.slice/cri-containerd-ID.scope"),
            format!("{burstable}/kubepods-burstable-podU_I_D.slice/crio-ID.scope"),
            "/kubepods.slice/kubepods-podU_I_D.slice/docker-ID.scope".to_owned(),
            "/kubepods/burstable/podUID/ID".to_owned(),
            "/kubepods/podUID/ID".to_owned(),
            "/system.slice/kubepods-besteffort-podU_I_D.slice:cri-containerd:ID".to_owned(),
            "/kubelet.slice/kubelet-kubepods-podU_I_D.slice/cri-containerd-ID.scope".to_owned(),
        ] {
            assert_eq!(told(&path), [None, text(ID), text(UID)], "{path}");
        }
        let hash = "0123456789abcdef0123456789abcdef";
        assert_eq!(
            told(&format!("/kubepods/besteffort/pod{hash}"))[2],
            text(hash)
        );
    }

    #[test]
    fn the_line_that_tells_most_counts() {
        let unit = Place {
            unit: text("ssh.service"),
            ..Place::default()
        };
        let hybrid = "3:cpuset:/\n1:name=systemd:/system.slice/ssh.service\n0::/\n";
        assert_eq!(Place::parse(hybrid), unit);
        let rivals =
            "2:cpu:/a.service\n1:name=systemd:/system.slice/ssh.service\n3:pids:/b.service\n";
        assert_eq!(Place::parse(rivals), unit);
        let engine =
            format!("9:name=systemd:/\n4:memory:/docker/{ID}\n0::/system.slice/x.service\n");
        assert_eq!(Place::parse(&engine).container, text(ID));
        let colon = Place::parse("0::/a:b.service\n");
        assert_eq!(colon.unit, text("a:b.service"));
        assert_eq!(Place::parse(""), Place::default());
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(r"a\x2db\x2"), r"a-b\x2");
        assert_eq!(unescape(r"\x+1\xzz\x\x41"), r"\x+1\xzz\xA");
        assert_eq!(unescape(r"\xff"), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn any_text_is_decoded(text: String, path in r"(/|\\x|pod|-|é|[a-f0-9]{4}|\.scope|\.slice|\.service|user@|lxc)*") {
            Place::parse(&text);
            Place::parse(&format!("0::{path}"));
        }
    }
}
