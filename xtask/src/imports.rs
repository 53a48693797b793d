//! The import rule of the `monitor` package: which room (top-level module) may mention which, and
//! which rooms own each heavy crate.

mod mentions;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use mentions::Mention;

/// The crate root: `main.rs`, and what is mentioned as `crate::` without being a room.
const MAIN: &str = "main";
/// The room that takes nothing but `std`.
const PURE: &str = "tcp";

/// Each room, and the rooms it may mention besides itself.
const ROOMS: [(&str, &[&str]); 14] = [
    (MAIN, &["cli", "config", "command", "output"]),
    ("cli", &["tcp"]),
    ("clock", &[]),
    (
        "config",
        &["cli", "daemon", "probe", "publish", "tcp", "track"],
    ),
    (
        "command",
        &[
            "cli",
            "clock",
            "config",
            "daemon",
            "inventory",
            "output",
            "probe",
            "publish",
            "sandbox",
            "survey",
            "tcp",
            "track",
        ],
    ),
    (
        "daemon",
        &[
            "clock",
            "inventory",
            "output",
            "probe",
            "publish",
            "sandbox",
            "survey",
            "tcp",
            "track",
        ],
    ),
    ("publish", &["clock", "output", "sandbox", "tcp", "track"]),
    ("sandbox", &[]),
    ("survey", &["inventory", "probe", "tcp", "track"]),
    ("output", &["tcp", "track"]),
    ("probe", &["tcp"]),
    ("inventory", &["clock", "tcp"]),
    ("track", &["tcp"]),
    (PURE, &[]),
];

/// Heavy crates, and the rooms that own them.
const OWNERS: [(&[&str], &[&str]); 9] = [
    (&["landlock", "seccompiler"], &["sandbox"]),
    (&["clap"], &["cli"]),
    (
        &["aya", "aya_log", "aya_obj", "btf_rs", "monitor_ebpf"],
        &["probe"],
    ),
    (&["netlink_sys"], &["inventory"]),
    (
        &["opentelemetry_proto", "prometheus_client", "prost"],
        &["output"],
    ),
    (
        &[
            "axum",
            "http",
            "http_body_util",
            "hyper",
            "hyper_util",
            "rustls",
            "tokio_rustls",
            "ureq",
        ],
        &["publish"],
    ),
    (&["toml"], &["config"]),
    (&["wildmatch"], &["config", "track"]),
    (&["tokio"], &[MAIN, "command", "daemon", "publish"]),
];

/// Prints every violation in `monitor/src`, and fails where there is one.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    let monitor = workspace.join("monitor");
    let dependencies = dependencies(&read(&monitor.join("Cargo.toml"))?);
    let source = monitor.join("src");
    let mut violations = 0_usize;
    for file in rust_files(&source)? {
        let shown = file.strip_prefix(workspace)?.display();
        let module = module_path(file.strip_prefix(&source)?);
        let found = violations_in(&read(&file)?, &module, &dependencies)
            .with_context(|| format!("cannot parse {shown}"))?;
        for (line, what) in &found {
            eprintln!("{shown}:{line}: {what}");
        }
        violations += found.len();
    }
    ensure!(
        violations == 0,
        "violations of the import rule: {violations}"
    );
    eprintln!("imports: no violations of the import rule");
    Ok(())
}

/// The lines of one file that break a rule, and which rule.
fn violations_in(
    source: &str,
    module: &[String],
    dependencies: &[String],
) -> Result<Vec<(usize, String)>> {
    let room = module.first().map_or(MAIN, String::as_str);
    let Some(allowed) = allowed(room) else {
        return Ok(vec![(
            1,
            format!("the import rule does not list `{room}` yet"),
        )]);
    };
    let mentions = mentions::of(source, module)?;
    let broken = mentions.iter().filter_map(|Mention { line, path }| {
        let rule = broken_rule(room, allowed, path, dependencies)?;
        Some((*line, format!("`{}`: {rule}", path.join("::"))))
    });
    Ok(broken.collect())
}

/// The rule that a path inside `room` breaks, in words.
fn broken_rule(
    room: &str,
    allowed: &[&str],
    path: &[String],
    dependencies: &[String],
) -> Option<String> {
    let mut path = path.iter().map(String::as_str);
    let mentioned = match path.next()? {
        "crate" => path.next().filter(|name| is_room(name)).unwrap_or(MAIN),
        // Only the crate root may leave `crate::` out.
        name if room == MAIN && is_room(name) => name,
        name => return foreign_rule(room, name, dependencies),
    };
    let is_fine = mentioned == room || allowed.contains(&mentioned);
    (!is_fine).then(|| format!("`{room}` may mention {}", listed(allowed)))
}

/// The same for a path that starts with a name from outside this crate.
fn foreign_rule(room: &str, name: &str, dependencies: &[String]) -> Option<String> {
    if room == PURE && dependencies.iter().any(|dependency| dependency == name) {
        return Some(format!("`{PURE}` may use only std"));
    }
    let (_, owners) = OWNERS.iter().find(|(crates, _)| crates.contains(&name))?;
    (!owners.contains(&room)).then(|| format!("only {} may name `{name}`", listed(owners)))
}

fn allowed(room: &str) -> Option<&'static [&'static str]> {
    let (_, allowed) = ROOMS.iter().find(|(name, _)| *name == room)?;
    Some(allowed)
}

fn is_room(name: &str) -> bool {
    name != MAIN && allowed(name).is_some()
}

fn listed(names: &[&str]) -> String {
    match names {
        [] => "no other room".to_owned(),
        names => names.join(", "),
    }
}

/// Where a file is in the module tree: `track/census.rs` is `track::census`, `main.rs` the root.
fn module_path(file: &Path) -> Vec<String> {
    let names = file.with_extension("");
    names
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name != "mod" && name != MAIN)
        .collect()
}

/// The crates under `[dependencies]`, as code names them.
fn dependencies(manifest: &str) -> Vec<String> {
    manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', '=', ' ']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(|name| name.replace('-', "_"))
        .collect()
}

/// Every `.rs` file below a folder, in the order of their names.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            paths.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the check says about a path in a file of that room.
    fn rule(room: &str, path: &str) -> Option<String> {
        let module = module_path(Path::new(room));
        let source = format!("use {path};");
        let found = violations_in(&source, &module, &["serde".to_owned()]).unwrap();
        found.into_iter().next().map(|(_, what)| what)
    }

    #[test]
    fn a_room_mentions_itself_and_what_it_may() {
        for (room, path) in [
            ("track", "crate::tcp::State"),
            ("track", "crate::track::census"),
            ("track/census", "super::super::tcp::State"),
            ("command", "crate::probe::Probe"),
            ("main", "command::run"),
            ("probe", "aya::Ebpf"),
            ("main", "tokio::main"),
            ("output", "serde::Serialize"),
            ("tcp", "std::fmt"),
        ] {
            assert_eq!(rule(room, path), None, "{room}: {path}");
        }
    }

    #[test]
    fn every_other_mention_breaks_a_rule() {
        for (room, path, words) in [
            ("track", "crate::output::text", "`track` may mention tcp"),
            (
                "tcp",
                "crate::track::Census",
                "`tcp` may mention no other room",
            ),
            ("tcp", "serde::Serialize", "`tcp` may use only std"),
            (
                "main",
                "probe::Probe",
                "`main` may mention cli, config, command, output",
            ),
            ("output", "crate::Verb", "`output` may mention tcp, track"),
            ("command", "aya::Ebpf", "only probe may name `aya`"),
            ("track", "toml::Table", "only config may name `toml`"),
            (
                "probe",
                "tokio::spawn",
                "only main, command, daemon, publish may name `tokio`",
            ),
        ] {
            assert_eq!(
                rule(room, path),
                Some(format!("`{path}`: {words}")),
                "{room}"
            );
        }
    }

    #[test]
    fn a_new_room_needs_a_place_in_the_rule() {
        let words = "the import rule does not list `attic` yet".to_owned();
        assert_eq!(rule("attic/box", "std::fmt"), Some(words));
    }

    #[test]
    fn a_file_has_its_place_in_the_module_tree() {
        let of = |file: &str| module_path(Path::new(file)).join("::");
        assert_eq!(of("main.rs"), "");
        assert_eq!(of("cli.rs"), "cli");
        assert_eq!(of("track/mod.rs"), "track");
        assert_eq!(of("track/census.rs"), "track::census");
    }

    #[test]
    fn dependencies_are_read_as_code_names_them() {
        let manifest = "[package]\nname = \"x\"\n\n[dependencies]\n# why\nbtf-rs = \"2\"\n\
                        serde.workspace = true\n\n[dev-dependencies]\nproptest = \"1\"\n";
        assert_eq!(dependencies(manifest), ["btf_rs", "serde"]);
    }
}
