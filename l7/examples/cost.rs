//! What deciding about a request costs, in ns: `cargo run --release -p underpass-l7 --example cost`.
#![forbid(unsafe_code)]

use std::{hint::black_box, time::Instant};

use underpass_l7::{
    balance::{Balancer, Outcome, Settings},
    head::{Request, Version},
    limit::{Limits, check},
    path::normalize,
    route::Table,
};
use underpass_mesh::k8s::route::{Backend, HttpRoute, Match, Parent, PathMatch, Rule};

const LINES: [(&str, &str); 10] = [
    ("Host", "ledger.shop.svc.cluster.local:8080"),
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    ),
    ("Accept", "application/json, text/plain, */*"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("X-Request-Id", "0d9f7c52-3f0e-4a51-8a4d-2a7f7f3e9f0b"),
    (
        "Traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
    (
        "Authorization",
        "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl",
    ),
    ("Content-Type", "application/json"),
    ("Content-Length", "128"),
    ("X-Version", "2"),
];
const TARGET: &str = "/v1/p0/accounts/0d9f7c52/transactions?limit=20&dry=true";

fn table(rules: usize) -> Table {
    let rule = |i: usize| Rule {
        name: None,
        matches: vec![Match {
            path: PathMatch::Prefix(format!("/v1/p{i}").into()),
            method: Some("POST".into()),
            headers: vec![("x-version".into(), "2".into())],
            query: Vec::new(),
        }],
        backends: vec![Backend {
            service: "shop/ledger".into(),
            port: 80,
            weight: 1,
        }],
        request_timeout: None,
    };
    let route = HttpRoute {
        full_name: "shop/ledger".into(),
        created: None,
        parents: vec![Parent {
            service: "shop/ledger".into(),
            port: None,
        }],
        hostnames: Vec::new(),
        rules: (0..rules).map(rule).collect(),
    };
    Table::compile("shop/ledger", 80, [&route]).expect("paths have a normal form")
}

/// The best of several rounds, so that other work on the machine counts little.
fn time(name: &str, mut once: impl FnMut(u64)) {
    const CALLS: u64 = 100_000;
    let round = |_| {
        let start = Instant::now();
        (0..CALLS).for_each(&mut once);
        start.elapsed().as_nanos() as u64 / CALLS
    };
    let best = (0..20).map(round).min().unwrap_or_default();
    println!("{best:6} ns  {name}");
}

fn main() {
    let limits = Limits::default();
    let head = Request::http1(Version::Http11, b"POST", TARGET.as_bytes(), &LINES[..]);
    let accepted = check(&head, &limits).expect("nothing is wrong with it");
    time("normalize a path of 37 bytes", |_| {
        let _ = black_box(normalize(black_box(&TARGET.as_bytes()[..37])));
    });
    time("check a head of 10 fields", |_| {
        let _ = black_box(check(black_box(&head), &limits));
    });
    for rules in [1, 40, 1000] {
        let table = table(rules);
        time(&format!("route, rules: {rules}"), |_| {
            let _ = black_box(table.route(black_box(&head), &accepted));
        });
    }
    for endpoints in [2, 100, 10_000] {
        let mut balancer = Balancer::new(Settings::default());
        balancer.set((0..endpoints).map(|id| (id, 1)));
        time(
            &format!("pick, answer and end, {endpoints} endpoints"),
            |i| {
                let random = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let mut pending = balancer
                    .pick(i * 1000, random)
                    .expect("there are endpoints");
                balancer.answered(&mut pending, i * 1000 + 500 + random % 64);
                balancer.end(pending, i * 1000 + 600, Outcome::Done);
            },
        );
    }
}
