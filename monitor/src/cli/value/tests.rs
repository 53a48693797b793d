//! What flags take, and what they say to the rest.

use super::*;
use crate::cli::ProgramChoice;

#[test]
fn durations_need_a_unit_and_a_positive_value() {
    assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
    assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
    assert_eq!(duration("1h30m"), Ok(Duration::from_mins(90)));
    for wrong in ["10", "", "-1s", "0s", "1 fortnight", "1s ago"] {
        let refusal = duration(wrong).expect_err(wrong);
        assert!(
            refusal.contains("500ms, 10s, 2m or 1h"),
            "{wrong}: {refusal}"
        );
    }
    assert!(interval("99ms").is_err() && interval("61m").is_err());
    assert_eq!(interval("100ms"), Ok(Duration::from_millis(100)));
}

#[test]
fn times_of_rules_are_bounded() {
    assert_eq!(age("8760h"), Ok(Duration::from_hours(8760)));
    assert!(
        ["8761h", "-5s", "0s", "5"]
            .iter()
            .all(|text| age(text).is_err())
    );
    assert_eq!(window("2s"), Ok(Duration::from_secs(2)));
    assert!(window("1999ms").is_err() && window("61m").is_err());
}

#[test]
fn a_collector_has_a_url_without_a_query() {
    assert_eq!(
        endpoint("https://otel.example.com/a/"),
        Ok("https://otel.example.com/a".to_owned())
    );
    for (wrong, why) in [
        ("http://a?b=c", "must not contain `?`"),
        ("http://a/b?c", "must not contain `?`"),
        ("http://a/#b", "must not contain `?` or `#`"),
        ("otel.example.com:4318", "not the URL"),
        ("http://user@a", "not the URL"),
        ("http:///a", "not the URL"),
    ] {
        let refusal = endpoint(wrong).expect_err(wrong);
        assert!(
            refusal.contains(why) && refusal.contains("http://127.0.0.1:4318"),
            "{wrong}: {refusal}"
        );
    }
}

#[test]
fn shares_are_bounded() {
    assert_eq!(percent("0.5"), Ok(0.5));
    assert_eq!(percent("100%"), Ok(100.0));
    for wrong in ["0", "100.1", "NaN", "inf", "-1", "", "%", "one"] {
        assert!(percent(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn ring_sizes_are_powers_of_two() {
    assert_eq!(ring_size("65536"), Ok(1 << 16));
    assert_eq!(ring_size("64KiB"), Ok(1 << 16));
    assert_eq!(ring_size("16mib"), Ok(1 << 24));
    assert_eq!(ring_size("1GiB"), Ok(1 << 30));
    for wrong in [
        "",
        "MiB",
        "15MiB",
        "32KiB",
        "2GiB",
        "16MB",
        "16 MiB",
        "4294967296GiB",
        "1.5MiB",
    ] {
        let refusal = ring_size(wrong).expect_err(wrong);
        assert!(refusal.contains("for example 16MiB"), "{wrong}: {refusal}");
    }
}

#[test]
fn a_mistyped_state_names_the_nearest() {
    assert_eq!(state("TIME-WAIT"), Ok(State::TimeWait));
    assert_eq!(state("fin-wait-2"), Ok(State::FinWait2));
    for (typed, meant) in [
        ("time_wiat", "time_wait"),
        ("CLOSE-WAI", "close_wait"),
        ("lsiten", "listen"),
    ] {
        let refusal = state(typed).expect_err(typed);
        assert!(
            refusal.contains(&format!("did you mean `{meant}`?")),
            "{refusal}"
        );
    }
}

#[test]
fn a_state_that_nothing_lingers_in_names_those_that_do() {
    assert_eq!(lingering_state("CLOSE-WAIT"), Ok(State::CloseWait));
    for state in State::ALL {
        assert_eq!(lingering_state(state.name()).is_ok(), state.is_lingering());
    }
    for wrong in ["established", "time_wait"] {
        let refusal = lingering_state(wrong).expect_err(wrong);
        assert!(
            refusal.contains("syn_sent, syn_recv, fin_wait1"),
            "{refusal}"
        );
    }
    let refusal = lingering_state("close_wiat").expect_err("a typo");
    assert!(refusal.contains("did you mean `close_wait`?"), "{refusal}");
    assert_eq!(order("total"), Ok(OwnerOrder::Total));
    assert_eq!(order("last-ack"), Ok(OwnerOrder::State(State::LastAck)));
    assert!(order("totla").is_err_and(|refusal| refusal.contains("`total`")));
}

#[test]
fn choices_name_the_nearest() {
    assert_eq!(choice::<ProgramChoice>("btf"), Ok(ProgramChoice::Btf));
    let refusal = choice::<ProgramChoice>("clasic").expect_err("a typo");
    assert_eq!(
        refusal,
        "did you mean `classic`? (valid: auto, btf, classic)"
    );
    assert!(LEVELS.iter().all(|name| level(name).is_ok()) && level("loud").is_err());
}

#[test]
fn networks_say_what_is_wrong() {
    let accepted = |text: &str| network(text).map(|network| network.to_string());
    assert_eq!(accepted("10.1.2.3/8"), Ok("10.0.0.0/8".to_owned()));
    assert_eq!(accepted("10.1.2.3"), Ok("10.1.2.3/32".to_owned()));
    assert_eq!(accepted("2001:db8::1"), Ok("2001:db8::1/128".to_owned()));
    assert_eq!(accepted("::/0"), Ok("::/0".to_owned()));
    for (wrong, why) in [
        ("10.0.0.0/33", "\"33\" is not a number from 0 to 32"),
        ("::/129", "from 0 to 128"),
        ("10.0.0/8", "\"10.0.0\" is not an IP address"),
        ("localhost", "not an IP address"),
        ("10.0.0.1:80", "--remote-port"),
        ("", "not an IP address"),
    ] {
        let refusal = network(wrong).expect_err(wrong);
        assert!(
            refusal.contains(why) && refusal.contains("10.0.0.0/8"),
            "{refusal}"
        );
    }
}

#[test]
fn ports_and_namespaces() {
    assert_eq!(port("1"), Ok(1));
    assert!(
        ["0", "65536", "-1", "http", ""]
            .iter()
            .all(|text| port(text).is_err())
    );
    assert_eq!(ports("8080"), Ok(8080..=8080));
    assert_eq!(ports("9000-9010"), Ok(9000..=9010));
    for wrong in [
        "",
        "-",
        "0",
        "-5",
        "9010-9000",
        "1-70000",
        "1-2-3",
        "0-5",
        "http",
    ] {
        let refusal = ports(wrong).expect_err(wrong);
        assert!(refusal.contains("9000-9010"), "{wrong}: {refusal}");
    }
    assert_eq!(netns("4026531840"), Ok(Netns::Inode(4_026_531_840)));
    assert_eq!(netns("web-1"), Ok(Netns::Name("web-1".to_owned())));
    for wrong in [
        "",
        "0",
        "99999999999",
        "/run/netns/web",
        "..",
        &"x".repeat(256),
    ] {
        assert!(
            netns(wrong).is_err_and(|refusal| refusal.contains("ip netns")),
            "{wrong}"
        );
    }
}

#[test]
fn only_a_near_name_is_asked_for() {
    let names = ["warning", "critical"];
    assert_eq!(did_you_mean("waring", &names), "did you mean `warning`? ");
    assert_eq!(did_you_mean("colour", &names), "");
    assert_eq!(did_you_mean("", &[]), "");
}
