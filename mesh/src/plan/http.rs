//! Why a worker serves a connection, and what it does at a workload's own ports.

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
