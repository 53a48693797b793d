//! From which age on a socket counts as stuck where no rule says so: derived from the sysctls of
//! its own namespace.

use std::time::Duration;

use super::{Ages, Rules};
use crate::tcp::{Limits, State};
use crate::track::phrase::Span;

/// `TCP_TIMEOUT_INIT` (`include/net/tcp.h`, Linux 6.18): the first timeout of a SYN or a SYN+ACK.
const SYN_TIMEOUT: Duration = Duration::from_secs(1);
/// `TCP_RTO_MIN` (likewise): what `retransmits_timed_out()` models every other timeout from.
const RTO_MIN: Duration = Duration::from_millis(200);
/// The kernel keeps each of the retry sysctls in a `u8`.
const MOST_RETRIES: u32 = u8::MAX as u32;
/// An age of nothing would flag every connection that passes through the state.
const LEAST_AGE: Duration = Duration::from_secs(1);

/// The ages of one state, and where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Threshold {
    pub(crate) ages: Ages,
    /// For the user: the sysctls and what follows from them, or `configured`.
    pub(crate) derivation: String,
}

/// The ages by state: the configured ones, else those that follow from the namespace's sysctls.
/// States that are no lingering ones get ages that are never reached.
pub(crate) fn threshold(rules: &Rules, state: State, limits: &Limits) -> Threshold {
    if let Some(ages) = rules.ages.get(&state) {
        return Threshold {
            ages: *ages,
            derivation: "configured".to_owned(),
        };
    }
    let (warning, critical, derivation) = match state {
        State::SynSent => syn_sent(limits),
        State::SynRecv => syn_recv(limits),
        State::FinWait1 | State::LastAck | State::Closing => unacknowledged_fin(limits),
        State::FinWait2 => fin_wait2(limits),
        State::CloseWait => (
            Duration::from_mins(1),
            Duration::from_mins(5),
            "no sysctl limits it: 1 min for a warning, 5 min for critical".to_owned(),
        ),
        _ => (Duration::MAX, Duration::MAX, "not flagged".to_owned()),
    };
    let warning = warning.max(LEAST_AGE);
    Threshold {
        ages: Ages {
            warning,
            critical: critical.max(warning),
        },
        derivation,
    }
}

/// How long `connect()` tries before it fails.
pub(crate) fn connect_timeout(limits: &Limits) -> Duration {
    syn_schedule(
        limits.syn_retries,
        limits.syn_linear_timeouts,
        limits.rto_max,
    )
    .gives_up
}

/// From the first retransmission on: an orphan with something unacknowledged ends at the first
/// expiry of its timer after this.
pub(crate) fn orphan_timeout(limits: &Limits) -> Duration {
    model_timeout(orphan_retries(limits), RTO_MIN, limits.rto_max)
}

/// The same while a process holds it.
pub(crate) fn held_timeout(limits: &Limits) -> Duration {
    model_timeout(limits.retries2, RTO_MIN, limits.rto_max)
}

fn syn_sent(limits: &Limits) -> (Duration, Duration, String) {
    let (retries, linear) = (limits.syn_retries, limits.syn_linear_timeouts);
    let schedule = syn_schedule(retries, linear, limits.rto_max);
    let (warning, critical) = schedule.ages();
    let derivation = format!(
        "tcp_syn_retries {retries}, tcp_syn_linear_timeouts {linear}: connect() fails after {}; \
         {}, half of that for critical",
        Span(schedule.gives_up),
        schedule.warning_words(),
    );
    (warning, critical, derivation)
}

fn syn_recv(limits: &Limits) -> (Duration, Duration, String) {
    let retries = limits.synack_retries;
    let schedule = syn_schedule(retries, 0, limits.rto_max);
    let (warning, critical) = schedule.ages();
    let derivation = format!(
        "tcp_synack_retries {retries}: the kernel gives up after {}; {}, half of that for critical",
        Span(schedule.gives_up),
        schedule.warning_words(),
    );
    (warning, critical, derivation)
}

fn unacknowledged_fin(limits: &Limits) -> (Duration, Duration, String) {
    let timeout = orphan_timeout(limits);
    let meaning = if limits.orphan_retries == 0 {
        ", which means 8"
    } else {
        ""
    };
    let derivation = format!(
        "tcp_orphan_retries {}{meaning}: the kernel drops an orphan at the first retry after {}; \
         a quarter of that without progress for a warning, half for critical",
        limits.orphan_retries,
        Span(timeout),
    );
    (timeout / 4, timeout / 2, derivation)
}

fn fin_wait2(limits: &Limits) -> (Duration, Duration, String) {
    let timeout = limits.fin_timeout;
    // Of orphans the kernel makes an end about then: after 3.5 retransmission timeouts at the least
    // (`tcp_fin_time()` in `include/net/tcp.h`, Linux 6.18), or what `TCP_LINGER2` says.
    let warning = timeout.saturating_add(timeout / 4);
    let derivation = format!(
        "tcp_fin_timeout {}: only sockets that a process holds are flagged; 1.25 times that for a \
         warning, 5 times for critical",
        Span(timeout),
    );
    (warning, timeout.saturating_mul(5), derivation)
}

/// `tcp_orphan_retries()` in `net/ipv4/tcp_timer.c` (Linux 6.18).
fn orphan_retries(limits: &Limits) -> u32 {
    match limits.orphan_retries {
        0 => 8,
        retries => retries,
    }
}

/// When a SYN (or SYN+ACK) is sent again.
struct Schedule {
    /// None where it is given up before.
    third_retransmission: Option<Duration>,
    gives_up: Duration,
}

impl Schedule {
    /// Warning and critical.
    fn ages(&self) -> (Duration, Duration) {
        let half = self.gives_up / 2;
        let third = self.third_retransmission.unwrap_or(half);
        (third.min(half), half)
    }

    fn warning_words(&self) -> &'static str {
        match self.third_retransmission {
            Some(third) if third <= self.gives_up / 2 => "the third retransmission for a warning",
            _ => "half of that for a warning",
        }
    }
}

/// The timer of a SYN: it starts to double only after the linear timeouts
/// (`tcp_retransmit_timer()`). The end is the first expiry at which all SYNs have been sent, or at
/// which the timeout has passed that is modelled without the linear ones (`tcp_write_timeout()` in
/// `net/ipv4/tcp_timer.c`, Linux 6.18).
fn syn_schedule(retries: u32, linear: u32, rto_max: Duration) -> Schedule {
    let (retries, linear) = (retries.min(MOST_RETRIES), linear.min(MOST_RETRIES));
    let modelled = model_timeout(retries, SYN_TIMEOUT, rto_max);
    let mut rto = SYN_TIMEOUT;
    let mut expiry = rto;
    let mut sent_again = 0;
    let mut third_retransmission = None;
    // Before the first retransmission the model is not asked.
    while sent_again < retries + linear && (sent_again == 0 || expiry < modelled) {
        sent_again += 1;
        if sent_again == 3 {
            third_retransmission = Some(expiry);
        }
        if sent_again > linear {
            rto = rto.saturating_mul(2).min(rto_max.max(SYN_TIMEOUT));
        }
        expiry = expiry.saturating_add(rto);
    }
    Schedule {
        third_retransmission,
        gives_up: expiry,
    }
}

/// `tcp_model_timeout()` in `net/ipv4/tcp_timer.c` (Linux 6.18): how long so many retransmissions,
/// each after twice the time of the one before, and the wait for an answer to the last one take.
fn model_timeout(retries: u32, base: Duration, rto_max: Duration) -> Duration {
    let rto_max = rto_max.max(base);
    let mut rto = base;
    let mut total = base;
    let mut left = retries.min(MOST_RETRIES);
    while left > 0 && rto.saturating_mul(2) <= rto_max {
        rto = rto.saturating_mul(2);
        total = total.saturating_add(rto);
        left -= 1;
    }
    total.saturating_add(rto_max.saturating_mul(left))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(state: State, limits: &Limits) -> (f64, f64) {
        let ages = threshold(&Rules::default(), state, limits).ages;
        (ages.warning.as_secs_f64(), ages.critical.as_secs_f64())
    }

    fn assert_ages(state: State, limits: &Limits, warning: f64, critical: f64) {
        let (w, c) = of(state, limits);
        assert!(
            (w - warning).abs() < 1e-6 && (c - critical).abs() < 1e-6,
            "{state}: {w}, {c}"
        );
    }

    #[test]
    fn the_defaults_follow_from_the_sysctls() {
        let limits = Limits::default();
        assert_ages(State::SynSent, &limits, 3.0, 65.5);
        assert_ages(State::SynRecv, &limits, 7.0, 31.5);
        for state in [State::FinWait1, State::LastAck, State::Closing] {
            assert_ages(state, &limits, 25.55, 51.1);
        }
        assert_ages(State::FinWait2, &limits, 75.0, 300.0);
        assert_ages(State::CloseWait, &limits, 60.0, 300.0);
        let old = Limits {
            syn_linear_timeouts: 0,
            orphan_retries: 3,
            ..limits
        };
        assert_ages(State::SynSent, &old, 7.0, 63.5);
        assert_ages(State::LastAck, &old, 1.0, 1.5);
    }

    /// As measured with a SYN to a black hole (Linux 6.18): 4.05, 7.28, 7.13, 16.5, 19.6 and 133 s.
    #[test]
    fn connect_fails_when_the_kernel_says_so() {
        for (retries, linear, seconds) in [
            (1, 1, 4),
            (2, 0, 7),
            (2, 4, 7),
            (3, 1, 16),
            (3, 4, 19),
            (6, 4, 131),
            (0, 0, 1),
        ] {
            let limits = Limits {
                syn_retries: retries,
                syn_linear_timeouts: linear,
                ..Limits::default()
            };
            assert_eq!(
                connect_timeout(&limits).as_secs(),
                seconds,
                "{retries} {linear}"
            );
        }
    }

    #[test]
    fn the_model_is_the_kernels() {
        let model = |retries, rto_max| {
            let rto_max = Duration::from_secs(rto_max);
            model_timeout(retries, RTO_MIN, rto_max).as_millis()
        };
        assert_eq!(model(8, 120), 102_200);
        assert_eq!(model(15, 120), 924_600);
        assert_eq!(model(15, 1), 600 + 800 + 13_000);
    }

    #[test]
    fn configured_ages_win_and_say_so() {
        let ages = Ages {
            warning: Duration::from_secs(5),
            critical: Duration::from_secs(9),
        };
        let rules = Rules {
            ages: [(State::CloseWait, ages)].into(),
            ..Rules::default()
        };
        let found = threshold(&rules, State::CloseWait, &Limits::default());
        assert_eq!(
            (found.ages, found.derivation.as_str()),
            (ages, "configured")
        );
    }

    proptest! {
        #[test]
        fn no_sysctl_makes_an_age_vanish(
            retries in any::<[u32; 4]>(),
            spans in any::<[Duration; 2]>(),
        ) {
            let limits = Limits {
                syn_retries: retries[0],
                syn_linear_timeouts: retries[1],
                synack_retries: retries[2],
                orphan_retries: retries[3],
                fin_timeout: spans[0],
                rto_max: spans[1],
                ..Limits::default()
            };
            for state in State::ALL {
                let Threshold { ages, derivation } = threshold(&Rules::default(), state, &limits);
                prop_assert!(ages.warning >= LEAST_AGE && ages.critical >= ages.warning);
                prop_assert!(!derivation.is_empty());
            }
        }
    }
}
