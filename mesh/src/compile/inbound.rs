//! The ports of this node's workloads at which a worker has something to do.

use std::collections::{BTreeMap, BTreeSet};

use underpass_abi::reason::code;

use crate::{
    k8s::{Protocol as Transport, Rule},
    plan::{Cause, Inbound, Service, SetPolicy, World, spiffe},
    snapshot::{Allow, Protocol, Rate, Sources},
};

/// A port of a workload to which a service leads, where that makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lead {
    workload: u32,
    port: u16,
    protocol: Protocol,
    /// The service's.
    rate: Option<Rate>,
}

/// Where a service leads. Only if this changes, what is steered may change.
pub(crate) fn leads(world: &World, service: Option<&Service>) -> BTreeSet<Lead> {
    let ports = service.into_iter().flat_map(|s| {
        let tcp = s.ports.iter().filter(|p| p.proto == 6);
        tcp.map(|p| (p, s.rate))
    });
    let all = ports.flat_map(|(port, rate)| {
        let endpoints = port.endpoints.iter().chain(&port.draining);
        endpoints.filter_map(move |e| {
            let workload = e.workload?;
            let to = &world.workloads[workload as usize];
            let known = world.wanted.get(&workload);
            let matters = to.observed.is_some()
                || rate.is_some()
                || known.is_some_and(|all| all.iter().any(|i| i.port == e.port));
            (to.local && to.enrolled() && matters).then_some(Lead {
                workload,
                port: e.port,
                protocol: port.protocol,
                rate,
            })
        })
    });
    all.collect()
}

/// Adds what services want to what policies want, and puts it in force where there is a door. Services
/// come by name: the first that leads to a port names it.
pub(crate) fn steer<'a>(world: &mut World, services: impl Iterator<Item = &'a Service>) {
    let mut wanted: BTreeMap<u32, BTreeMap<u16, Inbound>> = BTreeMap::new();
    for (workload, ports) in std::mem::take(&mut world.wanted) {
        let ports = ports.into_iter().map(|inbound| (inbound.port, inbound));
        wanted.insert(workload, ports.collect());
    }
    let judged: BTreeMap<u32, Box<[Inbound]>> = flat(wanted.clone());
    world.wanted = judged;
    for service in services {
        for lead in leads(world, Some(service)) {
            add(
                world,
                service,
                lead,
                wanted.entry(lead.workload).or_default(),
            );
        }
    }
    wanted.retain(|_, ports| !ports.is_empty());
    world.wanted = flat(wanted);
    for (workload, ports) in &world.wanted {
        let workload = &mut world.workloads[*workload as usize];
        if workload.door {
            workload.inbound = ports.clone();
        }
    }
}

fn flat(wanted: BTreeMap<u32, BTreeMap<u16, Inbound>>) -> BTreeMap<u32, Box<[Inbound]>> {
    let all = wanted.into_iter();
    all.map(|(workload, ports)| (workload, ports.into_values().collect()))
        .collect()
}

fn add(world: &World, service: &Service, lead: Lead, ports: &mut BTreeMap<u16, Inbound>) {
    let name = &service.full_name;
    let rate = lead.rate.filter(|_| lead.protocol != Protocol::Opaque);
    let cause = match (rate, &world.workloads[lead.workload as usize].observed) {
        (Some(_), _) => Some(Cause {
            reason: code::RATE_LIMIT,
            object: arcstr::format!("Service {name}"),
        }),
        (None, observed) => observed
            .clone()
            .filter(|_| lead.protocol != Protocol::Opaque),
    };
    let known = match ports.get_mut(&lead.port) {
        Some(known) => known,
        None => {
            if let Some(cause) = cause {
                let inbound = Inbound {
                    port: lead.port,
                    protocol: lead.protocol,
                    service: Some(name.clone()),
                    rate,
                    allow: None,
                    cause,
                };
                ports.insert(lead.port, inbound);
            }
            return;
        }
    };
    if known.service.is_none() {
        known.service = Some(name.clone());
        known.protocol = lead.protocol;
    }
    known.rate = match (known.rate, rate) {
        (Some(a), Some(b)) => Some(stricter(a, b)),
        (a, b) => a.or(b),
    };
    if let Some(cause) = cause
        && known.cause.reason == code::OBSERVED
        && cause.reason == code::RATE_LIMIT
    {
        known.cause = cause;
    }
}

fn stricter(a: Rate, b: Rate) -> Rate {
    let over = |rate: Rate, other: Rate| u128::from(rate.requests) * other.per.as_nanos();
    match over(a, b) <= over(b, a) {
        true => a,
        false => b,
    }
}

/// The ports at which the rules of these policies judge requests, by number, with all that allows
/// something there. Policies in audit mode have no such rules, and grant nothing beside them.
pub(super) fn judged(policies: &[&SetPolicy]) -> Box<[Inbound]> {
    let in_force = || policies.iter().filter(|p| !p.object.spec.audit);
    let mut found: BTreeMap<u16, Inbound> = BTreeMap::new();
    for policy in in_force() {
        let rules = policy.object.spec.rules.iter();
        let ports = rules.filter(|r| r.of_requests()).flat_map(|r| &r.ports);
        for port in ports.map(|p| p.port) {
            found.entry(port).or_insert_with(|| Inbound {
                port,
                protocol: Protocol::default(),
                service: None,
                rate: None,
                allow: Some(in_force().flat_map(|p| allowed(p, port)).collect()),
                cause: Cause {
                    reason: code::REQUEST_RULES,
                    object: arcstr::format!("AuthorizationPolicy {}", policy.name),
                },
            });
        }
    }
    found.into_values().collect()
}

/// What a policy's rules allow at a TCP port.
fn allowed(policy: &SetPolicy, port: u16) -> impl Iterator<Item = Allow> {
    let here = move |rule: &&Rule| {
        let mut ports = rule.ports.iter();
        rule.ports.is_empty() || ports.any(|p| (p.port, p.protocol) == (port, Transport::TCP))
    };
    let rules = policy.object.spec.rules.iter().filter(here);
    rules.map(|rule| Allow {
        policy: policy.name.clone(),
        sources: sources(rule, policy.object.metadata.namespace()),
        methods: rule.methods.clone(),
        paths: rule.paths.clone(),
    })
}

fn sources(rule: &Rule, namespace: &str) -> Option<Sources> {
    let mut all = Sources::default();
    for source in &rule.sources {
        let accounts = source.service_accounts.iter();
        let accounts =
            accounts.map(|a| spiffe(a.namespace.as_deref().unwrap_or(namespace), &a.name));
        all.identities.extend(accounts);
        all.identities.extend(source.spiffe.iter().cloned());
        all.namespaces.extend(source.namespaces.iter().cloned());
        all.blocks.extend(source.ip_blocks.iter().cloned());
        all.host |= source.host;
        all.outside |= source.outside;
    }
    (!rule.sources.is_empty()).then_some(all)
}
