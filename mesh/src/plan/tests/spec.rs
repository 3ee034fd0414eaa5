//! Random manifests that ask for the layer Http in every way, over few names.

use std::fmt::Write;

use proptest::prelude::*;

use crate::{Facts, Model, Place, model::Outcome};

/// Ports of workloads: a rule about requests is about the first, and so are services.
pub const PORT: u16 = 8080;

#[derive(Clone, Debug)]
pub struct Spec {
    /// Of each namespace.
    observed: [Option<bool>; 2],
    workloads: Vec<Workload>,
    services: Vec<Service>,
    policies: Vec<Policy>,
    routes: Vec<Route>,
}

#[derive(Clone, Debug)]
struct Workload {
    namespace: u8,
    name: u8,
    enrolled: bool,
    observed: Option<bool>,
    /// 0: elsewhere, 1: a network namespace of its own, 2: one that is shared, 3: not found yet.
    place: u8,
    door: bool,
}

#[derive(Clone, Debug)]
struct Service {
    namespace: u8,
    name: u8,
    protocol: u8,
    observed: Option<bool>,
    rate: Option<u8>,
    /// Names of workloads of its namespace.
    endpoints: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Policy {
    namespace: u8,
    name: u8,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    /// 0: everybody, else an account of the namespace.
    source: u8,
    /// 0: requests to the port, 1: the port, 2: each port.
    what: u8,
}

#[derive(Clone, Debug)]
struct Route {
    namespace: u8,
    name: u8,
    parent: u8,
    /// 3 does not exist.
    backends: Vec<u8>,
}

/// What is made of the rules about requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Requests {
    AsTheyAre,
    /// Their methods and paths are gone.
    AnyRequest,
    /// The rules are gone.
    NoRule,
}

pub fn spec() -> impl Strategy<Value = Spec> {
    let observe = || prop::option::weighted(0.3, any::<bool>());
    let workload = (
        0..2u8,
        0..3u8,
        prop::bool::weighted(0.9),
        observe(),
        prop::sample::select(vec![0, 1, 1, 1, 2, 3]),
        any::<bool>(),
    )
        .prop_map(
            |(namespace, name, enrolled, observed, place, door)| Workload {
                namespace,
                name,
                enrolled,
                observed,
                place,
                door,
            },
        );
    let service = (
        0..2u8,
        0..3u8,
        0..4u8,
        observe(),
        prop::option::weighted(0.3, 1..9u8),
        prop::collection::vec(0..3u8, 0..3),
    )
        .prop_map(
            |(namespace, name, protocol, observed, rate, endpoints)| Service {
                namespace,
                name,
                protocol,
                observed,
                rate,
                endpoints,
            },
        );
    let rule = (0..4u8, 0..3u8).prop_map(|(source, what)| Rule { source, what });
    let policy = (0..2u8, 0..2u8, prop::collection::vec(rule, 0..3));
    let policy = policy.prop_map(|(namespace, name, rules)| Policy {
        namespace,
        name,
        rules,
    });
    let route = (0..2u8, 0..2u8, 0..4u8, prop::collection::vec(0..4u8, 0..3));
    let route = route.prop_map(|(namespace, name, parent, backends)| Route {
        namespace,
        name,
        parent,
        backends,
    });
    (
        [observe(), observe()],
        prop::collection::vec(workload, 0..6),
        prop::collection::vec(service, 0..5),
        prop::collection::vec(policy, 0..3),
        prop::collection::vec(route, 0..3),
    )
        .prop_map(|(observed, workloads, services, policies, routes)| Spec {
            observed,
            workloads,
            services,
            policies,
            routes,
        })
}

/// Annotations of a flow mapping's `metadata`.
fn annotations(observed: Option<bool>, rate: Option<u8>) -> String {
    let observe = observed.map(|on| {
        let word = if on { "http" } else { "'off'" };
        format!("underpass.dev/observe: {word}")
    });
    let rate = rate.map(|rate| format!("underpass.dev/rate-limit: {rate}/s"));
    let all: Vec<String> = observe.into_iter().chain(rate).collect();
    format!("annotations: {{ {} }}", all.join(", "))
}

impl Spec {
    /// The same, but its services are as those of `other`; their names stay.
    pub fn with_services_of(&self, other: &Spec) -> Spec {
        let mut spec = self.clone();
        for (mine, others) in spec.services.iter_mut().zip(&other.services) {
            *mine = Service {
                namespace: mine.namespace,
                name: mine.name,
                ..others.clone()
            };
        }
        spec
    }

    pub fn files(&self, requests: Requests) -> Vec<(String, String)> {
        let namespaces = self.observed.iter().enumerate().map(|(i, observed)| {
            let annotations = annotations(*observed, None);
            format!("---\n{{ apiVersion: v1, kind: Namespace, metadata: {{ name: n{i}, {annotations} }} }}\n")
        });
        let own = "apiVersion: underpass.dev/v1alpha1";
        let workloads = self.workloads.iter().map(|w| {
            let (ns, name, ip) = (w.namespace, w.name, w.ip());
            let mesh = if w.enrolled { "enabled" } else { "disabled" };
            let annotations = annotations(w.observed, None);
            let place = if w.place == 0 { "" } else { "netns: some, " };
            format!(
                "---\n{own}\nkind: Workload\nmetadata: {{ name: w{name}, namespace: n{ns}, labels: {{ underpass.dev/mesh: {mesh} }}, {annotations} }}\nspec: {{ serviceAccountName: a{name}, {place}addresses: [{ip}] }}\n"
            )
        });
        let policies = self.policies.iter().map(|p| {
            let (ns, name) = (p.namespace, p.name);
            let mut text = format!(
                "---\n{own}\nkind: AuthorizationPolicy\nmetadata: {{ name: p{name}, namespace: n{ns} }}\nspec:\n  rules:\n"
            );
            for rule in p.rules.iter().filter(|r| r.what != 0 || requests != Requests::NoRule) {
                let source = match rule.source {
                    0 => String::new(),
                    n => format!("sources: [{{ serviceAccounts: [{{ name: a{} }}] }}], ", n - 1),
                };
                let what = match rule.what {
                    0 if requests == Requests::AsTheyAre => {
                        format!("ports: [{{ port: {PORT} }}], methods: [GET], paths: [/n{ns}/*]")
                    }
                    0 | 1 => format!("ports: [{{ port: {PORT} }}]"),
                    _ => String::new(),
                };
                writeln!(text, "  - {{ {source}{what} }}").unwrap();
            }
            text
        });
        let kinds = [
            ("namespaces", namespaces.collect::<String>()),
            ("policies", policies.collect()),
            ("routes", self.routes.iter().map(Route::yaml).collect()),
            (
                "services",
                self.services.iter().map(|s| s.yaml(self)).collect(),
            ),
            ("workloads", workloads.collect()),
        ];
        kinds
            .map(|(kind, text)| (format!("{kind}.yaml"), text))
            .into()
    }

    /// With the doors that the random input names, where there can be one.
    pub fn facts(&self) -> Facts {
        let mut facts = Facts {
            host_netns: 1,
            ..Facts::default()
        };
        for w in &self.workloads {
            let name = format!("n{}/w{}", w.namespace, w.name);
            let netns = match w.place {
                1 => Some(10 + u64::from(w.namespace * 3 + w.name)),
                2 => Some(2),
                _ => None,
            };
            if w.place != 0 {
                let place = Place {
                    cgroups: vec![],
                    netns,
                };
                facts.places.insert(name.as_str().into(), place);
            }
            if w.door {
                facts.doors.insert(name.into());
            }
        }
        facts
    }
}

impl Workload {
    fn ip(&self) -> String {
        format!("10.0.{}.{}", self.namespace, self.name + 1)
    }
}

impl Service {
    fn yaml(&self, spec: &Spec) -> String {
        let (ns, name) = (self.namespace, self.name);
        let protocol = [
            "",
            ", appProtocol: http",
            ", appProtocol: https",
            ", protocol: UDP",
        ];
        let protocol = protocol[usize::from(self.protocol)];
        let transport = protocol
            .strip_prefix(", protocol")
            .map_or("", |_| ", protocol: UDP");
        let annotations = annotations(self.observed, self.rate);
        let mut text = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: s{name}, namespace: n{ns}, {annotations} }}\nspec: {{ clusterIPs: [10.96.{ns}.{name}, 'fd00::{ns}:{name}'], ports: [{{ name: p, port: 80{protocol} }}] }}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: s{name}-1, namespace: n{ns}, labels: {{ kubernetes.io/service-name: s{name} }} }}\naddressType: IPv4\nports: [{{ name: p, port: {PORT}{transport} }}]\nendpoints:\n"
        );
        for name in &self.endpoints {
            let same = |w: &&Workload| (w.namespace, w.name) == (ns, *name);
            if let Some(workload) = spec.workloads.iter().find(same) {
                writeln!(text, "- {{ addresses: [{}] }}", workload.ip()).unwrap();
            }
        }
        text
    }
}

impl Route {
    fn yaml(&self) -> String {
        let (ns, name, parent) = (self.namespace, self.name, self.parent);
        let backends = self
            .backends
            .iter()
            .map(|b| format!("{{ name: s{b}, port: 80 }}"));
        let backends = backends.collect::<Vec<_>>().join(", ");
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r{name}, namespace: n{ns} }}\nspec: {{ parentRefs: [{{ kind: Service, group: '', name: s{parent} }}], rules: [{{ matches: [{{ path: {{ value: /n{ns} }} }}], backendRefs: [{backends}] }}] }}\n"
        )
    }
}

/// A model of these files, of which nothing is refused.
pub fn model(files: &[(String, String)]) -> Model {
    let mut model = Model::default();
    load(&mut model, files);
    model
}

pub fn load(model: &mut Model, files: &[(String, String)]) {
    for (file, text) in files {
        let outcome = model.set_file(file, text);
        assert_ne!(outcome, Outcome::Rejected, "{:?}\n{text}", model.problems());
    }
}
