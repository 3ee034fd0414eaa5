//! What a worker is given of a plan: only what its tenant's pairs need. It travels as JSON, from the agent
//! through the vendor, who does not read it, and is whole each time: a worker takes it or keeps the last
//! one.

use std::{net::IpAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    Str,
    k8s::{IpBlock, route::HttpRoute},
};

/// Of this structure. A worker refuses another one.
pub const FORMAT: u32 = 1;

/// Of one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub format: u32,
    /// Rises with each that differs; a worker that has a newer one refuses it. 0 as a plan gives it.
    pub version: u64,
    /// The namespace.
    pub tenant: Str,
    /// Enrolled workloads of the tenant on this node that have a door or shall get one.
    pub workloads: Vec<Workload>,
    /// What they dial through the worker.
    pub services: Vec<Service>,
    /// Every service port that gets requests: those of `services`, and those that routes name, if they
    /// exist. A rule's backend that is not here gets its share of the requests answered with 500.
    pub backends: Vec<Backend>,
    /// The workloads of the plan by the numbers that the kernel tells of them, if a rule asks for sources.
    /// A plan knows no numbers; the agent adds them.
    #[serde(default)]
    pub peers: Vec<Peer>,
}

/// Who a number is. Another identity has another number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub index: u32,
    /// SPIFFE id.
    pub identity: Str,
    pub namespace: Str,
}

impl Snapshot {
    /// A rule of one of its ports asks who sends a request.
    pub fn asks_who(&self) -> bool {
        let ports = self.workloads.iter().flat_map(|w| &w.inbound);
        ports.into_iter().any(Inbound::asks_who)
    }
}

impl Inbound {
    pub fn asks_who(&self) -> bool {
        let rules = self.allow.iter().flatten();
        rules.into_iter().any(|rule| rule.sources.is_some())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// `namespace/name`, as the vendor knows it.
    pub name: Str,
    /// SPIFFE id.
    pub identity: Str,
    pub addresses: Vec<IpAddr>,
    /// Ports of its own that the worker serves for whoever comes.
    pub inbound: Vec<Inbound>,
}

/// A service port at which the kernel sends connections to the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// `namespace/name`.
    pub name: Str,
    pub port: u16,
    /// The addresses at which it is dialed.
    pub addresses: Vec<IpAddr>,
    pub protocol: Protocol,
    /// Those that are attached to it. None: every request goes to the service's own backend.
    pub routes: Vec<Arc<HttpRoute>>,
}

/// What a port speaks, as its `appProtocol` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// Found out from the client's first bytes.
    #[default]
    Detect,
    /// HTTP/1.1 or 1.0.
    Http1,
    /// HTTP/2 without TLS from its first byte (`kubernetes.io/h2c`), gRPC too.
    Http2,
    /// Bytes, of which the server may send the first.
    Opaque,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// `namespace/name` of the service.
    pub service: Str,
    pub port: u16,
    pub protocol: Protocol,
    /// Those that new requests may choose.
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
    /// Above 0.
    pub weight: u32,
    /// `namespace/name`, if a workload answers there.
    pub workload: Option<Str>,
    /// Its SPIFFE id.
    pub identity: Option<Str>,
    /// The worker also serves this endpoint's inbound side, and what protects it holds in the same hop.
    pub same_worker: bool,
}

/// A port of a workload whose connections are steered to the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbound {
    pub port: u16,
    pub protocol: Protocol,
    /// `namespace/name` of the service whose port leads here, if one does; for metrics.
    pub service: Option<Str>,
    /// Requests of all clients together; `None` is no limit.
    pub rate: Option<Rate>,
    /// A request must satisfy one of them. `None`: all are allowed.
    pub allow: Option<Vec<Allow>>,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rate {
    pub requests: u32,
    pub per: Duration,
    /// Tokens that it holds at most.
    pub burst: u32,
}

/// What a rule of an AuthorizationPolicy allows at one port. All three must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allow {
    /// `namespace/name` of the policy.
    pub policy: Str,
    /// `None`: whoever comes.
    pub sources: Option<Sources>,
    /// Empty: each, and connections that are no HTTP.
    pub methods: Vec<Str>,
    /// Exact, or a prefix of the text with `*` at its end; both in the normal form of `l7`. Empty: each,
    /// and connections that are no HTTP.
    pub paths: Vec<Str>,
}

/// Who is meant: whoever one of the fields names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// SPIFFE ids of workloads.
    pub identities: Vec<Str>,
    /// Namespaces of workloads.
    pub namespaces: Vec<Str>,
    /// Sources off this node that are no workload, by address.
    pub blocks: Vec<IpBlock>,
    /// Processes of this node that are no workload.
    pub host: bool,
    /// Sources off this node that are no workload.
    pub outside: bool,
}
