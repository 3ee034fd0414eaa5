//! What a shard forwards by: the routes of one service port, and its backends with their endpoints.

use std::{cell::RefCell, collections::HashMap, net::SocketAddr, rc::Rc, time::Duration};

use tokio::time::Instant;
use underpass_l7::{
    Refusal,
    balance::{Balancer, EndpointId, Outcome, Pending, Settings},
    head::{Fields, Request},
    limit::Accepted,
    route::Table,
};
use underpass_mesh::{Str, snapshot::Protocol};

use crate::pool::{Identity, Key};

/// Of one service port, for callers of one identity.
#[derive(Debug, Default)]
pub struct Plan {
    /// What was dialed, as a Host field has it: for requests of HTTP/1.0 without one.
    pub authority: String,
    pub source: Identity,
    /// `None`: no route is attached, and the service's own backend gets everything.
    pub routes: Option<Table>,
    /// The service itself, as a key of `backends`.
    pub default: (Str, u16),
    /// By `namespace/name` and port.
    pub backends: HashMap<(Str, u16), Rc<Backend>>,
}

/// The endpoints of one service port.
#[derive(Debug)]
pub struct Backend {
    pub identity: Identity,
    balancer: RefCell<Balancer>,
    addresses: HashMap<EndpointId, SocketAddr>,
    pub protocol: Protocol,
}

impl Backend {
    /// Of endpoints, their addresses and weights. Connections are shared by the endpoint's id: over all
    /// backends of a shard one id is one endpoint.
    pub fn new(
        identity: Identity,
        endpoints: impl IntoIterator<Item = (EndpointId, SocketAddr, u32)>,
    ) -> Self {
        let endpoints: Vec<_> = endpoints.into_iter().collect();
        let mut balancer = Balancer::new(Settings::default());
        balancer.set(endpoints.iter().map(|(id, _, weight)| (*id, *weight)));
        Self {
            identity,
            balancer: RefCell::new(balancer),
            addresses: endpoints.iter().map(|(id, at, _)| (*id, *at)).collect(),
            protocol: Protocol::Detect,
        }
    }

    /// Requests to an endpoint that are not over.
    pub fn under_way(&self, endpoint: EndpointId) -> u32 {
        self.balancer.borrow().under_way(endpoint)
    }
}

/// Where a request goes.
#[derive(Debug)]
pub struct Picked {
    pub key: Key,
    pub address: SocketAddr,
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
        let pending = backend.balancer.borrow_mut().pick(now_ns, random())?;
        let endpoint = pending.endpoint;
        let ticket = Ticket {
            backend: backend.clone(),
            pending: Some(pending),
            outcome: Outcome::Done,
            start,
        };
        let address = *backend
            .addresses
            .get(&endpoint)
            .ok_or(Refusal::NoEndpoints)?;
        Ok(Picked {
            key: Key {
                source: self.source,
                destination: backend.identity,
                endpoint,
            },
            address,
            protocol: backend.protocol,
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
            self.backend.balancer.borrow_mut().answered(pending, now_ns);
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
                .balancer
                .borrow_mut()
                .end(pending, now_ns, self.outcome);
        }
    }
}
