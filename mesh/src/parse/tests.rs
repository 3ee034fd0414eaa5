use super::*;
use crate::k8s::Kind;

fn errors(text: &str) -> Vec<(u16, u32, String)> {
    let problems = parse("f.yaml", text).expect_err("has errors");
    problems
        .into_iter()
        .map(|p| (p.code, p.line, p.field))
        .collect()
}

fn kinds(parsed: &Parsed) -> Vec<(u32, Kind)> {
    parsed
        .objects
        .iter()
        .map(|(line, o)| (*line, o.kind()))
        .collect()
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: { name: a }\n";

#[test]
fn documents_have_their_lines() {
    let text = format!("# comment\n---\n{POD}---\n# nothing\n---\n{POD}...\n--- # next\n{POD}");
    let parsed = parse("f.yaml", &text).unwrap();
    assert_eq!(
        kinds(&parsed),
        [(2, Kind::Pod), (8, Kind::Pod), (13, Kind::Pod)]
    );
}

#[test]
fn errors_have_line_and_field() {
    let text = format!(
        "{POD}---\napiVersion: v1\nkind: Service\nmetadata: {{ name: s }}\nspec:\n  ports:\n  - port: 80\n  - port: many\n"
    );
    assert_eq!(
        errors(&text),
        [(code::BAD_FIELD, 11, "spec.ports[1].port".into())]
    );
    let text = "apiVersion: underpass.dev/v1alpha1\nkind: Workload\nmetadata: {name: w}\nspec:\n  cgroup: a\n  adresses: []\n";
    assert_eq!(errors(text), [(code::BAD_FIELD, 6, "spec.adresses".into())]);
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: w\n";
    assert_eq!(errors(text)[0].0, code::BAD_YAML);
    let text = "apiVersion: v1\nkind: Pod\nmetadata: { name: Bad_Name }\n";
    assert_eq!(errors(text), [(code::BAD_FIELD, 3, "metadata.name".into())]);
    let text = "apiVersion: v1\nkind: Pod\nmetadata: { namespace: x }\n";
    assert_eq!(errors(text), [(code::BAD_FIELD, 3, "metadata.name".into())]);
}

#[test]
fn what_is_not_built_is_refused_in_our_group_and_told_of_core_kinds() {
    let policy = |spec: &str| {
        format!(
            "apiVersion: underpass.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{ name: p }}\nspec:\n  {spec}\n"
        )
    };
    for (spec, field) in [
        ("action: DENY", "spec.action"),
        (
            "rules: [{ports: [{port: 1, endPort: 2}]}]",
            "spec.rules[0].ports[0].endPort",
        ),
        (
            "rules: [{ports: [{port: 1, protocol: SCTP}]}]",
            "spec.rules[0].ports[0].protocol",
        ),
        (
            "targetRefs: [{kind: Pod, labelSelector: {matchExpressions: []}}]",
            "spec.targetRefs[0].labelSelector.matchExpressions",
        ),
    ] {
        assert_eq!(
            errors(&policy(spec)),
            [(code::NOT_IMPLEMENTED, 5, field.into())]
        );
    }
    let service = "apiVersion: v1\nkind: Service\nmetadata: { name: s }\nspec: { type: ExternalName, externalName: a.b, internalTrafficPolicy: Local, externalIPs: [1.2.3.4], trafficDistribution: PreferClose }\n";
    let parsed = parse("f.yaml", service).unwrap();
    let fields: Vec<&str> = parsed.warnings.iter().map(|p| &*p.field).collect();
    assert_eq!(
        fields,
        [
            "spec.externalName",
            "spec.externalIPs",
            "spec.internalTrafficPolicy",
            "spec.trafficDistribution"
        ]
    );
    assert!(
        parsed
            .warnings
            .iter()
            .all(|p| p.code == code::NOT_IMPLEMENTED && !p.is_error())
    );
}

#[test]
fn bad_values_are_refused() {
    for spec in [
        "{ cgroup: a, netns: b }",
        "{ cgroup: ../a }",
        "{}",
        "{ addresses: [0.0.0.0] }",
        "{ addresses: [1.2.3] }",
        "{ netns: a/b }",
        "{ systemdUnit: web }",
    ] {
        let text = format!(
            "apiVersion: underpass.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: w }}\nspec: {spec}\n"
        );
        assert_eq!(errors(&text)[0].0, code::BAD_FIELD, "{spec}");
    }
    for source in [
        "{}",
        "{ ipBlocks: [{ cidr: 10.0.0.1/8 }] }",
        "{ ipBlocks: [{ cidr: 10.0.0.0/33 }] }",
        "{ ipBlocks: [{ cidr: 10.0.0.0/8, except: [11.0.0.0/16] }] }",
        "{ ipBlocks: [{ cidr: '::ffff:10.0.0.0/104' }] }",
        "{ spiffe: [cluster.local/ns/a] }",
    ] {
        let text = format!(
            "apiVersion: underpass.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{ name: p }}\nspec: {{ rules: [{{ sources: [{source}] }}] }}\n"
        );
        assert_eq!(errors(&text)[0].0, code::BAD_FIELD, "{source}");
    }
}

#[test]
fn an_address_of_the_other_family_is_refused() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: { name: s }\naddressType: IPv4\nendpoints: [{ addresses: [10.0.0.1] }, { addresses: ['fd00::1'] }]\n";
    assert_eq!(
        errors(slice),
        [(code::BAD_FIELD, 1, "endpoints[1].addresses".into())]
    );
}

#[test]
fn unknown_kinds_are_told_and_in_our_group_refused() {
    let parsed = parse(
        "f.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nspec: { a: [1] }\n",
    )
    .unwrap();
    assert_eq!(parsed.warnings[0].code, code::UNKNOWN_KIND);
    let slip =
        "apiVersion: underpass.dev/v1alpha1\nkind: AuthorizationPolicies\nmetadata: { name: p }\n";
    assert_eq!(errors(slip)[0].0, code::UNKNOWN_KIND);
}

#[test]
fn lists_and_late_kinds() {
    let list = "apiVersion: v1\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: { name: a }\n- apiVersion: v1\n  kind: Namespace\n  metadata: { name: b }\nkind: List\nmetadata: { resourceVersion: '' }\n";
    assert_eq!(
        kinds(&parse("f.yaml", list).unwrap()),
        [(1, Kind::Pod), (1, Kind::Namespace)]
    );
    let bad = list.replace("name: b", "name: B");
    assert_eq!(
        errors(&bad),
        [(code::BAD_FIELD, 8, "items[1].metadata.name".into())]
    );
    let late = "metadata: { name: w }\nspec: { cgroup: a }\nkind: Workload\napiVersion: underpass.dev/v1alpha1\n";
    assert_eq!(
        kinds(&parse("f.yaml", late).unwrap()),
        [(1, Kind::Workload)]
    );
    let late = late.replace("cgroup: a", "cgroup: 1, x: 2");
    assert_eq!(errors(&late)[0].1, 2);
    assert_eq!(errors("metadata: { name: w }\n")[0].0, code::BAD_FIELD);
}

#[test]
fn json_takes_the_fast_path_and_gives_the_same() {
    let json = "\n{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\",\"labels\":{\"x\":\"y\"}},\"spec\":{\"hostNetwork\":true},\"status\":{\"podIPs\":[{\"ip\":\"10.0.0.1\"}],\"phase\":\"Running\"}}\n{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"n\"}}\n";
    let mut reader = Reader {
        file: "f".into(),
        parsed: Parsed::default(),
        errors: Vec::new(),
    };
    assert!(reader.json(json));
    assert_eq!(
        kinds(&reader.parsed),
        [(2, Kind::Pod), (3, Kind::Namespace)]
    );
    let yaml = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {x: y}}\nspec: {hostNetwork: true}\nstatus: {podIPs: [{ip: 10.0.0.1}], phase: Running}\n";
    assert_eq!(
        reader.parsed.objects[0].1,
        parse("f.yaml", yaml).unwrap().objects[0].1
    );
    let sorted = "{\"apiVersion\":\"v1\",\"items\":[{\"addressType\":\"IPv6\",\"apiVersion\":\"discovery.k8s.io/v1\",\"endpoints\":[],\"kind\":\"EndpointSlice\",\"metadata\":{\"name\":\"a\"}},{\"apiVersion\":\"v1\",\"data\":{},\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"}}],\"kind\":\"List\",\"metadata\":{}}";
    assert!(reader.json(sorted));
    assert_eq!(kinds(&reader.parsed)[2], (1, Kind::EndpointSlice));
    assert_eq!(reader.parsed.warnings[0].code, code::UNKNOWN_KIND);
    let bad = json.replace("10.0.0.1", "10.0.0");
    assert_eq!(errors(&bad)[0].1, 2);
}

#[test]
fn slices_as_kubernetes_writes_them() {
    let json = "{\"apiVersion\":\"discovery.k8s.io/v1\",\"kind\":\"EndpointSlice\",\"metadata\":{\"name\":\"a\",\"namespace\":\"n\",\"managedFields\":[{}],\"labels\":{\"kubernetes.io/service-name\":\"s\"}},\"addressType\":\"IPv4\",\"endpoints\":[{\"addresses\":[\"10.0.0.1\"],\"conditions\":{\"ready\":true,\"serving\":true,\"terminating\":false},\"targetRef\":{\"kind\":\"Pod\",\"name\":\"p\",\"uid\":\"u\"}}],\"ports\":[{\"name\":\"http\",\"port\":80,\"protocol\":\"TCP\"}]}";
    let mut reader = Reader {
        file: "f".into(),
        parsed: Parsed::default(),
        errors: Vec::new(),
    };
    assert!(reader.json(json));
    assert!(reader.errors.is_empty());
}
