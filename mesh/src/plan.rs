//! A node's plan: what the objects and the node's facts mean, in names and addresses, without any
//! index of a kernel map. It answers what the kernel will decide, and why.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use underpass_abi::{Ip, shortcut::Mode, sock::Layer, verdict::Verdict};

use crate::{
    Str,
    facts::{DefaultPolicy, Place},
    k8s::{AuthorizationPolicy, Cidr, route::HttpRoute},
    snapshot::{Protocol, Rate},
    split_name,
};

mod http;
mod layer;
mod snapshots;
mod verdict;

pub use http::{Cause, Inbound, WantedDoor};
pub use snapshots::Resting;

/// A node's plan. Cheap to clone; parts that did not change are shared with the plan before.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub(crate) world: Arc<World>,
    /// By full name.
    pub(crate) services: Arc<BTreeMap<Str, Arc<Service>>>,
}

/// Everything but services: changes with workloads, policies and facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    pub default_policy: DefaultPolicy,
    pub host_netns: u64,
    /// Sorted by full name; services refer to them by position.
    pub workloads: Vec<Workload>,
    /// Owners of addresses, sorted.
    pub(crate) addresses: Vec<(Ip, Owner)>,
    /// Namespaces with workloads in them; `None`: several, or the node's own.
    pub(crate) netns: BTreeMap<u64, Option<u32>>,
    pub(crate) cgroups: BTreeMap<u64, u32>,
    /// Distinct sets of policies that select something; the first is empty.
    pub(crate) policy_sets: Vec<PolicySet>,
    /// Of services that policies name.
    pub(crate) service_sets: BTreeMap<Str, u32>,
    /// Every CIDR that a policy names, sorted.
    pub(crate) blocks: Vec<Cidr>,
    /// Ports of this node's workloads that are to be steered, whether there is a door or not; by
    /// position, none empty, each by number.
    pub(crate) wanted: BTreeMap<u32, Box<[Inbound]>>,
}

/// A workload, local or remote, in the mesh or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// `namespace/name`.
    pub full_name: Str,
    /// `spiffe://cluster.local/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    pub identity: Str,
    /// Whose label joined it to the mesh; `None`: it is not in it.
    pub enrolled_by: Option<EnrolledBy>,
    /// Runs on this node.
    pub local: bool,
    pub addresses: Box<[Ip]>,
    /// Where it was found on this node.
    pub(crate) place: Option<Box<Place>>,
    /// Position in [`World::policy_sets`].
    pub(crate) policies: u32,
    pub(crate) weight: Option<u16>,
    /// Its own or its namespace's annotation; `None`: the node's mode.
    pub shortcut: Option<Mode>,
    /// All services that it dials are dialed through the worker, once there is a door.
    pub observed: Option<Cause>,
    /// Its ports that are steered to the worker, by number; empty without a door.
    pub inbound: Box<[Inbound]>,
    /// The worker listens in its network namespace, which no other workload shares.
    pub door: bool,
}

/// The object whose label joined a workload to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnrolledBy {
    Namespace,
    Pod,
    Workload,
}

impl Workload {
    pub fn namespace(&self) -> &str {
        split_name(&self.full_name).0
    }

    pub fn enrolled(&self) -> bool {
        self.enrolled_by.is_some()
    }

    /// The object that joined it to the mesh, as `Namespace shop`.
    pub fn enrolled_object(&self) -> Option<Str> {
        Some(match self.enrolled_by? {
            EnrolledBy::Namespace => arcstr::format!("Namespace {}", self.namespace()),
            EnrolledBy::Pod => arcstr::format!("Pod {}", self.full_name),
            EnrolledBy::Workload => arcstr::format!("Workload {}", self.full_name),
        })
    }

    /// Cookie of its network namespace; 0: remote, or not found yet.
    pub fn netns(&self) -> u64 {
        self.place.as_ref().and_then(|p| p.netns).unwrap_or(0)
    }
}

/// Who answers on an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// `None`: several, or whoever listens.
    pub workload: Option<u32>,
    pub local: bool,
    pub shared: bool,
}

/// The policies that select something, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySet {
    pub policies: Vec<SetPolicy>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPolicy {
    /// `namespace/name`.
    pub name: Str,
    pub object: Arc<AuthorizationPolicy>,
}

/// A service with all its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `namespace/name`.
    pub full_name: Str,
    /// Empty for a headless service.
    pub ports: Box<[ServicePort]>,
    /// Policies that name the service; `None`: none does.
    pub(crate) policies: Option<u32>,
    /// Those that are attached to one of its ports, by name.
    pub(crate) routes: Box<[Arc<HttpRoute>]>,
    /// Who dials it shall do so through the worker.
    pub(crate) observed: Option<Cause>,
    /// Of each of its endpoints.
    pub(crate) rate: Option<Rate>,
}

/// One port on one cluster address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub ip: Ip,
    pub port: u16,
    pub proto: u8,
    pub affinity_secs: u32,
    /// Those that new connections may choose, sorted; weights are above 0.
    pub endpoints: Box<[Endpoint]>,
    /// Those that end but still serve, for `stat`; they are in `endpoints` too if none is ready.
    pub draining: Box<[Endpoint]>,
    /// What its `appProtocol` says that it speaks.
    pub protocol: Protocol,
    /// Workloads with a door dial it through the worker.
    pub http: Option<Cause>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub ip: Ip,
    pub port: u16,
    /// Position in [`World::workloads`].
    pub workload: Option<u32>,
    pub weight: u32,
}

/// Who connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceRef {
    /// `namespace/name`.
    Workload(Str),
    /// A process of this node that is no workload.
    Host,
    /// A process of this node about which nothing is known.
    UnknownLocal,
    /// Whoever has this address.
    Address(IpAddr),
}

/// What is dialed; the port comes beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DestRef {
    /// `namespace/name`.
    Service(Str),
    /// `namespace/name`.
    Workload(Str),
    /// A service's, a workload's, or anybody's.
    Address(IpAddr),
}

/// A verdict and the policy that caused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    /// `namespace/name`, `default`, or empty if nothing had to decide.
    pub policy: Str,
}

/// The layer that serves one side, why, and the object that caused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub layer: Layer,
    /// A number of `abi::reason::code`.
    pub reason: u16,
    /// As `Namespace shop`; empty if no object did.
    pub object: Str,
}

/// What happens to one endpoint of a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedEndpoint {
    pub address: SocketAddr,
    /// `namespace/name`, if it is a workload.
    pub workload: Option<Str>,
    pub weight: u32,
    /// Of the destination's own policies.
    pub decision: Decision,
    pub inbound: Choice,
}

/// The answer to "may this source connect there, and who decides".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// `namespace/name` of both ends, as far as they are known.
    pub source: Option<Str>,
    pub source_identity: Option<Str>,
    pub destination: Option<Str>,
    /// `namespace/name:port/tcp` if a service was dialed.
    pub service: Option<Str>,
    /// The strictest of the service's and all endpoints' decisions.
    pub decision: Decision,
    /// A number of `abi::reason::code` for anything but a plain yes, else 0.
    pub reason: u16,
    /// Of the service's own policies, if a service was dialed.
    pub service_decision: Option<Decision>,
    /// A service's endpoints, or the one address that was dialed.
    pub endpoints: Vec<ExplainedEndpoint>,
    pub outbound: Choice,
    pub inbound: Choice,
}

impl Plan {
    /// All workloads, by name.
    pub fn workloads(&self) -> &[Workload] {
        &self.world.workloads
    }

    /// All services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(|s| &**s)
    }

    /// By `namespace/name`.
    pub fn workload(&self, full_name: &str) -> Option<&Workload> {
        self.world
            .position(full_name)
            .map(|i| &self.world.workloads[i as usize])
    }

    /// The workload that owns an address alone.
    pub fn workload_at(&self, ip: IpAddr) -> Option<&Workload> {
        let owner = self.world.owner(Ip::from(ip))?;
        owner.workload.map(|i| &self.world.workloads[i as usize])
    }

    /// The service port at a cluster address, with its `namespace/name:port/tcp`.
    pub fn service_at(&self, ip: IpAddr, port: u16, proto: u8) -> Option<(Str, &ServicePort)> {
        let ip = Ip::from(ip);
        self.services.values().find_map(|service| {
            let port = service
                .ports
                .iter()
                .find(|p| (p.ip, p.port, p.proto) == (ip, port, proto))?;
            Some((service.port_name(port), port))
        })
    }

    /// Cookies of the namespaces in which a `sk_lookup` program must guard enrolled workloads.
    pub fn guarded(&self) -> std::collections::BTreeSet<u64> {
        let here = self
            .world
            .workloads
            .iter()
            .filter(|w| w.enrolled() && w.netns() != 0);
        here.map(Workload::netns).collect()
    }
}

/// The identity of a service account.
pub fn spiffe(namespace: &str, service_account: &str) -> Str {
    arcstr::format!("spiffe://cluster.local/ns/{namespace}/sa/{service_account}")
}

impl World {
    pub(crate) fn position(&self, full_name: &str) -> Option<u32> {
        let found = self
            .workloads
            .binary_search_by(|w| (*w.full_name).cmp(full_name));
        found.ok().map(|i| i as u32)
    }

    pub(crate) fn owner(&self, ip: Ip) -> Option<Owner> {
        let found = self.addresses.binary_search_by_key(&ip, |(ip, _)| *ip);
        found.ok().map(|i| self.addresses[i].1)
    }
}

impl Service {
    /// `namespace/name:port/tcp`.
    pub fn port_name(&self, port: &ServicePort) -> Str {
        let proto = if port.proto == 17 { "udp" } else { "tcp" };
        arcstr::format!("{}:{}/{proto}", self.full_name, port.port)
    }
}

#[cfg(test)]
mod tests;
