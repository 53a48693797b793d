use super::*;
use crate::output::fixture::{CLOCK, handover, reset, summary};
use crate::tcp::{Family, TransitionOwner};
use crate::track::Doubt;

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
