//! What decides about a request: pure, without a clock, without I/O. A codec (HTTP/1 or HTTP/2) gives a
//! borrowed view of a head; [`limit::check`] refuses what is ambiguous or too large and finds host,
//! normal path and framing; [`inbound::Guard`] what protects a port; [`route::Table`] finds the rule and the
//! backend.
#![forbid(unsafe_code)]

pub mod balance;
pub mod framing;
pub mod head;
pub mod host;
pub mod inbound;
pub mod limit;
pub mod path;
pub mod rate;
pub mod route;
pub mod target;

mod matching;
mod refusal;

pub use refusal::Refusal;
