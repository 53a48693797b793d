//! The verdict on one socket: which rule decides, and whether it is past that rule's ages.

use std::time::Duration;

use super::reason::{advice, list_one, template};
use super::{Age, Ages, Finding, Owner, Rules, Severity};
use crate::tcp::{Evidence, Limits, State, Timer};
use crate::track::phrase::rendered;

/// The rule of a socket that no configured one matches.
const DEFAULT: &str = "default";

/// A socket to judge, with all that is known about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case<'a> {
    pub(crate) evidence: &'a Evidence,
    pub(crate) age: Age,
    pub(crate) owners: &'a [Owner],
    /// It is no file yet: the owners are those of the listener that it waits at.
    pub(crate) is_unaccepted: bool,
    /// Of its own namespace.
    pub(crate) limits: &'a Limits,
    /// Those of its state, where no rule decides (`threshold`).
    pub(crate) ages: Ages,
    /// Stands before a command to run it in the socket's namespace.
    pub(crate) enter: &'a str,
}

impl Case<'_> {
    /// No process holds it any more.
    pub(crate) fn is_orphaned(&self) -> bool {
        let can_be_orphaned = matches!(
            self.evidence.state,
            State::FinWait1 | State::FinWait2 | State::LastAck | State::Closing
        );
        can_be_orphaned && self.evidence.inode == 0 && !self.is_unaccepted
    }

    /// It waits for nothing but a timer of the kernel, whatever the peer does.
    fn is_ended_by_kernel(&self) -> bool {
        self.evidence.state == State::FinWait2 && self.is_orphaned()
    }

    /// How long nothing useful happened. Data may rightly go on in the direction that is still open,
    /// or before the own FIN.
    pub(super) fn idle(&self) -> Duration {
        let evidence = self.evidence;
        let moved = match evidence.state {
            State::CloseWait => evidence.last_progress(),
            State::FinWait1 | State::LastAck | State::Closing if evidence.unacked_bytes() > 0 => {
                evidence.last_progress()
            }
            State::FinWait2 => evidence.info.map(|info| info.last_data_received),
            _ => None,
        };
        moved.map_or(self.age.span, |moved| self.age.span.min(moved))
    }
}

impl Rules {
    /// The verdict without what explains it.
    pub(crate) fn severity(&self, case: &Case<'_>) -> Severity {
        let (_, ages) = self.deciding(case);
        severity(case.idle(), ages)
    }

    /// The verdict of the first rule that matches, with the evidence and what follows from it.
    pub(crate) fn judge(&self, case: &Case<'_>) -> Finding {
        let Evidence { state, timer, .. } = *case.evidence;
        let evidence = case.evidence;
        let template = template(case);
        let (rule, ages) = self.deciding(case);
        let (timer, expires) = running(timer);
        // Of a connection that does not exist yet, nothing was sent or received.
        let info = evidence.info.as_ref().filter(|_| state != State::SynSent);
        Finding {
            severity: severity(case.idle(), ages),
            rule: rule.to_owned(),
            state,
            age_seconds: case.age.span.as_secs_f64(),
            age_is_lower_bound: case.age.is_lower_bound,
            local: evidence.local,
            remote: evidence.remote,
            is_mptcp: evidence.is_mptcp,
            netns: evidence.netns,
            cookie: Some(evidence.cookie).filter(|cookie| *cookie != 0),
            sockets: 1,
            recv_queue_bytes: evidence.unread_bytes().into(),
            send_queue_bytes: evidence.unacked_bytes().into(),
            retransmits: evidence.retransmits.into(),
            timer: timer.map(str::to_owned),
            timer_expires_seconds: expires.map(|expires| expires.as_secs_f64()),
            last_data_sent_seconds: info.map(|info| info.last_data_sent.as_secs_f64()),
            last_data_received_seconds: info.map(|info| info.last_data_received.as_secs_f64()),
            rate_per_second: None,
            exhausted_in_seconds: None,
            owners: case.owners.to_vec(),
            is_orphaned: case.is_orphaned(),
            reason: rendered(&template, Duration::ZERO),
            template,
            advice: advice(case, &list_one(evidence, case.enter), case.enter),
        }
    }

    /// The name and the ages of the rule that decides; no ages: never stuck. An orphan in `FIN_WAIT2`
    /// is only what a configured rule calls stuck.
    fn deciding(&self, case: &Case<'_>) -> (&str, Option<Ages>) {
        let mut configured = self.sockets.iter();
        let matching = configured.find(|rule| rule.matcher.matches(case.evidence, case.owners));
        match matching {
            Some(rule) => (&rule.name, rule.ages),
            None if !case.evidence.state.is_lingering() || case.is_ended_by_kernel() => {
                (DEFAULT, None)
            }
            None => (DEFAULT, Some(case.ages)),
        }
    }
}

fn severity(idle: Duration, ages: Option<Ages>) -> Severity {
    match ages {
        Some(ages) if idle >= ages.critical => Severity::Critical,
        Some(ages) if idle >= ages.warning => Severity::Warning,
        _ => Severity::None,
    }
}

fn running(timer: Timer) -> (Option<&'static str>, Option<Duration>) {
    let (name, expires) = match timer {
        Timer::Off => return (None, None),
        Timer::Retransmit(expires) => ("retransmit", expires),
        Timer::Keepalive(expires) => ("keepalive", expires),
        Timer::TimeWait(expires) => ("time_wait", expires),
        Timer::Probe(expires) => ("probe", expires),
    };
    (Some(name), Some(expires))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wildmatch::WildMatch;

    use super::*;
    use crate::tcp::TcpInfo;
    use crate::track::stuck::fixture::{age, any_evidence, evidence, owner};
    use crate::track::stuck::{Matcher, SocketRule, UnitPattern, threshold};

    fn judged(rules: &Rules, evidence: &Evidence, seconds: u64) -> Finding {
        let limits = Limits::default();
        rules.judge(&Case {
            evidence,
            age: age(seconds),
            owners: &[owner("web-1")],
            is_unaccepted: false,
            limits: &limits,
            ages: threshold(rules, evidence.state, &limits).ages,
            enter: "",
        })
    }

    fn severity_at(evidence: &Evidence, seconds: u64) -> Severity {
        judged(&Rules::default(), evidence, seconds).severity
    }

    fn rule(name: &str, matcher: Matcher, seconds: Option<u64>) -> SocketRule {
        SocketRule {
            name: name.to_owned(),
            matcher,
            ages: seconds.map(|seconds| Ages {
                warning: Duration::from_secs(seconds),
                critical: Duration::from_secs(2 * seconds),
            }),
        }
    }

    #[test]
    fn an_age_that_is_reached_counts() {
        let seen = evidence(State::CloseWait);
        for (seconds, severity) in [
            (59, Severity::None),
            (60, Severity::Warning),
            (299, Severity::Warning),
            (300, Severity::Critical),
        ] {
            assert_eq!(severity_at(&seen, seconds), severity);
        }
        assert_eq!(
            severity_at(&evidence(State::TimeWait), u64::MAX),
            Severity::None
        );
    }

    #[test]
    fn a_direction_that_is_still_used_is_not_stuck() {
        let busy = |state, sent, received| Evidence {
            info: Some(TcpInfo {
                last_data_sent: Duration::from_secs(sent),
                last_data_received: Duration::from_secs(received),
                ..TcpInfo::default()
            }),
            ..evidence(state)
        };
        let severity = |seen: Evidence| severity_at(&seen, 1_000);
        assert_eq!(severity(busy(State::CloseWait, 1, 999)), Severity::None);
        assert_eq!(severity(busy(State::CloseWait, 999, 1)), Severity::Critical);
        assert_eq!(severity(busy(State::FinWait2, 999, 1)), Severity::None);
        assert_eq!(severity(busy(State::FinWait2, 1, 80)), Severity::Warning);
        assert_eq!(severity(busy(State::LastAck, 1, 1)), Severity::Critical);
    }

    /// A FIN behind megabytes, towards a client that reads slowly: most of the time its window is 0.
    #[test]
    fn what_still_drains_is_not_stuck() {
        let draining = |state, timer, retransmits, sent, acked| Evidence {
            send_queue: 3_000_000,
            timer,
            retransmits,
            info: Some(TcpInfo {
                last_data_sent: Duration::from_secs(sent),
                last_ack_received: Duration::from_secs(acked),
                peer_window: Some(0),
                ..TcpInfo::default()
            }),
            ..evidence(state)
        };
        let again = Timer::Retransmit(Duration::ZERO);
        let probe = Timer::Probe(Duration::ZERO);
        for state in [State::FinWait1, State::LastAck, State::Closing] {
            let severity = |timer, retransmits, sent, acked| {
                severity_at(&draining(state, timer, retransmits, sent, acked), 1_000)
            };
            assert_eq!(severity(again, 0, 2, 2), Severity::None);
            assert_eq!(severity(probe, 1, 2, 1), Severity::None);
            // An answer to a probe moves nothing.
            assert_eq!(severity(probe, 0, 30, 0), Severity::Warning);
            // Every retransmission counts as data sent: what is answered says more.
            assert_eq!(severity(again, 1, 0, 1), Severity::None);
            assert_eq!(severity(again, 9, 0, 900), Severity::Critical);
            let bare = Evidence {
                send_queue: 1,
                ..draining(state, again, 0, 1, 1)
            };
            assert_eq!(severity_at(&bare, 1_000), Severity::Critical);
        }
    }

    #[test]
    fn data_sent_again_and_again_to_a_peer_that_is_gone_is_stuck() {
        let sending = |retransmits, acked| Evidence {
            send_queue: 500,
            timer: Timer::Retransmit(Duration::from_secs(30)),
            retransmits,
            info: Some(TcpInfo {
                last_data_sent: Duration::from_secs(1),
                last_ack_received: Duration::from_secs(acked),
                ..TcpInfo::default()
            }),
            ..evidence(State::CloseWait)
        };
        assert_eq!(severity_at(&sending(0, 900), 1_000), Severity::None);
        assert_eq!(severity_at(&sending(1, 2), 1_000), Severity::None);
        assert_eq!(severity_at(&sending(8, 900), 1_000), Severity::Critical);
    }

    #[test]
    fn an_orphan_in_fin_wait2_is_stuck_only_by_a_rule_of_its_own() {
        let ages = Ages {
            warning: Duration::from_secs(1),
            critical: Duration::from_secs(2),
        };
        let mut rules = Rules {
            ages: [(State::FinWait2, ages)].into(),
            ..Rules::default()
        };
        for is_minisocket in [true, false] {
            let orphan = Evidence {
                inode: 0,
                is_minisocket,
                ..evidence(State::FinWait2)
            };
            assert_eq!(severity_at(&orphan, 999), Severity::None);
            assert_eq!(judged(&rules, &orphan, 999).severity, Severity::None);
        }
        let held = evidence(State::FinWait2);
        assert_eq!(judged(&rules, &held, 999).severity, Severity::Critical);
        rules.sockets = vec![rule("all", Matcher::default(), Some(1))];
        let orphan = Evidence { inode: 0, ..held };
        assert_eq!(judged(&rules, &orphan, 999).rule, "all");
        assert_eq!(judged(&rules, &orphan, 999).severity, Severity::Critical);
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let port = Matcher {
            local_ports: vec![79..=81],
            states: vec![State::CloseWait],
            ..Matcher::default()
        };
        let rules = Rules {
            sockets: vec![
                rule(
                    "quiet",
                    Matcher {
                        netns: vec![8],
                        ..Matcher::default()
                    },
                    None,
                ),
                rule("web", port, Some(1)),
                rule("all", Matcher::default(), None),
            ],
            ..Rules::default()
        };
        let found = judged(&rules, &evidence(State::CloseWait), 1);
        assert_eq!(
            (found.rule.as_str(), found.severity),
            ("web", Severity::Warning)
        );
        let found = judged(&rules, &evidence(State::LastAck), 9_999);
        assert_eq!(
            (found.rule.as_str(), found.severity),
            ("all", Severity::None)
        );
        let elsewhere = Evidence {
            netns: 8,
            ..evidence(State::CloseWait)
        };
        assert_eq!(judged(&rules, &elsewhere, 9_999).rule, "quiet");
    }

    #[test]
    fn every_condition_must_hold_for_some_entry() {
        let is_match = |matcher: &Matcher, remote: &str| {
            let seen = Evidence {
                remote: remote.parse().unwrap(),
                ..evidence(State::CloseWait)
            };
            matcher.matches(&seen, &[owner("other"), owner("web-1")])
        };
        let matcher = Matcher {
            remote_nets: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            remote_ports: vec![1..=1, 4000..=5000],
            processes: vec![WildMatch::new("web-?")],
            units: vec![UnitPattern::new("web.*")],
            containers: vec![WildMatch::new("0123*")],
            ..Matcher::default()
        };
        assert!(is_match(&matcher, "10.9.9.9:4000") && is_match(&matcher, "[fd00::1]:4001"));
        assert!(is_match(&matcher, "[::ffff:10.1.1.1]:5000"));
        assert!(!is_match(&matcher, "11.0.0.1:4000") && !is_match(&matcher, "10.0.0.1:5001"));
        let other = Matcher {
            processes: vec![WildMatch::new("web")],
            ..matcher.clone()
        };
        assert!(!is_match(&other, "10.9.9.9:4000"));
        assert!(!matcher.matches(&evidence(State::CloseWait), &[]));
    }

    #[test]
    fn the_finding_holds_the_evidence() {
        let seen = Evidence {
            inode: 0,
            cookie: 0,
            send_queue: 11,
            retransmits: 2,
            timer: Timer::Probe(Duration::from_millis(1_500)),
            ..evidence(State::FinWait1)
        };
        let found = judged(&Rules::default(), &seen, 30);
        assert_eq!(
            (found.timer.as_deref(), found.timer_expires_seconds),
            (Some("probe"), Some(1.5))
        );
        assert_eq!((found.send_queue_bytes, found.retransmits), (10, 2));
        assert_eq!((found.cookie, found.last_data_sent_seconds), (None, None));
        assert!(found.is_orphaned && found.sockets == 1);
        let syn = Evidence {
            inode: 0,
            ..evidence(State::SynSent)
        };
        assert!(!judged(&Rules::default(), &syn, 1).is_orphaned);
    }

    proptest! {
        #[test]
        fn older_is_never_better(seen in any_evidence(), spans in any::<[u32; 2]>()) {
            let [younger, older] = [spans[0].min(spans[1]), spans[0].max(spans[1])];
            prop_assert!(severity_at(&seen, younger.into()) <= severity_at(&seen, older.into()));
        }
    }
}
