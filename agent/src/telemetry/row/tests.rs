use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use underpass_abi::sock::TcpCounts;

use super::*;

fn names() -> BTreeMap<(NameKind, u32), String> {
    BTreeMap::from([
        (
            (NameKind::Workload, 1),
            "shop/web spiffe://cluster.local/ns/shop/sa/web".to_owned(),
        ),
        (
            (NameKind::Workload, 2),
            "shop/ledger spiffe://cluster.local/ns/shop/sa/led".to_owned(),
        ),
        ((NameKind::Service, 3), "shop/ledger:8080/tcp".to_owned()),
        ((NameKind::Policy, 4), "shop/only-web".to_owned()),
    ])
}

fn node() -> Node {
    Node {
        name: "n1".into(),
        boot_to_unix_ns: 1_000_000_000,
        ..Node::default()
    }
}

fn ip(last: u8) -> Ip {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)).into()
}

fn dialed() -> SockState {
    SockState {
        cookie: 77,
        opened_ns: 2_000_000_000,
        established_ns: 2_000_500_000,
        local: ip(1),
        remote: ip(2),
        dialed: ip(9),
        local_port: 40000,
        remote_port: 8081,
        dialed_port: 8080,
        proto: 6,
        layer: 1,
        source: 1,
        destination: 2,
        service: 3,
        policy: 4,
        verdict: 1,
        tcp_state: 1,
        flags: flag::ACTIVE | flag::REWRITTEN | flag::OPENED | flag::SERVICE,
        tcp: TcpCounts {
            sent: 10,
            received: 20,
            delivered: 9,
            srtt_us: 33,
            ..TcpCounts::default()
        },
        ..SockState::default()
    }
}

fn labels(s: &SockState) -> Labels {
    Labels::of(&Kind::of(s, &node()), &names(), &mut Interner::default())
}

fn row(s: &SockState, seen: Seen) -> api::Connection {
    to_api(s, seen, &labels(s), 0, &node(), 3_000_000_000)
}

#[test]
fn an_open_connection_is_shown_from_its_source() {
    let row = row(&dialed(), Seen::Open);
    assert_eq!(row.id, "n1/77");
    let source = row.source.unwrap();
    assert_eq!(
        (source.workload.as_str(), source.address.as_str()),
        ("shop/web", "10.0.0.1:40000")
    );
    assert_eq!(source.identity, "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(row.service, "shop/ledger:8080");
    assert_eq!(
        (row.original_destination.as_str(), row.endpoint.as_str()),
        ("10.0.0.9:8080", "10.0.0.2:8081")
    );
    assert_eq!(
        (row.state.as_str(), row.authn.as_str()),
        ("established", "cgroup")
    );
    assert_eq!(row.policy, "AuthorizationPolicy shop/only-web");
    assert_eq!(
        (row.opened_at_ms, row.connect_us, row.duration_ms),
        (3_000, Some(500), 1_000)
    );
    assert_eq!(
        (row.bytes_sent, row.bytes_received, row.bytes_delivered),
        (10, 20, 9)
    );
    assert_eq!((row.srtt_us, row.close_reason.as_str()), (Some(33), ""));
}

#[test]
fn a_connection_from_elsewhere_is_shown_by_its_destination() {
    let s = SockState {
        source: 0,
        flags: flag::OPENED | flag::SOURCE_OUTSIDE,
        local: ip(2),
        remote: ip(200),
        ..dialed()
    };
    let row = row(&s, Seen::Open);
    assert_eq!(row.reporter, "destination");
    assert_eq!(row.source.unwrap().workload, "outside");
    assert_eq!(
        (row.bytes_sent, row.bytes_received),
        (20, 10),
        "directions are the source's"
    );
    assert_eq!((row.authn.as_str(), row.connect_us), ("none", None));
}

#[test]
fn a_refused_connect_names_its_reason() {
    let s = SockState {
        verdict: Verdict::Denied as u8,
        reason: code::POLICY_DENIED,
        established_ns: 0,
        closed_ns: 2_000_000_000,
        flags: flag::ACTIVE | flag::SERVICE,
        local: Ip::ANY,
        local_port: 0,
        remote: Ip::ANY,
        remote_port: 0,
        ..dialed()
    };
    let row = row(&s, Seen::Refused(3));
    assert_eq!((row.id.as_str(), row.state.as_str()), ("n1/r3", "refused"));
    assert_eq!(
        (row.endpoint.as_str(), row.original_destination.as_str()),
        ("", "10.0.0.9:8080")
    );
    assert_eq!(
        (row.verdict.as_str(), row.reason.as_str()),
        ("denied", "POLICY_DENIED")
    );
    assert_eq!(
        (row.srtt_us, row.connect_us, row.duration_ms),
        (None, None, 0)
    );
}

#[test]
fn the_agents_own_reset_names_the_policy() {
    let s = SockState {
        closed_ns: 2_600_000_000,
        reason: code::RESET_LOCALLY,
        flags: dialed().flags | flag::RELEASED | flag::CLOSED,
        ..dialed()
    };
    let labels = labels(&s).because_of("AuthorizationPolicy shop/new".into());
    let row = to_api(&s, Seen::Ended, &labels, code::POLICY_CHANGED, &node(), 0);
    assert_eq!(row.close_reason, "POLICY_CHANGED");
    assert_eq!(row.policy, "AuthorizationPolicy shop/new");
    assert_eq!((row.state.as_str(), row.duration_ms), ("closed", 600));
}
