//! Random models over few names and addresses, so that successive ones touch the same things.

use std::{fmt::Write, net::IpAddr};

use proptest::prelude::*;

use crate::{Cgroup, DefaultPolicy, Facts, Place};

#[derive(Clone, Debug)]
pub struct Spec {
    enrolled: [bool; 2],
    workloads: Vec<WorkloadSpec>,
    services: Vec<ServiceSpec>,
    policies: Vec<PolicySpec>,
    default: u8,
}

#[derive(Clone, Debug)]
struct WorkloadSpec {
    namespace: u8,
    name: u8,
    account: u8,
    app: u8,
    /// 0: elsewhere, 1: a namespace of its own, 2: a cgroup in the node's, 3: not found yet.
    place: u8,
    address: u8,
    opts_out: bool,
    weight: Option<u8>,
    door: bool,
    observed: bool,
}

#[derive(Clone, Debug)]
struct ServiceSpec {
    namespace: u8,
    name: u8,
    address: u8,
    dual: bool,
    affinity: bool,
    observed: bool,
    limited: bool,
    /// (address, weight class, state)
    endpoints: Vec<(u8, u8)>,
}

#[derive(Clone, Debug)]
struct PolicySpec {
    namespace: u8,
    name: u8,
    target: u8,
    audit: bool,
    rules: Vec<(Vec<u8>, u8)>,
}

pub fn spec() -> impl Strategy<Value = Spec> {
    let workload = (
        0..2u8,
        0..4u8,
        0..3u8,
        0..2u8,
        0..4u8,
        1..7u8,
        prop::bool::weighted(0.1),
        prop::option::weighted(0.3, 0..4u8),
        any::<bool>(),
        prop::bool::weighted(0.3),
    )
        .prop_map(
            |(namespace, name, account, app, place, address, opts_out, weight, door, observed)| {
                WorkloadSpec {
                    namespace,
                    name,
                    account,
                    app,
                    place,
                    address,
                    opts_out,
                    weight,
                    door,
                    observed,
                }
            },
        );
    let service = (
        0..2u8,
        0..3u8,
        1..4u8,
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.3),
        prop::collection::vec((1..9u8, 0..4u8), 0..5),
    )
        .prop_map(
            |(namespace, name, address, dual, affinity, observed, limited, endpoints)| {
                ServiceSpec {
                    namespace,
                    name,
                    address,
                    dual,
                    affinity,
                    observed,
                    limited,
                    endpoints,
                }
            },
        );
    let rule = (prop::collection::vec(0..10u8, 0..3), 0..4u8);
    let policy = (
        0..2u8,
        0..3u8,
        0..5u8,
        prop::bool::weighted(0.3),
        prop::collection::vec(rule, 0..3),
    )
        .prop_map(|(namespace, name, target, audit, rules)| PolicySpec {
            namespace,
            name,
            target,
            audit,
            rules,
        });
    (
        any::<[bool; 2]>(),
        prop::collection::vec(workload, 0..6),
        prop::collection::vec(service, 0..4),
        prop::collection::vec(policy, 0..4),
        0..3u8,
    )
        .prop_map(|(enrolled, workloads, services, policies, default)| Spec {
            enrolled,
            workloads,
            services,
            policies,
            default,
        })
}

impl Spec {
    /// The same, but its services have other endpoints.
    pub fn with_endpoints_of(&self, other: &Spec) -> Spec {
        let mut spec = self.clone();
        for (mine, others) in spec.services.iter_mut().zip(&other.services) {
            mine.endpoints.clone_from(&others.endpoints);
        }
        spec
    }

    /// Steered ports are those of endpoints.
    pub fn endpoints_matter(&self) -> bool {
        self.workloads.iter().any(|w| w.observed) || self.services.iter().any(|s| s.limited)
    }

    pub fn files(&self) -> Vec<(String, String)> {
        let mut namespaces = String::new();
        for (i, enrolled) in self.enrolled.iter().enumerate() {
            let value = if *enrolled { "enabled" } else { "disabled" };
            write!(namespaces, "---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: n{i}, labels: {{ underpass.dev/mesh: {value} }} }}\n").unwrap();
        }
        vec![
            ("namespaces.yaml".into(), namespaces),
            (
                "policies.yaml".into(),
                self.policies.iter().map(PolicySpec::yaml).collect(),
            ),
            (
                "services.yaml".into(),
                self.services.iter().map(ServiceSpec::yaml).collect(),
            ),
            (
                "workloads.yaml".into(),
                self.workloads.iter().map(WorkloadSpec::yaml).collect(),
            ),
        ]
    }

    pub fn facts(&self) -> Facts {
        let mut facts = Facts {
            node: "node".into(),
            default_policy: [
                DefaultPolicy::Allow,
                DefaultPolicy::Deny,
                DefaultPolicy::Audit,
            ][self.default as usize],
            host_netns: 1,
            addresses: vec![IpAddr::from([10, 0, 0, 6])],
            ..Facts::default()
        };
        for w in &self.workloads {
            let id = 100 + u64::from(w.address);
            let place = match w.place {
                1 => Place {
                    cgroups: vec![],
                    netns: Some(10 + u64::from(w.address)),
                },
                2 => Place {
                    cgroups: vec![Cgroup {
                        id,
                        level: 1 + u32::from(w.app),
                    }],
                    netns: Some(1),
                },
                _ => continue,
            };
            let name = format!("n{}/w{}", w.namespace, w.name);
            if w.door && w.place == 1 {
                facts.doors.insert(name.as_str().into());
            }
            facts.places.insert(name.into(), place);
        }
        facts
    }
}

fn annotated(annotations: &[String]) -> String {
    if annotations.is_empty() {
        return String::new();
    }
    format!(", annotations: {{ {} }}", annotations.join(", "))
}

impl WorkloadSpec {
    fn yaml(&self) -> String {
        let Self {
            namespace,
            name,
            account,
            app,
            place,
            address,
            opts_out,
            weight,
            observed,
            ..
        } = self;
        let mut annotations = Vec::new();
        if let Some(w) = weight {
            let mode = ["off", "auto", "on"][usize::from(*w) % 3];
            let weight = u32::from(*w) * 30;
            annotations.push(format!("underpass.dev/weight: '{weight}'"));
            annotations.push(format!("underpass.dev/shortcut: '{mode}'"));
        }
        if *observed {
            annotations.push("underpass.dev/observe: http".into());
        }
        let annotations = annotated(&annotations);
        let mesh = if *opts_out {
            ", underpass.dev/mesh: disabled"
        } else {
            ""
        };
        let locator = match place {
            0 => "",
            1 => "netns: some, ",
            _ => "cgroup: some/where, ",
        };
        format!(
            "---\napiVersion: underpass.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: w{name}, namespace: n{namespace}, labels: {{ app: a{app}{mesh} }}{annotations} }}\nspec: {{ serviceAccountName: s{account}, {locator}addresses: [10.0.0.{address}, 'fd00::{address}'] }}\n"
        )
    }
}

impl ServiceSpec {
    fn yaml(&self) -> String {
        let Self {
            namespace,
            name,
            address,
            dual,
            affinity,
            observed,
            limited,
            endpoints,
        } = self;
        let mut annotations = Vec::new();
        if *observed {
            annotations.push("underpass.dev/observe: http".into());
        }
        if *limited {
            annotations.push("underpass.dev/rate-limit: 100/s".into());
        }
        let annotations = annotated(&annotations);
        let six = if *dual {
            format!(", 'fd00:96::{address}'")
        } else {
            String::new()
        };
        let affinity = if *affinity { "ClientIP" } else { "None" };
        let mut text = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: s{name}, namespace: n{namespace}{annotations} }}\nspec: {{ clusterIPs: [10.96.0.{address}{six}], sessionAffinity: {affinity}, ports: [{{ name: http, port: 80 }}, {{ name: dns, port: 53, protocol: UDP }}] }}\n"
        );
        for (family, net) in [("IPv4", "10.0.0."), ("IPv6", "fd00::")] {
            let mut list = String::new();
            for (address, state) in endpoints {
                let conditions = [
                    "{}",
                    "{ready: false}",
                    "{ready: false, serving: true, terminating: true}",
                    "{ready: true}",
                ][*state as usize];
                write!(
                    list,
                    "{{addresses: ['{net}{address}'], conditions: {conditions}}}, "
                )
                .unwrap();
            }
            write!(
                text,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: s{name}-{}, namespace: n{namespace}, labels: {{ kubernetes.io/service-name: s{name} }} }}\naddressType: {family}\nendpoints: [{list}]\nports: [{{ name: http, port: 8080 }}, {{ name: dns, port: 53, protocol: UDP }}]\n",
                family.to_lowercase()
            )
            .unwrap();
        }
        text
    }
}

impl PolicySpec {
    fn yaml(&self) -> String {
        let Self {
            namespace,
            name,
            target,
            audit,
            rules,
        } = self;
        let target = match target {
            0 => "[]",
            1 => "[{ kind: Workload, labelSelector: { matchLabels: { app: a0 } } }]",
            2 => "[{ kind: Workload, name: w1 }]",
            3 => "[{ kind: Service, name: s0 }]",
            _ => "[{ kind: Service, name: s1 }, { kind: Workload }]",
        };
        let mut list = String::new();
        for (sources, ports) in rules {
            let sources: Vec<&str> = sources.iter().map(|s| SOURCES[*s as usize]).collect();
            let ports = [
                "[]",
                "[{port: 80}]",
                "[{port: 8080}]",
                "[{port: 53, protocol: UDP}, {port: 80}]",
            ][*ports as usize];
            write!(
                list,
                "{{sources: [{}], ports: {ports}}}, ",
                sources.join(", ")
            )
            .unwrap();
        }
        format!(
            "---\napiVersion: underpass.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{ name: p{name}, namespace: n{namespace} }}\nspec: {{ audit: {audit}, targetRefs: {target}, rules: [{list}] }}\n"
        )
    }
}

const SOURCES: [&str; 10] = [
    "{serviceAccounts: [{name: s0}]}",
    "{serviceAccounts: [{name: s1, namespace: n0}, {name: s2}]}",
    "{spiffe: ['spiffe://cluster.local/ns/n1/sa/s1']}",
    "{namespaces: [n0]}",
    "{namespaces: [n1]}",
    "{host: true}",
    "{outside: true}",
    "{ipBlocks: [{cidr: 192.168.0.0/16, except: [192.168.7.0/24]}]}",
    "{ipBlocks: [{cidr: 192.168.7.0/25}, {cidr: 'fd01::/16'}]}",
    "{ipBlocks: [{cidr: '::/0'}, {cidr: 192.168.7.128/25}]}",
];
