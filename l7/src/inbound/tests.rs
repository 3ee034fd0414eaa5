use std::time::Duration;

use proptest::prelude::*;
use underpass_mesh::snapshot::{Protocol, Rate};

use super::*;
use crate::{
    head::Version,
    limit::{Limits, check},
};

fn allow(identities: &[&str], namespaces: &[&str], methods: &[&str], paths: &[&str]) -> Allow {
    let all = |texts: &[&str]| texts.iter().map(|t| Str::from(*t)).collect();
    let named = !identities.is_empty() || !namespaces.is_empty();
    let sources = Sources {
        identities: all(identities),
        namespaces: all(namespaces),
        ..Sources::default()
    };
    Allow {
        policy: "shop/p".into(),
        sources: named.then_some(sources),
        methods: all(methods),
        paths: all(paths),
    }
}

fn inbound(rate: Option<Rate>, allow: Option<Vec<Allow>>) -> Inbound {
    Inbound {
        port: 80,
        protocol: Protocol::Http1,
        service: None,
        rate,
        allow,
    }
}

fn guard(rules: Vec<Allow>) -> Guard {
    Guard::new(&inbound(None, Some(rules)), 1, None)
}

const WEB: Peer<'_> = Peer::Workload {
    identity: "spiffe://m/ns/shop/sa/web",
    namespace: "shop",
};

/// What becomes of `GET /a`.
fn judge(guard: &mut Guard, request: &str, peer: Peer<'_>, now_ns: u64) -> Result<(), Denied> {
    let (method, target) = request.split_once(' ').expect("two words");
    let fields = [("host", "a")];
    let head = Request::http1(
        Version::Http11,
        method.as_bytes(),
        target.as_bytes(),
        &fields[..],
    );
    let accepted = check(&head, &Limits::default()).expect("a good request");
    guard.judge(&head, &accepted, peer, now_ns)
}

fn holds(guard: &mut Guard, request: &str, peer: Peer<'_>) -> Result<(), Refusal> {
    judge(guard, request, peer, 0).map_err(|denied| denied.why)
}

#[test]
fn method_and_path_of_one_rule_must_hold() {
    let mut guard = guard(vec![
        allow(&[], &[], &["GET", "HEAD"], &["/", "/public/*"]),
        allow(&[], &[], &["POST"], &["/orders"]),
    ]);
    for (request, allowed) in [
        ("GET /", true),
        ("HEAD /", true),
        ("GET /?admin", true),
        ("POST /", false),
        ("get /", false),
        ("GET /a", false),
        ("GET /public/", true),
        ("GET /public", false),
        ("GET /public/a/b?c", true),
        ("POST /public/a", false),
        ("POST /orders", true),
        ("POST /orders/", false),
        ("GET /orders", false),
        // As the application will read it.
        ("GET /public/../orders", false),
        ("GET /public/%2e%2e/admin", false),
        ("POST //orders", true),
        ("POST /x/../orders", true),
        ("POST /%6frders", true),
        ("OPTIONS *", false),
        ("CONNECT a:80", false),
    ] {
        let expected = if allowed {
            Ok(())
        } else {
            Err(Refusal::NotAllowed)
        };
        assert_eq!(
            holds(&mut guard, request, Peer::Unknown),
            expected,
            "{request}"
        );
    }
}

#[test]
fn empty_lists_hold_for_all_and_no_rule_for_none() {
    let mut any = guard(vec![allow(&[], &[], &[], &[])]);
    let mut none = guard(Vec::new());
    let mut open = Guard::new(&inbound(None, None), 1, None);
    let mut star = guard(vec![allow(&[], &[], &[], &["*"])]);
    for request in ["GET /a", "OPTIONS *", "BREW /", "CONNECT a:80"] {
        assert_eq!(holds(&mut any, request, Peer::Outside), Ok(()));
        assert_eq!(holds(&mut open, request, Peer::Outside), Ok(()));
        let why = Err(Refusal::NotAllowed);
        assert_eq!(holds(&mut none, request, WEB), why);
        let has_path = request.contains('/');
        assert_eq!(
            holds(&mut star, request, WEB).is_ok(),
            has_path,
            "{request}"
        );
    }
    assert!(open.is_open() && !any.is_open() && !none.is_open());
}

#[test]
fn who_asks_must_be_known_where_a_rule_names_it() {
    let web = "spiffe://m/ns/shop/sa/web";
    for (identities, namespaces, web_may) in [
        (&[web][..], &[][..], true),
        (&[], &["shop"], true),
        (&["spiffe://m/ns/x/sa/y"], &["shop"], true),
        (&["spiffe://m/ns/shop/sa/we"], &["sho", "shopping"], false),
    ] {
        let mut guard = guard(vec![allow(identities, namespaces, &["GET"], &[])]);
        let expected = if web_may {
            Ok(())
        } else {
            Err(Refusal::NotAllowed)
        };
        assert_eq!(holds(&mut guard, "GET /", WEB), expected, "{identities:?}");
        assert_eq!(
            holds(&mut guard, "GET /", Peer::Outside),
            Err(Refusal::NotAllowed)
        );
        // It cannot be evaluated; where it would not hold anyway that does not matter.
        assert_eq!(
            holds(&mut guard, "GET /", Peer::Unknown),
            Err(Refusal::PeerUnknown)
        );
        assert_eq!(
            holds(&mut guard, "PUT /", Peer::Unknown),
            Err(Refusal::NotAllowed)
        );
    }
}

#[test]
fn a_pattern_allows_no_more_than_is_written() {
    for (pattern, request, allowed) in [
        // Normalized, this prefix would be `/`.
        ("/a/..*", "GET /secret", false),
        ("/a/%2e%2e/*", "GET /secret", false),
        ("/%7euser", "GET /~user", true),
        ("/a%2fb", "GET /a/b", false),
        ("relative", "GET /relative", false),
        ("", "GET /", false),
        ("/a*b", "GET /a-b", false),
    ] {
        let mut guard = guard(vec![allow(&[], &[], &[], &[pattern])]);
        assert_eq!(
            holds(&mut guard, request, WEB).is_ok(),
            allowed,
            "{pattern}"
        );
    }
}

fn rate(requests: u32, burst: u32) -> Rate {
    Rate {
        requests,
        per: Duration::from_secs(1),
        burst,
    }
}

#[test]
fn what_is_not_allowed_takes_no_token_and_who_is_late_is_told_when() {
    let rules = vec![allow(&[], &[], &["GET"], &[])];
    let mut guard = Guard::new(&inbound(Some(rate(1, 2)), Some(rules)), 1, None);
    for _ in 0..10 {
        let denied = judge(&mut guard, "PUT /", WEB, 0).unwrap_err();
        assert_eq!(
            (denied.why, denied.retry_after),
            (Refusal::NotAllowed, None)
        );
    }
    assert!(judge(&mut guard, "GET /", WEB, 0).is_ok());
    assert!(judge(&mut guard, "GET /", WEB, 0).is_ok());
    let denied = judge(&mut guard, "GET /", WEB, 1).unwrap_err();
    assert_eq!(
        (denied.why, denied.retry_after),
        (Refusal::RateLimited, Some(1))
    );
    let slow = Rate {
        per: Duration::from_secs(60),
        ..rate(1, 1)
    };
    let mut slow = Guard::new(&inbound(Some(slow), None), 1, None);
    assert!(judge(&mut slow, "GET /", WEB, 0).is_ok());
    let denied = judge(&mut slow, "GET /", WEB, 1).unwrap_err();
    assert_eq!(denied.retry_after, Some(60));
}

#[test]
fn a_new_snapshot_gives_no_new_burst() {
    let at = inbound(Some(rate(1, 1)), None);
    let mut first = Guard::new(&at, 1, None);
    assert!(judge(&mut first, "GET /", WEB, 0).is_ok());
    let mut same = Guard::new(&at, 1, Some(&first));
    assert!(judge(&mut same, "GET /", WEB, 1).is_err());
    let mut other = Guard::new(&inbound(Some(rate(2, 1)), None), 1, Some(&first));
    assert!(judge(&mut other, "GET /", WEB, 1).is_ok());
    let mut off = Guard::new(&inbound(None, None), 1, Some(&first));
    assert!(judge(&mut off, "GET /", WEB, 1).is_ok());
}

/// A path of a few segments, written in one of many ways.
fn written() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        Just("a"),
        Just("b"),
        Just("%61"),
        Just("."),
        Just("%2e"),
        Just(".."),
        Just("%2E%2e"),
        Just(""),
        Just("admin"),
        Just("%61dmin"),
    ];
    proptest::collection::vec(segment, 1..7).prop_map(|s| format!("/{}", s.join("/")))
}

proptest! {
    /// The rule is asked about what is forwarded, however it was written.
    #[test]
    fn one_path_has_one_verdict(path in written(), pattern in written(), prefix in any::<bool>()) {
        let Ok(normal) = path::normalize(path.as_bytes()) else { return Ok(()); };
        let pattern = if prefix { format!("{pattern}*") } else { pattern };
        let mut guard = guard(vec![allow(&[], &[], &[], &[&pattern])]);
        let as_written = holds(&mut guard, &format!("GET {path}"), WEB);
        prop_assert_eq!(as_written, holds(&mut guard, &format!("GET {normal}"), WEB));
        if as_written.is_ok() {
            let (text, more) = match pattern.strip_suffix('*') {
                Some(text) => (text, true),
                None => (&*pattern, false),
            };
            let same = path::normalize(text.as_bytes()).is_ok_and(|n| n == normal);
            prop_assert!(same || more && normal.starts_with(text));
        }
    }

    /// More rules allow more, never less.
    #[test]
    fn a_rule_more_takes_nothing_away(
        path in written(),
        first in written(),
        second in written(),
        method in prop_oneof![Just("GET"), Just("PUT")],
    ) {
        prop_assume!(path::normalize(path.as_bytes()).is_ok());
        let rules = [
            allow(&[], &[], &["GET"], &[&format!("{first}*")]),
            allow(&[], &["shop"], &["PUT"], &[&format!("{second}*")]),
        ];
        let request = format!("{method} {path}");
        let verdict = |rules: &[Allow]| holds(&mut guard(rules.to_vec()), &request, WEB).is_ok();
        let either = verdict(&rules[..1]) || verdict(&rules[1..]);
        prop_assert_eq!(verdict(&rules), either);
        prop_assert!(!verdict(&[]));
    }
}

#[test]
fn the_node_and_what_is_off_it_are_sources_of_their_own() {
    let sources = |host, outside| Sources {
        host,
        outside,
        ..Sources::default()
    };
    for (sources, allowed) in [
        (sources(true, false), Peer::Host),
        (sources(false, true), Peer::Outside),
    ] {
        let mut rule = allow(&[], &[], &[], &[]);
        rule.sources = Some(sources);
        let mut guard = guard(vec![rule]);
        for peer in [Peer::Host, Peer::Outside, Peer::Unknown, WEB] {
            let ok = holds(&mut guard, "GET /", peer).is_ok();
            assert_eq!(ok, peer == allowed, "{peer:?}");
        }
    }
}
