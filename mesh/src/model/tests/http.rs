//! The layer Http, from manifests to plan: what asks for it, what it needs, and what changes with it.

use super::*;
use crate::snapshot::{Protocol, Rate};

const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: a, labels: { underpass.dev/mesh: enabled } }
---
apiVersion: underpass.dev/v1alpha1
kind: Workload
metadata: { name: web, namespace: a }
spec: { serviceAccountName: web, netns: web, addresses: [10.0.0.1] }
---
apiVersion: underpass.dev/v1alpha1
kind: Workload
metadata: { name: api, namespace: a, labels: { app: api } }
spec: { serviceAccountName: api, netns: api, addresses: [10.0.0.2] }
---
apiVersion: underpass.dev/v1alpha1
kind: Workload
metadata: { name: host, namespace: a }
spec: { cgroup: host }
---
apiVersion: v1
kind: Service
metadata: { name: api, namespace: a }
spec: { clusterIP: 10.96.0.1, ports: [{ name: p, port: 80 }, { name: tls, port: 443, appProtocol: https }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: api-1, namespace: a, labels: { kubernetes.io/service-name: api } }
addressType: IPv4
endpoints: [{ addresses: [10.0.0.2] }]
ports: [{ name: p, port: 8080 }, { name: tls, port: 8443 }]
---
apiVersion: v1
kind: Service
metadata: { name: other, namespace: a }
spec: { clusterIP: 10.96.0.2, ports: [{ port: 80 }] }
";

fn route(spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r, namespace: a }}\nspec: {{ {spec} }}\n"
    )
}

const TO_API: &str = "parentRefs: [{ kind: Service, name: api }], rules: [{ backendRefs: [{ name: api, port: 80 }] }]";

const POLICY: &str = "
apiVersion: underpass.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: p, namespace: a }
spec:
  targetRefs: [{ kind: Workload, labelSelector: { matchLabels: { app: api } } }]
  rules:
  - { sources: [{ serviceAccounts: [{ name: web }] }], ports: [{ port: 8080 }], methods: [GET], paths: [/public/*] }
  - { sources: [{ host: true }] }
";

fn facts(doors: &[&str]) -> Facts {
    let mut facts = Facts {
        host_netns: 1,
        doors: doors.iter().map(|name| (*name).into()).collect(),
        ..Facts::default()
    };
    for (name, netns) in [("a/web", 10), ("a/api", 11), ("a/host", 1)] {
        let place = Place {
            cgroups: vec![],
            netns: Some(netns),
        };
        facts.places.insert(name.into(), place);
    }
    facts
}

fn mesh(files: &[&str]) -> Model {
    let mut model = Model::default();
    for (i, text) in [MESH].iter().chain(files).enumerate() {
        let outcome = model.set_file(&format!("{i}.yaml"), text);
        assert_eq!(outcome, Outcome::Changed, "{:?}", model.problems());
    }
    model
}

fn annotated(text: &str, kind: &str, name: &str, annotation: &str) -> String {
    let head = format!("kind: {kind}\nmetadata: {{ name: {name},");
    assert!(text.contains(&head), "{head}");
    text.replace(&head, &format!("{head} annotations: {{ {annotation} }},"))
}

const OBSERVE: &str = "underpass.dev/observe: http";

fn outbound(plan: &Plan, source: &str, port: u16) -> (Layer, u16, String) {
    let dest = DestRef::Service("a/api".into());
    let choice = plan.explain(&workload(source), &dest, port, 6).outbound;
    (choice.layer, choice.reason, choice.object.to_string())
}

fn inbound(plan: &Plan, to: &str, port: u16) -> (Layer, u16, String) {
    let dest = DestRef::Workload(to.into());
    let choice = plan.explain(&workload("a/web"), &dest, port, 6).inbound;
    (choice.layer, choice.reason, choice.object.to_string())
}

fn because(layer: Layer, reason: u16, object: &str) -> (Layer, u16, String) {
    (layer, reason, object.into())
}

#[test]
fn a_route_makes_its_service_http_for_those_with_a_door() {
    let route = route(TO_API);
    let plan = mesh(&[&route]).compile(&facts(&["a/web", "a/host"]));
    let by = "HTTPRoute a/r";
    let of = |source| outbound(&plan, source, 80);
    assert_eq!(of("a/web"), because(Layer::Http, code::ROUTE_ATTACHED, by));
    assert_eq!(of("a/api"), because(Layer::Kernel, code::NO_DOOR, by));
    let shared = code::SHARED_NAMESPACE_NO_HTTP;
    assert_eq!(of("a/host"), because(Layer::Kernel, shared, by));
    let tls = outbound(&plan, "a/web", 443);
    assert_eq!(tls, because(Layer::Kernel, code::NOT_HTTP_PORT, by));
    let host = plan.explain(&SourceRef::Host, &DestRef::Service("a/api".into()), 80, 6);
    assert_eq!(host.outbound.reason, code::NOT_A_WORKLOAD);
    let doors = plan.wanted_doors();
    let doors: Vec<(&str, bool)> = doors.iter().map(|d| (&*d.workload, d.inbound)).collect();
    assert_eq!(doors, [("a/api", false), ("a/web", false)]);
}

#[test]
fn a_changed_route_compiles_its_services_only_and_a_removed_one_moves_back() {
    let mut model = mesh(&[&route(TO_API)]);
    let facts = facts(&["a/web"]);
    let before = model.compile(&facts);
    let changed = route(&TO_API.replace("port: 80 }", "port: 443 }"));
    assert_eq!(model.set_file("1.yaml", &changed), Outcome::Changed);
    let after = model.compile(&facts);
    assert!(Arc::ptr_eq(&before.world, &after.world));
    let same = |name: &str| Arc::ptr_eq(&before.services[name], &after.services[name]);
    assert!(same("a/other") && !same("a/api"));
    assert!(model.remove_file("1.yaml"));
    let gone = model.compile(&facts);
    assert!(Arc::ptr_eq(&before.world, &gone.world));
    let plain = because(Layer::Kernel, code::NO_L7_NEEDED, "Namespace a");
    assert_eq!(outbound(&gone, "a/web", 80), plain);
    assert_eq!((gone.wanted_doors(), gone.snapshots()), (vec![], vec![]));
}

#[test]
fn observe_is_the_objects_word_else_its_namespaces() {
    let all = ["a/web", "a/api"];
    let http = |by| because(Layer::Http, code::OBSERVED, by);
    let namespace = annotated(MESH, "Namespace", "a", OBSERVE);
    let of = |text: &str, source| {
        let mut model = mesh(&[]);
        assert_eq!(model.set_file("0.yaml", text), Outcome::Changed);
        let plan = model.compile(&facts(&all));
        (outbound(&plan, source, 80), inbound(&plan, "a/api", 8080))
    };
    let (out, own) = of(&namespace, "a/web");
    assert_eq!((out, own), (http("Namespace a"), http("Namespace a")));
    // A service's word is about who dials it, a workload's about what it dials and serves.
    let plain = because(Layer::Kernel, code::NO_L7_NEEDED, "Namespace a");
    let service = annotated(MESH, "Service", "api", OBSERVE);
    assert_eq!(
        of(&service, "a/web"),
        (http("Service a/api"), plain.clone())
    );
    let web = annotated(MESH, "Workload", "web", OBSERVE);
    assert_eq!(of(&web, "a/web"), (http("Workload a/web"), plain.clone()));
    assert_eq!(of(&web, "a/api").0, plain);
    let off = annotated(
        &namespace,
        "Workload",
        "api",
        "underpass.dev/observe: 'off'",
    );
    assert_eq!(of(&off, "a/web").1, plain);
    let mut model = mesh(&[]);
    let wrong = annotated(MESH, "Service", "api", "underpass.dev/observe: grpc");
    assert_eq!(model.set_file("0.yaml", &wrong), Outcome::Rejected);
    let problem = &model.problems()[0];
    assert_eq!(
        (problem.code, &*problem.field),
        (code::BAD_FIELD, "metadata.annotations")
    );
    assert!(problem.message.contains("none of http, off"), "{problem}");
}

#[test]
fn a_rate_limit_steers_the_ports_that_its_service_leads_to() {
    let limited = annotated(
        MESH,
        "Service",
        "api",
        "underpass.dev/rate-limit: 100/s;burst=7",
    );
    let mut model = mesh(&[]);
    let before = model.compile(&facts(&["a/api"]));
    model.set_file("0.yaml", &limited);
    let plan = model.compile(&facts(&["a/api"]));
    let [port] = &plan.workload("a/api").unwrap().inbound[..] else {
        panic!("{:?}", plan.workload("a/api"))
    };
    let rate = Rate {
        requests: 100,
        per: std::time::Duration::from_secs(1),
        burst: 7,
    };
    assert_eq!(
        (port.port, port.rate, &port.allow),
        (8080, Some(rate), &None)
    );
    assert_eq!(
        (port.protocol, port.service.as_deref()),
        (Protocol::Detect, Some("a/api"))
    );
    let http = because(Layer::Http, code::RATE_LIMIT, "Service a/api");
    assert_eq!(inbound(&plan, "a/api", 8080), http);
    let plain = because(Layer::Kernel, code::NO_L7_NEEDED, "Namespace a");
    assert_eq!(inbound(&plan, "a/api", 8443), plain);
    // Nobody is sent to a worker for it.
    assert_eq!(outbound(&plan, "a/api", 80), plain);
    let doors = plan.wanted_doors();
    assert_eq!(
        (doors.len(), &*doors[0].workload, doors[0].inbound),
        (1, "a/api", true)
    );
    model.set_file("0.yaml", MESH);
    let again = model.compile(&facts(&["a/api"]));
    assert_eq!(again.world, before.world);
    let closed = mesh(&[&limited.replace("name: a,", "name: b,")]).compile(&facts(&[]));
    assert!(closed.workload("a/api").unwrap().inbound.is_empty());
}

#[test]
fn rules_about_requests_are_judged_by_the_worker_or_allow_nothing() {
    let decide = |plan: &Plan, source: &SourceRef, port| {
        let dest = DestRef::Workload("a/api".into());
        let decision = plan.verdict(source, &dest, port, 6);
        (decision.verdict, decision.policy.to_string())
    };
    let web = workload("a/web");
    let (allowed, denied) = (Verdict::Allowed, Verdict::Denied);
    let closed = mesh(&[POLICY]).compile(&facts(&["a/web"]));
    assert_eq!(decide(&closed, &web, 8080), (denied, "a/p".into()));
    assert_eq!(decide(&closed, &SourceRef::Host, 8080).0, allowed);
    assert!(closed.workload("a/api").unwrap().inbound.is_empty());
    let by = "AuthorizationPolicy a/p";
    assert_eq!(
        inbound(&closed, "a/api", 8080),
        because(Layer::Kernel, code::NO_DOOR, by)
    );

    let open = mesh(&[POLICY]).compile(&facts(&["a/api"]));
    assert_eq!(decide(&open, &web, 8080), (allowed, "a/p".into()));
    assert_eq!(decide(&open, &web, 8443).0, denied);
    let http = because(Layer::Http, code::REQUEST_RULES, by);
    assert_eq!(inbound(&open, "a/api", 8080), http);
    let [port] = &open.workload("a/api").unwrap().inbound[..] else {
        panic!("{open:?}")
    };
    assert_eq!((port.port, port.rate), (8080, None));
    let [get, host] = &port.allow.as_ref().unwrap()[..] else {
        panic!("{port:?}")
    };
    let sources = get.sources.as_ref().unwrap();
    assert_eq!(sources.identities, ["spiffe://cluster.local/ns/a/sa/web"]);
    assert_eq!(
        (&get.methods[..], &get.paths[..]),
        (&["GET".into()][..], &["/public/*".into()][..])
    );
    assert!(host.sources.as_ref().unwrap().host && host.methods.is_empty());
}

#[test]
fn a_worker_that_is_elsewhere_is_not_guessed_at() {
    let elsewhere = MESH.replace("netns: api, ", "");
    let mut facts = facts(&[]);
    facts.places.remove("a/api");
    let mut model = mesh(&[POLICY]);
    model.set_file("0.yaml", &elsewhere);
    let plan = model.compile(&facts);
    let dest = DestRef::Workload("a/api".into());
    let explained = plan.explain(&workload("a/web"), &dest, 8080, 6);
    assert_eq!(explained.decision.verdict, Verdict::Allowed);
    let by = "AuthorizationPolicy a/p";
    let expected = because(Layer::Kernel, code::ON_OTHER_NODE, by);
    assert_eq!(inbound(&plan, "a/api", 8080), expected);
    assert_eq!(inbound(&plan, "a/api", 8443).1, code::NO_L7_NEEDED);
}

#[test]
fn rules_about_requests_that_nobody_could_judge_are_refused() {
    let refused = |policy: String| {
        let mut model = Model::default();
        assert_eq!(
            model.set_file("p.yaml", &policy),
            Outcome::Rejected,
            "{policy}"
        );
        let problem = model.problems().remove(0);
        (problem.code, problem.field, problem.message)
    };
    let at = |old: &str, new: &str| {
        assert!(POLICY.contains(old));
        refused(POLICY.replace(old, new))
    };
    let (code, field, message) = at("ports: [{ port: 8080 }], ", "");
    assert_eq!(
        (code, &*field),
        (code::BAD_FIELD, "spec.rules[0]"),
        "{message}"
    );
    assert_eq!(
        at("port: 8080", "port: 8080, protocol: UDP").0,
        code::BAD_FIELD
    );
    assert_eq!(
        at("  rules:", "  audit: true\n  rules:").0,
        code::NOT_IMPLEMENTED
    );
    let target = "targetRefs: [{ kind: Workload, labelSelector: { matchLabels: { app: api } } }]";
    assert_eq!(
        at(target, "targetRefs: [{ kind: Service, name: api }]").0,
        code::NOT_IMPLEMENTED
    );
    for path in [
        "public/*", "/*/a", "'*'", "/a/../b", "/a//b", "/%41", "/%2f", "/a%2", "''",
    ] {
        let (code, field, message) = at("/public/*", path);
        assert_eq!(
            (code, &*field),
            (code::BAD_FIELD, "spec.rules[0].paths[0]"),
            "{path}: {message}"
        );
    }
    assert_eq!(at("[GET]", "[get]").1, "spec.rules[0].methods[0]");
}

#[test]
fn check_finds_routes_that_lead_nowhere() {
    let spec = "parentRefs: [{ kind: Service, name: api, port: 443 }, { kind: Service, name: api, port: 81 }, { kind: Service, name: none }],
  rules: [{ matches: [{ path: { value: /a%00 } }, { path: { value: /b } }],
    backendRefs: [{ name: none, port: 80 }, { name: api, port: 81 }, { name: api, port: 80 }] }]";
    let mut model = mesh(&[&route(spec)]);
    let found = model.check();
    let found = found.iter().filter(|p| &*p.file == "1.yaml");
    let found: Vec<_> = found.map(|p| (p.code, p.line, &*p.field)).collect();
    let dangling = code::DANGLING_REFERENCE;
    let expected = [
        (code::NOT_HTTP_PORT, 1, "spec.parentRefs"),
        (dangling, 1, "spec.parentRefs"),
        (dangling, 1, "spec.parentRefs"),
        (dangling, 1, "spec.rules[0].backendRefs[0].name"),
        (dangling, 1, "spec.rules[0].backendRefs[1].port"),
        (
            code::NEVER_MATCHES,
            1,
            "spec.rules[0].matches[0].path.value",
        ),
    ];
    assert_eq!(found, expected);
    // What no request can match is not handed on; the rest of the route is.
    model.set_file("1.yaml", &route(&spec.replace(", port: 443", "")));
    let plan = model.compile(&facts(&[]));
    let snapshot = &plan.snapshots()[0];
    let rule = &snapshot.services[0].routes[0].rules[0];
    let paths: Vec<_> = rule.matches.iter().map(|m| &**m.path.text()).collect();
    assert_eq!(paths, ["/b"]);
    let backends: Vec<_> = snapshot
        .backends
        .iter()
        .map(|b| (&*b.service, b.port))
        .collect();
    assert_eq!(backends, [("a/api", 80)]);

    let useless = annotated(MESH, "Workload", "web", "underpass.dev/rate-limit: 1/s");
    model.set_file("0.yaml", &useless.replace("[{ port: 80 }]", "[]"));
    let found = model.check();
    let limit = "metadata.annotations[underpass.dev/rate-limit]";
    assert!(
        found
            .iter()
            .any(|p| (p.code, &*p.field) == (code::BAD_FIELD, limit))
    );
}
