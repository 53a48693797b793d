use std::time::Duration;

use super::*;
use crate::track::stuck::{Ages, Matcher, Rules, SocketRule, threshold};

fn explained(state: State, limits: &Limits) -> Explanation {
    let ages = threshold(&Rules::default(), state, limits);
    explanation(state, limits, Some(&ages).filter(|_| state.is_lingering()))
}

fn text(explanation: &Explanation, style: Style) -> String {
    let mut out = Vec::new();
    explanation.write_text(&mut out, style).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn every_state_is_explained_within_80_columns() {
    for state in State::ALL {
        let explanation = explained(state, &Limits::default());
        let text = text(&explanation, Style::Plain);
        assert!(text.starts_with(&state.name().to_uppercase()));
        for line in text.lines() {
            assert!(
                line.chars().count() <= WIDTH && !line.ends_with(' '),
                "{line:?}"
            );
        }
        assert!(!text.contains("recycle"), "{state}");
        let is_flagged = text.contains("warning from");
        assert_eq!(is_flagged, state.is_lingering(), "{state}");
        let json = serde_json::to_value(&explanation).unwrap();
        assert_eq!(json["state"], state.name());
        assert_eq!(json["flagged"].is_null(), !state.is_lingering());
    }
}

#[test]
fn the_values_are_the_namespaces_own() {
    let limits = Limits {
        fin_timeout: Duration::from_secs(17),
        syn_retries: 2,
        max_tw_buckets: 4321,
        has_timestamps: false,
        ..Limits::default()
    };
    let shown = |state| text(&explained(state, &limits), Style::Plain);
    let time_wait = shown(State::TimeWait);
    assert!(time_wait.contains("net.ipv4.tcp_max_tw_buckets = 4321"));
    assert!(time_wait.contains("net.ipv4.tcp_fin_timeout = 17\n      has no effect on TIME_WAIT"));
    assert!(time_wait.contains("timestamps, which are off here"));
    assert!(shown(State::CloseWait).contains("17\n      has no effect on CLOSE_WAIT"));
    assert!(shown(State::FinWait2).contains("warning from 21.2 s, critical from 1 min 25 s"));
    assert!(shown(State::SynSent).contains("here after 7 s"));
}

#[test]
fn only_the_title_is_coloured() {
    let explanation = explained(State::CloseWait, &Limits::default());
    let coloured = text(&explanation, Style::Coloured);
    assert!(coloured.starts_with("\x1b[31mCLOSE_WAIT\x1b[0m\n"));
    let plain = text(&explanation, Style::Plain);
    assert_eq!(coloured.matches('\x1b').count(), 2);
    assert!(!plain.contains('\x1b'));
}

#[test]
fn rules_are_listed_in_their_order() {
    let socket = |name: &str, ages| SocketRule {
        name: name.to_owned(),
        matcher: Matcher {
            states: vec![State::CloseWait],
            local_ports: vec![80..=80, 8000..=8009],
            remote_nets: vec!["10.0.0.0/8".parse().unwrap()],
            ..Matcher::default()
        },
        ages,
    };
    let ages = Ages {
        warning: Duration::from_secs(5),
        critical: Duration::from_secs(90),
    };
    let rules = Rules {
        sockets: vec![socket("z\x1b", Some(ages)), socket("a", None)],
        ..Rules::default()
    };
    let limits = Limits::default();
    let mut out = Vec::new();
    write_rules(&mut out, &rules, &limits).unwrap();
    let text = String::from_utf8(out).unwrap();
    let conditions = "state close_wait; local port 80 or 8000-8009; remote net 10.0.0.0/8";
    let first = format!("  z\\x1b: warning 5 s, critical 1 min 30 s: {conditions}\n");
    assert!(
        text.contains(&format!("{first}  a: never stuck: {conditions}\n")),
        "{text}"
    );
    for state in State::LINGERING {
        assert!(text.lines().any(|line| line.starts_with(state.name())));
    }
    let json = serde_json::to_value(rules_table(&rules, &limits)).unwrap();
    assert_eq!(json["states"][0]["warning_seconds"], 3.0);
    assert_eq!(json["socket_rules"][0]["ages"]["critical_seconds"], 90.0);
    assert!(json["socket_rules"][1]["ages"].is_null());
}
