use std::sync::Arc;

use underpass_abi::{reason::code, sock::Layer, verdict::Verdict};

use underpass_abi::shortcut::Mode;

use super::*;
use crate::{
    DestRef, SourceRef,
    facts::{Cgroup, DefaultPolicy, Place},
};

const SHOP: &str = include_str!("../../tests/data/shop.yaml");

fn facts() -> Facts {
    let mut facts = Facts {
        host_netns: 1,
        default_policy: DefaultPolicy::Deny,
        addresses: vec!["192.168.0.2".parse().unwrap()],
        ..Facts::default()
    };
    let place = |id, netns| Place {
        cgroups: vec![Cgroup { id, level: 2 }],
        netns: Some(netns),
    };
    facts.places.insert("shop/web".into(), place(11, 100));
    facts.places.insert("shop/ledger".into(), place(12, 1));
    facts
}

fn shop() -> Model {
    let mut model = Model::default();
    assert_eq!(
        model.set_file("shop.yaml", SHOP),
        Outcome::Changed,
        "{:?}",
        model.problems()
    );
    model
}

fn service(name: &str) -> DestRef {
    DestRef::Service(format!("shop/{name}").into())
}

fn workload(name: &str) -> SourceRef {
    SourceRef::Workload(name.into())
}

#[test]
fn the_shop_compiles() {
    let plan = shop().compile(&facts());
    let web = plan.workload("shop/web").unwrap();
    assert_eq!(&*web.identity, "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(web.enrolled_object().as_deref(), Some("Namespace shop"));
    assert!(web.local && web.netns() == 100);
    assert!(!plan.workload("shop/batch").unwrap().enrolled());
    assert!(!plan.workload("far/client").unwrap().local);
    let (name, rates) = plan
        .service_at("10.96.0.2".parse().unwrap(), 80, 6)
        .unwrap();
    assert_eq!(&*name, "shop/rates:80/tcp");
    let weights: Vec<u32> = rates.endpoints.iter().map(|e| e.weight).collect();
    assert_eq!(weights, [90, 10]);
    assert_eq!(rates.affinity_secs, 60);
    assert_eq!(plan.guarded().into_iter().collect::<Vec<_>>(), [1, 100]);
}

#[test]
fn explain_names_policies_layers_and_causes() {
    let plan = shop().compile(&facts());
    let yes = plan.explain(&workload("shop/web"), &service("ledger"), 80, 6);
    assert_eq!(
        (yes.decision.verdict, &*yes.decision.policy),
        (Verdict::Allowed, "shop/ledger")
    );
    assert_eq!(
        (yes.outbound.layer, yes.outbound.reason),
        (Layer::Kernel, code::NO_L7_NEEDED)
    );
    assert_eq!(&*yes.outbound.object, "Namespace shop");
    assert_eq!(yes.service.as_deref(), Some("shop/ledger:80/tcp"));
    assert_eq!(yes.endpoints[0].workload.as_deref(), Some("shop/ledger"));

    let no = plan.explain(&workload("far/client"), &service("ledger"), 80, 6);
    assert_eq!(
        (no.decision.verdict, &*no.decision.policy),
        (Verdict::Denied, "shop/ledger")
    );
    assert_eq!(no.reason, code::POLICY_DENIED);

    let default = plan.explain(
        &SourceRef::Host,
        &DestRef::Workload("shop/web".into()),
        80,
        6,
    );
    assert_eq!(
        (default.decision.verdict, &*default.decision.policy),
        (Verdict::Denied, "default")
    );
    assert_eq!(default.reason, code::DEFAULT_DENY);

    let empty = plan.explain(&workload("shop/web"), &service("empty"), 80, 6);
    assert_eq!(
        (empty.decision.verdict, empty.reason),
        (Verdict::Refused, code::NO_ENDPOINTS)
    );

    let outside = plan.explain(
        &workload("shop/web"),
        &DestRef::Address([9, 9, 9, 9].into()),
        80,
        6,
    );
    assert_eq!(
        (outside.inbound.layer, outside.inbound.reason),
        (Layer::None, code::NOT_A_WORKLOAD)
    );
    let batch = plan.explain(
        &workload("shop/web"),
        &DestRef::Workload("shop/batch".into()),
        80,
        6,
    );
    assert_eq!(
        (batch.decision.verdict, batch.inbound.reason),
        (Verdict::Allowed, code::NOT_ENROLLED)
    );
}

#[test]
fn a_broken_file_keeps_its_last_good_version() {
    let mut model = shop();
    let before = model.compile(&facts());
    let broken = SHOP.replace("addressType: IPv4", "addressType: Ipv4");
    assert_eq!(model.set_file("shop.yaml", &broken), Outcome::Rejected);
    let problems = model.problems();
    assert_eq!(problems[0].code, code::BAD_FIELD);
    assert!(problems[0].line > 1);
    assert!(Arc::ptr_eq(&before, &model.compile(&facts())));
    assert_eq!(model.set_file("shop.yaml", SHOP), Outcome::Unchanged);
    assert!(model.problems().is_empty());
}

#[test]
fn a_changed_slice_compiles_its_service_only() {
    let mut model = shop();
    let before = model.compile(&facts());
    model.set_file("shop.yaml", &SHOP.replace("10.1.0.12", "10.1.0.13"));
    let after = model.compile(&facts());
    assert!(Arc::ptr_eq(&before.world, &after.world));
    let same = |name: &str| Arc::ptr_eq(&before.services[name], &after.services[name]);
    assert!(same("shop/ledger") && !same("shop/rates"));
}

#[test]
fn the_first_file_by_name_counts() {
    let mut model = Model::default();
    let namespace = |mesh| {
        format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: a, labels: {{underpass.dev/mesh: {mesh}}}}}}}"
        )
    };
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a}}";
    model.set_file("b.yaml", &namespace("enabled"));
    model.set_file("pod.yaml", pod);
    assert!(model.compile(&facts()).workloads()[0].enrolled());
    model.set_file("a.yaml", &namespace("disabled"));
    assert!(!model.compile(&facts()).workloads()[0].enrolled());
    let found = model.check();
    let duplicate = found
        .iter()
        .find(|p| p.code == code::DUPLICATE_OBJECT)
        .unwrap();
    assert_eq!(
        (&*duplicate.file, &*duplicate.message),
        ("b.yaml", "Namespace a is in a.yaml too, which counts")
    );
    assert!(model.remove_file("a.yaml"));
    assert!(model.compile(&facts()).workloads()[0].enrolled());
}

#[test]
fn draining_endpoints_serve_only_if_none_is_ready() {
    let slices = |first: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s-1, labels: {{kubernetes.io/service-name: s}}}}\naddressType: IPv4\nendpoints:\n- {{addresses: [10.0.0.1], conditions: {first}}}\n- {{addresses: [10.0.0.2], conditions: {{ready: false, serving: true, terminating: true}}}}\n- {{addresses: [10.0.0.3], conditions: {{ready: false, serving: false, terminating: true}}}}\nports: [{{port: 8080}}]\n"
        )
    };
    let chosen = |first: &str| {
        let mut model = Model::default();
        model.set_file("s.yaml", &slices(first));
        let plan = model.compile(&Facts::default());
        let port = plan.services().next().unwrap().ports[0].clone();
        let draining: Vec<String> = port.draining.iter().map(|e| e.ip.to_string()).collect();
        assert_eq!(draining, ["10.0.0.2"]);
        port.endpoints
            .iter()
            .map(|e| e.ip.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(chosen("{ready: true}"), ["10.0.0.1"]);
    assert_eq!(chosen("{}"), ["10.0.0.1"]);
    assert_eq!(chosen("{ready: false}"), ["10.0.0.2"]);
}

#[test]
fn check_finds_what_leads_nowhere() {
    let mut model = shop();
    let more = "
apiVersion: underpass.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: typo, namespace: shop }
spec:
  targetRefs: [{ kind: Workload, labelSelector: { matchLabels: { app: legder } } }]
  rules: [{ sources: [{ serviceAccounts: [{ name: nobody }] }] }]
";
    model.set_file("more.yaml", more);
    let found = model.check();
    let codes: Vec<(u16, &str)> = found.iter().map(|p| (p.code, &*p.field)).collect();
    assert_eq!(
        codes,
        [
            (
                code::DANGLING_REFERENCE,
                "spec.rules[0].sources[0].serviceAccounts"
            ),
            (code::SELECTS_NOTHING, "spec.targetRefs"),
            (code::SERVICE_WITHOUT_ENDPOINTS, ""),
        ],
        "{found:#?}"
    );
}

#[test]
fn wanted_are_the_workloads_of_this_node() {
    let wanted = shop().wanted();
    let names: Vec<(&str, bool)> = wanted.iter().map(|w| (&*w.full_name, w.enrolled)).collect();
    assert_eq!(
        names,
        [
            ("shop/batch", false),
            ("shop/ledger", true),
            ("shop/rates-v1", true),
            ("shop/web", true)
        ]
    );
    assert_eq!(
        wanted[3].locator,
        Locator::Netns(NetnsRef::Path("/run/netns/web".into()))
    );
}

#[test]
fn the_shortcut_is_the_workloads_word_else_its_namespaces() {
    let mode = |of_namespace: &str, own: &str| {
        let annotations = |mode: &str| match mode {
            "" => String::new(),
            mode => format!(", annotations: {{underpass.dev/shortcut: '{mode}'}}"),
        };
        let (ns, own) = (annotations(of_namespace), annotations(own));
        let text = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: a, labels: {{underpass.dev/mesh: enabled}}{ns}}}\n\
             ---\napiVersion: underpass.dev/v1alpha1\nkind: Workload\nmetadata: {{name: w, namespace: a{own}}}\nspec: {{cgroup: x}}\n"
        );
        let mut model = Model::default();
        let outcome = model.set_file("f.yaml", &text);
        let plan = model.compile(&facts());
        (outcome, plan.workload("a/w").and_then(|w| w.shortcut))
    };
    assert_eq!(mode("", "").1, None);
    assert_eq!(mode("off", "").1, Some(Mode::Off));
    assert_eq!(mode("off", "on").1, Some(Mode::On));
    assert_eq!(mode("", "maybe").0, Outcome::Rejected);
}

mod http;
