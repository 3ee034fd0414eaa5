//! One service and its slices to ports and endpoints.

use std::{collections::BTreeMap, sync::Arc};

use underpass_abi::Ip;

use crate::{
    k8s::{
        self, AddressType, EndpointSlice,
        route::{HttpRoute, Match},
    },
    path,
    plan::{Cause, Endpoint, Service, ServicePort, World},
};

/// Compiles one service; it depends on nothing but its slices, its routes and the world. `observed`: its
/// own annotation's or its namespace's word.
pub(crate) fn service(
    world: &World,
    service: &k8s::Service,
    slices: &[&EndpointSlice],
    routes: Vec<&Arc<HttpRoute>>,
    observed: Option<Cause>,
) -> Service {
    let full_name = &service.metadata.full_name;
    let spec = &service.spec;
    let mut compiled = Service {
        full_name: full_name.clone(),
        ports: Box::default(),
        policies: world.service_sets.get(full_name).copied(),
        routes: routes.into_iter().map(usable).collect(),
        observed,
        rate: service.metadata.annotations.rate_limit.map(|r| r.rate()),
    };
    let mut ports = Vec::new();
    for ip in spec.addresses() {
        let family = if ip.is_ipv4() {
            AddressType::IPv4
        } else {
            AddressType::IPv6
        };
        for port in spec.ports.iter().filter(|p| p.protocol.number() != 0) {
            let publish_not_ready = spec.publish_not_ready_addresses;
            let (endpoints, draining) = endpoints(world, publish_not_ready, port, family, slices);
            let mut port = ServicePort {
                ip: Ip::from(ip),
                port: port.port,
                proto: port.protocol.number(),
                affinity_secs: spec.affinity_secs(),
                endpoints,
                draining,
                protocol: port.app_protocol,
                http: None,
            };
            if port.may_be_http() {
                port.http = compiled.asks(port.port);
            }
            ports.push(port);
        }
    }
    compiled.ports = ports.into();
    compiled
}

/// The endpoints that new connections may choose: those that are ready; if there is none, those
/// that end but still serve. A weight of 0 takes no traffic and yet counts as ready. Second: all
/// that end but still serve.
fn endpoints(
    world: &World,
    publish_not_ready: bool,
    port: &k8s::ServicePort,
    family: AddressType,
    slices: &[&EndpointSlice],
) -> (Box<[Endpoint]>, Box<[Endpoint]>) {
    #[derive(PartialEq, Eq, PartialOrd, Ord)]
    enum State {
        Ready,
        Draining,
    }
    // The same address and port can be in two slices while Kubernetes moves it between them.
    let mut found: BTreeMap<(Ip, u16), (State, Endpoint)> = BTreeMap::new();
    for slice in slices.iter().filter(|s| s.address_type == family) {
        let same = |p: &&k8s::EndpointPort| p.name == port.name && p.protocol == port.protocol;
        let Some(number) = slice.ports.iter().find(same).and_then(|p| p.port) else {
            continue;
        };
        for e in &slice.endpoints {
            let c = e.conditions;
            let state = match () {
                () if publish_not_ready || (c.ready() && !c.terminating()) => State::Ready,
                () if c.serving() && c.terminating() => State::Draining,
                () => continue,
            };
            let ip = Ip::from(e.address);
            let workload = behind(world, e);
            let own = workload.and_then(|w| world.workloads[w as usize].weight);
            let weight = own.or(slice.metadata.annotations.weight).unwrap_or(1);
            let endpoint = Endpoint {
                ip,
                port: number,
                workload,
                weight: weight.into(),
            };
            let known = found.entry((ip, number));
            let known = known.or_insert_with(|| (State::Draining, endpoint));
            if state < known.0 {
                *known = (state, endpoint);
            }
        }
    }
    let best = if found.values().any(|(s, _)| *s == State::Ready) {
        State::Ready
    } else {
        State::Draining
    };
    let of = |state: State| found.values().filter(move |(s, _)| *s == state);
    let draining = of(State::Draining).map(|(_, e)| *e).collect();
    let chosen = of(best).filter(|(_, e)| e.weight > 0);
    (chosen.map(|(_, e)| *e).collect(), draining)
}

/// The workload behind an endpoint: the one that it names, else the owner of the address.
fn behind(world: &World, endpoint: &k8s::Endpoint) -> Option<u32> {
    let owner = world.owner(Ip::from(endpoint.address));
    let owner = owner.and_then(|o| o.workload);
    match (&endpoint.target, owner) {
        (None, _) => owner,
        // As a rule they are the same.
        (Some(target), Some(w)) if world.workloads[w as usize].full_name == *target => owner,
        (Some(target), _) => world.position(target).or(owner),
    }
}

/// A route without the matches whose path no request can have; what is left is obeyed.
fn usable(route: &Arc<HttpRoute>) -> Arc<HttpRoute> {
    let usable = |m: &Match| path::normalize(m.path.text().as_bytes()).is_ok();
    let mut matches = route.rules.iter().flat_map(|r| &r.matches);
    if matches.all(usable) {
        return route.clone();
    }
    let mut route = (**route).clone();
    for rule in &mut route.rules {
        rule.matches.retain(usable);
    }
    Arc::new(route)
}
