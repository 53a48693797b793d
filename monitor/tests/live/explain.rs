//! `explain` and `stuck --rules`: every state in words, with the sysctls as they are now.

use serde_json::Value;

use crate::harness::{Netns, run, tcplinger};

const STATES: [&str; 12] = [
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
    "new_syn_recv",
];

fn explained(state: &str, netns: &Netns, format: &str) -> String {
    let inode = netns.inode();
    run(&mut tcplinger(&format!(
        "explain {state} --netns {inode} --format {format}"
    )))
}

#[test]
fn every_state_is_explained_without_bad_advice() {
    let netns = Netns::new();
    for state in STATES {
        let text = explained(state, &netns, "text");
        assert!(text.starts_with(&state.to_uppercase()), "{text}");
        for title in [
            "What it means",
            "What keeps a socket in it",
            "What ends it",
            "What to do",
        ] {
            assert!(text.contains(title), "{state}: no {title:?}");
        }
        assert!(!text.contains("tcp_tw_recycle"), "{text}");
        let json: Value = serde_json::from_str(&explained(state, &netns, "json")).unwrap();
        assert_eq!(json["state"], state);
        // As `ss` spells it, too.
        let dashed = state.to_uppercase().replace('_', "-");
        assert_eq!(explained(&dashed, &netns, "text"), text);
    }
}

#[test]
fn the_sysctls_shown_are_those_of_the_namespace_now() {
    let netns = Netns::new();
    for (state, key, value) in [
        ("syn_sent", "tcp_syn_retries", "3"),
        ("syn_recv", "tcp_synack_retries", "2"),
        ("new_syn_recv", "tcp_synack_retries", "4"),
        ("established", "tcp_retries2", "9"),
        ("fin_wait1", "tcp_orphan_retries", "7"),
        ("closing", "tcp_orphan_retries", "5"),
        ("last_ack", "tcp_orphan_retries", "6"),
        ("fin_wait2", "tcp_fin_timeout", "23"),
        ("time_wait", "tcp_max_tw_buckets", "777"),
        ("time_wait", "ip_local_port_range", "20000 20999"),
        ("close_wait", "tcp_fin_timeout", "29"),
    ] {
        let shown = format!("net.ipv4.{key} = {value}");
        assert!(!explained(state, &netns, "text").contains(&shown));
        netns.sysctl(key, value);
        let text = explained(state, &netns, "text");
        assert!(text.contains(&shown), "no {shown:?} in {text}");
    }
}

#[test]
fn the_rules_in_force_follow_the_sysctls() {
    let netns = Netns::new();
    let rules = || {
        let inode = netns.inode();
        let command = format!("stuck --rules --format json --netns {inode}");
        serde_json::from_str::<Value>(&run(&mut tcplinger(&command))).unwrap()
    };
    let before = rules();
    netns.sysctl("tcp_fin_timeout", "10");
    assert_ne!(rules(), before);
    let inode = netns.inode();
    let text = run(&mut tcplinger(&format!("stuck --rules --netns {inode}")));
    let line = text
        .lines()
        .find(|line| line.starts_with("fin_wait2"))
        .unwrap();
    assert!(
        line.contains("12.5 s") && line.contains("tcp_fin_timeout 10 s"),
        "{line}"
    );
}
