use super::*;
use crate::tcp::Evidence;
use crate::track::stuck::Age;
use crate::track::stuck::fixture::{age, evidence, owner};

fn sockets(cause: Cause) -> Kind {
    Kind::Sockets {
        cause,
        mptcp: false,
    }
}

fn group(socket: &Evidence, ages: &[(u64, Severity)]) -> Group<u64> {
    let mut group = Group::default();
    for (seconds, severity) in ages {
        group.add(*seconds, socket, age(*seconds), *severity, &[owner("web")]);
    }
    group
}

#[test]
fn json_has_the_kind_beside_the_rest_and_reads_back() {
    let told = Incident {
        whose: Whose::Unit("web.service".to_owned()),
        owners: vec![owner("web")],
        ..Incident::new(
            sockets(Cause::NotRead),
            Severity::Warning,
            State::CloseWait,
            7,
        )
    };
    let form = serde_json::to_value(&told).unwrap();
    assert_eq!(
        (&form["kind"], &form["cause"]),
        (&"sockets".into(), &"not_read".into())
    );
    assert_eq!(form["whose"]["unit"], "web.service");
    for null in [
        "netns_name",
        "oldest_seconds",
        "rate_per_second",
        "exhausted_in_seconds",
    ] {
        assert_eq!(form.get(null), Some(&serde_json::Value::Null), "{null}");
    }
    assert_eq!(serde_json::from_value::<Incident>(form).unwrap(), told);
    for kind in [
        Kind::Leak,
        Kind::Count,
        Kind::EphemeralPorts,
        Kind::TimeWaitBuckets,
    ] {
        let told = Incident::new(kind, Severity::Warning, State::CloseWait, 7);
        let form = serde_json::to_value(&told).unwrap();
        assert_eq!(form["kind"], kind.name());
        assert!(Kind::NAMES.contains(&kind.name()));
        assert_eq!(serde_json::from_value::<Incident>(form).unwrap(), told);
    }
}

#[test]
fn a_group_has_the_worst_of_its_sockets_first() {
    let (none, warning, critical) = (Severity::None, Severity::Warning, Severity::Critical);
    let socket = Evidence {
        recv_queue: 11,
        ..evidence(State::CloseWait)
    };
    let group = group(
        &socket,
        &[
            (500, none),
            (9, critical),
            (70, warning),
            (80, warning),
            (10, critical),
        ],
    );
    assert_eq!(group.examples().copied().collect::<Vec<_>>(), [10, 9, 80]);
    let mut incident = Incident::new(Kind::Leak, warning, State::CloseWait, 7);
    group.fill(&mut incident);
    assert_eq!((incident.sockets, incident.severity), (5, critical));
    assert_eq!(incident.oldest_seconds, Some(500.0));
    assert_eq!((incident.recv_queue_bytes, incident.owners.len()), (50, 1));
    assert_eq!(incident.owners[0].fd, None, "one of several");
    assert_eq!(incident.members.len(), 5);
}

#[test]
fn an_age_is_as_uncertain_as_that_of_the_oldest() {
    let seen = evidence(State::CloseWait);
    let mut group = group(&seen, &[(5, Severity::Warning)]);
    let bound = Age {
        is_lower_bound: true,
        ..age(60)
    };
    group.add(60, &seen, bound, Severity::Warning, &[]);
    let mut incident = Incident::new(Kind::Leak, Severity::Warning, State::CloseWait, 7);
    group.fill(&mut incident);
    assert_eq!(
        (incident.oldest_seconds, incident.age_is_lower_bound),
        (Some(60.0), true)
    );
}

/// What a scan of ports makes: each destination its own, until there would be very many.
#[test]
fn very_many_are_put_together_and_no_socket_is_lost() {
    let identity = |number: u16, whose| Identity {
        netns: 7,
        state: State::SynSent,
        kind: sockets(Cause::Unanswered),
        whose,
        local: Endpoint::Any,
        remote: Endpoint::Port(number),
        rule: None,
    };
    let seen = evidence(State::SynSent);
    let one = || group(&seen, &[(1, Severity::Warning)]);
    let few = fold((0..1_000).map(|number| (identity(number, Whose::Process(1)), one())));
    assert_eq!(few.len(), 1_000);
    let many = fold((0..3_000).map(|number| (identity(number, Whose::Process(1)), one())));
    let [(folded, group)] = &many.into_iter().collect::<Vec<_>>()[..] else {
        panic!("one is left")
    };
    assert_eq!(group.sockets(), 3_000);
    assert_eq!(
        (folded.remote, &folded.whose),
        (Endpoint::Any, &Whose::Process(1))
    );
    let owners =
        fold((0..3_000).map(|number| (identity(number, Whose::Process(number.into())), one())));
    assert_eq!(owners.values().map(Group::sockets).sum::<u64>(), 3_000);
    assert_eq!(owners.into_keys().next().unwrap().whose, Whose::Nobody);
}

#[test]
fn a_list_command_shows_just_these_sockets() {
    let mut names = Names::new();
    names.insert(
        7,
        NetnsName {
            name: Some("web".to_owned()),
            enter: "ip netns exec web ".to_owned(),
        },
    );
    let mut incident = Incident {
        local: Endpoint::Port(80),
        ..Incident::new(Kind::Leak, Severity::Warning, State::CloseWait, 7)
    };
    assert_eq!(
        list_command(&incident, &names),
        "ip netns exec web ss -tanp state close-wait 'sport = :80'"
    );
    incident.netns = 8;
    incident.state = State::FinWait1;
    incident.local = Endpoint::Any;
    incident.remote = Endpoint::Socket("[2001:db8::1]:443".parse().unwrap());
    assert_eq!(
        list_command(&incident, &names),
        "ss -tanp state fin-wait-1 'dst [2001:db8::1]:443'"
    );
}
