//! HTTP/2, both ways, by the `h2` crate; gRPC is requests like others.
//!
//! ```text
//! client ─ wire ─ h2 ─ server: one task a connection ─► stream: one task a request
//!                                                         │ call: judged by l7, routed, an endpoint picked
//!                          exchange, of two relays ◄──────┤
//!                                                         ├─ upstream: connections of HTTP/2, each with its task
//!                                                         └─ translate: a connection of HTTP/1 from the pool
//! ```
//!
//! A client of HTTP/1 whose endpoint speaks HTTP/2 comes in by [`from_h1`]. [`watch`] sees the frames of
//! each connection go by, for the bounds that the crate does not have and for what it does not tell.

pub mod watch;

mod answer;
mod body;
mod call;
mod ends;
mod exchange;
mod from_h1;
mod head;
mod relay;
mod server;
mod stream;
mod translate;
mod upstream;
mod wire;

pub(crate) use from_h1::Translated;
pub use server::serve;
pub use stream::future_bytes;
pub use upstream::Upstreams;

use std::time::Duration;

use tokio::{net::TcpStream, task::spawn_local};

use crate::{
    forward::{Active, serve_on},
    shard::Admitted,
};

/// Streams that one client may have open; more are refused with REFUSED_STREAM. Also of one connection
/// to an endpoint, if the endpoint lets us.
pub const STREAMS: u32 = 100;
/// Bytes of a stream that we take before they are passed on; each way.
pub const STREAM_WINDOW: u32 = 65_535;
/// Likewise of all streams of a connection together.
pub const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of a frame that we take.
pub const FRAME_BYTES: u32 = 16 << 10;
/// Bytes of a stream that wait for a peer that reads.
pub const SEND_BYTES: usize = 64 << 10;
/// Bytes of a request that are kept so that it can be sent again, until the response begins.
pub const REPLAY_BYTES: usize = 16 << 10;
/// Connections of one source to one endpoint.
pub const UPSTREAM_CONNECTIONS: usize = 64;
/// How often a request goes to an endpoint, if the one before has surely not looked at it.
pub const ATTEMPTS: usize = 2;
/// Silence of an endpoint's connection with streams until it is asked with a PING. Servers of gRPC take
/// more than one in 300 seconds for abuse.
pub const PING_AFTER: Duration = Duration::from_secs(330);
/// How long its answer may take until the connection is given up.
pub const PONG_WITHIN: Duration = Duration::from_secs(20);
/// Neither way has moved a byte since the response's head.
pub const STREAM_IDLE: Duration = Duration::from_secs(3600);

/// Goes on with a connection of HTTP/1 in a task of its own: as HTTP/2, of which the preface has been read,
/// or with a request for an endpoint that speaks it.
pub(crate) fn hand_over(
    admitted: Admitted,
    client: TcpStream,
    mut active: Box<Active>,
    is_h2: bool,
) {
    let (workload, at) = (admitted.arrived.workload.clone(), admitted.at);
    let task = if is_h2 {
        let first = active.take_input();
        admitted.shard.rest(active);
        spawn_local(serve(admitted, client, first))
    } else {
        spawn_local(async move {
            if let Some(client) = from_h1::serve(&admitted, client, &mut active).await {
                let (workload, at) = (admitted.arrived.workload.clone(), admitted.at);
                let task = spawn_local(serve_on(admitted, client, Some(active)));
                workload.started(at, task.abort_handle());
            }
        })
    };
    workload.started(at, task.abort_handle());
}
