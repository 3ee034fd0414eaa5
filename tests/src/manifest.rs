//! Kubernetes manifests as text, in the shape in which users write them.

use std::fmt::Write as _;

use crate::lab::Pod;

/// Joins documents into one file.
pub fn file(documents: &[String]) -> String {
    documents.join("---\n")
}

/// A namespace whose objects join the mesh.
pub fn namespace(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n    underpass.dev/mesh: enabled\n"
    )
}

/// A namespace that stays out.
pub fn plain_namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n")
}

/// What a workload is found by, as a line of its spec: `cgroup: /a/b` or `netns: /run/netns/x`.
pub fn workload(namespace: &str, name: &str, found_by: &str, addresses: &[String]) -> String {
    let mut text = format!(
        "apiVersion: underpass.dev/v1alpha1\nkind: Workload\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  \
         labels:\n    app: {name}\nspec:\n  serviceAccountName: {name}\n  {found_by}\n"
    );
    if !addresses.is_empty() {
        let _ = writeln!(text, "  addresses: [{}]", quoted(addresses));
    }
    text
}

/// A document of these with an annotation.
pub fn annotated(document: &str, name: &str, value: &str) -> String {
    let lines = format!("metadata:\n  annotations:\n    {name}: \"{value}\"\n");
    document.replacen("metadata:\n", &lines, 1)
}

/// A pod of the lab, found by its network namespace.
pub fn pod_workload(namespace: &str, name: &str, pod: &Pod) -> String {
    let found_by = format!("netns: {}", pod.place.netns_path().display());
    workload(
        namespace,
        name,
        &found_by,
        &[pod.v4.to_string(), pod.v6.to_string()],
    )
}

/// What a policy protects.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// Workloads with `app: <name>`.
    Workload(&'a str),
    Service(&'a str),
    /// Every workload of the namespace.
    All,
}

/// Whom a rule allows.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// Namespace and name of a ServiceAccount.
    Account(&'a str, &'a str),
    Identity(&'a str),
    Namespace(&'a str),
    Block(&'a str),
    Host,
    Outside,
}

/// A policy with one rule for each source, every port.
pub fn allow(namespace: &str, name: &str, target: Target, sources: &[Source]) -> String {
    policy(
        namespace,
        name,
        target,
        false,
        &sources.iter().map(|s| (*s, None)).collect::<Vec<_>>(),
    )
}

/// The same in audit mode.
pub fn audit(namespace: &str, name: &str, target: Target, sources: &[Source]) -> String {
    policy(
        namespace,
        name,
        target,
        true,
        &sources.iter().map(|s| (*s, None)).collect::<Vec<_>>(),
    )
}

/// One rule for each (source, port).
pub fn policy(
    namespace: &str,
    name: &str,
    target: Target,
    audit: bool,
    rules: &[(Source, Option<u16>)],
) -> String {
    let mut text = format!(
        "apiVersion: underpass.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}\n  \
         namespace: {namespace}\nspec:\n  action: ALLOW\n  audit: {audit}\n"
    );
    let _ = match target {
        Target::Workload(app) => writeln!(
            text,
            "  targetRefs:\n  - kind: Workload\n    labelSelector: {{ matchLabels: {{ app: {app} }} }}"
        ),
        Target::Service(name) => {
            writeln!(text, "  targetRefs:\n  - kind: Service\n    name: {name}")
        }
        Target::All => Ok(()),
    };
    text += if rules.is_empty() {
        "  rules: []\n"
    } else {
        "  rules:\n"
    };
    for (source, port) in rules {
        let line = match source {
            Source::Account(namespace, name) => {
                format!("serviceAccounts: [{{namespace: {namespace}, name: {name}}}]")
            }
            Source::Identity(uri) => format!("spiffe: [\"{uri}\"]"),
            Source::Namespace(name) => format!("namespaces: [{name}]"),
            Source::Block(cidr) => format!("ipBlocks: [{{cidr: \"{cidr}\"}}]"),
            Source::Host => "host: true".to_owned(),
            Source::Outside => "outside: true".to_owned(),
        };
        let _ = writeln!(text, "  - sources:\n    - {line}");
        if let Some(port) = port {
            let _ = writeln!(text, "    ports: [{{port: {port}}}]");
        }
    }
    text
}

/// `ports`: (name, port, protocol).
pub struct Service<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub cluster_ips: &'a [&'a str],
    pub ports: &'a [(&'a str, u16, &'a str)],
    /// Seconds of session affinity.
    pub affinity: Option<u32>,
}

impl Service<'_> {
    pub fn yaml(&self) -> String {
        let Self {
            namespace,
            name,
            cluster_ips,
            ports,
            affinity,
        } = self;
        let ips: Vec<String> = cluster_ips.iter().map(|ip| (*ip).to_owned()).collect();
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n"
        );
        let _ = writeln!(
            text,
            "  clusterIP: \"{}\"\n  clusterIPs: [{}]",
            cluster_ips[0],
            quoted(&ips)
        );
        let both = ips.iter().any(|ip| ip.contains(':')) && ips.iter().any(|ip| !ip.contains(':'));
        if both {
            text += "  ipFamilyPolicy: RequireDualStack\n  ipFamilies: [IPv4, IPv6]\n";
        }
        text += "  ports:\n";
        for (name, port, protocol) in *ports {
            let _ = writeln!(
                text,
                "  - name: {name}\n    port: {port}\n    protocol: {protocol}"
            );
        }
        if let Some(seconds) = affinity {
            let _ = writeln!(
                text,
                "  sessionAffinity: ClientIP\n  sessionAffinityConfig:\n    clientIP:\n      timeoutSeconds: {seconds}"
            );
        }
        text
    }
}

/// One address of an EndpointSlice.
#[derive(Clone)]
pub struct Endpoint {
    pub address: String,
    pub weight: Option<u32>,
    /// Terminating but still serving: no new connections while others are ready.
    pub draining: bool,
    /// "namespace/name" of the workload behind it is found by its address; nothing to say here.
    pub ready: bool,
}

impl Endpoint {
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            weight: None,
            draining: false,
            ready: true,
        }
    }

    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = Some(weight);
        self
    }

    pub fn draining(mut self) -> Self {
        self.draining = true;
        self
    }
}

/// A slice of one service; all endpoints share its ports (name, port, protocol).
pub fn slice(
    namespace: &str,
    service: &str,
    slice: &str,
    ports: &[(&str, u16, &str)],
    endpoints: &[Endpoint],
) -> String {
    let family = if endpoints.first().is_some_and(|e| e.address.contains(':')) {
        "IPv6"
    } else {
        "IPv4"
    };
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {slice}\n  namespace: {namespace}\n  \
         labels:\n    kubernetes.io/service-name: {service}\n"
    );
    // Weights are one number per slice.
    if let Some(weight) = endpoints.iter().find_map(|e| e.weight) {
        let _ = writeln!(
            text,
            "  annotations:\n    underpass.dev/weight: \"{weight}\""
        );
    }
    let _ = writeln!(text, "addressType: {family}\nports:");
    for (name, port, protocol) in ports {
        let _ = writeln!(
            text,
            "- name: {name}\n  port: {port}\n  protocol: {protocol}"
        );
    }
    text += if endpoints.is_empty() {
        "endpoints: []\n"
    } else {
        "endpoints:\n"
    };
    for e in endpoints {
        let ready = e.ready && !e.draining;
        let _ = writeln!(
            text,
            "- addresses: [\"{}\"]\n  conditions:\n    ready: {ready}\n    serving: true\n    terminating: {}",
            e.address, e.draining
        );
    }
    text
}

fn quoted(items: &[String]) -> String {
    items
        .iter()
        .map(|i| format!("\"{i}\""))
        .collect::<Vec<_>>()
        .join(", ")
}
