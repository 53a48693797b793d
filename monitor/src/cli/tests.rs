//! The command line as it is typed.

use std::ffi::OsString;
use std::time::Duration;

use clap::CommandFactory;
use clap::error::ErrorKind;

use super::*;
use crate::tcp::State;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' ')).and_then(Cli::checked)
}

fn refusal(line: &str) -> String {
    let error = parse(line).expect_err("must be refused");
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn the_definition_is_sound_and_every_verb_has_an_example() {
    let command = Cli::command();
    command.clone().debug_assert();
    for verb in command.get_subcommands() {
        let help = verb
            .get_after_help()
            .expect("help after the flags")
            .to_string();
        let example = help.lines().nth(1).expect("a second line").trim();
        parse(example).unwrap_or_else(|error| panic!("{example}: {error}"));
    }
}

#[test]
fn what_run_is_not_told_stays_open() {
    let Verb::Run(run) = parse("tcplinger run").expect("no flag is required").verb else {
        panic!("run is not run");
    };
    assert!(run.interval.is_none() && run.control.is_none() && run.program.ring_size.is_none());
    let transitions = |line| match parse(line).expect(line).verb {
        Verb::Run(run) => run.transitions,
        _ => panic!("run is not run"),
    };
    assert_eq!(transitions("tcplinger run"), None);
    assert_eq!(transitions("tcplinger run --transitions"), Some(true));
    assert_eq!(
        transitions("tcplinger run --transitions=false"),
        Some(false)
    );
}

#[test]
fn http_is_off_or_on() {
    let told = refusal("tcplinger run --listen off --listen 127.0.0.1:9817");
    assert!(told.contains("both `off` and an address"), "{told}");
    for fine in [
        "tcplinger run --listen off --listen off",
        "tcplinger run --listen 127.0.0.1:1 --listen [::1]:1",
    ] {
        parse(fine).expect(fine);
    }
}

#[test]
fn stuck_takes_the_filters_of_events_and_holders() {
    let line = "tcplinger stuck --state CLOSE-WAIT,last_ack --local-port 80 --remote ::1 --top 0 \
                --process rsync*,nginx --unit a?.service --container abc* --sort recv-queue \
                --severity critical --watch --interval 500ms --duration 1m --source kernel";
    let cli = parse(&line.split_whitespace().collect::<Vec<_>>().join(" ")).expect("valid");
    let Verb::Stuck(stuck) = cli.verb else {
        panic!("stuck is not stuck");
    };
    assert_eq!(stuck.holder.state, [State::CloseWait, State::LastAck]);
    assert_eq!(stuck.holder.process, ["rsync*", "nginx"]);
    assert_eq!((stuck.top, stuck.sort), (Some(0), StuckOrder::RecvQueue));
    assert_eq!(stuck.severity, Some(SeverityChoice::Critical));
    assert_eq!(stuck.interval, Duration::from_millis(500));
    assert_eq!(stuck.source.source, SourceChoice::Kernel);
    let Verb::Stuck(plain) = parse("tcplinger stuck").expect("no flag is required").verb else {
        panic!("stuck is not stuck");
    };
    assert_eq!((plain.top, plain.interval), (None, Duration::from_secs(2)));
    assert_eq!(plain.sort, StuckOrder::Severity);
}

#[test]
fn defaults_of_the_small_verbs() {
    let Verb::Owners(owners) = parse("tcplinger owners").expect("valid").verb else {
        panic!("owners is not owners");
    };
    let expected = (50, OwnerOrder::Total, OwnerKind::Process);
    assert_eq!((owners.top, owners.sort, owners.per), expected);
    let Verb::Check(check) = parse("tcplinger check -w 10").expect("valid").verb else {
        panic!("check is not check");
    };
    assert_eq!((check.warning, check.critical), (10, 1));
    assert_eq!(check.timeout, Duration::from_secs(10));
    let Verb::Ports(ports) = parse("tcplinger ports").expect("valid").verb else {
        panic!("ports is not ports");
    };
    assert_eq!((ports.top, ports.sample), (50, Duration::from_secs(1)));
}

/// For a plugin 2 means CRITICAL.
#[test]
fn wrong_usage_of_check_is_unknown() {
    let code = |line: &str| {
        let error = parse(line).expect_err(line);
        check::usage_exit_code(&error, line.split(' ').map(OsString::from))
    };
    for line in [
        "tcplinger check --warnin 3",
        "tcplinger check -w 0",
        "tcplinger check -w",
        "tcplinger check --color",
        "tcplinger --color never check --source nowhere",
        "tcplinger --color=mauve check",
        "tcplinger check extra",
        "tcplinger check --timeout 5 --netns",
    ] {
        assert_eq!(code(line), 3, "{line}");
    }
    for line in [
        "tcplinger",
        "tcplinger chek",
        "tcplinger stuck --process check --frob",
        "tcplinger status check",
        "tcplinger --color check",
        "tcplinger explain",
    ] {
        assert_eq!(code(line), 2, "{line}");
    }
    assert_eq!(code("tcplinger check --help"), 0);
}

#[test]
fn filters_repeat_and_take_lists() {
    let line = "tcplinger events --state TIME-WAIT,close_wait --state estab --local-port 80,443 \
                --remote 10.1.2.3/8 --remote ::1 --family ipv6 --netns 4026531840 --color never";
    let cli = parse(&line.split_whitespace().collect::<Vec<_>>().join(" ")).expect("valid");
    assert_eq!(cli.color.demand(), Some(false));
    let Verb::Events(events) = cli.verb else {
        panic!("events is not events");
    };
    let filter = events.filter;
    assert_eq!(
        events.states.state,
        [State::TimeWait, State::CloseWait, State::Established]
    );
    assert_eq!(filter.local_port, [80..=80, 443..=443]);
    assert_eq!(filter.remote[0].to_string(), "10.0.0.0/8");
    assert_eq!(filter.remote[1].to_string(), "::1/128");
    assert_eq!(filter.family, Some(Family::Ipv6));
    assert_eq!(filter.netns, Some(Netns::Inode(4_026_531_840)));
}

#[test]
fn wrong_usage_says_what_to_type() {
    assert!(refusal("tcplinger events --state time_wiat").contains("`time_wait`"));
    assert!(refusal("tcplinger events --local-port 70000").contains("1 to 65535"));
    assert!(refusal("tcplinger events --local 10.0.0.0/33").contains("10.0.0.0/8"));
    assert!(refusal("tcplinger evnts").contains("'events'"));
    assert!(refusal("tcplinger events --stat close").contains("'--state'"));
    assert!(refusal("tcplinger run --interval 1ms").contains("100ms to 1h"));
    assert!(refusal("tcplinger run --bpf-log loud").contains("trace"));
    assert!(refusal("tcplinger stuck --state established").contains("close_wait"));
    assert!(refusal("tcplinger stuck --process=").contains("rsync*"));
    assert!(refusal("tcplinger stuck --interval 5s").contains("--watch"));
    assert!(refusal("tcplinger stuck --all --severity critical").contains("--all"));
    assert!(refusal("tcplinger owners --sort totla").contains("`total`"));
    assert!(refusal("tcplinger explain time_wiat").contains("`time_wait`"));
    refusal("tcplinger");
    let version = parse("tcplinger --version").expect_err("the version is an answer");
    assert_eq!(
        (version.kind(), version.exit_code()),
        (ErrorKind::DisplayVersion, 0)
    );
}
