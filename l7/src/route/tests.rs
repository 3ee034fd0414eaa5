use std::cmp::Reverse;

use proptest::prelude::*;

use super::*;
use crate::{
    head::Version,
    limit::{Limits, check},
};
use underpass_mesh::k8s::route::{Parent, Rule as Given};

fn any_path() -> Match {
    prefix("/")
}

fn prefix(path: &str) -> Match {
    Match {
        path: PathMatch::Prefix(path.into()),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

fn exact(path: &str) -> Match {
    Match {
        path: PathMatch::Exact(path.into()),
        ..any_path()
    }
}

fn given(matches: Vec<Match>, weights: &[u32]) -> Given {
    let backends = weights.iter().enumerate().map(|(i, weight)| Backend {
        service: format!("shop/b{i}").into(),
        port: 80,
        weight: *weight,
    });
    Given {
        name: None,
        matches,
        backends: backends.collect(),
        request_timeout: None,
    }
}

fn route(name: &str, matches: Vec<Match>) -> HttpRoute {
    HttpRoute {
        full_name: format!("shop/{name}").into(),
        created: None,
        parents: vec![Parent {
            service: "shop/ledger".into(),
            port: None,
        }],
        hostnames: Vec::new(),
        // Each match a rule, so that the index of the rule tells the match.
        rules: matches.into_iter().map(|m| given(vec![m], &[1])).collect(),
    }
}

fn table(routes: &[HttpRoute]) -> Table {
    Table::compile("shop/ledger", 80, routes).unwrap()
}

/// The route's name and the rule's index for a GET.
fn found(table: &Table, host: &str, target: &str) -> Option<(String, usize)> {
    let lines = [("Host", host)];
    let head = Request::http1(Version::Http11, b"GET", target.as_bytes(), &lines[..]);
    let accepted = check(&head, &Limits::default()).unwrap();
    let rule = table.route(&head, &accepted);
    rule.ok().map(|r| (r.route.replace("shop/", ""), r.index))
}

fn at(route: &str, index: usize) -> Option<(String, usize)> {
    Some((route.to_owned(), index))
}

#[test]
fn paths_match_whole_and_by_segments() {
    let matches = [
        prefix("/a"),
        exact("/a"),
        prefix("/a/b/"),
        exact("/a/b"),
        exact("/%7eu"),
    ];
    let table = table(&[route("r", matches.into())]);
    for (path, index) in [
        ("/a", Some(1)),
        ("/a/", Some(0)),
        ("/a/c", Some(0)),
        ("/a/b", Some(3)),
        ("/a/b/", Some(2)),
        ("/a/b/c/d", Some(2)),
        ("/a/bc", Some(0)),
        ("/ab", None),
        ("/A", None),
        ("/", None),
        // The route's path has the same normal form as the request's.
        ("/~u", Some(4)),
        ("/%7Eu", Some(4)),
        ("/x/../a//b/./c", Some(2)),
    ] {
        assert_eq!(
            found(&table, "h", path),
            index.and_then(|i| at("r", i)),
            "{path}"
        );
    }
}

#[test]
fn the_root_matches_what_has_no_path() {
    let table = table(&[route("r", vec![prefix("/a"), any_path()])]);
    for (method, target) in [("OPTIONS", "*"), ("CONNECT", "h:80")] {
        let lines = [("Host", "h:80")];
        let head = Request::http1(
            Version::Http11,
            method.as_bytes(),
            target.as_bytes(),
            &lines[..],
        );
        let accepted = check(&head, &Limits::default()).unwrap();
        assert_eq!(table.route(&head, &accepted).unwrap().index, 1, "{method}");
    }
}

#[test]
fn hosts_go_before_paths() {
    let named = |name, hosts: &[&str], matches| HttpRoute {
        hostnames: hosts
            .iter()
            .map(|h| match h.strip_prefix('*') {
                Some(suffix) => Hostname::Suffix(suffix.into()),
                None => Hostname::Exact((*h).into()),
            })
            .collect(),
        ..route(name, matches)
    };
    let table = table(&[
        named("any", &[], vec![exact("/x"), any_path()]),
        named("wild", &["*.example.com", "*.com"], vec![any_path()]),
        named("long", &["*.b.example.com"], vec![any_path()]),
        named("full", &["a.example.com"], vec![prefix("/full")]),
    ]);
    for (host, path, expected) in [
        ("a.example.com", "/full", at("full", 0)),
        ("A.Example.COM:80", "/full", at("full", 0)),
        ("a.example.com.", "/full", at("full", 0)),
        // No rule of the first host matches.
        ("a.example.com", "/x", at("wild", 0)),
        ("z.b.example.com", "/full", at("long", 0)),
        ("b.example.com", "/", at("wild", 0)),
        ("y.z.b.Example.com", "/", at("long", 0)),
        ("example.com", "/", at("wild", 0)),
        ("com", "/x", at("any", 0)),
        ("example.org", "/", at("any", 1)),
    ] {
        assert_eq!(found(&table, host, path), expected, "{host} {path}");
    }
}

#[test]
fn older_routes_go_first_then_names_then_rules() {
    let made = |name, created: Option<&str>| HttpRoute {
        created: created.map(Into::into),
        ..route(name, vec![any_path(), any_path()])
    };
    let (old, new) = (Some("2026-01-01T00:00:00Z"), Some("2026-02-01T00:00:00Z"));
    for (routes, expected) in [
        ([made("a", new), made("b", old)], "b"),
        ([made("b", old), made("a", old)], "a"),
        ([made("a", None), made("b", new)], "b"),
        ([made("b", None), made("a", None)], "a"),
    ] {
        assert_eq!(found(&table(&routes), "h", "/"), at(expected, 0));
    }
}

#[test]
fn only_attached_routes_count() {
    let mut elsewhere = route("a", vec![any_path()]);
    elsewhere.parents[0].service = "shop/web".into();
    let mut port = route("b", vec![any_path()]);
    port.parents[0].port = Some(81);
    let table = Table::compile("shop/ledger", 80, [&elsewhere, &port]).unwrap();
    assert_eq!(found(&table, "h", "/"), None);
    let table = Table::compile("shop/ledger", 81, [&elsewhere, &port]).unwrap();
    assert_eq!(found(&table, "h", "/"), at("b", 0));
}

#[test]
fn a_path_that_no_request_can_have_is_an_error() {
    let bad = route("r", vec![any_path(), exact("/a%00")]);
    let error = Table::compile("shop/ledger", 80, [&bad]).unwrap_err();
    assert_eq!((&*error.route, error.why), ("shop/r", Refusal::PathControl));
}

#[test]
fn backends_get_their_shares_exactly() {
    let pick = |weights: &[u32]| {
        let mut one = route("r", vec![]);
        one.rules.push(given(vec![any_path()], weights));
        let table = table(&[one]);
        let mut counts = vec![0; weights.len()];
        // The middles of 1000 equal parts of u32's range, and its ends.
        let middles = (0..1000u64).map(|i| ((2 * i + 1) << 32) / 2000);
        for random in middles.map(|r| r as u32).chain([0, u32::MAX]) {
            match table.rules[0].pick(random) {
                Ok(b) => counts[b.service["shop/b".len()..].parse::<usize>().unwrap()] += 1,
                Err(why) => assert_eq!((why, why.status()), (Refusal::NoBackend, 500)),
            }
        }
        counts
    };
    assert_eq!(pick(&[90, 10]), [901, 101]);
    assert_eq!(pick(&[0, 1, 0, 1, 0]), [0, 501, 0, 501, 0]);
    assert_eq!(pick(&[5, 0]), [1002, 0]);
    assert_eq!(pick(&[1_000_000; 16]).iter().sum::<u32>(), 1002);
    assert_eq!(pick(&[0, 0]), [0, 0]);
    assert!(pick(&[]).is_empty());
}

const PATHS: [&str; 8] = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/b", "/a/b/"];
const HOSTS: [&str; 6] = ["a.b.c", "b.c", "x.b.c", "c", "y.x.b.c", "d"];
const NAMES: [&str; 3] = ["x", "y", "z"];
const VALUES: [&str; 2] = ["1", "2"];

fn pairs() -> impl Strategy<Value = Vec<(Str, Str)>> {
    let pair = (
        prop::sample::select(&NAMES[..]),
        prop::sample::select(&VALUES[..]),
    );
    prop::collection::btree_map(pair.0, pair.1, 0..3)
        .prop_map(|m| m.into_iter().map(|(n, v)| (n.into(), v.into())).collect())
}

prop_compose! {
    fn a_match()(
        exact in any::<bool>(), path in prop::sample::select(&PATHS[..]),
        method in prop::option::weighted(0.3, prop::sample::select(&["GET", "PUT"][..])),
        headers in pairs(), query in pairs(),
    ) -> Match {
        let path = path.into();
        let path = if exact { PathMatch::Exact(path) } else { PathMatch::Prefix(path) };
        Match { path, method: method.map(Into::into), headers, query }
    }
}

prop_compose! {
    fn a_route()(
        name in "[a-d]", created in prop::option::of("2026-01-0[1-3]T00:00:00Z"),
        hosts in prop::collection::vec((any::<bool>(), prop::sample::select(&HOSTS[..])), 0..3),
        rules in prop::collection::vec(prop::collection::vec(a_match(), 1..4), 1..4),
        port in prop::option::weighted(0.3, 79..=80u16),
    ) -> HttpRoute {
        let host = |(suffix, name): (bool, &str)| match suffix {
            true => Hostname::Suffix(format!(".{name}").into()),
            false => Hostname::Exact(name.into()),
        };
        HttpRoute {
            full_name: format!("shop/{name}").into(),
            created: created.map(Into::into),
            parents: vec![Parent { service: "shop/ledger".into(), port }],
            hostnames: hosts.into_iter().map(host).collect(),
            rules: rules.into_iter().map(|matches| given(matches, &[1])).collect(),
        }
    }
}

/// The specification's text, clause by clause, over all matches of all routes.
fn naive(routes: &[HttpRoute], ask: &Ask) -> Option<(Str, usize)> {
    let segments = |path: &str| {
        path.trim_end_matches('/')
            .split('/')
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut best = None;
    for r in routes.iter().filter(|r| r.parents[0].port != Some(79)) {
        let hosts: Vec<_> = r
            .hostnames
            .iter()
            .filter_map(|h| match h {
                Hostname::Exact(h) => (h == ask.host).then_some((h.len(), h.len())),
                Hostname::Suffix(h) => ask.host.ends_with(&**h).then_some((0, h.len())),
            })
            .collect();
        if hosts.is_empty() && !r.hostnames.is_empty() {
            continue;
        }
        for (i, m) in r
            .rules
            .iter()
            .enumerate()
            .flat_map(|(i, rule)| rule.matches.iter().map(move |m| (i, m)))
        {
            let (path, is_exact, len) = match &m.path {
                PathMatch::Exact(p) => (*p == ask.path, true, 0),
                PathMatch::Prefix(p) => (
                    segments(ask.path).starts_with(&segments(p)),
                    false,
                    p.trim_end_matches('/').len(),
                ),
            };
            let has = |have: &[(&str, &str)], wanted: &[(Str, Str)]| {
                wanted
                    .iter()
                    .all(|(n, v)| have.iter().any(|(a, b)| a == n && b == v))
            };
            let method = m.method.as_ref().is_none_or(|m| m == ask.method);
            if !(path && method && has(&ask.headers, &m.headers) && has(&ask.query, &m.query)) {
                continue;
            }
            let rank = (
                Reverse(hosts.iter().max().copied().unwrap_or((0, 0))),
                !is_exact,
                Reverse(len),
                m.method.is_none(),
                Reverse(m.headers.len()),
                Reverse(m.query.len()),
                r.created.is_none(),
                r.created.clone(),
                r.full_name.clone(),
                i,
            );
            if best.as_ref().is_none_or(|(known, _)| rank < *known) {
                best = Some((rank, (r.full_name.clone(), i)));
            }
        }
    }
    best.map(|(_, found)| found)
}

#[derive(Debug)]
struct Ask {
    method: &'static str,
    host: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
}

prop_compose! {
    fn ask()(
        method in prop::sample::select(&["GET", "PUT", "POST"][..]), host in prop::sample::select(&HOSTS[..]),
        path in prop::sample::select(&PATHS[..]),
        headers in prop::collection::btree_map(prop::sample::select(&NAMES[..]), prop::sample::select(&VALUES[..]), 0..4),
        query in prop::collection::btree_map(prop::sample::select(&NAMES[..]), prop::sample::select(&VALUES[..]), 0..4),
    ) -> Ask {
        Ask { method, host, path, headers: headers.into_iter().collect(), query: query.into_iter().collect() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn the_index_finds_what_the_text_says(
        routes in prop::collection::btree_map("[a-d]", a_route(), 1..5),
        asks in prop::collection::vec(ask(), 1..12),
    ) {
        // Names are unique.
        let routes: Vec<HttpRoute> = routes.into_iter()
            .map(|(name, r)| HttpRoute { full_name: format!("shop/{name}").into(), ..r }).collect();
        let table = table(&routes);
        for ask in &asks {
            let query: Vec<String> = ask.query.iter().map(|(n, v)| format!("{n}={v}")).collect();
            let target = format!("{}?{}", ask.path, query.join("&"));
            let lines = [&[("Host", ask.host)], &ask.headers[..]].concat();
            let head = Request::http1(Version::Http11, ask.method.as_bytes(), target.as_bytes(), &lines[..]);
            let accepted = check(&head, &Limits::default()).unwrap();
            let found = table.route(&head, &accepted).ok().map(|r| (r.route.clone(), r.index));
            prop_assert_eq!(found, naive(&routes, ask), "{:?}", ask);
        }
    }
}
