use super::*;

fn read(spec: &str) -> Result<HttpRoute, String> {
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{ name: r, namespace: shop, generation: 1 }}\nspec:\n  {spec}\n"
    );
    let read: Result<Manifest, _> = serde_yaml_ng::from_str(&text);
    read.map(|m| m.0).map_err(|e| e.to_string())
}

const PARENT: &str = "parentRefs: [{ kind: Service, group: '', name: ledger, port: 80 }]";

fn rules(rules: &str) -> Result<HttpRoute, String> {
    read(&format!("{PARENT}\n  rules:\n  - {rules}"))
}

#[test]
fn a_route_is_read_in_its_exact_shape() {
    let route = read(
        "parentRefs: [{ kind: Service, name: ledger }, { kind: Service, name: web, port: 80 }]
  hostnames: [ledger.shop, '*.example.com']
  rules:
  - name: split
    matches:
    - path: { type: Exact, value: /a }
      method: GET
      headers: [{ name: X-Version, value: '2' }, { name: x-version, value: '3' }]
      queryParams: [{ type: Exact, name: Q, value: a b }]
    - headers: [{ type: Exact, name: canary, value: 'yes' }]
    backendRefs:
    - { name: ledger, port: 8080, weight: 90 }
    - { group: '', kind: Service, namespace: shop, name: ledger-v2, port: 8080, weight: 0 }
    timeouts: { request: 1m500ms }
  - backendRefs: [{ name: ledger, port: 8080 }]
    timeouts: { request: 0s }",
    )
    .unwrap();
    assert_eq!(route.full_name, "shop/r");
    let ports: Vec<_> = route
        .parents
        .iter()
        .map(|p| (&*p.service, p.port))
        .collect();
    assert_eq!(ports, [("shop/ledger", None), ("shop/web", Some(80))]);
    let hosts = [
        Hostname::Exact("ledger.shop".into()),
        Hostname::Suffix(".example.com".into()),
    ];
    assert_eq!(route.hostnames, hosts);
    let [split, rest] = &route.rules[..] else {
        panic!("{route:?}")
    };
    assert_eq!(split.name.as_deref(), Some("split"));
    let exact = Match {
        path: PathMatch::Exact("/a".into()),
        method: Some("GET".into()),
        headers: vec![("x-version".into(), "2".into())],
        query: vec![("Q".into(), "a b".into())],
    };
    let canary = Match {
        path: PathMatch::Prefix("/".into()),
        method: None,
        headers: vec![("canary".into(), "yes".into())],
        query: vec![],
    };
    assert_eq!(split.matches, [exact, canary]);
    let weights: Vec<_> = split
        .backends
        .iter()
        .map(|b| (&*b.service, b.weight))
        .collect();
    assert_eq!(weights, [("shop/ledger", 90), ("shop/ledger-v2", 0)]);
    assert_eq!(split.request_timeout, Some(Duration::from_millis(60_500)));
    assert_eq!((rest.backends[0].port, rest.backends[0].weight), (8080, 1));
    assert_eq!(rest.matches[0].path, PathMatch::Prefix("/".into()));
    assert_eq!(rest.request_timeout, None);
}

#[test]
fn without_rules_there_is_one_that_matches_and_has_no_backend() {
    let route = read(PARENT).unwrap();
    assert_eq!((route.rules.len(), route.rules[0].matches.len()), (1, 1));
    assert!(route.rules[0].backends.is_empty());
}

#[test]
fn what_is_not_built_is_refused_with_its_path() {
    for (spec, path) in [
        (
            "filters: [{ type: RequestMirror }]",
            "spec.rules[0].filters",
        ),
        ("retry: { attempts: 2 }", "spec.rules[0].retry"),
        ("sessionPersistence: {}", "spec.rules[0].sessionPersistence"),
        (
            "timeouts: { backendRequest: 1s }",
            "spec.rules[0].timeouts.backendRequest",
        ),
        (
            "backendRefs: [{ name: a, port: 1, filters: [] }]",
            "spec.rules[0].backendRefs[0].filters",
        ),
        (
            "backendRefs: [{ kind: Other, name: a, port: 1 }]",
            "spec.rules[0].backendRefs[0].kind",
        ),
        (
            "backendRefs: [{ group: x.io, name: a, port: 1 }]",
            "spec.rules[0].backendRefs[0].group",
        ),
        (
            "backendRefs: [{ namespace: b, name: a, port: 1 }]",
            "spec.rules[0].backendRefs[0].namespace",
        ),
        (
            "matches: [{ path: { type: RegularExpression } }]",
            "spec.rules[0].matches[0].path.type",
        ),
        (
            "matches: [{ headers: [{ type: RegularExpression, name: a, value: b }] }]",
            "spec.rules[0].matches[0].headers[0].type",
        ),
        (
            "matches: [{ queryParams: [{ type: RegularExpression, name: a, value: b }] }]",
            "spec.rules[0].matches[0].queryParams[0].type",
        ),
    ] {
        let error = rules(spec).unwrap_err();
        assert!(
            error.starts_with(&format!("{path}: {NOT_IMPLEMENTED}")),
            "{error}"
        );
    }
    for (spec, path) in [
        (
            "parentRefs: [{ kind: Service, namespace: b, name: a }]",
            "spec.parentRefs[0].namespace",
        ),
        (
            "parentRefs: [{ kind: Service, name: a, sectionName: b }]",
            "spec.parentRefs[0].sectionName",
        ),
        (
            "{ parentRefs: [], useDefaultGateways: All }",
            "spec.useDefaultGateways",
        ),
    ] {
        let error = read(spec).unwrap_err();
        assert!(
            error.starts_with(&format!("{path}: {NOT_IMPLEMENTED}")),
            "{error}"
        );
    }
}

#[test]
fn wrong_values_are_refused_with_their_path() {
    let path = |value: &str| format!("matches: [{{ path: {{ value: '{value}' }} }}]");
    let long = format!("/{}", "a".repeat(1024));
    for value in [
        "a", "", "/a//b", "/a/../b", "/a/..", "/.", "/a%2Fb", "/a%2fb", "/a#b", "/a?b", "/a b",
        "/a%2", "/a%zz", "/é", &long,
    ] {
        let error = rules(&path(value)).unwrap_err();
        assert!(
            error.starts_with("spec.rules[0].matches[0]: path.value: `"),
            "{error}"
        );
    }
    assert!(rules(&path("/a%20b/c.d;e=1/...")).is_ok());
    for (spec, field) in [
        (
            "matches: [{ method: get }]",
            "spec.rules[0].matches[0].method",
        ),
        (
            "matches: [{ headers: [{ name: 'a:b', value: c }] }]",
            "spec.rules[0].matches[0].headers[0].name",
        ),
        (
            "backendRefs: [{ name: a, port: 1, weight: 1000001 }]",
            "spec.rules[0].backendRefs[0].weight",
        ),
        (
            "backendRefs: [{ name: a, port: 0 }]",
            "spec.rules[0].backendRefs[0].port",
        ),
        (
            "backendRefs: [{ name: a }]",
            "spec.rules[0].backendRefs[0]: missing field `port`",
        ),
        (
            "timeouts: { request: 5 s }",
            "spec.rules[0].timeouts.request",
        ),
        (
            "timeouts: { request: 1h2m3s4ms5s }",
            "spec.rules[0].timeouts.request",
        ),
        (
            "timeouts: { request: 100000s }",
            "spec.rules[0].timeouts.request",
        ),
        (
            "timeouts: { request: '' }",
            "spec.rules[0].timeouts.request",
        ),
        (
            "timeouts: { request: 1.5s }",
            "spec.rules[0].timeouts.request",
        ),
        ("mathces: []", "spec.rules[0]: unknown field `mathces`"),
    ] {
        let error = rules(spec).unwrap_err();
        assert!(error.starts_with(field), "{field}: {error}");
    }
    for host in ["10.0.0.1", "'*'", "a.*.b", "A.b", "'*.'", "a:80"] {
        let error = read(&format!("{PARENT}\n  hostnames: [{host}]")).unwrap_err();
        assert!(error.starts_with("spec.hostnames"), "{error}");
    }
}

#[test]
fn lists_are_bounded() {
    let many = |n: usize, entry: &str| vec![entry; n].join(", ");
    for (field, entry, max) in [
        ("matches", "{ method: GET }", 64),
        ("backendRefs", "{ name: a, port: 1 }", 16),
    ] {
        assert!(rules(&format!("{field}: [{}]", many(max, entry))).is_ok());
        let error = rules(&format!("{field}: [{}]", many(max + 1, entry))).unwrap_err();
        assert!(
            error.starts_with(&format!("spec.rules[0].{field}: more than {max}")),
            "{error}"
        );
    }
    let rule = format!("{{ matches: [{}] }}", many(43, "{ method: GET }"));
    let error = read(&format!("{PARENT}\n  rules: [{}]", many(3, &rule))).unwrap_err();
    assert!(error.starts_with("spec.rules: more than 128"), "{error}");
    assert!(read(&format!("{PARENT}\n  hostnames: [{}]", many(16, "a.b"))).is_ok());
    assert!(read(&format!("{PARENT}\n  hostnames: [{}]", many(17, "a.b"))).is_err());
}

#[test]
fn times_of_creation_sort_as_texts() {
    let created = |time: &str| {
        let text =
            format!("metadata: {{ name: r, creationTimestamp: {time} }}\nspec: {{ {PARENT} }}");
        serde_yaml_ng::from_str::<Manifest>(&text).map(|r| r.0.created)
    };
    assert_eq!(created("null").unwrap(), None);
    let first = created("'2026-09-30T23:59:59Z'").unwrap();
    assert!(first < created("'2026-10-01T00:00:00Z'").unwrap());
    for bad in [
        "'2026-09-30T23:59:59+01:00'",
        "'2026-09-30 23:59:59Z'",
        "yesterday",
    ] {
        let error = created(bad).unwrap_err().to_string();
        assert!(error.starts_with("metadata.creationTimestamp"), "{error}");
    }
}

#[test]
fn routes_of_gateways_are_left_to_others() {
    let text = |spec: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r }}\nspec: {{ {spec} }}\n"
        )
    };
    let gateway =
        "parentRefs: [{ name: g, sectionName: https }, { group: x.io, kind: Service, name: s }]";
    // What it holds does not matter either.
    let filtered = "parentRefs: [{ name: g }], rules: [{ filters: [{ type: RequestRedirect }] }]";
    for spec in [gateway, filtered] {
        let parsed = crate::parse::parse("f.yaml", &text(spec)).unwrap();
        assert!(parsed.objects.is_empty());
        let problem = &parsed.warnings[0];
        assert_eq!(problem.code, crate::reason::code::NOT_IMPLEMENTED);
        assert_eq!((problem.line, &*problem.field), (1, "spec.parentRefs"));
    }
    let both = "parentRefs: [{ name: g }, { kind: Service, name: s, port: 80 }]";
    let parsed = crate::parse::parse("f.yaml", &text(both)).unwrap();
    let (1, crate::k8s::Object::HttpRoute(route)) = &parsed.objects[0] else {
        panic!("{parsed:?}")
    };
    let parent = Parent {
        service: "default/s".into(),
        port: Some(80),
    };
    assert_eq!(route.parents, [parent]);
    let ours =
        "parentRefs: [{ kind: Service, name: s }], rules: [{ filters: [{ type: RequestMirror }] }]";
    let problems = crate::parse::parse("f.yaml", &text(ours)).unwrap_err();
    assert!(problems[0].is_error() && problems[0].field == "spec.rules[0].filters");
}
