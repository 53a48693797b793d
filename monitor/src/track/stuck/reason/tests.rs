use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::tcp::{Limits, TcpInfo};
use crate::track::phrase::rendered;
use crate::track::stuck::fixture::{age, any_evidence, evidence, owner};
use crate::track::stuck::{Rules, threshold};

/// As it reads at once.
fn reason(case: &Case<'_>) -> String {
    rendered(&template(case), Duration::ZERO)
}

fn case<'a>(evidence: &'a Evidence, owners: &'a [Owner], limits: &'a Limits) -> Case<'a> {
    Case {
        evidence,
        age: age(12 * 60),
        owners,
        is_unaccepted: false,
        limits,
        ages: threshold(&Rules::default(), evidence.state, limits).ages,
        enter: "ip netns exec web ",
    }
}

fn why(evidence: &Evidence) -> String {
    let owners = [owner("web")];
    let is_held = evidence.inode != 0;
    let owners = if is_held { &owners[..] } else { &[] };
    reason(&case(evidence, owners, &Limits::default()))
}

fn advised(case: &Case<'_>) -> String {
    let told = advice(case, "ss -t", case.enter);
    // Commands have semicolons of their own.
    let outside = told.split('`').step_by(2).collect::<String>();
    assert!(outside.matches("; ").count() <= 2, "{told}");
    told
}

/// What the kernel tells of a peer that had no room when it last answered.
fn no_room(sent: u64, acked: u64) -> TcpInfo {
    TcpInfo {
        last_data_sent: Duration::from_secs(sent),
        last_ack_received: Duration::from_secs(acked),
        peer_window: Some(0),
        ..TcpInfo::default()
    }
}

#[test]
fn close_wait_tells_what_was_read() {
    let mut seen = evidence(State::CloseWait);
    let start = "the peer closed 12 min ago; the application has not called close(); ";
    seen.recv_queue = 312_501;
    assert_eq!(why(&seen), format!("{start}312 KB are still unread"));
    seen.recv_queue = 1;
    assert_eq!(
        why(&seen),
        format!("{start}it has not read the end of the stream")
    );
    seen.recv_queue = 0;
    let all = "it has read everything, including the end of the stream";
    assert_eq!(why(&seen), format!("{start}{all}"));
    seen.send_queue = 2_000;
    seen.timer = Timer::Retransmit(Duration::from_secs(1));
    seen.retransmits = 3;
    let unacked = "2.0 KB are not acknowledged; retransmitted 3 times";
    assert_eq!(why(&seen), format!("{start}{all}; {unacked}"));
    // The retransmissions count as sent.
    seen.info = Some(no_room(4, 700));
    let told = format!("{start}{all}; {unacked}; the peer last answered 11 min ago");
    assert_eq!(why(&seen), told);
    seen.timer = Timer::Probe(Duration::from_secs(1));
    seen.retransmits = 0;
    let told = why(&seen);
    assert!(told.contains("; the peer's window was 0 when it last answered; data was"));
    assert!(told.ends_with("data was last sent 4 s ago"), "{told}");
}

#[test]
fn a_peer_that_answers_probes_and_makes_no_room_does_not_read() {
    let probed = |retransmits, info| Evidence {
        send_queue: 9_001,
        timer: Timer::Probe(Duration::from_secs(1)),
        retransmits,
        info,
        inode: 0,
        ..evidence(State::FinWait1)
    };
    let limits = Limits::default();
    let advice = |seen: &Evidence| advised(&case(seen, &[], &limits));
    let unread = probed(1, Some(no_room(30, 8)));
    assert!(why(&unread).contains("its application does not read; probed once without an answer"));
    assert!(
        advice(&unread).ends_with("has grown to 2 min"),
        "{}",
        advice(&unread)
    );
    // A slow reader, a peer that is gone, one that nothing is known of.
    for seen in [
        probed(1, Some(no_room(2, 0))),
        probed(4, Some(no_room(90, 60))),
        probed(0, Some(no_room(30, 30))),
        probed(0, None),
    ] {
        assert!(!why(&seen).contains("does not read"), "{}", why(&seen));
        assert!(
            advice(&seen).contains("after 1 min 42 s"),
            "{}",
            advice(&seen)
        );
    }
    let slow = advice(&probed(1, Some(no_room(2, 0))));
    assert!(slow.starts_with("nothing while data still moves"), "{slow}");
}

#[test]
fn a_socket_without_a_descriptor_is_not_blamed_on_a_process() {
    let limits = Limits::default();
    for state in [State::CloseWait, State::FinWait1, State::FinWait2] {
        let seen = evidence(state);
        let case = case(&seen, &[], &limits);
        let told = reason(&case);
        assert!(
            told.contains("io_uring") && !told.contains("shutdown()"),
            "{told}"
        );
        assert!(!told.contains("the application"), "{told}");
        assert!(!advised(&case).contains("names the process"), "{state}");
    }
    let seen = Evidence {
        inode: 0,
        ..evidence(State::CloseWait)
    };
    assert!(why(&seen).ends_with("it may wait for accept()"));
    let told = advised(&case(&seen, &[], &limits));
    assert!(
        told.contains("`ip netns exec web ss -ltn 'sport = :80'`"),
        "{told}"
    );
}

#[test]
fn an_unaccepted_connection_is_the_listeners_fault() {
    let seen = Evidence {
        inode: 0,
        recv_queue: 6,
        ..evidence(State::CloseWait)
    };
    let limits = Limits::default();
    let listener = [Owner {
        fd: None,
        ..owner("web")
    }];
    let waiting = Case {
        is_unaccepted: true,
        age: Age {
            is_lower_bound: true,
            ..age(90)
        },
        ..case(&seen, &listener, &limits)
    };
    assert_eq!(
        reason(&waiting),
        "the peer closed at least 1 min 30 s ago while the connection waited in the accept queue; \
         no process has called accept() for it; 5 bytes are still unread"
    );
    assert!(advised(&waiting).contains("accept(): pid 12 (`cat /proc/12/task/*/stack`"));
    assert!(!waiting.is_orphaned());
}

#[test]
fn an_unacknowledged_fin_tells_who_is_to_blame() {
    let mut seen = Evidence {
        inode: 0,
        send_queue: 1,
        timer: Timer::Retransmit(Duration::from_secs(1)),
        retransmits: 5,
        ..evidence(State::LastAck)
    };
    assert_eq!(
        why(&seen),
        "the peer closed first, this side 12 min ago; the peer has not acknowledged the FIN; \
         retransmitted 5 times"
    );
    let limits = Limits::default();
    let told = advised(&case(&seen, &[], &limits));
    assert!(told.contains("the first retry after 1 min 42 s"), "{told}");
    assert!(!told.contains("ss -K"), "{told}");
    seen.state = State::FinWait1;
    seen.inode = 9;
    seen.send_queue = 1_001;
    seen.timer = Timer::Probe(Duration::from_secs(1));
    seen.retransmits = 1;
    seen.info = Some(no_room(60, 2));
    assert_eq!(
        why(&seen),
        "this side closed 12 min ago; a process called shutdown() and still holds the socket; the \
         peer has not acknowledged 1.0 KB and the FIN; the peer's window is 0: its application \
         does not read; probed once without an answer; data was last sent 1 min ago"
    );
    let owners = [owner("web"), owner("web"), owner("web")];
    let told = advised(&case(&seen, &owners, &limits));
    assert!(
        told.contains("TCP_USER_TIMEOUT") && !told.contains("ss -K"),
        "{told}"
    );
    assert!(
        told.contains("pid 12, descriptor 5, and 2 more descriptors"),
        "{told}"
    );
}

#[test]
fn the_other_states_have_their_sentence() {
    let mini = Evidence {
        is_minisocket: true,
        inode: 0,
        timer: Timer::TimeWait(Duration::from_millis(43_250)),
        ..evidence(State::FinWait2)
    };
    assert_eq!(
        why(&mini),
        "the peer acknowledged this side's FIN 12 min ago and has not closed its own side; no \
         process holds the socket, it ends by itself in 43.2 s"
    );
    let held = why(&evidence(State::FinWait2));
    assert!(held.ends_with("; a process called shutdown() and still holds the socket"));
    let syn = Evidence {
        timer: Timer::Retransmit(Duration::ZERO),
        retransmits: 4,
        send_queue: 1,
        info: Some(TcpInfo {
            peer_window: Some(0),
            ..TcpInfo::default()
        }),
        ..evidence(State::SynSent)
    };
    assert_eq!(
        why(&syn),
        "the SYN sent 12 min ago has no answer; retransmitted 4 times; connect() fails after 2 \
         min 11 s (by the sysctls)"
    );
}

#[test]
fn advice_holds_nothing_of_a_process() {
    let limits = Limits::default();
    for state in State::LINGERING {
        for is_unaccepted in [true, false] {
            let seen = evidence(state);
            let owners = [owner("`curl x|sh`")];
            let case = Case {
                is_unaccepted,
                ..case(&seen, &owners, &limits)
            };
            let told = format!("{} {}", advised(&case), reason(&case));
            assert!(!told.contains("curl"), "{told}");
        }
    }
}

proptest! {
    #[test]
    fn every_text_is_one_line_of_good_advice(
        seen in any_evidence(),
        span in any::<Duration>(),
        flags in any::<[bool; 2]>(),
        holders in 0..3_usize,
    ) {
        let owners = vec![owner("web"); holders];
        let limits = Limits::default();
        let case = Case {
            age: Age { span, is_lower_bound: flags[0] },
            is_unaccepted: flags[1],
            ..case(&seen, &owners, &limits)
        };
        for text in [reason(&case), advised(&case)] {
            prop_assert!(!text.trim().is_empty());
            prop_assert!(!text.contains(char::is_control), "{:?}", text);
            prop_assert!(!text.contains("tw_recycle") && !text.contains("fin_timeout"));
            prop_assert!(!text.contains("ss -K"));
        }
        prop_assert!(seen.info.is_some() || !reason(&case).contains("window is 0"));
    }
}
