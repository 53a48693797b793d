use std::sync::Arc;

use super::super::Fit;
use super::*;
use crate::output::fixture::{CLOCK, handover, reset, summary};
use crate::tcp::{Family, Process, TransitionOwner};
use crate::track::stuck::{self, Endpoint, Severity};
use crate::track::{Cause, Doubt, Incident, Kind};

fn shown(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn transitions_stand_in_columns() {
    let plain = Transition {
        family: Family::Ipv4,
        local: "10.0.0.1:80".parse().unwrap(),
        remote: "255.255.255.255:65535".parse().unwrap(),
        from: RawState::Known(State::NewSynRecv),
        to: RawState::Known(State::NewSynRecv),
        error: None,
        owner: Some(TransitionOwner {
            pid: 4_194_304,
            comm: *b"fifteen-letters\0",
        }),
        ..handover()
    };
    let after = Duration::from_micros(1_290);
    let text = shown(|out| {
        let mut table = EventTable::new(Style::Plain);
        table.write(out, CLOCK, &plain, None)?;
        table.write(out, CLOCK, &handover(), Some(after))?;
        table.write(out, CLOCK, &reset(), Some(after))
    });
    assert_eq!(
        text,
        "\
TIME           PID      COMM             NETNS       LOCAL                  REMOTE                 FROM          -> TO            AFTER
03:04:05.678Z  4194304  fifteen-letters  4026531840  10.0.0.1:80            255.255.255.255:65535  NEW_SYN_RECV  -> NEW_SYN_RECV  -
03:04:05.678Z  4242     a\\x1b[2J\\u{202e}b\"  4026531840  192.0.2.1:443       198.51.100.77:51234    FIN_WAIT2     -> CLOSE         1.2ms    continues as TIME_WAIT (inferred)
03:04:05.678Z  -        -                -           [2001:db8::1]:80       [2001:db8:1111:2222:3333:4444:5555:6666]:65535  ESTABLISHED  -> UNKNOWN_13  1.2ms  error ECONNRESET
"
    );
}

#[test]
fn colour_adds_escapes_and_nothing_else() {
    let line = |style| shown(|out| EventTable::new(style).write(out, CLOCK, &handover(), None));
    let coloured = line(Style::Coloured);
    assert!(coloured.contains("\x1b[33mFIN_WAIT2\x1b[0m     -> \x1b[2mCLOSE\x1b[0m"));
    let mut stripped = coloured;
    for escape in ["\x1b[33m", "\x1b[2m", "\x1b[0m"] {
        stripped = stripped.replace(escape, "");
    }
    assert_eq!(stripped, line(Style::Plain));
}

#[test]
fn counts_stand_in_tables() {
    assert_eq!(
        shown(|out| write_status(out, Style::Plain, &summary())),
        "\
STATE          TOTAL    IPV4  IPV6
ESTABLISHED        0       0     0
SYN_SENT           0       0     0
SYN_RECV           0       0     0
FIN_WAIT1          0       0     0
FIN_WAIT2          0       0     0
TIME_WAIT     131073  131072     1
CLOSE              0       0     0
CLOSE_WAIT         1       1     0
LAST_ACK           0       0     0
LISTEN             2       1     1
CLOSING            0       0     0
NEW_SYN_RECV       0       0     0

NETNS       NAME     TIME_WAIT  CLOSE_WAIT  LISTEN
4026531840  host        131072           1       2
4026532201  we\\x1bb          1           0       0

source daemon; events 1200 received, 3 lost; drift 2
"
    );
}

#[test]
fn namespaces_in_doubt_are_named() {
    let mut summary = summary();
    let doubt = Doubt {
        is_in_doubt: true,
        uncertain: [(State::TimeWait, 12)].into(),
    };
    for namespace in &mut summary.namespaces {
        namespace.doubt = doubt.clone();
    }
    summary.namespaces[0].doubt.uncertain.clear();
    let text = shown(|out| write_status(out, Style::Plain, &summary));
    let expected = "counts that may be wrong now: host, we\\x1bb (TIME_WAIT by 12)\n";
    assert!(text.ends_with(expected), "{text}");
    summary.namespaces = vec![summary.namespaces[0].clone(); 7];
    let text = shown(|out| write_status(out, Style::Plain, &summary));
    assert!(
        text.ends_with("host, host, host, host, host, and 2 more\n"),
        "{text}"
    );
}

#[test]
fn one_namespace_needs_no_second_table() {
    let mut one = summary();
    one.namespaces.truncate(1);
    one.source = Source::Kernel;
    let text = shown(|out| write_status(out, Style::Plain, &one));
    assert!(text.starts_with("STATE") && !text.contains("NETNS"));
    assert!(text.ends_with("source kernel; events 1200 received, 3 lost; drift 2\n"));
    one.log_dropped = 7;
    assert!(
        shown(|out| write_status(out, Style::Plain, &one))
            .contains("\n7 lines of the daemon's log were dropped")
    );
    one.log_dropped = 0;
    one.namespaces.clear();
    assert_eq!(
        shown(|out| write_status(out, Style::Plain, &one))
            .lines()
            .count(),
        15
    );
}

#[test]
fn the_doctor_explains_what_is_not_fine() {
    let row = |name, outcome, found: &str, mend: Option<&str>| DoctorRow {
        name,
        outcome,
        found: found.to_owned(),
        why: "exact namespaces".to_owned(),
        mend: mend.map(str::to_owned),
    };
    let rows = [
        row("kernel", Outcome::Ok, "6.18.0", None),
        row(
            "btf",
            Outcome::Missing,
            "no \x1b[2J file",
            Some("boot a kernel with BTF"),
        ),
        row("fentry", Outcome::Degraded, "EPERM", None),
    ];
    assert_eq!(
        shown(|out| write_doctor(out, Style::Plain, &rows)),
        "\
ok        kernel  6.18.0
missing   btf     no \\x1b[2J file
          why: exact namespaces
          fix: boot a kernel with BTF
degraded  fentry  EPERM
          why: exact namespaces
"
    );
    let coloured = shown(|out| write_doctor(out, Style::Coloured, &rows));
    assert!(coloured.starts_with("\x1b[32mok      \x1b[0m  kernel"));
}

fn incidents() -> Vec<Incident> {
    let kind = Kind::Sockets {
        cause: Cause::NotRead,
        mptcp: false,
    };
    let process = Process {
        pid: 42,
        comm: "sh\x1bop".to_owned(),
        ..Process::default()
    };
    let owners = vec![stuck::Owner {
        process: Arc::new(process),
        fd: None,
    }];
    let of_port = |port: u16| Incident {
        netns_name: Some("web".to_owned()),
        sockets: 1_234,
        oldest_seconds: Some(723.0),
        age_is_lower_bound: true,
        local: Endpoint::Port(port),
        owners: owners.clone(),
        reason: "a reason of some length ".repeat(8).trim_end().to_owned(),
        advice: "first do `this`; then that "
            .repeat(6)
            .trim_end()
            .to_owned(),
        ..Incident::new(kind, Severity::Warning, State::CloseWait, 7)
    };
    let mut all = vec![
        of_port(80),
        of_port(81),
        of_port(82),
        of_port(83),
        of_port(84),
    ];
    all[0].severity = Severity::Critical;
    all[1] = Incident {
        remote: Endpoint::Socket("[2001:db8::1]:443".parse().unwrap()),
        exhausted_in_seconds: Some(0.0),
        reason: "all ports are in use".to_owned(),
        ..Incident::new(Kind::EphemeralPorts, Severity::Critical, State::TimeWait, 7)
    };
    all
}

#[test]
fn incidents_fit_a_terminal_and_are_whole_elsewhere() {
    let all = incidents();
    let text = |width, height| {
        let fit = Fit { width, height };
        shown(|out| write_incidents(out, Style::Plain, fit, &all, 0, "daemon"))
    };
    for (width, height) in [(80, 40), (80, 24), (100, 30), (200, 60), (80, 14)] {
        let told = text(width, height);
        assert!(told.lines().count() < height, "{width} x {height}:\n{told}");
        let widest = told.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(width), "{width} x {height}:\n{told}");
        assert_eq!(told.matches("CLOSE_WAIT").count(), 4, "{told}");
        assert!(
            told.contains("ephemeral ports") && told.contains("1,234"),
            "{told}"
        );
    }
    let narrow = text(80, 8);
    assert!(narrow.contains("and 1 more; --top 0"), "{narrow}");
    let piped = text(usize::MAX, usize::MAX);
    assert!(!piped.contains('…'), "{piped}");
    assert_eq!(piped.lines().count(), 1 + 3 * 4 + 3 + 2, "{piped}");
    assert!(
        piped.contains("sh\\x1bop[42]") && piped.contains(">12m03s"),
        "{piped}"
    );
    let end = "\n4,936 sockets in 5 incidents: 2 critical in netns 7 (source daemon)\n";
    assert!(
        piped.replace("netns web", "netns 7").ends_with(end),
        "{piped}"
    );
}

#[test]
fn status_says_what_is_stuck_and_how_to_see_it() {
    let mut told = summary();
    assert!(!shown(|out| write_status(out, Style::Plain, &told)).contains("OLDEST"));
    let of = |state: State, value| [(state.name().to_owned(), Some(value))].into();
    told.recent = Some(Recent {
        oldest_seconds: of(State::CloseWait, 723.0),
        change_per_minute: of(State::TimeWait, -30.0),
        ..Recent::default()
    });
    let text = shown(|out| write_status(out, Style::Plain, &told));
    let row = |state: &str| {
        let row = text.lines().find(|line| line.starts_with(state)).unwrap();
        row.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(row("STATE ")[4..], ["OLDEST", "CHANGE/MIN"]);
    assert_eq!(row("CLOSE_WAIT ")[4..], ["12m03s", "-"]);
    assert_eq!(row("TIME_WAIT ")[4..], ["-", "-30.0"]);
    assert!(text.ends_with("\nnothing is stuck\n"), "{text}");
    let recent = told.recent.as_mut().unwrap();
    recent.stuck.warning = 7;
    recent.stuck.incidents = 2;
    let text = shown(|out| write_status(out, Style::Plain, &told));
    let last = text.lines().last().unwrap();
    assert!(
        last.contains("7 sockets") && last.contains("tcplinger stuck"),
        "{last}"
    );
}
