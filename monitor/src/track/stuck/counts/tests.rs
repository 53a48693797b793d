use proptest::prelude::*;

use super::*;
use crate::tcp::{Family, Timer};
use crate::track::stuck::Matcher;

fn socket(netns: u32, local: u16, state: State) -> Evidence {
    Evidence {
        interface: 0,
        netns,
        cookie: 1,
        family: Family::Ipv4,
        state,
        is_minisocket: false,
        is_mptcp: false,
        local: ([10, 0, 0, 1], local).into(),
        remote: ([10, 0, 0, 2], 5_000).into(),
        inode: 1,
        uid: 0,
        cgroup_id: None,
        recv_queue: 11,
        send_queue: 0,
        timer: Timer::Off,
        retransmits: 2,
        info: None,
    }
}

fn owner(pid: u32, fd: u32, unit: &str) -> Owner {
    let process = Process {
        pid,
        comm: "web".to_owned(),
        unit: Some(unit.to_owned()),
        ..Process::default()
    };
    Owner {
        process: Arc::new(process),
        fd: Some(fd),
    }
}

fn rule(per: Per, warning: u64, critical: u64) -> CountRule {
    CountRule {
        name: "many".to_owned(),
        matcher: Matcher::default(),
        per,
        warning,
        critical,
    }
}

fn found(rule: CountRule, sockets: &[(Evidence, Vec<Owner>)]) -> Vec<Incident> {
    let all = sockets.iter().map(|(socket, owners)| (socket, &owners[..]));
    let mut board = CountBoard::default();
    let rules = [rule];
    let counted = count_incidents(&rules, all, &mut board);
    let mut taken: HashMap<Identity, u64> = HashMap::new();
    for (socket, owners) in sockets {
        if let Some(identity) = counted.of(&rules, socket, owners) {
            *taken.entry(identity).or_default() += 1;
        }
    }
    let mut found = counted.into_incidents();
    for incident in &mut found {
        incident.sockets = taken.remove(&incident.identity()).unwrap_or_default();
    }
    assert!(taken.is_empty());
    found
}

#[test]
fn each_kind_of_group_adds_up_its_own() {
    let shared = vec![
        owner(1, 3, "a.service"),
        owner(1, 4, "a.service"),
        owner(2, 3, "a.service"),
    ];
    let sockets = [
        (socket(7, 80, State::CloseWait), shared),
        (
            socket(7, 80, State::CloseWait),
            vec![owner(1, 5, "a.service")],
        ),
        (
            socket(8, 80, State::LastAck),
            vec![owner(3, 5, "b.service")],
        ),
        (socket(8, 81, State::CloseWait), vec![]),
    ];
    for (per, counts) in [
        // The second holder's socket is the first one's already.
        (Per::Process, &[2, 0, 1][..]),
        (Per::Unit, &[2, 1]),
        (Per::Container, &[]),
        (Per::LocalPort, &[2, 1, 1]),
        // The other one is in another state.
        (Per::Namespace, &[2, 1]),
    ] {
        let findings = found(rule(per, 0, 100), &sockets);
        let sums: Vec<u64> = findings.iter().map(|one| one.sockets).collect();
        assert_eq!(sums, counts, "{per:?}");
    }
}

#[test]
fn a_finding_tells_of_the_whole_group() {
    let holders = vec![owner(1, 3, "a.service"), owner(2, 3, "b.service")];
    let sockets = [
        (socket(7, 80, State::LastAck), holders.clone()),
        (socket(7, 80, State::CloseWait), holders.clone()),
        (socket(7, 81, State::CloseWait), holders),
    ];
    let finding = found(rule(Per::Process, 1, 2), &sockets).remove(0);
    assert_eq!(finding.severity, Severity::Critical);
    assert_eq!(
        (finding.rule.as_str(), finding.state),
        ("many", State::CloseWait)
    );
    assert_eq!(
        (finding.local, finding.remote),
        (Endpoint::Any, Endpoint::Port(5_000))
    );
    assert_eq!((finding.recv_queue_bytes, finding.retransmits), (30, 2));
    let pids: Vec<u32> = finding
        .owners
        .iter()
        .map(|owner| owner.process.pid)
        .collect();
    assert_eq!(pids, [1]);
    assert_eq!(
        finding.reason,
        "pid 1 (web) has 3 sockets (2 in close_wait, 1 in last_ack); the rule's threshold is 2"
    );
}

#[test]
fn only_what_matches_counts() {
    let mut rule = rule(Per::Namespace, 0, 9);
    rule.matcher.states = vec![State::CloseWait];
    let sockets = [State::CloseWait, State::LastAck].map(|state| (socket(7, 80, state), vec![]));
    assert_eq!(found(rule, &sockets)[0].sockets, 1);
}

/// What is found with these numbers of sockets, one round after the other.
fn rounds(rule: &CountRule, counts: &[u64]) -> Vec<Severity> {
    let mut board = CountBoard::default();
    let one = socket(7, 80, State::CloseWait);
    let mut round = |count: &u64| {
        let sockets = (0..*count).map(|_| (&one, &[][..]));
        let rules = std::slice::from_ref(rule);
        let findings = count_incidents(rules, sockets, &mut board).into_incidents();
        let first = findings.first();
        first.map_or(Severity::None, |one| one.severity)
    };
    counts.iter().map(&mut round).collect()
}

#[test]
fn a_finding_clears_below_nine_tenths_of_its_threshold() {
    use Severity::{Critical, None, Warning};
    let found = rounds(
        &rule(Per::Namespace, 100, 200),
        &[100, 101, 90, 201, 180, 179, 89, 0, 95],
    );
    let expected = [
        None, Warning, Warning, Critical, Critical, Warning, None, None, None,
    ];
    assert_eq!(found, expected);
}

proptest! {
    #[test]
    fn agrees_with_a_naive_level(counts in prop::collection::vec(0_u64..60, 0..60)) {
        let found = rounds(&rule(Per::LocalPort, 20, 40), &counts);
        let mut level = Severity::None;
        for (count, severity) in counts.iter().zip(found) {
            let keeps = |at: Severity, count_at_least: u64| level >= at && *count >= count_at_least;
            level = if *count > 40 || keeps(Severity::Critical, 36) {
                Severity::Critical
            } else if *count > 20 || keeps(Severity::Warning, 18) {
                Severity::Warning
            } else {
                Severity::None
            };
            prop_assert_eq!(severity, level);
        }
    }
}
