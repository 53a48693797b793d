//! What is shipped beside the program: alert rules, runbook and dashboard. They agree with each other
//! and name no metric that there is not. Needs Debian's `prometheus`, for promtool.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, process};

use serde_json::Value;

const RULES: &str = "dist/prometheus/tcplinger.rules.yml";
const RULE_TESTS: &str = "dist/prometheus/tcplinger.rules.test.yml";
const DASHBOARD: &str = "dist/grafana/tcplinger.json";
const UNIT: &str = "dist/systemd/tcplinger.service";
const RUNBOOK: &str = "docs/alerts.md";
const FLEET: &str = "docs/fleet.md";
const REFERENCE: &str = "docs/metrics.md";

/// What every section of the runbook answers.
const QUESTIONS: [&str; 5] = [
    "**What it means.**",
    "**See for yourself.**",
    "**What to do.**",
    "**When it is a false alarm.**",
    "**How to tune.**",
];
/// The dashboard from top to bottom.
const ROWS: [&str; 8] = [
    "What is stuck now",
    "States over time",
    "TIME_WAIT and CLOSE_WAIT",
    "Dwell times",
    "Owners",
    "Port pressure",
    "Self cost",
    "Fleet",
];

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn promtool(arguments: &[&str], file: &Path) {
    let output = Command::new("promtool").args(arguments).arg(file).output();
    let output = output.unwrap_or_else(|error| panic!("promtool: {error}; install prometheus"));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The blocks that begin with the marker: the rest of its line, and what follows up to the next one.
fn blocks<'a>(text: &'a str, marker: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    text.split(marker).skip(1).map(|block| {
        let (name, rest) = block.split_once('\n').unwrap_or((block, ""));
        (name.trim(), rest)
    })
}

fn alerts(rules: &str) -> Vec<(&str, &str)> {
    blocks(rules, "- alert: ").collect()
}

#[test]
fn the_rules_pass_their_own_tests() {
    promtool(&["check", "rules"], &path(RULES));
    promtool(&["test", "rules"], &path(RULE_TESTS));
}

#[test]
fn each_alert_says_where_how_bad_and_what_to_do() {
    for (alert, text) in alerts(&read(RULES)) {
        // Where the whole job is gone there is no instance to name.
        let place = match alert {
            "TcplingerAbsent" => "{{ $labels.job }}",
            _ => "{{ $labels.instance }}",
        };
        let anchor = format!("/alerts.md#{}\n", alert.to_lowercase());
        for part in [
            "severity:",
            "summary: ",
            "description: ",
            place,
            "$value",
            &anchor,
        ] {
            assert!(text.contains(part), "{alert} lacks {part}");
        }
    }
}

#[test]
fn each_alert_is_shown_firing_and_not_firing() {
    let (rules, tests) = (read(RULES), read(RULE_TESTS));
    for (alert, _) in alerts(&rules) {
        let tests = || blocks(&tests, "- alertname: ").filter(|(name, _)| *name == alert);
        let expected = |text: &str| {
            text.split_once("exp_alerts: []")
                .map(|(head, _)| head.len())
        };
        // An empty list within the first lines, before the next test begins.
        let is_quiet = |text: &str| expected(text).is_some_and(|length| length < 80);
        assert!(
            tests().any(|(_, text)| is_quiet(text)),
            "{alert} not firing"
        );
        assert!(tests().any(|(_, text)| !is_quiet(text)), "{alert} firing");
    }
}

#[test]
fn each_alert_has_its_section_in_the_runbook_and_nothing_else_has() {
    let (rules, runbook) = (read(RULES), read(RUNBOOK));
    let names: Vec<&str> = alerts(&rules).into_iter().map(|(alert, _)| alert).collect();
    let sections: Vec<(&str, &str)> = blocks(&runbook, "\n## ").collect();
    let mut titles: Vec<&str> = sections.iter().map(|(title, _)| *title).collect();
    titles.sort_unstable();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(titles, sorted);
    for (title, text) in sections {
        for question in QUESTIONS {
            assert!(text.contains(question), "{title} lacks {question}");
        }
    }
    for link in runbook.split("](#").skip(1) {
        let anchor = link.split(')').next().unwrap();
        assert!(
            names.iter().any(|name| name.to_lowercase() == anchor),
            "#{anchor} leads nowhere"
        );
    }
}

/// The names under which the metrics are exposed; a histogram's is its base.
fn exposed(reference: &str) -> BTreeSet<&str> {
    let rows = reference.lines().filter_map(|row| row.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split_once('`'));
    names.map(|(name, _)| name).collect()
}

/// Every metric that the text names, those of recording rules by their whole name.
fn named(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !is_part(c))
        .map(|word| word.trim_matches(':'))
        .filter(|word| word.contains("tcplinger_"))
        .collect()
}

#[test]
fn every_metric_that_is_named_exists() {
    let (rules, reference) = (read(RULES), read(REFERENCE));
    let exposed = exposed(&reference);
    assert!(exposed.len() > 40, "{exposed:?}");
    let recorded: BTreeSet<&str> = blocks(&rules, "- record: ").map(|(name, _)| name).collect();
    let is_exposed = |name: &str| {
        let parts = ["_bucket", "_count", "_sum"];
        let base = parts.iter().find_map(|part| name.strip_suffix(part));
        exposed.contains(name) || base.is_some_and(|base| exposed.contains(base))
    };
    for (file, text) in [
        (RULES, &rules),
        (DASHBOARD, &read(DASHBOARD)),
        (RUNBOOK, &read(RUNBOOK)),
        (FLEET, &read(FLEET)),
        (RULE_TESTS, &read(RULE_TESTS)),
    ] {
        let names = named(text);
        assert!(!names.is_empty(), "{file}");
        for name in names {
            let exists = if name.contains(':') {
                recorded.contains(name)
            } else {
                is_exposed(name)
            };
            assert!(exists, "{file} names {name}");
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// All panels, those in folded rows, too.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let top = list(&dashboard["panels"]).iter();
    top.flat_map(|panel| [panel].into_iter().chain(list(&panel["panels"])))
        .collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).unwrap()
}

#[test]
fn the_dashboard_is_written_as_a_machine_would_again() {
    let text = read(DASHBOARD);
    let again = serde_json::to_string_pretty(&dashboard()).unwrap();
    assert!(text == again + "\n", "keys in order, indented by two");
}

#[test]
fn the_dashboard_has_its_rows_in_order_and_every_panel_explains_itself() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "tcplinger");
    let variables = list(&dashboard["templating"]["list"]);
    let variables: Vec<&Value> = variables.iter().map(|variable| &variable["name"]).collect();
    let wanted = ["datasource", "job", "instance", "namespace", "dwell_state"];
    assert_eq!(variables, wanted);
    let panels = panels(&dashboard);
    let rows = panels.iter().filter(|panel| panel["type"] == "row");
    let rows: Vec<&Value> = rows.map(|row| &row["title"]).collect();
    assert_eq!(rows, ROWS);
    let ids: BTreeSet<Option<u64>> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert!(ids.len() == panels.len() && !ids.contains(&None));
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().unwrap();
        let defaults = &panel["fieldConfig"]["defaults"];
        assert!(panel["description"].as_str().unwrap().len() > 10, "{title}");
        assert!(defaults["unit"].is_string(), "{title} has no unit");
        assert!(defaults["thresholds"].is_object(), "{title}");
        assert!(!list(&panel["targets"]).is_empty(), "{title}");
        let sources = list(&panel["targets"]).iter().chain([*panel]);
        for source in sources {
            assert_eq!(source["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}

#[test]
fn no_panel_lies_on_another() {
    let dashboard = dashboard();
    let place = |panel: &Value, key: &str| panel["gridPos"][key].as_u64().unwrap();
    let panels = panels(&dashboard);
    for (number, one) in panels.iter().enumerate() {
        assert!(place(one, "x") + place(one, "w") <= 24);
        for other in &panels[number + 1..] {
            let meets = |at: &str, size: &str| {
                place(one, at) < place(other, at) + place(other, size)
                    && place(other, at) < place(one, at) + place(one, size)
            };
            let both = (&one["title"], &other["title"]);
            assert!(!(meets("x", "w") && meets("y", "h")), "{both:?}");
        }
    }
}

/// promtool knows rules only: so each query becomes one.
#[test]
fn every_query_of_the_dashboard_parses() {
    let dashboard = dashboard();
    let queries = panels(&dashboard)
        .into_iter()
        .flat_map(|panel| list(&panel["targets"]))
        .chain(list(&dashboard["annotations"]["list"]))
        .filter_map(|target| target["expr"].as_str());
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (number, query) in queries.enumerate() {
        let query = query.replace("$__rate_interval", "4m");
        let query = Value::from(query);
        writeln!(rules, "  - {{record: query{number}, expr: {query}}}").unwrap();
    }
    let file = env::temp_dir().join(format!("tcplinger-queries-{}.yml", process::id()));
    fs::write(&file, &rules).unwrap();
    let result = std::panic::catch_unwind(|| promtool(&["check", "rules"], &file));
    fs::remove_file(&file).unwrap();
    result.unwrap_or_else(|cause| std::panic::resume_unwind(cause));
}

/// What the service may be exposed by, as systemd counts: at most 2.5 of 10.
#[test]
fn the_unit_exposes_little() {
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=yes", "--no-pager", "--threshold=25"]);
    let output = analyze.arg(path(UNIT)).output();
    let output = output.unwrap_or_else(|error| panic!("systemd-analyze: {error}; install systemd"));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("Overall exposure level"), "{text}");
}

/// Every capability that the unit gives has its reason beside it.
#[test]
fn the_unit_gives_a_reason_for_each_capability() {
    let unit = read(UNIT);
    let given = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("no {key}")).to_owned()
    };
    let bounding = given("CapabilityBoundingSet=");
    assert_eq!(given("AmbientCapabilities="), bounding);
    for capability in bounding.split(' ') {
        let name = capability.trim_start_matches("CAP_");
        let has_reason = unit.lines().any(|line| {
            line.starts_with("#   ") && line.contains(name) && line.split("  ").count() > 2
        });
        assert!(has_reason, "{name}");
    }
}

#[test]
fn manifest_and_chart_are_of_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = read("dist/helm/tcplinger/Chart.yaml");
    assert!(chart.contains(&format!("\nversion: {version}\n")));
    assert!(chart.contains(&format!("\nappVersion: \"{version}\"\n")));
    let manifest = read("dist/kubernetes/tcplinger.yaml");
    assert!(manifest.contains(&format!("image: tcplinger:{version}\n")));
    // Both start the same program in the same way.
    let daemonset = read("dist/helm/tcplinger/templates/daemonset.yaml");
    for line in manifest
        .lines()
        .filter(|line| line.contains("args:") || line.contains("add:"))
    {
        assert!(daemonset.contains(line.trim()), "{line}");
    }
}
