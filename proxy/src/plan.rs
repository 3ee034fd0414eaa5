//! What a request is forwarded by: the routes of one service port, and the backends with their endpoints.

mod ticket;

use std::{
    cell::RefCell, collections::HashMap, net::SocketAddr, rc::Rc, sync::Arc, time::Duration,
};

use tokio::time::Instant;
use underpass_l7::{
    Refusal,
    balance::{Balancer, EndpointId, Outcome, Pending},
    head::{Fields, Request, Version},
    inbound::{Denied, Peer},
    limit::Accepted,
    route::{Rule, Table},
};
use underpass_mesh::{Str, snapshot::Protocol};

use underpass_api::report::Method;

use crate::{
    metrics::{self, Scope, Seen, Way},
    pool::{Identity, Key},
    port::Port,
};

pub use ticket::Ticket;

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
    pub inbound: Option<Rc<Port>>,
    pub peer: Sender,
    /// What is counted of its requests.
    pub scope: Scope,
}

/// Who sends, as far as it is proven.
#[derive(Clone, Debug, Default)]
pub enum Sender {
    #[default]
    Unknown,
    Host,
    Outside,
    /// SPIFFE id and namespace.
    Workload(Str, Str),
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
    pub inbound: Option<Rc<Port>>,
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

    /// The endpoints speak this and nothing else.
    pub fn speaking(self, protocol: Protocol) -> Self {
        self.inner.borrow_mut().protocol = protocol;
        self
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
    /// `random` is evenly distributed; `start` is when the shard began, and the balancer's zero. What is
    /// refused is counted.
    pub fn pick<F: Fields + ?Sized>(
        &self,
        head: &Request<'_, F>,
        accepted: &Accepted<'_>,
        random: impl FnMut() -> u64,
        start: Instant,
    ) -> Result<Picked, Denied> {
        self.pick_again(head, accepted, random, start, None)
    }

    /// For a request that goes once more: what was seen of it by then is of the same request.
    pub fn pick_again<F: Fields + ?Sized>(
        &self,
        head: &Request<'_, F>,
        accepted: &Accepted<'_>,
        mut random: impl FnMut() -> u64,
        start: Instant,
        before: Option<Seen>,
    ) -> Result<Picked, Denied> {
        let now_ns = start.elapsed().as_nanos() as u64;
        let mut chosen = Chosen {
            rule: None,
            service: (&self.default.0, self.default.1),
            backend: None,
        };
        let method = Method::of(head.method);
        let judge = |port: Option<&Rc<Port>>| match port {
            Some(port) => port.judge(head, accepted, self.peer(), now_ns),
            None => Ok(()),
        };
        let own = self.inbound.as_ref().filter(|_| before.is_none());
        let picked = judge(own)
            .and_then(|()| {
                let random = (random() >> 32) as u32;
                Ok(self.choose(head, accepted, random, &mut chosen)?)
            })
            .and_then(|timeout| {
                let backend = chosen.backend.ok_or(Refusal::NoEndpoints)?;
                let (pending, endpoint, protocol) = backend.pick(now_ns, random())?;
                Ok((backend, pending, endpoint, protocol, timeout))
            });
        let (backend, pending, endpoint, protocol, timeout) = match picked {
            Ok(picked) => picked,
            Err(denied) => {
                let seen =
                    before.unwrap_or_else(|| self.begin(&chosen, None, false, method, now_ns));
                seen.refuse(denied.why, is_grpc(head), now_ns);
                return Err(denied);
            }
        };
        let key = self.key(&pending, &endpoint);
        let to = Some((pending.endpoint, &endpoint));
        // Its own worker would count it, if it were another.
        let attempt = endpoint.inbound.is_some();
        let ticket = Ticket {
            attempt: attempt.then(|| self.begin(&chosen, to, true, method, now_ns)),
            seen: before.or_else(|| Some(self.begin(&chosen, to, false, method, now_ns))),
            backend: backend.clone(),
            pending: Some(pending),
            outcome: Outcome::Done,
            start,
        };
        if let Err(denied) = judge(endpoint.inbound.as_ref()) {
            ticket.denied(denied.why, is_grpc(head));
            return Err(denied);
        }
        Ok(Picked {
            key,
            endpoint,
            protocol,
            ticket,
            timeout,
        })
    }

    /// An endpoint of the service's own backend, for a connection that is no HTTP.
    ///
    /// # Errors
    /// `NotHttp` where rules must hold for each request.
    pub fn pick_opaque(&self, random: u64, start: Instant) -> Result<Picked, Refusal> {
        let now_ns = start.elapsed().as_nanos() as u64;
        let backend = self.backends.get(&self.default);
        let backend = backend.ok_or(Refusal::NoEndpoints)?;
        let (pending, endpoint, protocol) = backend.pick(now_ns, random)?;
        let key = self.key(&pending, &endpoint);
        let ticket = Ticket {
            backend: backend.clone(),
            pending: Some(pending),
            outcome: Outcome::Done,
            start,
            seen: None,
            attempt: None,
        };
        let guarded = |port: &Option<Rc<Port>>| port.as_ref().is_some_and(|p| !p.is_open());
        if guarded(&self.inbound) || guarded(&endpoint.inbound) {
            return Err(Refusal::NotHttp);
        }
        Ok(Picked {
            key,
            endpoint,
            protocol,
            ticket,
            timeout: None,
        })
    }

    fn key(&self, pending: &Pending, endpoint: &Endpoint) -> Key {
        Key {
            workload: self.workload,
            source: self.source,
            destination: endpoint.identity,
            endpoint: pending.endpoint,
        }
    }

    fn peer(&self) -> Peer<'_> {
        match &self.peer {
            Sender::Unknown => Peer::Unknown,
            Sender::Host => Peer::Host,
            Sender::Outside => Peer::Outside,
            Sender::Workload(identity, namespace) => Peer::Workload {
                identity,
                namespace,
            },
        }
    }

    /// Counts a request whose head was refused before it could be routed.
    pub fn refused(&self, method: Method, why: Refusal) {
        let chosen = Chosen {
            rule: None,
            service: (&self.default.0, self.default.1),
            backend: None,
        };
        let seen = self.begin(&chosen, None, false, method, 0);
        seen.refuse(why, false, 0);
    }

    fn choose<'a, F: Fields + ?Sized>(
        &'a self,
        head: &Request<'_, F>,
        accepted: &Accepted<'_>,
        random: u32,
        chosen: &mut Chosen<'a>,
    ) -> Result<Option<Duration>, Refusal> {
        let mut timeout = None;
        if let Some(table) = &self.routes {
            let rule = table.route(head, accepted)?;
            chosen.rule = Some(rule);
            let backend = rule.pick(random)?;
            chosen.service = (&backend.service, backend.port);
            timeout = rule.request_timeout;
        }
        let (service, port) = chosen.service;
        let key = (service.clone(), port);
        chosen.backend = self.backends.get(&key);
        Ok(timeout)
    }

    fn begin(
        &self,
        chosen: &Chosen<'_>,
        to: Option<(EndpointId, &Endpoint)>,
        inbound: bool,
        method: Method,
        now_ns: u64,
    ) -> Seen {
        let place = |rule| std::ptr::from_ref::<Rule>(rule) as usize;
        let key = metrics::Key {
            rule: chosen.rule.map_or(0, place),
            backend: chosen.backend.map_or(0, |b| Rc::as_ptr(b) as usize),
            endpoint: to.map_or(0, |(id, _)| id),
            inbound,
        };
        self.scope.begin(key, method, now_ns, || {
            let rule = chosen.rule;
            let named = |r: &Rule| r.name.as_ref().map(ToString::to_string);
            let (service, port) = chosen.service;
            Way {
                destination: to.and_then(|(_, e)| e.workload.clone()).unwrap_or_default(),
                route: rule.map(|r| r.route.clone()).unwrap_or_default(),
                rule: rule.map_or(String::new(), |r| {
                    named(r).unwrap_or_else(|| r.index.to_string())
                }),
                backend: match chosen.backend {
                    Some(_) => format!("{service}:{port}"),
                    None => String::new(),
                },
            }
        })
    }
}

impl Backend {
    fn pick(&self, now_ns: u64, random: u64) -> Result<(Pending, Endpoint, Protocol), Refusal> {
        let inner = &mut *self.inner.borrow_mut();
        let pending = inner.balancer.pick(now_ns, random)?;
        match inner.by_id.get(&pending.endpoint) {
            Some(endpoint) => Ok((pending, endpoint.clone(), inner.protocol)),
            None => {
                inner.balancer.end(pending, now_ns, Outcome::Done);
                Err(Refusal::NoEndpoints)
            }
        }
    }
}

/// Its client is told of a refusal by a status of gRPC.
fn is_grpc<F: Fields + ?Sized>(head: &Request<'_, F>) -> bool {
    let kind = head.fields.get("content-type").next();
    head.version == Version::Http2 && kind.is_some_and(|k| k.starts_with(b"application/grpc"))
}

/// How far the choice has come.
struct Chosen<'a> {
    rule: Option<&'a Rule>,
    service: (&'a Str, u16),
    backend: Option<&'a Rc<Backend>>,
}
