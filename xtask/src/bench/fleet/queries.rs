//! What is asked of a fleet: the dashboard's queries and the rules' expressions, read from the files
//! that are shipped.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::workspace;

const DASHBOARD: &str = "monitor/dist/grafana/tcplinger.json";
pub(super) const RULES: &str = "monitor/dist/prometheus/tcplinger.rules.yml";
const FLEET_ROW: &str = "Fleet";

pub(super) struct Query {
    pub(super) name: String,
    pub(super) text: String,
    /// One moment, not a range of time.
    pub(super) is_instant: bool,
}

/// How long a query took, shortest first, in seconds.
pub(super) struct Times {
    pub(super) query: Query,
    pub(super) seconds: Vec<f64>,
    /// In the last answer.
    pub(super) series: usize,
}

impl Times {
    pub(super) fn quantile(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "an index below a small length"
        )]
        let index = ((self.seconds.len() as f64 * share) as usize).min(self.seconds.len() - 1);
        self.seconds.get(index).copied().unwrap_or_default()
    }
}

pub(super) fn all() -> Result<Vec<(&'static str, Vec<Query>)>> {
    let read = |file: &str| {
        let path = workspace::root()?.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let dashboard = serde_json::from_str(&read(DASHBOARD)?).context(DASHBOARD)?;
    let (fleet, others) = of_dashboard(&dashboard);
    let rules = of_rules(&read(RULES)?);
    ensure!(
        !fleet.is_empty() && !others.is_empty() && !rules.is_empty(),
        "no queries in {DASHBOARD} or {RULES}"
    );
    Ok(vec![
        ("fleet row of the dashboard", fleet),
        ("its other rows, for all hosts at once", others),
        ("recording and alerting rules", rules),
    ])
}

/// Those of the fleet row, and the others.
fn of_dashboard(dashboard: &Value) -> (Vec<Query>, Vec<Query>) {
    let (mut fleet, mut others) = (Vec::new(), Vec::new());
    for panel in list(dashboard, "panels") {
        let is_fleet = panel.get("title").and_then(Value::as_str) == Some(FLEET_ROW);
        for panel in [panel].into_iter().chain(list(panel, "panels")) {
            let queries = list(panel, "targets").iter();
            let queries = queries.filter_map(|target| of_target(panel, target));
            if is_fleet { &mut fleet } else { &mut others }.extend(queries);
        }
    }
    (fleet, others)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn of_target(panel: &Value, target: &Value) -> Option<Query> {
    let text = target.get("expr")?.as_str()?;
    let text = [
        ("$__rate_interval", "1m"),
        ("$dwell_state", "close_wait"),
        ("$job", "tcplinger"),
        ("$instance", ".*"),
        ("$namespace", ".*"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (variable, value)| {
        text.replace(variable, value)
    });
    Some(Query {
        name: panel.get("title")?.as_str()?.to_owned(),
        text,
        is_instant: target.get("instant") == Some(&Value::Bool(true)),
    })
}

/// Each rule's expression: on the line of its key, or indented below it.
fn of_rules(rules: &str) -> Vec<Query> {
    let mut queries = Vec::new();
    let mut name = "";
    let mut lines = rules.lines().peekable();
    while let Some(line) = lines.next() {
        let line = line.trim_start();
        if let Some(rule) = line
            .strip_prefix("- record: ")
            .or(line.strip_prefix("- alert: "))
        {
            name = rule;
        }
        let Some(head) = line.strip_prefix("expr: ") else {
            continue;
        };
        let mut text = head.trim_start_matches(['|', '>', '-']).to_owned();
        // Nothing else of a rule is indented by ten.
        while let Some(line) =
            lines.next_if(|line| text.is_empty() || line.starts_with("          "))
        {
            text = text + line.trim_start() + " ";
        }
        queries.push(Query {
            name: name.to_owned(),
            text,
            is_instant: true,
        });
    }
    queries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_expression() {
        let rules = "groups:\n  - name: g\n    rules:\n      - record: a:b:sum\n        expr: sum(b)\n      \
            - alert: C\n        expr: |-\n          b > 1\n          and\n          (\n            c\n          )\n        \
            for: 5m\n";
        let queries = of_rules(rules);
        let told: Vec<(&str, &str)> = queries
            .iter()
            .map(|query| (query.name.as_str(), query.text.trim()))
            .collect();
        assert_eq!(told, [("a:b:sum", "sum(b)"), ("C", "b > 1 and ( c )")]);
    }

    #[test]
    fn the_shipped_files_have_queries_of_every_kind() {
        let kinds = all().unwrap();
        for (kind, queries) in &kinds {
            assert!(queries.len() >= 10, "{kind}: {}", queries.len());
            let has_variable = |query: &&Query| query.text.contains('$') && !kind.contains("rules");
            assert_eq!(
                queries.iter().find(has_variable).map(|query| &query.text),
                None
            );
        }
    }

    #[test]
    fn a_quantile_is_one_of_the_times() {
        let query = Query {
            name: String::new(),
            text: String::new(),
            is_instant: true,
        };
        let times = Times {
            query,
            seconds: (1..=20).map(f64::from).collect(),
            series: 0,
        };
        let quantiles = [0.0, 0.5, 0.99, 1.0].map(|share| times.quantile(share));
        assert_eq!(
            quantiles.map(f64::to_bits),
            [1.0, 11.0, 20.0, 20.0].map(f64::to_bits)
        );
    }
}
