//! What is wrong between objects: policies that protect nothing, services that lead nowhere,
//! references to nothing, claims to the same thing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use underpass_abi::reason::code;

use super::{Held, Model, service_of};
use crate::{
    Str, compile,
    k8s::{AuthorizationPolicy, Kind, MESH_LABEL, Meta, PolicyTarget},
    problem::{Problem, Severity},
    split_name,
};

mod routes;

impl Model {
    /// All problems: of single files and between objects, by file and line. For `check -f DIR`.
    pub fn check(&self) -> Vec<Problem> {
        let mut found = Findings(self.problems());
        self.check_duplicates(&mut found);
        self.check_labels(&mut found);
        self.check_policies(&mut found);
        self.check_services(&mut found);
        self.check_slices(&mut found);
        self.check_routes(&mut found);
        self.check_rate_limits(&mut found);
        self.check_addresses(&mut found);
        let mut found = found.0;
        found.sort_by(|a, b| (&a.file, a.line, &a.field).cmp(&(&b.file, b.line, &b.field)));
        found
    }

    fn check_duplicates(&self, found: &mut Findings) {
        fn report<T: PartialEq>(kind: Kind, store: &super::Store<T>, found: &mut Findings) {
            for (name, first, other) in store.duplicates() {
                let message = format!(
                    "{} {name} is in {} too, which counts",
                    kind.name(),
                    first.file
                );
                found.add(code::DUPLICATE_OBJECT, other, "", message);
            }
        }
        report(Kind::Namespace, &self.namespaces, found);
        report(Kind::Pod, &self.pods, found);
        report(Kind::Workload, &self.workloads, found);
        report(Kind::Service, &self.services, found);
        report(Kind::EndpointSlice, &self.slices, found);
        report(Kind::AuthorizationPolicy, &self.policies, found);
        report(Kind::HttpRoute, &self.routes, found);
    }

    fn check_labels(&self, found: &mut Findings) {
        fn report<T>(meta: &Meta, held: &Held<T>, found: &mut Findings) {
            if let Some(value) = meta.labels.get(MESH_LABEL)
                && value != "enabled"
                && value != "disabled"
            {
                let message =
                    format!("`{value}` is none of enabled, disabled; it counts as disabled");
                found.add(
                    code::BAD_FIELD,
                    held,
                    &format!("metadata.labels[{MESH_LABEL}]"),
                    message,
                );
            }
        }
        self.namespaces
            .iter()
            .for_each(|(_, h)| report(&h.object.metadata, h, found));
        self.pods
            .iter()
            .for_each(|(_, h)| report(&h.object.metadata, h, found));
        self.workloads
            .iter()
            .for_each(|(_, h)| report(&h.object.metadata, h, found));
    }

    fn check_policies(&self, found: &mut Findings) {
        let accounts = self.accounts();
        let workloads = self.workload_names();
        let namespaces: BTreeSet<&str> = workloads.iter().map(|n| split_name(n).0).collect();
        for (name, held) in self.policies.iter() {
            let namespace = held.object.metadata.namespace();
            let targets = &held.object.spec.target_refs;
            for (i, target) in targets.iter().enumerate() {
                let PolicyTarget::Service { name: service } = target else {
                    continue;
                };
                let service = format!("{namespace}/{service}");
                if self.services.get(&service).is_none() {
                    let field = format!("spec.targetRefs[{i}].name");
                    let message = format!("there is no Service {service}");
                    found.add(code::DANGLING_REFERENCE, held, &field, message);
                }
            }
            if !self.selects_something(&held.object) {
                let message = format!("policy {name} selects nothing in the mesh");
                found.add(code::SELECTS_NOTHING, held, "spec.targetRefs", message);
            }
            for (r, rule) in held.object.spec.rules.iter().enumerate() {
                for (s, source) in rule.sources.iter().enumerate() {
                    let at = format!("spec.rules[{r}].sources[{s}]");
                    for account in &source.service_accounts {
                        let ns = account.namespace.as_deref().unwrap_or(namespace);
                        if !accounts.contains(&(ns, &*account.name)) {
                            let field = format!("{at}.serviceAccounts");
                            let message = format!("no workload runs as {ns}/{}", account.name);
                            found.add(code::DANGLING_REFERENCE, held, &field, message);
                        }
                    }
                    for ns in source
                        .namespaces
                        .iter()
                        .filter(|ns| !namespaces.contains(&***ns))
                    {
                        let message = format!("no workload is in namespace {ns}");
                        let field = format!("{at}.namespaces");
                        found.add(code::DANGLING_REFERENCE, held, &field, message);
                    }
                }
            }
        }
    }

    fn selects_something(&self, policy: &AuthorizationPolicy) -> bool {
        let namespace = policy.metadata.namespace();
        let service = |full_name: &str| {
            let (ns, name) = split_name(full_name);
            ns == namespace && compile::names_service(policy, name)
        };
        self.services.iter().any(|(n, _)| service(n))
            || self.workload_names().into_iter().any(|full_name| {
                let pod = self.pods.get(full_name).map(|h| &*h.object);
                let workload = self.workloads.get(full_name).map(|h| &*h.object);
                let (ns, name) = split_name(full_name);
                ns == namespace
                    && self.enrolled(full_name, pod, workload).is_some()
                    && compile::selects(policy, name, pod, workload)
            })
    }

    fn check_services(&self, found: &mut Findings) {
        let mut addresses: BTreeMap<(IpAddr, u16, u8), &Str> = BTreeMap::new();
        for (name, held) in self.services.iter() {
            let spec = &held.object.spec;
            if spec.addresses().is_empty() && !spec.headless() {
                found.add(
                    code::BAD_FIELD,
                    held,
                    "spec.clusterIP",
                    "no address and not `None`: nobody can dial this service".into(),
                );
            }
            if !self.slices_of(name).any(|s| !s.object.endpoints.is_empty()) {
                let message = format!("service {name} has no endpoint");
                found.add(code::SERVICE_WITHOUT_ENDPOINTS, held, "", message);
            }
            for (i, port) in spec.ports.iter().enumerate() {
                let mut ports = self
                    .slices_of(name)
                    .flat_map(|s| &s.object.ports)
                    .peekable();
                if ports.peek().is_some()
                    && !ports.any(|p| p.name == port.name && p.protocol == port.protocol)
                {
                    let message = format!("no EndpointSlice has a port named `{}`", port.name);
                    let field = format!("spec.ports[{i}].name");
                    found.add(code::DANGLING_REFERENCE, held, &field, message);
                }
                for ip in spec.addresses() {
                    let key = (ip, port.port, port.protocol.number());
                    let first = addresses.entry(key).or_insert(name);
                    if *first != name {
                        let message = format!("{ip}:{} is {first}'s already", port.port);
                        found.add(code::DUPLICATE_ADDRESS, held, "spec.clusterIP", message);
                    }
                }
            }
        }
    }

    fn check_slices(&self, found: &mut Findings) {
        for (name, held) in self.slices.iter() {
            match service_of(&held.object) {
                Some(service) if self.services.get(&service).is_none() => {
                    let message = format!("there is no Service {service}");
                    found.add(code::DANGLING_REFERENCE, held, "metadata.labels", message);
                }
                Some(_) => {}
                None => {
                    let message = format!("{name} belongs to no service");
                    found.add(code::DANGLING_REFERENCE, held, "metadata.labels", message);
                }
            }
            for (i, endpoint) in held.object.endpoints.iter().enumerate() {
                let Some(target) = &endpoint.target else {
                    continue;
                };
                if self.pods.get(target).is_none() && self.workloads.get(target).is_none() {
                    let field = format!("endpoints[{i}].targetRef");
                    let message = format!("there is no {target}");
                    found.add(code::DANGLING_REFERENCE, held, &field, message);
                }
            }
        }
    }

    /// Only remote claims: local workloads may share the node's address.
    fn check_addresses(&self, found: &mut Findings) {
        let mut owners: BTreeMap<IpAddr, &Str> = BTreeMap::new();
        for (name, held) in self.pods.iter() {
            if !held.object.host_network {
                for ip in &held.object.addresses {
                    claim(&mut owners, *ip, name, held, "status.podIPs", found);
                }
            }
        }
        for (name, held) in self.workloads.iter() {
            if matches!(
                held.object.spec.locator,
                None | Some(super::Locator::Netns(_))
            ) {
                for ip in &held.object.spec.addresses {
                    claim(&mut owners, *ip, name, held, "spec.addresses", found);
                }
            }
        }
    }

    fn workload_names(&self) -> BTreeSet<&Str> {
        let pods = self.pods.iter().map(|(n, _)| n);
        pods.chain(self.workloads.iter().map(|(n, _)| n)).collect()
    }

    /// (namespace, service account) of all workloads.
    fn accounts(&self) -> BTreeSet<(&str, &str)> {
        let of_pods = self
            .pods
            .iter()
            .map(|(n, h)| (n, &h.object.service_account_name));
        let of_workloads = self
            .workloads
            .iter()
            .map(|(n, h)| (n, &h.object.spec.service_account_name));
        let all = of_pods.chain(of_workloads);
        all.map(|(n, account)| (split_name(n).0, account.as_deref().unwrap_or("default")))
            .collect()
    }
}

fn claim<'a, T>(
    owners: &mut BTreeMap<IpAddr, &'a Str>,
    ip: IpAddr,
    name: &'a Str,
    held: &Held<T>,
    field: &str,
    found: &mut Findings,
) {
    let owner = owners.entry(ip).or_insert(name);
    if *owner != name {
        let message = format!("{ip} is {owner}'s already: it identifies neither");
        found.add(code::DUPLICATE_ADDRESS, held, field, message);
    }
}

struct Findings(Vec<Problem>);

impl Findings {
    fn add<T>(&mut self, code: u16, held: &Held<T>, field: &str, message: String) {
        self.0.push(Problem {
            severity: Severity::Warning,
            code,
            file: held.file.clone(),
            line: held.line,
            field: field.into(),
            message,
        });
    }
}
