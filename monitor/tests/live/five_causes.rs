//! A host with five things wrong at once: an operator sees all five on the first screen, whatever shows
//! them.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::http::get;
use crate::harness::server::{Script, about, config, stuck};
use crate::harness::{Browser, Daemon, Netns, PATIENCE, Scratch, eventually, output};

const SCENE: &str = include_str!("programs/five_causes.py");
/// In tests' time.
const RULES: &str = "[leak]\nwindow = \"5s\"\ngrowth = 20\n\
     [ages.close_wait]\nwarning = \"2s\"\ncritical = \"1m\"\n\
     [ages.syn_sent]\nwarning = \"2s\"\ncritical = \"10s\"\n";
const CAUSES: [(&str, &str); 5] = [
    ("leak", "close_wait"),
    ("sockets", "close_wait"),
    ("ephemeral_ports", "time_wait"),
    ("time_wait_buckets", "time_wait"),
    ("sockets", "syn_sent"),
];
/// As an operator reads them.
const WORDS: [&str; 5] = [
    "CLOSE_WAIT leak",
    "lazy[",
    "ephemeral ports",
    "TIME_WAIT buckets",
    "SYN_SENT",
];

/// What `stuck` says, once it says all five.
fn all_five(daemon: &Daemon, netns: &Netns) -> Vec<Value> {
    let kinds = |found: &[Value]| {
        let kinds = found.iter().map(|one| {
            let text = |key: &str| one[key].as_str().unwrap().to_owned();
            (text("kind"), text("state"))
        });
        let mut kinds: Vec<(String, String)> = kinds.collect();
        kinds.sort_unstable();
        kinds
    };
    let mut wanted: Vec<(String, String)> = CAUSES
        .map(|(kind, state)| (kind.to_owned(), state.to_owned()))
        .to_vec();
    wanted.sort_unstable();
    let found = eventually(Duration::from_mins(1), || {
        let found = stuck(daemon, netns);
        (kinds(&found) == wanted).then_some(found)
    });
    found.unwrap_or_else(|| panic!("{:#?}", stuck(daemon, netns)))
}

/// On a terminal of 80 columns and 40 lines.
fn on_a_terminal(command: &Command) -> Vec<String> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
    let told = output(Command::new("script").args([
        "-qec",
        &format!("stty cols 80 rows 40; {}", words.join(" ")),
        "/dev/null",
    ]));
    let told = String::from_utf8(told.stdout).unwrap();
    let lines = told.lines().map(|line| line.trim_end().to_owned());
    lines.collect()
}

fn sum_by_state(incidents: &[Value]) -> BTreeMap<&str, u64> {
    let mut sums = BTreeMap::new();
    for incident in incidents {
        let state = incident["state"].as_str().unwrap();
        *sums.entry(state).or_default() += incident["sockets"].as_u64().unwrap();
    }
    sums
}

#[test]
fn five_causes_on_the_first_screen() {
    let (netns, scratch) = (Netns::new(), Scratch::new());
    let file = config(&scratch.path("config.toml"), RULES);
    let daemon = Daemon::with(&format!("--listen 127.0.0.1:0 {file}"));
    let mut scene = Script::start(&netns, SCENE, &["15"]);
    let found = all_five(&daemon, &netns);
    eprintln!("{found:#?}");

    for incident in &found {
        assert_eq!(incident["netns_name"], netns.name(), "{incident:#}");
        let steps = incident["advice"].as_str().unwrap().split('`').step_by(2);
        assert!(steps.collect::<String>().matches("; ").count() <= 2);
    }
    let counted = netns.sockets();
    let by_ss = |state: &str| -> u64 {
        let of_state = counted.iter().filter(|((_, its), _)| its == state);
        of_state.map(|(_, sockets)| *sockets).sum()
    };
    let sums = sum_by_state(&found);
    assert!(sums["close_wait"] <= by_ss("CLOSE-WAIT"), "{sums:?}");
    assert_eq!(sums["syn_sent"], 1);

    let lines = on_a_terminal(&about(&daemon, &netns, "stuck --color never"));
    let text = lines.join("\n");
    eprintln!("{text}");
    assert!(lines.len() < 40, "{} lines", lines.len());
    for line in &lines {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for words in WORDS {
        assert!(text.contains(words), "no {words}: {text}");
    }
    let place = format!("in netns {} (source daemon)", netns.name());
    assert!(
        text.contains(" in 5 incidents: ") && text.contains(&place),
        "{text}"
    );
    let piped = output(&mut about(&daemon, &netns, "stuck")).stdout;
    assert!(!String::from_utf8(piped).unwrap().contains('…'));

    // It heads the list, and so the line.
    let first = stuck(&daemon, &netns).remove(0);
    let line = output(&mut about(&daemon, &netns, "check")).stdout;
    let line = String::from_utf8(line).unwrap();
    eprintln!("{line}");
    assert_eq!(
        first["exhausted_in_seconds"], 0.0,
        "it fails now: {first:#}"
    );
    assert_eq!(first["kind"], "ephemeral_ports");
    assert!(
        line.contains("; ephemeral ports to 127.0.0.1:7070: "),
        "{line}"
    );
    assert!(line.contains(" in 5 incidents"), "{line}");
    assert!(line.split(" | ").count() == 2, "{line}");

    let served = || {
        let served = get(&daemon, "/api/v1/stuck").json();
        let all = served["incidents"].as_array().unwrap().clone();
        let of_scene = |one: &&Value| one["netns"] == netns.inode();
        (all.iter().filter(of_scene).count() == 5).then_some(())
    };
    assert!(eventually(PATIENCE, served).is_some());
    shown_on_the_page(&daemon, &netns);
    scene.tell("end");
}

/// The rows of the scene's namespace, none of them below the first screen.
fn shown_on_the_page(daemon: &Daemon, netns: &Netns) {
    let browser = Browser::start();
    browser.open(&daemon.http_address());
    browser.wait_until("document.getElementById('fresh-state').textContent == 'Live'");
    browser.wait_until("document.querySelector('#incidents > li')");
    browser.run(&format!(
        "const filter = document.getElementById('filter');
         filter.value = '{}';
         filter.dispatchEvent(new Event('input'))",
        netns.inode()
    ));
    for (width, height) in [(1440, 900), (390, 844)] {
        for scheme in ["light", "dark"] {
            browser.look_at(width, height, scheme);
            browser.wait_until("document.querySelectorAll('#incidents > li').length == 5");
            browser.keep_picture(&format!("five-{width}-{scheme}"));
            browser.wait_until(&format!(
                "[...document.querySelectorAll('#incidents > li')]
                     .every((row) => row.getBoundingClientRect().bottom <= {height})"
            ));
        }
    }
    assert_eq!(browser.console(), [] as [Value; 0]);
}
