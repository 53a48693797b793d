use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::tcp::RawState;

fn step(from: State, to: State, error: Option<u32>) -> Transition {
    Transition {
        local: SocketAddr::from(([10, 0, 0, 1], 4000)),
        remote: SocketAddr::from(([10, 0, 0, 2], 80)),
        from: RawState::Known(from),
        to: RawState::Known(to),
        error,
        has_peer_fin: error.map(|_| false),
        is_orphan: error.map(|_| true),
        ..Transition::example()
    }
}

fn closed(end: &Transition) -> Vec<Reason> {
    let mut activity = Activity::default();
    activity.apply(end, None);
    let failed = Side::ALL.map(|side| Failure::ALL.map(|failure| activity.failed(side, failure)));
    assert_eq!(failed.as_flattened().iter().sum::<u64>(), 0);
    let told = Reason::ALL.into_iter();
    told.filter(|reason| activity.closed(*reason) > 0).collect()
}

/// As Linux 6.18 ended connections between two namespaces.
#[test]
fn each_end_has_its_reason() {
    use State::{CloseWait, Closing, Established, FinWait1, FinWait2, LastAck};
    for (from, error, reason) in [
        (FinWait2, 0, Reason::ActiveClose),
        (LastAck, 0, Reason::PassiveClose),
        // SO_LINGER at zero, or unread data, at close().
        (Established, 0, Reason::ResetSent),
        (CloseWait, 0, Reason::ResetSent),
        (Established, ECONNRESET, Reason::ResetReceived),
        (FinWait1, ECONNRESET, Reason::ResetReceived),
        (FinWait2, ECONNRESET, Reason::ResetReceived),
        (CloseWait, EPIPE, Reason::ResetReceived),
        // TCP_USER_TIMEOUT, then with ICMP before.
        (Established, ETIMEDOUT, Reason::Timeout),
        (LastAck, ETIMEDOUT, Reason::Timeout),
        (Established, EHOSTUNREACH, Reason::Unreachable),
        (Established, ECONNREFUSED, Reason::Unreachable),
        (FinWait1, EACCES, Reason::Unreachable),
        // ss -K.
        (Established, ECONNABORTED, Reason::Aborted),
        (Closing, 5, Reason::Other),
    ] {
        let end = step(from, State::Close, Some(error));
        assert_eq!(closed(&end), [reason], "{from} {error}");
    }
    let with_fin = Transition {
        has_peer_fin: Some(true),
        ..step(Closing, State::Close, Some(0))
    };
    assert_eq!(closed(&with_fin), [Reason::ActiveClose]);
    // SO_LINGER at zero after shutdown(): still held, no FIN of the peer.
    let reset = Transition {
        is_orphan: Some(false),
        ..step(FinWait2, State::Close, Some(0))
    };
    assert_eq!(closed(&reset), [Reason::ResetSent]);
    for from in [Established, FinWait2, LastAck] {
        assert_eq!(closed(&step(from, State::Close, None)), [Reason::Unknown]);
    }
    for end in [
        step(State::Listen, State::Close, Some(0)),
        step(State::Close, State::SynSent, Some(0)),
        step(Established, FinWait1, Some(0)),
    ] {
        assert_eq!(closed(&end), []);
    }
}

#[test]
fn each_failure_has_its_side_and_reason() {
    let cancelled = step(State::SynSent, State::Close, Some(0));
    let no_port = Transition {
        local: SocketAddr::from(([10, 0, 0, 1], 0)),
        ..cancelled
    };
    let mut ends = vec![
        (cancelled, Side::Active, Failure::Cancelled),
        (no_port, Side::Active, Failure::Other),
    ];
    for (error, failure) in [
        (Some(ECONNREFUSED), Failure::Refused),
        (Some(ETIMEDOUT), Failure::Timeout),
        (Some(EHOSTUNREACH), Failure::Unreachable),
        (Some(ENETUNREACH), Failure::Unreachable),
        (Some(ENOPROTOOPT), Failure::Unreachable),
        (Some(ECONNRESET), Failure::Reset),
        (Some(ECONNABORTED), Failure::Aborted),
        (Some(5), Failure::Other),
        (None, Failure::Other),
    ] {
        for (from, side) in [
            (State::SynSent, Side::Active),
            (State::SynRecv, Side::Passive),
        ] {
            ends.push((step(from, State::Close, error), side, failure));
        }
    }
    for (end, side, failure) in ends {
        let mut activity = Activity::default();
        activity.apply(&end, None);
        for (other, reason) in Side::ALL
            .into_iter()
            .flat_map(|side| Failure::ALL.map(|failure| (side, failure)))
        {
            let expected = u64::from((other, reason) == (side, failure));
            assert_eq!(activity.failed(other, reason), expected, "{end:?}");
        }
    }
}

#[test]
fn connections_are_opened_by_one_side() {
    let mut activity = Activity::default();
    activity.apply(&step(State::SynSent, State::Established, Some(0)), None);
    for _ in 0..2 {
        activity.apply(&step(State::SynRecv, State::Established, Some(0)), None);
    }
    activity.apply(&step(State::Listen, State::SynRecv, Some(0)), None);
    // Simultaneous open.
    activity.apply(&step(State::SynSent, State::SynRecv, Some(0)), None);
    assert_eq!(Side::ALL.map(|side| activity.opened(side)), [1, 2]);
    // close() of one that Fast Open accepted, and a FIN before the ACK.
    for to in [State::FinWait1, State::CloseWait] {
        activity.apply(&step(State::SynRecv, to, Some(0)), None);
    }
    assert_eq!(Side::ALL.map(|side| activity.opened(side)), [1, 4]);
}

proptest! {
    #[test]
    fn a_duration_is_observed_in_the_state_that_is_left(
        from in 0_usize..12, to in 0_usize..12, nanos: Option<u64>
    ) {
        let (from, to) = (State::ALL[from], State::ALL[to]);
        let mut activity = Activity::default();
        let time = nanos.map(Duration::from_nanos);
        let transition = step(from, to, Some(0));
        activity.apply(&transition, time);
        // An orphan that lives on as a minisocket has not left FIN_WAIT2.
        let is_left = from != to && transition.continues_as() != Some(Handover::FinWait2);
        for (state, durations) in activity.durations() {
            let time = time.filter(|_| is_left && state == from);
            prop_assert_eq!(durations.count(), u64::from(time.is_some()));
            prop_assert_eq!(durations.sum(), time.unwrap_or_default());
        }
        let is_timed = Activity::TIMED.contains(&from);
        let is_silent = matches!(from, State::TimeWait | State::Close | State::NewSynRecv);
        prop_assert_eq!(is_timed, !is_silent);
    }
}
