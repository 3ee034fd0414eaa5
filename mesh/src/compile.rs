//! From objects to a plan.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use underpass_abi::{Ip, shortcut::Mode};

use crate::{
    Str,
    facts::{Facts, Place},
    k8s::{self, AuthorizationPolicy, Cidr, PolicyTarget, TargetKind},
    plan::{self, Cause, EnrolledBy, Inbound, Owner, PolicySet, SetPolicy},
    split_name,
};

mod inbound;
mod services;

pub(crate) use inbound::{leads, steer};
pub(crate) use services::service;

/// Levels below the cgroup2 root at which programs look for workloads.
const CGROUP_LEVELS: std::ops::Range<u32> = 1..16;

/// Builds everything but services. Call in this order: `policy` for each, `workload` and `service`
/// for each by name, `finish`.
pub(crate) struct World<'a> {
    facts: &'a Facts,
    /// By namespace, sorted by name.
    policies: BTreeMap<&'a str, Vec<Known>>,
    /// By names, and whether rules about requests are left out.
    sets: HashMap<(Vec<Str>, bool), u32>,
    /// Workloads in each network namespace.
    in_netns: HashMap<u64, u32>,
    /// By namespace and service account.
    identities: HashMap<(&'a str, &'a str), Str>,
    world: plan::World,
}

/// A policy, and without its rules about requests, if it has some.
struct Known {
    whole: SetPolicy,
    closed: Option<SetPolicy>,
}

/// What the objects say of a workload beside its specification.
pub(crate) struct Words {
    pub enrolled: Option<EnrolledBy>,
    pub shortcut: Option<Mode>,
    pub observed: Option<Cause>,
}

impl<'a> World<'a> {
    pub(crate) fn new(facts: &'a Facts) -> Self {
        let world = plan::World {
            default_policy: facts.default_policy,
            host_netns: facts.host_netns,
            policy_sets: vec![PolicySet::default()],
            ..plan::World::default()
        };
        let mut in_netns = HashMap::new();
        for netns in facts.places.values().filter_map(|p| p.netns) {
            *in_netns.entry(netns).or_default() += 1;
        }
        let mut world = Self {
            facts,
            in_netns,
            policies: BTreeMap::new(),
            sets: HashMap::new(),
            identities: HashMap::new(),
            world,
        };
        for ip in &facts.addresses {
            world.shared(Ip::from(*ip), true);
        }
        world
    }

    pub(crate) fn policy(&mut self, policy: &'a Arc<AuthorizationPolicy>) {
        let namespace = policy.metadata.namespace();
        let named = |object: Arc<AuthorizationPolicy>| SetPolicy {
            name: object.metadata.full_name.clone(),
            object,
        };
        let closed = policy.spec.of_requests().then(|| {
            let mut closed = (**policy).clone();
            closed.spec.rules.retain(|rule| !rule.of_requests());
            named(Arc::new(closed))
        });
        let whole = named(policy.clone());
        let known = Known { whole, closed };
        self.policies.entry(namespace).or_default().push(known);
    }

    pub(crate) fn workload(
        &mut self,
        full_name: &'a Str,
        pod: Option<&'a k8s::Pod>,
        workload: Option<&'a k8s::Workload>,
        words: Words,
    ) {
        let (namespace, name) = split_name(full_name);
        let account = workload.and_then(|w| w.spec.service_account_name.as_deref());
        let account = account.or_else(|| pod.and_then(|p| p.service_account_name.as_deref()));
        let place = self.facts.places.get(full_name);
        let local = place.is_some() || workload.is_some_and(|w| w.spec.locator.is_some());
        let enrolled = words.enrolled.is_some();
        let door = enrolled && self.has_door(full_name);
        // Without a worker nobody could judge requests, so that their rules allow nothing. Of a workload
        // elsewhere its own node is the judge.
        let closed = local && !door;
        let selects = |p: &AuthorizationPolicy| selects(p, name, pod, workload);
        let policies = match enrolled {
            true => self.set_of(namespace, closed, selects).unwrap_or(0),
            false => 0,
        };
        if local && enrolled {
            let wanted = self.judged(namespace, selects);
            if !wanted.is_empty() {
                let position = self.world.workloads.len() as u32;
                self.world.wanted.insert(position, wanted);
            }
        }
        let weight = workload.and_then(|w| w.metadata.annotations.weight);
        let mut found = plan::Workload {
            full_name: full_name.clone(),
            identity: self.identity(namespace, account.unwrap_or("default")),
            enrolled_by: words.enrolled,
            local,
            addresses: Box::default(),
            place: place.map(|p| Box::new(within_levels(p))),
            policies,
            weight: weight.or_else(|| pod.and_then(|p| p.metadata.annotations.weight)),
            shortcut: words.shortcut,
            observed: words.observed,
            inbound: Box::default(),
            door,
        };
        found.addresses = self.own_addresses(&found, pod, workload);
        self.add(found);
    }

    /// The worker listens in its namespace, in which it is alone.
    fn has_door(&self, full_name: &str) -> bool {
        let netns = self.facts.places.get(full_name).and_then(|p| p.netns);
        netns.is_some_and(|netns| {
            netns != 0
                && netns != self.facts.host_netns
                && self.in_netns.get(&netns) == Some(&1)
                && self.facts.doors.contains(full_name)
        })
    }

    /// A service may have policies of its own: their set must be known before it is compiled.
    pub(crate) fn service(&mut self, full_name: &Str) {
        let (namespace, name) = split_name(full_name);
        if let Some(set) = self.set_of(namespace, false, |p| names_service(p, name)) {
            self.world.service_sets.insert(full_name.clone(), set);
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
        self.world.workloads.shrink_to_fit();
        // Who claims an address alone owns it; of several it proves nobody's identity.
        let addresses = &mut self.world.addresses;
        addresses.sort_by_key(|(ip, _)| *ip);
        addresses.dedup_by(|(ip, other), (first_ip, first)| {
            if ip == first_ip {
                *first = Owner {
                    workload: None,
                    local: first.local || other.local,
                    shared: true,
                };
            }
            ip == first_ip
        });
        addresses.shrink_to_fit();
        self.world
    }

    fn identity(&mut self, namespace: &'a str, account: &'a str) -> Str {
        let made = self.identities.entry((namespace, account));
        made.or_insert_with_key(|(ns, sa)| plan::spiffe(ns, sa))
            .clone()
    }

    /// The set of a namespace's policies that match; `None` if none does. `closed`: without rules about
    /// requests.
    fn set_of(
        &mut self,
        namespace: &str,
        closed: bool,
        matches: impl Fn(&AuthorizationPolicy) -> bool,
    ) -> Option<u32> {
        let all = self.policies.get(namespace)?;
        let matching: Vec<&Known> = all.iter().filter(|p| matches(&p.whole.object)).collect();
        if matching.is_empty() {
            return None;
        }
        let closed = closed && matching.iter().any(|p| p.closed.is_some());
        let names: Vec<Str> = matching.iter().map(|p| p.whole.name.clone()).collect();
        let sets = &mut self.world.policy_sets;
        let set = self.sets.entry((names, closed)).or_insert_with(|| {
            let policies = matching.into_iter().map(|p| match &p.closed {
                Some(policy) if closed => policy.clone(),
                _ => p.whole.clone(),
            });
            sets.push(PolicySet {
                policies: policies.collect(),
            });
            sets.len() as u32 - 1
        });
        Some(*set)
    }

    /// The ports at which matching policies judge requests.
    fn judged(
        &self,
        namespace: &str,
        matches: impl Fn(&AuthorizationPolicy) -> bool,
    ) -> Box<[Inbound]> {
        let all = self.policies.get(namespace).into_iter().flatten();
        let whole = all.map(|p| &p.whole).filter(|p| matches(&p.object));
        inbound::judged(&whole.collect::<Vec<_>>())
    }

    /// Addresses that belong to this workload and nobody else, as far as it says.
    fn own_addresses(
        &mut self,
        found: &plan::Workload,
        pod: Option<&k8s::Pod>,
        workload: Option<&k8s::Workload>,
    ) -> Box<[Ip]> {
        let of_pod = pod.into_iter().flat_map(|p| &p.addresses);
        let of_workload = workload.into_iter().flat_map(|w| &w.spec.addresses);
        let mut all: Vec<Ip> = of_pod.chain(of_workload).map(|ip| Ip::from(*ip)).collect();
        all.retain(|ip| !ip.is_loopback());
        all.sort();
        all.dedup();
        let on_host = found.netns() != 0 && found.netns() == self.facts.host_netns;
        if on_host || pod.is_some_and(|p| p.host_network) {
            // Other processes of that node have the same address.
            for ip in &all {
                self.shared(*ip, on_host);
            }
        }
        all.into()
    }

    /// An address that is nobody's alone.
    fn shared(&mut self, ip: Ip, local: bool) {
        let owner = Owner {
            workload: None,
            local,
            shared: true,
        };
        self.world.addresses.push((ip, owner));
    }

    fn add(&mut self, workload: plan::Workload) {
        let position = self.world.workloads.len() as u32;
        for ip in &workload.addresses {
            let mine = Owner {
                workload: Some(position),
                local: workload.local,
                shared: false,
            };
            self.world.addresses.push((*ip, mine));
        }
        let netns = workload.netns();
        if netns != 0 {
            let shared = netns == self.facts.host_netns || self.world.netns.contains_key(&netns);
            let owner = if shared { None } else { Some(position) };
            self.world.netns.insert(netns, owner);
        }
        for cgroup in workload.place.iter().flat_map(|p| &p.cgroups) {
            self.world.cgroups.entry(cgroup.id).or_insert(position);
        }
        self.world.workloads.push(workload);
    }
}

fn within_levels(place: &Place) -> Place {
    let cgroups = place.cgroups.iter();
    let within = cgroups.filter(|c| CGROUP_LEVELS.contains(&c.level));
    Place {
        cgroups: within.copied().collect(),
        netns: place.netns,
    }
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
