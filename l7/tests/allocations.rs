//! A request that is in its normal form costs no allocation: neither judging its head, nor routing, nor
//! picking its endpoint.
#![forbid(unsafe_code)]

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use underpass_l7::{
    balance::{Balancer, Outcome, Settings},
    head::{Request, Version},
    limit::{Limits, check},
    route::Table,
};
use underpass_mesh::k8s::route::{Backend, Hostname, HttpRoute, Match, Parent, PathMatch, Rule};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const LINES: [(&str, &str); 8] = [
    ("Host", "Ledger.shop.svc.cluster.local:8080"),
    ("User-Agent", "curl/8.5.0"),
    ("Accept", "*/*"),
    ("X-Request-Id", "0d9f7c52-3f0e-4a51-8a4d-2a7f7f3e9f0b"),
    (
        "Traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
    ("Content-Type", "application/json"),
    ("Content-Length", "128"),
    ("X-Version", "2"),
];

fn table() -> Table {
    let matches = |path| Match {
        path,
        method: Some("POST".into()),
        headers: vec![("x-version".into(), "2".into())],
        query: vec![("dry".into(), "a b".into())],
    };
    let paths = (0..50).map(|i| PathMatch::Prefix(format!("/v1/p{i}").into()));
    let route = HttpRoute {
        full_name: "shop/ledger".into(),
        created: None,
        parents: vec![Parent {
            service: "shop/ledger".into(),
            port: None,
        }],
        hostnames: vec![Hostname::Suffix(".svc.cluster.local".into())],
        rules: vec![Rule {
            name: None,
            matches: paths.map(matches).collect(),
            backends: vec![Backend {
                service: "shop/ledger".into(),
                port: 80,
                weight: 1,
            }],
            request_timeout: None,
        }],
    };
    Table::compile("shop/ledger", 80, [&route]).expect("paths have a normal form")
}

fn one_request(table: &Table, balancer: &mut Balancer, target: &str, now_ns: u64) {
    let head = Request::http1(Version::Http11, b"POST", target.as_bytes(), &LINES[..]);
    let accepted = check(&head, &Limits::default()).expect("nothing is wrong with it");
    let rule = table.route(&head, &accepted).expect("a rule matches");
    assert_eq!(rule.pick(7).map(|b| b.port), Ok(80));
    let mut pending = balancer
        .pick(now_ns, now_ns.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .expect("there are endpoints");
    balancer.answered(&mut pending, now_ns + 1000);
    balancer.end(pending, now_ns + 2000, Outcome::Done);
}

#[test]
fn a_request_in_normal_form_allocates_nothing() {
    let table = table();
    let mut balancer = Balancer::new(Settings::default());
    balancer.set((0..100).map(|id| (id, 1 + (id % 3) as u32)));
    let mut allocations = |target: &str| {
        // The test's own machinery may allocate beside it; the least of several runs is ours.
        let run = |balancer: &mut Balancer| {
            let region = Region::new(ALLOCATOR);
            one_request(&table, balancer, target, 5);
            region.change().allocations
        };
        (0..10).map(|_| run(&mut balancer)).min()
    };
    assert_eq!(allocations("/v1/p49/accounts/%20/x?y=1&dry=a%20b"), Some(0));
    // One for the normal form of a path that has another.
    assert_eq!(allocations("/v1/p49/accounts/../x?dry=a%20b"), Some(1));
}
