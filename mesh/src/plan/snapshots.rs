//! What of a plan each tenant's worker is given.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Plan, Service as PlanService, ServicePort, World};
use crate::{
    Str,
    snapshot::{Backend, Endpoint, FORMAT, Inbound, Service, Snapshot, Workload},
    split_name,
};

/// A service's `namespace/name` and port.
pub type PortName = (Str, u16);

/// What no new connection needs a worker for, and what older ones still go through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resting {
    /// `namespace/name`.
    pub workloads: BTreeSet<Str>,
    pub services: BTreeSet<PortName>,
}

impl Plan {
    /// For each tenant with a workload on this node that has a door or shall get one, by name. Doors make no
    /// difference, so that a worker can have its snapshot before it listens. Equal plans give equal
    /// snapshots; their version is 0.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.snapshots_with(&Resting::default())
    }

    /// The same, with what older connections need.
    pub fn snapshots_with(&self, resting: &Resting) -> Vec<Snapshot> {
        let mut tenants: BTreeMap<Str, BTreeSet<u32>> = BTreeMap::new();
        for door in self.wanted_doors() {
            let position = self.world.position(&door.workload);
            tenants.entry(door.tenant).or_default().extend(position);
        }
        for name in &resting.workloads {
            let Some(position) = self.world.position(name) else {
                continue;
            };
            let (tenant, _) = split_name(name);
            tenants.entry(tenant.into()).or_default().insert(position);
        }
        let rests = |service: &PlanService, port: &ServicePort| {
            let services = &resting.services;
            port.proto == 6
                && !services.is_empty()
                && services.contains(&(service.full_name.clone(), port.port))
        };
        let of_all = |s: &PlanService, port: &ServicePort| port.http.is_some() || rests(s, port);
        let shared = OnceParts::default();
        let all = tenants.into_iter().map(|(tenant, workloads)| {
            let workloads: Vec<u32> = workloads.into_iter().collect();
            let observed = |w: &u32| self.world.workloads[*w as usize].observed.is_some();
            let parts = match workloads.iter().any(observed) {
                true => shared.tcp.get_or_init(|| self.parts(|_, p| p.proto == 6)),
                false => shared.http.get_or_init(|| self.parts(of_all)),
            };
            let mut backends = parts.backends.clone();
            let endpoints = backends.iter_mut().flat_map(|b| &mut b.endpoints);
            for (endpoint, behind) in endpoints.zip(&parts.behind) {
                let own = |position: u32| workloads.binary_search(&position).is_ok();
                endpoint.same_worker = behind.is_some_and(own);
            }
            Snapshot {
                format: FORMAT,
                version: 0,
                tenant,
                workloads: workloads.iter().map(|w| self.world.served(*w)).collect(),
                services: parts.services.clone(),
                backends,
                peers: Vec::new(),
            }
        });
        all.collect()
    }

    /// The service ports that are dialed through a worker, and where their requests may go.
    fn parts(&self, wanted: impl Fn(&PlanService, &ServicePort) -> bool) -> Parts {
        let mut parts = Parts::default();
        let mut backends: BTreeSet<PortName> = BTreeSet::new();
        for service in self.services() {
            let mut ports: BTreeMap<u16, Service> = BTreeMap::new();
            for port in service.ports.iter().filter(|p| wanted(service, p)) {
                let dialed = ports.entry(port.port);
                let dialed = dialed.or_insert_with(|| dialed_at(service, port));
                dialed.addresses.push(IpAddr::from(port.ip));
            }
            for (number, dialed) in ports {
                backends.insert((service.full_name.clone(), number));
                let rules = dialed.routes.iter().flat_map(|r| &r.rules);
                let named = rules.flat_map(|rule| &rule.backends);
                backends.extend(named.map(|b| (b.service.clone(), b.port)));
                parts.services.push(dialed);
            }
        }
        for name in backends {
            parts.backends.extend(self.backend(name, &mut parts.behind));
        }
        parts
    }

    /// `None` if there is no such service, or no such port. Adds its endpoints' workloads.
    fn backend(&self, (name, number): PortName, behind: &mut Vec<Option<u32>>) -> Option<Backend> {
        let service = self.services.get(&name)?;
        let ports = || {
            let ports = service.ports.iter();
            ports.filter(|p| (p.port, p.proto) == (number, 6))
        };
        // Endpoints of both families are the same pods.
        let port = ports().find(|p| !p.endpoints.is_empty());
        let port = port.or_else(|| ports().next())?;
        behind.extend(port.endpoints.iter().map(|e| e.workload));
        let endpoints = port.endpoints.iter().map(|e| {
            let workload = e.workload.map(|w| &self.world.workloads[w as usize]);
            Endpoint {
                address: IpAddr::from(e.ip),
                port: e.port,
                weight: e.weight,
                workload: workload.map(|w| w.full_name.clone()),
                identity: workload.map(|w| w.identity.clone()),
                same_worker: false,
            }
        });
        Some(Backend {
            endpoints: endpoints.collect(),
            service: name,
            port: number,
            protocol: port.protocol,
        })
    }
}

/// What tenants' snapshots have in common: with observed workloads every service, else those of HTTP.
#[derive(Default)]
struct OnceParts {
    tcp: std::cell::OnceCell<Parts>,
    http: std::cell::OnceCell<Parts>,
}

#[derive(Default)]
struct Parts {
    services: Vec<Service>,
    backends: Vec<Backend>,
    /// Positions of the workloads of all backends' endpoints, in their order.
    behind: Vec<Option<u32>>,
}

fn dialed_at(service: &PlanService, port: &ServicePort) -> Service {
    let routes = match port.may_be_http() {
        true => service.routes_at(port.port).cloned().collect(),
        false => Vec::new(),
    };
    Service {
        name: service.full_name.clone(),
        port: port.port,
        addresses: Vec::new(),
        protocol: port.protocol,
        routes,
    }
}

impl World {
    fn served(&self, position: u32) -> Workload {
        let workload = &self.workloads[position as usize];
        let wanted = self.wanted.get(&position).into_iter().flatten();
        let inbound = wanted.map(|i| Inbound {
            port: i.port,
            protocol: i.protocol,
            service: i.service.clone(),
            rate: i.rate,
            allow: i.allow.clone(),
        });
        Workload {
            name: workload.full_name.clone(),
            identity: workload.identity.clone(),
            addresses: workload
                .addresses
                .iter()
                .map(|ip| IpAddr::from(*ip))
                .collect(),
            inbound: inbound.collect(),
        }
    }
}
