//! The sample agrees with the code, and what is wrong is refused in its place.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;

use proptest::prelude::*;

use super::*;
use crate::cli::run_help;
use crate::tcp::State;
use crate::track::stuck::{Ages, CountRule, Per, Rules, SocketRule, UnitPattern};
use file::{load_or, parse};
use refusal::position;

const SAMPLE: &str = include_str!("../../dist/tcplinger.toml");

const NO_FLAGS: RunArgs = RunArgs {
    interval: None,
    summary_every: None,
    transitions: None,
    log_format: None,
    walk_budget: None,
    program_stats: None,
    control: None,
    group: None,
    listen: Vec::new(),
    sandbox: None,
    duration: None,
    config: None,
    program: ProgramArgs {
        program: None,
        ring_size: None,
        bpf_log: None,
        bpf_object: None,
    },
};

fn no_log() -> u64 {
    0
}

fn parsed(text: &str) -> File {
    parse(text.as_bytes()).unwrap_or_else(|flaw| panic!("{flaw:?} in\n{text}"))
}

/// Line, column and words of a refusal.
fn refusal(text: impl AsRef<[u8]>) -> (usize, usize, String) {
    let text = text.as_ref();
    let flaw = parse(text).expect_err("must be refused");
    let (line, column) = position(text, flaw.at);
    (line, column, flaw.what)
}

/// The sample with every key in it that is commented out.
fn uncommented() -> String {
    let lines = SAMPLE.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => key,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_sample_is_what_the_code_does_without_it() {
    let sample = parsed(SAMPLE);
    assert_eq!(sample.rules, Rules::default());
    let (with, without) = (
        daemon(&NO_FLAGS, &sample, no_log),
        daemon(&NO_FLAGS, &File::default(), no_log),
    );
    assert_eq!(format!("{with:?}"), format!("{without:?}"));
    assert_eq!(control(None, &sample), control(None, &File::default()));
    let format = log_format(&NO_FLAGS, &File::default());
    assert_eq!(log_format(&NO_FLAGS, &sample), format);
}

#[test]
fn the_sample_sets_what_the_help_of_run_gives_as_default() {
    let sample: toml::Table = SAMPLE.parse().expect("TOML");
    let help = run_help();
    let daemon = sample["daemon"].as_table().expect("a table");
    for (key, value) in daemon {
        let flag = key.replace('_', "-");
        let found = help.iter().find(|(name, _)| *name == flag);
        let (_, text) = found.unwrap_or_else(|| panic!("--{flag} is no flag of run"));
        let shown = value.as_str().map_or(value.to_string(), str::to_owned);
        assert!(
            text.ends_with(&format!("[default: {shown}]")),
            "{flag}: {text}"
        );
    }
    // Of these the table has none, or no default.
    let not_in_file = [
        "config",
        "duration",
        "bpf-object",
        "listen",
        "group",
        "sandbox",
    ];
    let flags = help
        .iter()
        .filter(|(name, _)| !not_in_file.contains(&&**name));
    assert_eq!(flags.count(), daemon.len());
}

#[test]
fn the_sample_shows_every_key() {
    let text = uncommented();
    let rules = parsed(&text).rules;
    assert_eq!(rules, expected());
    let shown: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| Some(line.split_once(" = ")?.0))
        .collect();
    for header in [
        "daemon",
        "http",
        "otlp",
        "findings",
        "leak",
        "ports",
        "ages.close_wait",
    ] {
        assert_valid_keys_are_among(&shown, &format!("[{header}]\nx = 1\n"));
    }
    for header in ["socket", "count"] {
        assert_valid_keys_are_among(&shown, &format!("[[{header}]]\nx = 1\n"));
    }
}

fn assert_valid_keys_are_among(shown: &BTreeSet<&str>, text: &str) {
    let (_, _, what) = refusal(text);
    let (_, valid) = what.split_once("(valid: ").expect("the valid keys");
    for key in valid.trim_end_matches(')').split(", ") {
        assert!(shown.contains(key), "the sample lacks {key}: {what}");
    }
}

/// The rules of the sample where nothing in it is commented out.
fn expected() -> Rules {
    let ages = |warning, critical| Ages {
        warning: Duration::from_mins(warning),
        critical: Duration::from_mins(critical),
    };
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let backups = Matcher {
        states: vec![State::CloseWait, State::LastAck],
        local_ports: vec![8080..=8080, 9000..=9010],
        remote_ports: vec![5432..=5432],
        local_nets: networks(&["10.0.0.0/8"]),
        remote_nets: networks(&["192.0.2.0/24", "2001:db8::1/128"]),
        netns: vec![4_026_531_840],
        processes: vec![WildMatch::new("rsync*")],
        units: vec![
            UnitPattern::new("backup-*.service"),
            UnitPattern::new("sync.service of user 10??"),
        ],
        containers: vec![WildMatch::new("abc*")],
    };
    let checks = Matcher {
        remote_nets: networks(&["192.0.2.7/32"]),
        ..Matcher::default()
    };
    let rule = |name: &str, matcher, ages| SocketRule {
        name: name.to_owned(),
        matcher,
        ages,
    };
    Rules {
        ages: [(State::CloseWait, ages(1, 5))].into(),
        sockets: vec![
            rule("backups may take their time", backups, Some(ages(10, 60))),
            rule("the load balancer's health checks", checks, None),
        ],
        counts: vec![CountRule {
            name: "too many close_wait per process".to_owned(),
            matcher: Matcher {
                states: vec![State::CloseWait],
                ..Matcher::default()
            },
            per: Per::Process,
            warning: 1000,
            critical: 5000,
        }],
        ..Rules::default()
    }
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let file = parsed(
        "daemon = { interval = '2s', transitions = true, log_format = 'json', walk_budget = '50%', \
         program_stats = true, control = '/x', program = 'classic', ring_size = 0x100000, bpf_log = 'warn' }",
    );
    let settings = daemon(&NO_FLAGS, &file, no_log);
    assert_eq!(settings.interval, Duration::from_secs(2));
    assert_eq!(settings.summary_every, SUMMARY_EVERY);
    assert!(settings.measures_program && settings.logs_transitions);
    assert!((settings.walk_share - 0.5).abs() < f64::EPSILON);
    assert_eq!(settings.program.attach, Attach::Classic);
    assert_eq!(settings.program.ring_bytes, 1 << 20);
    assert_eq!(control(None, &file), Path::new("/x"));
    assert_eq!(log_format(&NO_FLAGS, &file), Format::Json);

    let flags = RunArgs {
        interval: Some(Duration::from_secs(3)),
        transitions: Some(false),
        program_stats: Some(false),
        log_format: Some(Format::Text),
        ..NO_FLAGS
    };
    let settings = daemon(&flags, &file, no_log);
    assert_eq!(settings.interval, Duration::from_secs(3));
    assert!(!settings.measures_program && !settings.logs_transitions);
    assert_eq!(log_format(&flags, &file), Format::Text);
    assert_eq!(control(Some(Path::new("/y")), &file), Path::new("/y"));
}

/// Each text of the list with the place of what is wrong in it, and words of the refusal.
#[test]
fn off_twice_is_off() {
    let http = parsed("[http]\nlisten = [\"off\", \"off\"]\n").publish.http;
    assert!(http.listen.is_empty() && !http.is_default);
    let (.., refusal) = refusal("[http]\nlisten = [\"off\", \"127.0.0.1:1\"]\n");
    assert!(refusal.contains("one or the other"), "{refusal}");
}

#[test]
fn what_is_wrong_is_refused_in_its_place() {
    let mut text = String::new();
    for line in include_str!("refusals.txt").lines() {
        let Some(expected) = line.strip_prefix("=> ") else {
            // An empty line parts two texts.
            if !(line.is_empty() && text.is_empty()) {
                writeln!(text, "{line}").expect("a string takes all");
            }
            continue;
        };
        let (line, column, what) = refusal(&text);
        let (place, words) = expected.split_once(' ').expect("a place and words");
        assert_eq!(format!("{line}:{column}"), place, "{what}:\n{text}");
        assert!(what.contains(words), "{what:?} lacks {words:?}:\n{text}");
        assert!(!what.contains(['\n', '\u{1b}']), "{what:?}");
        text.clear();
    }
    assert!(text.is_empty(), "no verdict on\n{text}");
}

#[test]
fn a_name_is_unique_among_all_rules() {
    let count = "[[count]]\nname = \"x\"\nper = \"unit\"\nwarning = 1\ncritical = 2\n";
    let socket = "[[socket]]\nname = \"x\"\nlocal_port = 1\nignore = true\n";
    for (text, second) in [
        (format!("{count}{socket}"), 7),
        (format!("{socket}{count}"), 6),
        (format!("{socket}{socket}"), 6),
    ] {
        let (line, column, what) = refusal(text);
        assert_eq!((line, column), (second, 8));
        let lines = format!("the name \"x\", on line 2 and on line {second};");
        assert!(what.contains(&lines), "{what}");
    }
    let renamed = socket.replace("\"x\"", "\"y\"");
    assert_eq!(parsed(&format!("{count}{renamed}")).rules.sockets.len(), 1);
}

#[test]
fn bytes_that_are_not_utf8_have_a_place() {
    let (line, column, what) = refusal(b"[leak]\nwindow = \"\xff\"\n");
    assert_eq!((line, column), (2, 11));
    assert!(what.contains("UTF-8"));
    assert_eq!(
        parsed("\u{feff}[leak]\r\ngrowth = 1\r\n").rules.leak.growth,
        1
    );
}

#[test]
fn long_values_are_clipped() {
    let (_, _, what) = refusal(format!(
        "[daemon]\ninterval = \"{}\"\n",
        "\u{e9}".repeat(5000)
    ));
    assert!(what.len() < 400, "{what}");
}

#[test]
fn files_that_cannot_be_read() {
    let folder = std::env::temp_dir();
    let told = |path: &Path| load(Some(path)).expect_err("must be refused").to_string();
    for (path, words) in [
        (
            folder.join("there is\nno such file"),
            "is\\nno such file: No such file",
        ),
        (folder.clone(), "Is a directory"),
        (PathBuf::from("/dev/zero"), "larger than 1 MiB"),
    ] {
        let message = told(&path);
        assert!(message.contains(words), "{message}");
    }
    let absent = load_or(None, &folder.join("no such file"));
    assert_eq!(absent.expect("the default may be absent"), File::default());

    let path = folder.join(format!("tcplinger-config-{}.toml", std::process::id()));
    let mut file = std::fs::File::create(&path).expect("a file");
    writeln!(file, "[leak]\ngrowth = 7").expect("written");
    assert_eq!(load(Some(&path)).expect("valid").rules.leak.growth, 7);
    writeln!(file, "grwoth = 7").expect("written");
    for refused in [load(Some(&path)), load_or(None, &path)] {
        let message = refused.expect_err("must be refused").to_string();
        let place = format!("{}:3:1: unknown key `grwoth` in [leak]", path.display());
        assert!(message.starts_with(&place), "{message}");
    }
    std::fs::remove_file(&path).expect("removed");
}

#[test]
fn a_file_that_others_write_or_that_never_ends_is_refused() {
    use rustix::fs::{Mode, RawMode};
    use std::os::unix::fs::PermissionsExt as _;

    let folder = std::env::temp_dir();
    let path = folder.join(format!("tcplinger-open-{}.toml", std::process::id()));
    std::fs::write(&path, "[leak]\ngrowth = 7\n").expect("a file");
    let with = |mode: RawMode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, permissions).expect("its own file");
        [load(Some(&path)), load_or(None, &path)]
    };
    for mode in [0o666, 0o602] {
        for refused in with(mode) {
            let message = refused.expect_err("anybody may write it").to_string();
            assert!(
                message.contains(&format!("chmod o-w {}", path.display())),
                "{message}"
            );
        }
    }
    for mode in [0o600, 0o644, 0o664] {
        for loaded in with(mode) {
            loaded.expect("others cannot write it");
        }
    }
    std::fs::remove_file(&path).expect("removed");

    rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).expect("a FIFO");
    let message = load(Some(&path))
        .expect_err("nobody writes there")
        .to_string();
    assert!(message.contains("is a pipe"), "{message}");
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(
        load(Some(Path::new("/dev/null"))).expect("empty"),
        File::default()
    );
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*|(\\[\\[?(socket|count|ages|leak)\\]\\]?\n[a-z_]+ = \\PC*\n)*") {
        if let Err(flaw) = parse(text.as_bytes()) {
            position(text.as_bytes(), flaw.at);
        }
    }

    /// Every key of the sample with every kind of value.
    #[test]
    fn no_value_panics(
        line in 0_usize..200,
        value in prop_oneof![
            Just("[]".to_owned()), Just("[[1], {}]".to_owned()), Just("{ a = 1 }".to_owned()),
            Just("true".to_owned()), Just("1979-05-27".to_owned()), Just("inf".to_owned()),
            "-?[0-9]{1,25}", "0x[0-9a-f]{1,40}", "-?[0-9]{1,5}\\.[0-9]{1,3}",
            "\"[0-9a-z:./*-]{0,12}\"", "\"-?[0-9]{1,22}(ms|s|m|h)\"",
        ],
    ) {
        let mut text = String::new();
        for (number, kept) in uncommented().lines().enumerate() {
            match kept.split_once(" = ") {
                Some((key, _)) if number == line => writeln!(text, "{key} = {value}"),
                _ => writeln!(text, "{kept}"),
            }.expect("a string takes all");
        }
        if let Err(flaw) = parse(text.as_bytes()) {
            let (place, _) = position(text.as_bytes(), flaw.at);
            prop_assert!(place <= line + 20, "{}", flaw.what);
        }
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        if let Err(flaw) = parse(&bytes) {
            position(&bytes, flaw.at);
        }
    }
}
