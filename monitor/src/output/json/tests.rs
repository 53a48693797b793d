use serde_json::{Value, json};

use super::*;
use crate::output::Outcome;
use crate::output::fixture::{CLOCK, handover, reset, summary};

fn shown(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn event(seen: &Transition, after: Option<Duration>) -> String {
    shown(|out| EventLines::default().write(out, CLOCK, seen, after))
}

#[test]
fn a_transition_is_one_object_on_one_line() {
    let line = event(&handover(), Some(Duration::from_micros(1_290)));
    assert_eq!(
        line,
        concat!(
            r#"{"time":"2026-01-02T03:04:05.678901234Z","netns":4026531840,"cookie":8193,"#,
            r#""family":"ipv4","local":"192.0.2.1:443","remote":"198.51.100.77:51234","#,
            r#""from":"fin_wait2","to":"close","after_seconds":0.00129,"#,
            r#""continues_as":"time_wait","inferred":true,"cgroup_id":42,"#,
            r#""pid":4242,"comm":"a\u001b[2J\u202eb\""}"#,
            "\n"
        )
    );
}

#[test]
fn what_is_unknown_is_null_or_left_out() {
    let read: Value = serde_json::from_str(&event(&reset(), None)).unwrap();
    assert_eq!(
        read,
        json!({
            "time": "2026-01-02T03:04:05.678901234Z",
            "netns": null,
            "cookie": null,
            "family": "ipv6",
            "local": "[2001:db8::1]:80",
            "remote": "[2001:db8:1111:2222:3333:4444:5555:6666]:65535",
            "from": "established",
            "to": "unknown_13",
            "after_seconds": null,
            "error": "ECONNRESET",
        })
    );
}

#[test]
fn names_are_exact_and_harmless() {
    for comm in [
        "a\x1b[2J",
        "\u{9b}31m",
        "\x7f",
        "a\u{202e}b",
        "x\u{e0041}y",
        "\"\\\n",
        "größe",
    ] {
        let line = shown(|out| write_line(out, &comm));
        assert!(!line.trim_end().contains(is_harmful), "{line:?}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), comm);
    }
}

#[test]
fn counts_are_read_back() {
    let text = shown(|out| write_status(out, &summary()));
    assert_eq!(text.lines().count(), 1);
    assert_eq!(read_status(text.as_bytes()).unwrap(), summary());

    let read: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(read["source"], "daemon");
    assert_eq!(read["sockets"]["time_wait"], 131_073);
    assert_eq!(read["sockets"].as_object().unwrap().len(), 12);
    assert_eq!(read["namespaces"][1]["netns"], 4_026_532_201_u32);
    assert_eq!(read["namespaces"][1]["name"], "we\x1bb");
    assert_eq!(read["namespaces"][0]["sockets"]["listen"], 2);
    assert_eq!(read["namespaces"][0]["family"]["ipv6"]["listen"], 1);
    assert_eq!(
        read["events"],
        json!({"counted": 1_203, "received": 1_200, "lost": 3, "ignored": 4})
    );
    assert_eq!(read["drift"], 2);
}

#[test]
fn states_come_in_the_kernels_order() {
    let text = shown(|out| write_line(out, &Sockets(Counts::default())));
    let positions = State::ALL.map(|state| text.find(&format!("\"{state}\":0")).unwrap());
    assert!(positions.is_sorted(), "{text}");
}

#[test]
fn another_shape_is_refused() {
    let text = shown(|out| write_status(out, &summary()));
    let refusal = |text: String| read_status(text.as_bytes()).unwrap_err().to_string();
    assert!(refusal(text.replace("\"closing\"", "\"clsoing\"")).contains("closing is missing"));
    assert!(refusal(text.replace("\"listen\"", "\"zzz\":1,\"listen\"")).contains("\"zzz\""));
    assert!(refusal(text.replace("131072", "-1")).contains("integer"));
    refusal(String::new());
}

#[test]
fn the_doctors_rows_are_a_list() {
    let rows = [DoctorRow {
        name: "btf",
        outcome: Outcome::Missing,
        found: "no file".to_owned(),
        why: "exact namespaces".to_owned(),
        mend: None,
    }];
    assert_eq!(
        shown(|out| write_doctor(out, &rows)),
        "[{\"name\":\"btf\",\"outcome\":\"missing\",\"found\":\"no file\",\
         \"why\":\"exact namespaces\",\"mend\":null}]\n"
    );
}
