//! Why a worker serves a connection, what it does at a workload's own ports, and where it must listen.

use underpass_abi::reason::code;

use super::{Plan, Service, ServicePort, Workload, World};
use crate::{
    Str,
    snapshot::{Allow, Protocol, Rate},
};

/// Why a worker serves a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// A number of `abi::reason::code`.
    pub reason: u16,
    /// The object that wants it, as `HTTPRoute shop/split`.
    pub object: Str,
}

/// A port of a local workload whose connections are steered to the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    pub port: u16,
    pub protocol: Protocol,
    /// `namespace/name` of the service whose port leads here, if one does.
    pub service: Option<Str>,
    /// Requests of all clients together.
    pub rate: Option<Rate>,
    /// A request must satisfy one of them; `None`: all are allowed.
    pub allow: Option<Vec<Allow>>,
    pub cause: Cause,
}

/// A workload of this node in whose network namespace the worker shall listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedDoor {
    /// `namespace/name`.
    pub workload: Str,
    /// Its namespace.
    pub tenant: Str,
    /// Some of its ports are to be steered to the worker.
    pub inbound: bool,
    pub cause: Cause,
}

impl Plan {
    /// Where a worker is wanted, by name; those that have a door already are among them. Only enrolled
    /// workloads that are alone in their network namespace: in a shared one a listener would serve others.
    pub fn wanted_doors(&self) -> Vec<WantedDoor> {
        let ports = self.services().flat_map(|s| &s.ports);
        let dialed = ports.filter_map(|p| p.http.as_ref()).next();
        let workloads = self.world.workloads.iter().enumerate();
        let wanted = workloads.filter_map(|(position, workload)| {
            if !workload.enrolled() || !self.world.alone(workload) {
                return None;
            }
            let inbound = self.world.wanted.get(&(position as u32));
            let own = inbound.and_then(|all| all.first()).map(|i| &i.cause);
            let cause = own.or(workload.observed.as_ref()).or(dialed)?;
            Some(WantedDoor {
                workload: workload.full_name.clone(),
                tenant: workload.namespace().into(),
                inbound: inbound.is_some(),
                cause: cause.clone(),
            })
        });
        wanted.collect()
    }
}

impl World {
    /// It was found on this node, and no other workload shares its network namespace.
    pub(crate) fn alone(&self, workload: &Workload) -> bool {
        let netns = workload.netns();
        netns != 0 && matches!(self.netns.get(&netns), Some(Some(_)))
    }

    /// What is to be steered at a workload's port, door or not.
    pub(crate) fn wanted_at(&self, workload: u32, port: u16) -> Option<&Inbound> {
        let ports = self.wanted.get(&workload)?;
        ports.iter().find(|i| i.port == port)
    }
}

impl Service {
    /// What asks that a port be dialed through the worker, if that is possible.
    pub(crate) fn asks(&self, port: u16) -> Option<Cause> {
        let mut routes = self.routes_at(port);
        match routes.next() {
            Some(route) => Some(Cause {
                reason: code::ROUTE_ATTACHED,
                object: arcstr::format!("HTTPRoute {}", route.full_name),
            }),
            None => self.observed.clone(),
        }
    }

    /// The routes that are attached to a port, by name.
    pub(crate) fn routes_at(
        &self,
        port: u16,
    ) -> impl Iterator<Item = &std::sync::Arc<crate::k8s::route::HttpRoute>> {
        self.routes.iter().filter(move |route| {
            let mut parents = route.parents.iter();
            parents.any(|p| p.service == self.full_name && p.port.is_none_or(|p| p == port))
        })
    }
}

impl ServicePort {
    /// Nothing says that it speaks anything else.
    pub(crate) fn may_be_http(&self) -> bool {
        self.proto == 6 && self.protocol != Protocol::Opaque
    }
}
