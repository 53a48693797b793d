//! How long a socket has been in its state at the least: for those that nobody saw enter it.

use std::time::Duration;

use crate::tcp::{Evidence, State, TcpInfo, Timer};

/// The kernel stamps in ticks, 10 ms at the most (`HZ` 100): a difference may be too long by one.
const TICK: Duration = Duration::from_millis(10);
/// `TCP_RESOURCE_PROBE_INTERVAL` (`include/net/tcp.h`, Linux 6.18): the timeout after a
/// retransmission that did not leave the host; it does not back off.
const RESOURCE_PROBE: Duration = Duration::from_millis(500);

/// A span that the socket has been in its state for, and maybe longer; zero where nothing tells.
///
/// A FIN carries an acknowledgement, and so does what acknowledges a FIN: the last one arrived with
/// the start of the state, or later. Data says nothing. The timer that runs says nothing either: it
/// may be a loss probe, or cut by `TCP_USER_TIMEOUT`
/// (`tcp_clamp_rto_to_user_timeout()` in `net/ipv4/tcp_timer.c`, Linux 6.18).
pub(crate) fn least_age(evidence: &Evidence) -> Duration {
    let Some(info) = evidence.info.filter(|_| !evidence.is_minisocket) else {
        return Duration::ZERO;
    };
    let longest = match evidence.state {
        // CLOSING: its FIN was on the way in FIN_WAIT1 already, and so may be its retransmissions.
        State::CloseWait | State::FinWait2 | State::Closing => info.last_ack_received,
        State::SynSent => {
            let (doubled, linear) = timeouts(evidence, &info);
            doubled.saturating_add(linear)
        }
        // With data before it in flight, the retransmissions may be older than the FIN.
        State::FinWait1 | State::LastAck if evidence.send_queue == 1 => timeouts(evidence, &info).0,
        _ => Duration::ZERO,
    };
    longest.saturating_sub(TICK)
}

/// The retransmission timeouts that have passed: those after which the timeout was doubled, and the
/// linear ones. An acknowledgement takes the retransmissions back to zero, but not always the
/// doublings (Karn's algorithm): the fewer of both count.
fn timeouts(evidence: &Evidence, info: &TcpInfo) -> (Duration, Duration) {
    if !matches!(evidence.timer, Timer::Retransmit(_)) {
        return (Duration::ZERO, Duration::ZERO);
    }
    let halved = |times: u8| info.rto / 1_u32.checked_shl(u32::from(times)).unwrap_or(u32::MAX);
    let doublings = info.backoff.min(evidence.retransmits);
    // rto/2 + rto/4 + ... + rto/2^doublings
    let doubled = info.rto.saturating_sub(halved(doublings));
    let first = halved(info.backoff).min(RESOURCE_PROBE);
    let linear = evidence.retransmits - doublings;
    (doubled, first.saturating_mul(u32::from(linear)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::track::stuck::fixture::{any_evidence, evidence};

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// As `ss -tinoe` showed it on Linux 6.18, for a socket that is really `true_age` old.
    fn assert_bound(true_age: u64, bound: u64, state: State, seen: (u8, u8, u64, u64)) {
        let (retransmits, backoff, rto, last_ack) = seen;
        let seen = Evidence {
            send_queue: 1,
            timer: Timer::Retransmit(millis(500)),
            retransmits,
            info: Some(TcpInfo {
                rto: millis(rto),
                backoff,
                last_ack_received: millis(last_ack),
                ..TcpInfo::default()
            }),
            ..evidence(state)
        };
        let found = least_age(&seen);
        assert!(found <= millis(true_age));
        assert_eq!(found, millis(bound), "{state}");
    }

    #[test]
    fn the_bound_stays_below_the_truth() {
        assert_bound(41_507, 41_494, State::CloseWait, (0, 0, 204, 41_504));
        assert_bound(4_812, 4_794, State::FinWait2, (0, 0, 204, 4_804));
        assert_bound(1_544, 678, State::Closing, (3, 3, 1_632, 688));
        assert_bound(7_692, 6_314, State::FinWait1, (5, 5, 6_528, 7_708));
        assert_bound(4_673, 3_050, State::LastAck, (4, 4, 3_264, 4_788));
        assert_bound(375, 0, State::SynSent, (0, 0, 1_000, 11_769_168));
        assert_bound(3_330, 1_490, State::SynSent, (3, 0, 1_000, 11_772_120));
        assert_bound(40_024, 32_990, State::SynSent, (9, 5, 32_000, 11_808_816));
    }

    #[test]
    fn what_says_nothing_bounds_nothing() {
        let seen = Evidence {
            send_queue: 1_001,
            timer: Timer::Retransmit(millis(500)),
            retransmits: 5,
            info: Some(TcpInfo {
                rto: millis(6_528),
                backoff: 5,
                last_ack_received: millis(60_000),
                ..TcpInfo::default()
            }),
            ..evidence(State::FinWait1)
        };
        assert_eq!(least_age(&seen), Duration::ZERO);
        let mini = Evidence {
            is_minisocket: true,
            ..evidence(State::FinWait2)
        };
        assert_eq!(least_age(&mini), Duration::ZERO);
        assert_eq!(least_age(&evidence(State::CloseWait)), Duration::ZERO);
    }

    /// A SYN or a FIN that nobody answers, `timeouts` timeouts later: the truth and the evidence.
    fn unanswered(state: State, first: Duration, timeouts: u8, linear: u8) -> (Duration, Evidence) {
        let rto_max = Duration::from_mins(2);
        let (mut rto, mut age, mut backoff) = (first, Duration::ZERO, 0);
        for nth in 1..=timeouts {
            age += rto;
            if nth > linear {
                rto = rto.saturating_mul(2).min(rto_max);
                backoff += 1;
            }
        }
        let info = TcpInfo {
            rto,
            backoff,
            ..TcpInfo::default()
        };
        let seen = Evidence {
            send_queue: 1,
            timer: Timer::Retransmit(rto),
            retransmits: timeouts,
            info: Some(info),
            ..evidence(state)
        };
        (age, seen)
    }

    proptest! {
        #[test]
        fn no_evidence_breaks_it(seen in any_evidence()) {
            let bound = least_age(&seen);
            prop_assert!(seen.info.is_some() || bound.is_zero());
        }

        #[test]
        fn it_grows_with_the_truth_and_stays_below(
            first in 200..3_000_u64,
            timeouts in 0..20_u8,
            linear in 0..6_u8,
        ) {
            for (state, linear) in
                [(State::SynSent, linear), (State::FinWait1, 0), (State::LastAck, 0)]
            {
                let (age, seen) = unanswered(state, millis(first), timeouts, linear);
                let (_, later) = unanswered(state, millis(first), timeouts + 1, linear);
                prop_assert!(least_age(&seen) <= age);
                prop_assert!(least_age(&seen) <= least_age(&later) || linear > 0 && timeouts > 5);
            }
        }

        #[test]
        fn it_grows_with_the_time_since_the_last_acknowledgement(
            seen in any_evidence(),
            more in any::<u32>(),
        ) {
            let mut later = seen;
            if let Some(info) = &mut later.info {
                let span = Duration::from_millis(more.into());
                info.last_ack_received = info.last_ack_received.saturating_add(span);
            }
            prop_assert!(least_age(&seen) <= least_age(&later));
        }
    }
}
