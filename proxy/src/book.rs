//! A tenant's snapshot as a shard looks things up in it: who arrives, by where it was going, has a
//! [`Plan`]. A new snapshot makes a new book; what is known of endpoints that stay, stays.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    hash::Hash,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use underpass_api::report::Direction;
use underpass_l7::{balance::EndpointId, route::Table};
use underpass_mesh::{
    Str,
    snapshot::{self, Inbound, Protocol},
    split_name,
};

use crate::{
    draft::Draft,
    metrics::{Metrics, Scope},
    plan::{Backend, Backends, Endpoint, Plan, Sender},
    pool::{Identity, Key},
    port::Port,
    workload::Workload,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The workload dials.
    Outbound,
    /// It is dialed.
    Inbound,
}

/// A connection as it was found at a listener.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// In whose namespace the listener is.
    pub workload: Rc<Workload>,
    pub side: Side,
    /// Where its client meant to connect.
    pub original: SocketAddr,
    pub who: Who,
}

/// Whose connection it is, as the kernel tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Who {
    /// Nobody has told.
    #[default]
    Unknown,
    Host,
    Outside,
    /// By its number in the kernel's tables.
    Workload(u32),
}

/// Which workload's connection, to where, from whom.
type Way = (u64, Side, SocketAddr, Who);

/// Of one tenant and one shard.
#[derive(Debug, Default)]
pub struct Book {
    pub version: u64,
    /// Whoever arrives gets this, where a command line takes the place of snapshots.
    anyone: Option<Rc<Plan>>,
    /// What the snapshot says nothing of is let through.
    passes: bool,
    workloads: HashMap<Str, Own>,
    services: HashMap<SocketAddr, Service>,
    backends: Rc<Backends>,
    endpoints: HashSet<EndpointId>,
    metrics: Rc<Metrics>,
    /// Made when they are asked for the first time. No more than there are workloads and addresses; of
    /// ports whose rules ask for sources, for each workload that calls.
    plans: RefCell<HashMap<Way, Rc<Plan>>>,
    peers: HashMap<u32, (Str, Str)>,
}

#[derive(Debug)]
struct Own {
    identity: (Str, Identity),
    addresses: Vec<IpAddr>,
    inbound: Vec<Rc<Port>>,
}

#[derive(Clone, Debug)]
struct Service {
    name: (Str, u16),
    protocol: Protocol,
    routes: Option<Arc<Table>>,
}

/// Numbers of what pooled connections belong to, of all books of a shard. None is used again.
#[derive(Debug, Default)]
pub struct Numbers {
    identities: Ids<Str>,
    endpoints: Ids<Place>,
}

/// What makes an endpoint the same: whoever else comes to an address inherits nothing.
type Place = (SocketAddr, Option<Str>, Option<Str>);

#[derive(Debug)]
struct Ids<T> {
    numbers: HashMap<T, u64>,
    next: u64,
}

impl<T> Default for Ids<T> {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            next: 1,
        }
    }
}

impl<T: Hash + Eq> Ids<T> {
    fn of(&mut self, thing: T) -> u64 {
        *self.numbers.entry(thing).or_insert_with(|| {
            self.next += 1;
            self.next - 1
        })
    }
}

impl Numbers {
    fn endpoint(
        &mut self,
        at: SocketAddr,
        workload: Option<&Str>,
        who: Option<&Str>,
    ) -> EndpointId {
        self.endpoints.of((at, workload.cloned(), who.cloned()))
    }

    /// 0 is nobody that is known.
    fn identity(&mut self, who: Option<&Str>) -> Identity {
        who.map_or(0, |who| self.identities.of(who.clone()))
    }

    /// Forgets what no book has any more.
    pub fn keep<'a>(&mut self, books: impl Iterator<Item = &'a Book> + Clone) {
        let has = |id: &EndpointId| books.clone().any(|b| b.endpoints.contains(id));
        self.endpoints.numbers.retain(|_, id| has(id));
        let places = self.endpoints.numbers.keys();
        let of_endpoints = places.filter_map(|(_, _, who)| who.clone());
        let own = books.flat_map(|b| b.workloads.values().map(|own| own.identity.0.clone()));
        let named: HashSet<Str> = of_endpoints.chain(own).collect();
        self.identities.numbers.retain(|who, _| named.contains(who));
    }
}

impl Book {
    /// The same plan for whoever arrives.
    pub fn of_one(plan: Plan) -> Self {
        Self {
            anyone: Some(Rc::new(plan)),
            ..Self::default()
        }
    }

    /// Takes over from `before` the backends that stay.
    pub fn new(
        draft: &Draft,
        before: &Book,
        numbers: &mut Numbers,
        metrics: Rc<Metrics>,
        shards: u32,
    ) -> Self {
        let snapshot = &draft.snapshot;
        let mut book = Self {
            version: snapshot.version,
            metrics,
            passes: draft.passes,
            ..Self::default()
        };
        let peers = snapshot.peers.iter();
        let peers = peers.map(|p| (p.index, (p.identity.clone(), p.namespace.clone())));
        book.peers = peers.collect();
        for workload in &snapshot.workloads {
            let before = before.workloads.get(&workload.name);
            book.add_workload(workload, before, numbers, shards);
        }
        for (service, table) in snapshot.services.iter().zip(&draft.tables) {
            let known = Service {
                name: (service.name.clone(), service.port),
                protocol: service.protocol,
                routes: table.clone(),
            };
            for address in &service.addresses {
                let at = SocketAddr::new(*address, service.port);
                book.services.insert(at, known.clone());
            }
        }
        let mut backends = Backends::new();
        for backend in &snapshot.backends {
            let name = (backend.service.clone(), backend.port);
            let kept = before.backends.get(&name).cloned().unwrap_or_default();
            let endpoints = backend.endpoints.iter().map(|e| book.endpoint(e, numbers));
            let endpoints: Vec<_> = endpoints.collect();
            book.endpoints.extend(endpoints.iter().map(|(id, ..)| *id));
            kept.set(backend.protocol, endpoints);
            backends.insert(name, kept);
        }
        book.backends = Rc::new(backends);
        book
    }

    fn add_workload(
        &mut self,
        workload: &snapshot::Workload,
        before: Option<&Own>,
        numbers: &mut Numbers,
        shards: u32,
    ) {
        let who = Some(&workload.identity);
        for (address, inbound) in pairs(&workload.addresses, &workload.inbound) {
            let at = SocketAddr::new(*address, inbound.port);
            let id = numbers.endpoint(at, Some(&workload.name), who);
            self.endpoints.insert(id);
        }
        let port = |inbound: &Inbound| {
            let before = before.and_then(|own| own.inbound(inbound.port));
            Rc::new(Port::new(inbound.clone(), shards, before.map(Rc::as_ref)))
        };
        let own = Own {
            identity: (workload.identity.clone(), numbers.identity(who)),
            addresses: workload.addresses.clone(),
            inbound: workload.inbound.iter().map(port).collect(),
        };
        self.workloads.insert(workload.name.clone(), own);
    }

    fn endpoint(
        &self,
        endpoint: &snapshot::Endpoint,
        numbers: &mut Numbers,
    ) -> (EndpointId, Endpoint, u32) {
        let address = SocketAddr::new(endpoint.address, endpoint.port);
        let (workload, who) = (endpoint.workload.as_ref(), endpoint.identity.as_ref());
        let own = workload.filter(|_| endpoint.same_worker);
        let own = own.and_then(|name| self.workloads.get(name));
        let known = Endpoint {
            address,
            identity: numbers.identity(who),
            workload: workload.cloned(),
            inbound: own.and_then(|own| own.inbound(endpoint.port)).cloned(),
        };
        let id = numbers.endpoint(address, workload, who);
        (id, known, endpoint.weight)
    }

    /// The workload is in the snapshot.
    pub fn knows(&self, workload: &Workload) -> bool {
        self.anyone.is_some() || self.workloads.contains_key(&workload.name)
    }

    /// How to forward what has arrived; `None` if it was going where this book knows nothing.
    pub fn plan(&self, arrived: &Arrived, numbers: &mut Numbers) -> Option<Rc<Plan>> {
        if let Some(plan) = &self.anyone {
            return Some(plan.clone());
        }
        let who = self.who(arrived);
        let key = (arrived.workload.id, arrived.side, arrived.original, who);
        if let Some(plan) = self.plans.borrow().get(&key) {
            return Some(plan.clone());
        }
        let own = self.workloads.get(&arrived.workload.name)?;
        let known = match arrived.side {
            Side::Outbound => self.outbound(own, arrived),
            Side::Inbound => self.inbound(own, arrived, numbers),
        };
        let Some(plan) = known.map(Rc::new) else {
            let passed = self.passes.then(|| self.pass(own, arrived));
            return passed.flatten().map(Rc::new);
        };
        self.plans.borrow_mut().insert(key, plan.clone());
        Some(plan)
    }

    fn outbound(&self, own: &Own, arrived: &Arrived) -> Option<Plan> {
        let service = self.services.get(&arrived.original)?;
        let (name, port) = &service.name;
        let (namespace, _) = split_name(&arrived.workload.name);
        let scope = Scope::new(
            self.metrics.clone(),
            Direction::Outbound,
            arrived.workload.name.clone(),
            format!("{name}:{port}"),
        );
        Some(Plan {
            scope,
            authority: arrived.original.to_string(),
            workload: arrived.workload.id,
            source: own.identity.1,
            protocol: service.protocol,
            routes: service.routes.clone(),
            default: service.name.clone(),
            backends: self.backends.clone(),
            inbound: None,
            peer: Sender::Workload(own.identity.0.clone(), namespace.into()),
        })
    }

    /// Who it is, if that makes a difference.
    fn who(&self, arrived: &Arrived) -> Who {
        let own = self.workloads.get(&arrived.workload.name);
        let port = own.and_then(|own| own.inbound(arrived.original.port()));
        match arrived.side {
            Side::Inbound if port.is_some_and(|p| p.inbound.asks_who()) => arrived.who,
            _ => Who::Unknown,
        }
    }

    fn sender(&self, who: Who) -> Sender {
        match who {
            Who::Unknown => Sender::Unknown,
            Who::Host => Sender::Host,
            Who::Outside => Sender::Outside,
            Who::Workload(index) => match self.peers.get(&index) {
                Some((identity, namespace)) => {
                    Sender::Workload(identity.clone(), namespace.clone())
                }
                // It has ended, or a snapshot that knows it is on its way.
                None => Sender::Unknown,
            },
        }
    }

    /// To the application at the address that was dialed.
    fn inbound(&self, own: &Own, arrived: &Arrived, numbers: &mut Numbers) -> Option<Plan> {
        let at = arrived.original;
        let port = own.inbound(at.port())?;
        let inbound = &port.inbound;
        own.addresses.iter().find(|a| **a == at.ip())?;
        let name = &arrived.workload.name;
        let (who, identity) = &own.identity;
        let endpoint = Endpoint {
            address: at,
            identity: *identity,
            workload: Some(name.clone()),
            // It is the plan's.
            inbound: None,
        };
        let id = numbers.endpoint(at, Some(name), Some(who));
        let backend = Rc::new(Backend::default());
        backend.set(inbound.protocol, vec![(id, endpoint, 1)]);
        let default = (inbound.service.clone().unwrap_or(name.clone()), at.port());
        let service = inbound.service.as_ref();
        let scope = Scope::new(
            self.metrics.clone(),
            Direction::Inbound,
            // Whoever it is.
            Str::default(),
            service.map_or(String::new(), |name| format!("{name}:{}", at.port())),
        )
        .to(name.clone());
        Some(Plan {
            scope,
            authority: at.to_string(),
            workload: arrived.workload.id,
            source: *identity,
            protocol: inbound.protocol,
            routes: None,
            backends: Rc::new(Backends::from([(default.clone(), backend)])),
            default,
            inbound: Some(port.clone()),
            peer: self.sender(arrived.who),
        })
    }

    /// Whether a connection may wait for another request; `workload`: from whose namespace it goes out,
    /// if that is still there.
    pub fn wants(&self, key: &Key, workload: Option<&Rc<Workload>>) -> bool {
        let own = workload.and_then(|w| self.workloads.get(&w.name));
        let known = own.is_some_and(|own| own.identity.1 == key.source);
        self.anyone.is_some() || known && self.endpoints.contains(&key.endpoint)
    }
}

impl Own {
    fn inbound(&self, port: u16) -> Option<&Rc<Port>> {
        self.inbound.iter().find(|i| i.inbound.port == port)
    }
}

fn pairs<'a, A, B>(all: &'a [A], each: &'a [B]) -> impl Iterator<Item = (&'a A, &'a B)> {
    all.iter()
        .flat_map(move |a| each.iter().map(move |b| (a, b)))
}

mod pass;
#[cfg(test)]
mod tests;
