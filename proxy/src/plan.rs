//! What a request is forwarded by: the routes of one service port, and the backends with their endpoints.

use std::{
    cell::RefCell, collections::HashMap, net::SocketAddr, rc::Rc, sync::Arc, time::Duration,
};

use tokio::time::Instant;
use underpass_l7::{
    Refusal,
    balance::{Balancer, EndpointId, Outcome, Pending},
    head::{Fields, Request},
    limit::Accepted,
    route::Table,
};
use underpass_mesh::{
    Str,
    snapshot::{Inbound, Protocol},
};

use crate::pool::{Identity, Key};

/// By `namespace/name` and port of the service.
pub type Backends = HashMap<(Str, u16), Rc<Backend>>;

/// Of one service port, for one workload that calls it; or of a port of its own.
#[derive(Debug, Default)]
pub struct Plan {
    /// What was dialed, as a Host field has it: for requests of HTTP/1.0 without one.
    pub authority: String,
    /// The vendor's number of the workload in whose namespace connections to endpoints are made.
    pub workload: u64,
    pub source: Identity,
    /// Of what was dialed.
    pub protocol: Protocol,
    /// `None`: no route is attached, and the service's own backend gets everything.
    pub routes: Option<Arc<Table>>,
    /// The service itself, as a key of `backends`.
    pub default: (Str, u16),
    pub backends: Rc<Backends>,
    /// What must hold for each request, if this is a port of the workload's own.
    pub inbound: Option<Rc<Inbound>>,
}

/// The endpoints of one service port. It stays when a new snapshot has the same, so that what is known
/// of its endpoints does.
#[derive(Debug, Default)]
pub struct Backend {
    inner: RefCell<Endpoints>,
}

#[derive(Debug, Default)]
struct Endpoints {
    protocol: Protocol,
    balancer: Balancer,
    by_id: HashMap<EndpointId, Endpoint>,
}

#[derive(Clone, Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub identity: Identity,
    /// `namespace/name`, if it is known.
    pub workload: Option<Str>,
    /// What must hold for each request, if the destination's worker is this one: the connection goes past
    /// its listener.
    pub inbound: Option<Rc<Inbound>>,
}

impl Backend {
    /// Of endpoints of one identity, their addresses and weights. Connections are shared by the
    /// endpoint's id: over all backends of a shard one id is one endpoint.
    pub fn new(
        identity: Identity,
        endpoints: impl IntoIterator<Item = (EndpointId, SocketAddr, u32)>,
    ) -> Self {
        let endpoint = |(id, address, weight)| {
            let known = Endpoint {
                address,
                identity,
                workload: None,
                inbound: None,
            };
            (id, known, weight)
        };
        let backend = Self::default();
        backend.set(
            Protocol::Detect,
            endpoints.into_iter().map(endpoint).collect(),
        );
        backend
    }

    /// These are its endpoints from now on, with their weights.
    pub fn set(&self, protocol: Protocol, endpoints: Vec<(EndpointId, Endpoint, u32)>) {
        let inner = &mut *self.inner.borrow_mut();
        inner.protocol = protocol;
        inner
            .balancer
            .set(endpoints.iter().map(|(id, _, weight)| (*id, *weight)));
        inner.by_id = endpoints.into_iter().map(|(id, e, _)| (id, e)).collect();
    }

    /// Requests to an endpoint that are not over.
    pub fn under_way(&self, endpoint: EndpointId) -> u32 {
        self.inner.borrow().balancer.under_way(endpoint)
    }
}

/// Where a request goes.
#[derive(Debug)]
pub struct Picked {
    pub key: Key,
    pub endpoint: Endpoint,
    /// What the endpoint speaks.
    pub protocol: Protocol,
    pub ticket: Ticket,
    /// Over the whole of request and response.
    pub timeout: Option<Duration>,
}

impl Plan {
    /// `random` is evenly distributed; `start` is when the shard began, and the balancer's zero.
    pub fn pick<F: Fields + ?Sized>(
        &self,
        head: &Request<'_, F>,
        accepted: &Accepted<'_>,
        mut random: impl FnMut() -> u64,
        start: Instant,
    ) -> Result<Picked, Refusal> {
        let (backend, timeout) = match &self.routes {
            None => (self.backends.get(&self.default), None),
            Some(table) => {
                let rule = table.route(head, accepted)?;
                let backend = rule.pick((random() >> 32) as u32)?;
                let key = (backend.service.clone(), backend.port);
                (self.backends.get(&key), rule.request_timeout)
            }
        };
        let backend = backend.ok_or(Refusal::NoEndpoints)?;
        let now_ns = start.elapsed().as_nanos() as u64;
        let mut inner = backend.inner.borrow_mut();
        let pending = inner.balancer.pick(now_ns, random())?;
        let id = pending.endpoint;
        let (found, protocol) = (inner.by_id.get(&id).cloned(), inner.protocol);
        drop(inner);
        let ticket = Ticket {
            backend: backend.clone(),
            pending: Some(pending),
            outcome: Outcome::Done,
            start,
        };
        let endpoint = found.ok_or(Refusal::NoEndpoints)?;
        Ok(Picked {
            key: Key {
                workload: self.workload,
                source: self.source,
                destination: endpoint.identity,
                endpoint: id,
            },
            endpoint,
            protocol,
            ticket,
            timeout,
        })
    }
}

/// A request under way, as the balancer counts it: over when this is dropped, however that comes.
#[derive(Debug)]
pub struct Ticket {
    backend: Rc<Backend>,
    /// `Some` until it is dropped.
    pending: Option<Pending>,
    outcome: Outcome,
    start: Instant,
}

impl Ticket {
    /// The response's head is here.
    pub fn answered(&mut self, status: u16) {
        if status >= 500 {
            self.failed();
        }
        if let Some(pending) = &mut self.pending {
            let now_ns = self.start.elapsed().as_nanos() as u64;
            self.backend
                .inner
                .borrow_mut()
                .balancer
                .answered(pending, now_ns);
        }
    }

    /// The endpoint did not do its part.
    pub fn failed(&mut self) {
        self.outcome = Outcome::Failed;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            let now_ns = self.start.elapsed().as_nanos() as u64;
            self.backend
                .inner
                .borrow_mut()
                .balancer
                .end(pending, now_ns, self.outcome);
        }
    }
}
