//! The ages at which a verdict can change.

use std::time::Duration;

use super::{Rules, threshold};
use crate::tcp::{Limits, State};

/// Every age at which some rule can find a socket in that state stuck, or worse than before, in
/// ascending order.
pub(crate) fn levels(rules: &Rules, state: State, limits: &Limits) -> Vec<Duration> {
    let configured = rules
        .sockets
        .iter()
        .filter(|rule| rule.matcher.is_about(state))
        .filter_map(|rule| rule.ages);
    let default = state
        .is_lingering()
        .then(|| threshold(rules, state, limits).ages);
    let mut levels: Vec<Duration> = configured
        .chain(default)
        .flat_map(|ages| [ages.warning, ages.critical])
        .collect();
    levels.sort_unstable();
    levels.dedup();
    levels
}

#[cfg(test)]
mod tests {
    use super::super::{Ages, Matcher, SocketRule};
    use super::*;

    #[test]
    fn every_rule_in_reach_has_its_say() {
        let rule = |states: &[State], ages: Option<(u64, u64)>| SocketRule {
            name: "a".to_owned(),
            matcher: Matcher {
                states: states.to_vec(),
                ..Matcher::default()
            },
            ages: ages.map(|(warning, critical)| Ages {
                warning: Duration::from_secs(warning),
                critical: Duration::from_secs(critical),
            }),
        };
        let rules = Rules {
            sockets: vec![
                rule(&[], Some((2, 60))),
                rule(&[State::SynSent], Some((7, 9))),
                rule(&[State::CloseWait], None),
            ],
            ..Rules::default()
        };
        let seconds = |rules: &Rules| -> Vec<u64> {
            let levels = levels(rules, State::CloseWait, &Limits::default());
            levels.iter().map(Duration::as_secs).collect()
        };
        assert_eq!(seconds(&rules), [2, 60, 300]);
        assert_eq!(seconds(&Rules::default()), [60, 300]);
        assert!(levels(&Rules::default(), State::TimeWait, &Limits::default()).is_empty());
    }
}
