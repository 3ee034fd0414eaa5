//! What the processes of a node say to each other. The node API, served by the agent over a Unix socket
//! (`proto/underpass/v1alpha1/node.proto`), is the feature `node`; the vendor's protocol, which has
//! nothing of HTTP, is [`vend`]; what a worker has counted is the feature `report`.
#![forbid(unsafe_code)]

#[cfg(feature = "node")]
mod node;
#[cfg(feature = "node")]
pub use node::*;

#[cfg(feature = "node")]
pub mod check;
#[cfg(feature = "report")]
pub mod report;
pub mod vend;

/// Where the agent's socket is unless `--api` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/underpass/agent.sock";

/// Largest answer that the agent gives and a client accepts: 20,000 connections are about 12 MB, the
/// status of 10,000 workloads is about 1 MB.
pub const MAX_MESSAGE: usize = 64 << 20;

/// Largest question that the agent reads: a filter or two names. It refuses longer ones with a status,
/// where a limit of the client would break the stream.
pub const MAX_REQUEST: usize = 64 << 10;
