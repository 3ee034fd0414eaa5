//! The worker: HTTP between a client's connection and the endpoints that its requests go to.
//!
//! [`h1`] is the codec, without I/O; [`forward`] moves its bytes between sockets; [`h2`] is
//! HTTP/2, with ways of its own between the two; a [`shard::Shard`] is
//! what one thread's connections share: the [`book::Book`] in which each finds the [`plan::Plan`] to route
//! by, the [`pool::Pool`] of connections to endpoints, where new ones come from ([`connector`]),
//! [`counters`] and spare buffers. There is no lock: nothing is shared between shards.
#![forbid(unsafe_code)]

pub mod book;
pub mod buffer;
pub mod capture;
pub mod clock;
pub mod connector;
pub mod counters;
pub mod crew;
pub mod detect;
mod doors;
pub mod draft;
pub mod forward;
pub mod h1;
pub mod h2;
pub mod metrics;
pub mod original;
pub mod plan;
pub mod pool;
pub mod port;
pub mod shard;
pub mod sidecar;
pub mod stock;
pub mod vended;
pub mod workload;
