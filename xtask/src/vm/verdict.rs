//! What a guest reported, and whether that is what its kernel should have led to.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// What each command of the guest answered: its exit code and what it printed.
pub(super) struct Report(BTreeMap<String, (u8, String)>);

/// Names by the kernel's number less one (`include/net/tcp_states.h`, Linux 6.18).
const STATES: &str = "established syn_sent syn_recv fin_wait1 fin_wait2 time_wait close \
                      close_wait last_ack listen closing new_syn_recv";

/// What both ends of a connection go through that the client closes first.
const STEPS: &str = "close>syn_sent syn_sent>established established>fin_wait1 \
                     fin_wait1>fin_wait2 fin_wait2>close listen>syn_recv syn_recv>established \
                     established>close_wait close_wait>last_ack last_ack>close";

/// Exit code of tcplinger where the kernel cannot do it.
const NO_KERNEL: u8 = 4;

/// What is not as it should be; empty when all is well.
pub(super) fn judge(version: &str, mode: &str, report: &Report) -> Vec<String> {
    // Confidentiality closes tracefs, which the BTF-typed program does without.
    let is_classic_locked = mode == "lockdown=confidentiality";
    let has_cookie = version != "5.10";
    let results = [
        report.answer("bare.doctor", 0).map(drop),
        report.ensure_round("bare", has_cookie),
        report.answer("inet_diag", 0).map(drop),
        report.answer("tcp_diag", 0).map(drop),
        report.answer("full.doctor", 0).map(drop),
        report.ensure_round("full", has_cookie),
        report.ensure_minisockets(is_classic_locked),
        if is_classic_locked {
            report.ensure_locked("classic")
        } else {
            report.ensure_round("classic", false)
        },
    ];
    let complaints = results.into_iter().filter_map(Result::err);
    complaints.map(|error| format!("{error:#}")).collect()
}

impl Report {
    /// From lines `=== NAME EXIT_CODE`, each before its command's output.
    pub(super) fn parse(text: &str) -> Self {
        let mut answers = BTreeMap::new();
        let mut answer = &mut (0, String::new());
        for line in text.lines() {
            let head = line.strip_prefix("=== ");
            if let Some((name, code)) = head.and_then(|head| head.split_once(' ')) {
                answer = answers.entry(name.to_owned()).or_default();
                answer.0 = code.parse().unwrap_or(u8::MAX);
            } else {
                answer.1 = format!("{}{line}\n", answer.1);
            }
        }
        Self(answers)
    }

    /// What a command printed, if it ended with this code.
    fn answer(&self, name: &str, wanted: u8) -> Result<&str> {
        let answer = self.0.get(name);
        let (code, text) = answer.with_context(|| format!("{name} was never run"))?;
        ensure!(*code == wanted, "{name} exits with {code}");
        Ok(text)
    }

    /// That tcplinger counted and watched as it should, without an error.
    fn ensure_round(&self, round: &str, has_cookie: bool) -> Result<()> {
        self.answer(&format!("{round}.run"), 0)?;
        self.ensure_counts(round, "kernel")?;
        self.ensure_counts(round, "daemon")?;
        self.ensure_storm(round)?;
        self.ensure_owner(&format!("{round}.stuck"))?;
        self.ensure_owner(&format!("{round}.alone"))?;
        self.ensure_events(&format!("{round}.events"), has_cookie)
    }

    /// That it blames lockdown for what it cannot do, and counts without.
    fn ensure_locked(&self, round: &str) -> Result<()> {
        self.ensure_counts(round, "kernel")?;
        for verb in ["run", "events"] {
            let text = self.answer(&format!("{round}.{verb}"), NO_KERNEL)?;
            ensure!(
                text.contains("lockdown"),
                "{round}.{verb} does not name lockdown"
            );
        }
        Ok(())
    }

    /// That the one connection whose peer has closed is listed, with the process that holds it.
    fn ensure_owner(&self, name: &str) -> Result<()> {
        // Emulation is slow: it may be old enough to be stuck by now, which is told by 1.
        let listed = self.answer(name, 0).or_else(|_| self.answer(name, 1))?;
        // What is logged comes before, on the same stream.
        let list = listed.lines().last().unwrap_or_default();
        let findings: Vec<Value> = serde_json::from_str(list).with_context(|| name.to_owned())?;
        let comm = |finding: &Value| finding.pointer("/owners/0/comm").cloned();
        let owners: Vec<Option<Value>> = findings.iter().map(comm).collect();
        ensure!(
            owners == [Some(Value::from("sleep"))],
            "{name} has {owners:?} for owners"
        );
        Ok(())
    }

    /// That the counts are those of /proc/net/tcp.
    fn ensure_counts(&self, round: &str, source: &str) -> Result<()> {
        let wanted = parse_proc_net(self.answer(&format!("{round}.proc"), 0)?)?;
        let name = format!("{round}.{source}");
        let status: Value = serde_json::from_str(self.answer(&name, 0)?)?;
        let sockets = status.get("sockets").and_then(Value::as_object);
        let sockets = sockets.with_context(|| format!("no sockets in {name}"))?;
        let counted: BTreeMap<&str, u64> = sockets
            .iter()
            .filter_map(|(state, count)| Some((state.as_str(), count.as_u64()?)))
            .filter(|(_, count)| *count > 0)
            .collect();
        ensure!(
            counted == wanted,
            "{name} has {counted:?}, /proc/net/tcp {wanted:?}"
        );
        let lost = status.pointer("/events/lost").and_then(Value::as_u64);
        ensure!(lost == Some(0), "{name}: {lost:?} events lost");
        Ok(())
    }

    /// That many connections at once left nothing to correct, and nothing was lost.
    fn ensure_storm(&self, round: &str) -> Result<()> {
        let name = format!("{round}.storm");
        let status: Value = serde_json::from_str(self.answer(&name, 0)?)?;
        for field in ["/drift", "/events/lost"] {
            let value = status.pointer(field).and_then(Value::as_u64);
            ensure!(value == Some(0), "{name}: {field} is {value:?}");
        }
        Ok(())
    }

    /// That minisockets are told of: those that got their FIN, and those that did not. Lockdown may
    /// close what that takes.
    fn ensure_minisockets(&self, is_locked: bool) -> Result<()> {
        let doctor = self.answer("full.doctor", 0)?;
        let row = |name: &str| {
            let is_row = |line: &&str| line.split_whitespace().nth(1) == Some(name);
            doctor.lines().find(is_row).unwrap_or_default()
        };
        ensure!(
            row("requests").starts_with("ok"),
            "doctor: {}",
            row("requests")
        );
        if is_locked {
            return Ok(());
        }
        ensure!(
            row("minisockets").starts_with("ok"),
            "doctor: {}",
            row("minisockets")
        );
        let told = self.answer("minisockets", 0)?;
        for step in ["5 -> 6", "5 -> 7"] {
            ensure!(told.contains(step), "no minisocket {step}: {told:?}");
        }
        Ok(())
    }

    /// That every step of a connection was seen, with a cookie where there must be one.
    fn ensure_events(&self, name: &str, has_cookie: bool) -> Result<()> {
        let text = self.answer(name, 0)?;
        let lines = text.lines();
        let seen: BTreeSet<(String, bool)> = lines.filter_map(parse_event).collect();
        for step in STEPS.split_whitespace() {
            let is_seen = |with_cookie| seen.contains(&(step.to_owned(), with_cookie));
            // Before Linux 6.15 a child starts without a cookie of its own.
            let may_lack = !has_cookie || step == "listen>syn_recv";
            ensure!(
                is_seen(true) || may_lack && is_seen(false),
                "{name}: no {step} as it should be"
            );
        }
        Ok(())
    }
}

/// A transition, and whether it has a cookie.
fn parse_event(line: &str) -> Option<(String, bool)> {
    let event: Value = serde_json::from_str(line).ok()?;
    let (from, to) = (event.get("from")?.as_str()?, event.get("to")?.as_str()?);
    Some((format!("{from}>{to}"), event.get("cookie")?.is_u64()))
}

/// Lines of a state's hexadecimal number and a count.
fn parse_proc_net(text: &str) -> Result<BTreeMap<&str, u64>> {
    let parse = |line: &str| {
        let (state, count) = line.split_once(' ')?;
        let number = usize::from_str_radix(state, 16).ok()?;
        let name = STATES.split_whitespace().nth(number.checked_sub(1)?)?;
        Some((name, count.parse().ok()?))
    };
    let parse = |line| parse(line).with_context(|| format!("not a count: {line:?}"));
    text.lines().map(parse).collect()
}
