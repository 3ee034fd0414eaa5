//! From objects to a plan.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use underpass_abi::{Ip, shortcut::Mode};

use crate::{
    Str,
    facts::{Cgroup, Facts},
    k8s::{self, AuthorizationPolicy, Cidr, PolicyTarget, TargetKind},
    plan::{self, Owner, PolicySet, SetPolicy},
};

mod services;

pub(crate) use services::service;

/// Levels below the cgroup2 root at which programs look for workloads.
const CGROUP_LEVELS: std::ops::Range<u32> = 1..16;

/// Builds everything but services. Call in this order: `policy` for each, `workload` and `service`
/// for each by name, `finish`.
pub(crate) struct World<'a> {
    facts: &'a Facts,
    /// By namespace, sorted by name.
    policies: BTreeMap<Str, Vec<SetPolicy>>,
    sets: HashMap<Vec<Str>, u32>,
    identities: HashMap<(Str, Str), Str>,
    enrolled_by: BTreeSet<Str>,
    world: plan::World,
}

impl<'a> World<'a> {
    pub(crate) fn new(facts: &'a Facts) -> Self {
        let mut world = plan::World {
            default_policy: facts.default_policy,
            host_netns: facts.host_netns,
            policy_sets: vec![PolicySet::default()],
            ..plan::World::default()
        };
        for ip in &facts.addresses {
            let shared = Owner {
                workload: None,
                local: true,
                shared: true,
            };
            world.addresses.insert(Ip::from(*ip), shared);
        }
        Self {
            facts,
            policies: BTreeMap::new(),
            sets: HashMap::new(),
            identities: HashMap::new(),
            enrolled_by: BTreeSet::new(),
            world,
        }
    }

    pub(crate) fn policy(&mut self, policy: &Arc<AuthorizationPolicy>) {
        let name = policy.metadata.full_name();
        let of_namespace = self
            .policies
            .entry(policy.metadata.namespace.clone())
            .or_default();
        of_namespace.push(SetPolicy {
            name,
            object: policy.clone(),
        });
    }

    pub(crate) fn workload(
        &mut self,
        (namespace, name): &(Str, Str),
        pod: Option<&k8s::Pod>,
        workload: Option<&k8s::Workload>,
        enrolled_by: Option<Str>,
        shortcut: Option<Mode>,
    ) {
        let account = workload.and_then(|w| w.spec.service_account_name.as_ref());
        let account = account.or_else(|| pod.and_then(|p| p.spec.service_account_name.as_ref()));
        let identity = self.identity(namespace, account);
        let enrolled_by = enrolled_by.map(|by| {
            if let Some(known) = self.enrolled_by.get(&by) {
                return known.clone();
            }
            self.enrolled_by.insert(by.clone());
            by
        });
        let policies = match &enrolled_by {
            Some(_) => self
                .set_of(namespace, |p| selects(p, name, pod, workload))
                .unwrap_or(0),
            None => 0,
        };
        let full_name: Str = format!("{namespace}/{name}").into();
        let place = self.facts.places.get(&full_name);
        let weight = workload.and_then(|w| w.metadata.annotations.weight);
        let mut found = plan::Workload {
            namespace: namespace.clone(),
            name: name.clone(),
            identity,
            enrolled_by,
            local: place.is_some() || workload.is_some_and(|w| w.spec.locator.is_some()),
            addresses: Box::default(),
            cgroups: place.map(|p| levels(&p.cgroups)).unwrap_or_default(),
            netns: place.and_then(|p| p.netns).unwrap_or(0),
            policies,
            weight: weight.or_else(|| pod.and_then(|p| p.metadata.annotations.weight)),
            shortcut,
            full_name,
        };
        found.addresses = self.own_addresses(&found, pod, workload);
        self.add(found);
    }

    /// A service may have policies of its own: their set must be known before it is compiled.
    pub(crate) fn service(&mut self, (namespace, name): &(Str, Str)) {
        if let Some(set) = self.set_of(namespace, |p| names_service(p, name)) {
            self.world
                .service_sets
                .insert((namespace.clone(), name.clone()), set);
        }
    }

    pub(crate) fn finish(mut self) -> plan::World {
        let mut blocks = BTreeSet::new();
        let policies = self.world.policy_sets.iter().flat_map(|s| &s.policies);
        let rules = policies.flat_map(|p| &p.object.spec.rules);
        for block in rules.flat_map(|r| &r.sources).flat_map(|s| &s.ip_blocks) {
            blocks.insert(block.cidr);
            blocks.extend(block.except.iter().copied());
        }
        // An IPv4 address is looked up as `::ffff:a.b.c.d`; a wide IPv6 block must not catch it.
        let mapped = Cidr {
            ip: IpAddr::V6(std::net::Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()),
            prefix: 96,
        };
        if blocks.iter().any(|b| b.covers(&mapped)) {
            blocks.insert(Cidr {
                ip: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
                prefix: 0,
            });
        }
        self.world.blocks = blocks.into_iter().collect();
        self.world
    }

    fn identity(&mut self, namespace: &Str, account: Option<&Str>) -> Str {
        let account = account.cloned().unwrap_or_else(|| "default".into());
        let made = self.identities.entry((namespace.clone(), account));
        made.or_insert_with_key(|(ns, sa)| plan::spiffe(ns, sa))
            .clone()
    }

    /// The set of a namespace's policies that match; `None` if none does.
    fn set_of(
        &mut self,
        namespace: &str,
        matches: impl Fn(&AuthorizationPolicy) -> bool,
    ) -> Option<u32> {
        let all = self.policies.get(namespace)?;
        let matching: Vec<&SetPolicy> = all.iter().filter(|p| matches(&p.object)).collect();
        if matching.is_empty() {
            return None;
        }
        let key: Vec<Str> = matching.iter().map(|p| p.name.clone()).collect();
        let sets = &mut self.world.policy_sets;
        let set = self.sets.entry(key).or_insert_with(|| {
            sets.push(PolicySet {
                policies: matching.into_iter().cloned().collect(),
            });
            sets.len() as u32 - 1
        });
        Some(*set)
    }

    /// Addresses that belong to this workload and nobody else, as far as it says.
    fn own_addresses(
        &mut self,
        found: &plan::Workload,
        pod: Option<&k8s::Pod>,
        workload: Option<&k8s::Workload>,
    ) -> Box<[Ip]> {
        let of_pod = pod.into_iter().flat_map(|p| p.addresses());
        let of_workload = workload
            .into_iter()
            .flat_map(|w| w.spec.addresses.iter().copied());
        let mut all: Vec<Ip> = of_pod.chain(of_workload).map(Ip::from).collect();
        all.retain(|ip| !ip.is_loopback());
        all.sort();
        all.dedup();
        let on_host = found.netns != 0 && found.netns == self.facts.host_netns;
        if on_host || pod.is_some_and(|p| p.spec.host_network) {
            // Other processes of that node have the same address.
            for ip in &all {
                let owner = self.world.addresses.entry(*ip).or_default();
                *owner = Owner {
                    workload: None,
                    local: owner.local || on_host,
                    shared: true,
                };
            }
        }
        all.into()
    }

    fn add(&mut self, workload: plan::Workload) {
        let position = self.world.workloads.len() as u32;
        for ip in &workload.addresses {
            let mine = Owner {
                workload: Some(position),
                local: workload.local,
                shared: false,
            };
            let owner = self.world.addresses.entry(*ip).or_insert(mine);
            if owner.workload != Some(position) {
                // Two claim it: it proves nobody's identity.
                let local = owner.local || workload.local;
                *owner = Owner {
                    workload: None,
                    local,
                    shared: true,
                };
            }
        }
        if workload.netns != 0 {
            let host = workload.netns == self.facts.host_netns;
            let shared = host || self.world.netns.contains_key(&workload.netns);
            self.world
                .netns
                .insert(workload.netns, if shared { None } else { Some(position) });
        }
        for cgroup in &workload.cgroups {
            self.world.cgroups.entry(cgroup.id).or_insert(position);
        }
        self.world.workloads.push(workload);
    }
}

fn levels(cgroups: &[Cgroup]) -> Box<[Cgroup]> {
    cgroups
        .iter()
        .filter(|c| CGROUP_LEVELS.contains(&c.level))
        .copied()
        .collect()
}

/// True if the policy protects the workload.
pub(crate) fn selects(
    policy: &AuthorizationPolicy,
    name: &str,
    pod: Option<&k8s::Pod>,
    workload: Option<&k8s::Workload>,
) -> bool {
    let targets = &policy.spec.target_refs;
    targets.is_empty()
        || targets.iter().any(|target| match target {
            PolicyTarget::Service { .. } => false,
            PolicyTarget::Workloads {
                kind,
                name: wanted,
                labels,
            } => {
                let meta = match kind {
                    TargetKind::Pod => pod.map(|p| &p.metadata),
                    _ => workload.map(|w| &w.metadata),
                };
                meta.is_some_and(|m| labels.select(&m.labels))
                    && wanted.as_deref().is_none_or(|w| w == name)
            }
        })
}

/// True if the policy protects the service.
pub(crate) fn names_service(policy: &AuthorizationPolicy, service: &str) -> bool {
    let named =
        |t: &PolicyTarget| matches!(t, PolicyTarget::Service { name } if **name == *service);
    policy.spec.target_refs.iter().any(named)
}
