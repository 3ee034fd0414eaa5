//! What the driver asks of a party, and the answers: one line of JSON each, over the party's
//! standard input and output. A party ends when its input ends.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use super::{Load, Outcome};
use crate::web::{Protocol, WebLoad, visit::Visits};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// To a client.
    Run(Load),
    /// To a client: requests in open loop, so many in a second.
    RunAt(Load, f64),
    /// To a web client.
    RunWeb(WebLoad),
    /// To a web client: requests to a server that is none of ours.
    Visit(Visits),
    /// To a web server: what new connections speak, and bytes of each body from now on.
    Speak(Protocol, u32),
    /// To a client: one connect and request.
    Try(SocketAddrV4),
    /// To a client: connect and request in a loop until the address `wanted` answers. After a failed
    /// connect it rests for `rest_us`.
    Watch {
        target: SocketAddrV4,
        wanted: Ipv4Addr,
        seconds: f64,
        rest_us: u64,
    },
    /// To a server: whether responses start with the address that was dialed, and are counted by it.
    Tally(bool),
    /// To a server of either kind: listens anew, on the same port.
    Listen,
    /// To a client: connections to a server that reads nothing, see [`super::stall`].
    Stall(Stall),
    /// To a client: closes those.
    Release,
    /// To a server: whether connections that come from now on are never read. When it reads again it
    /// closes those.
    Ignore(bool),
    /// To a server: bytes of each message from now on, and whether it is answered with as many.
    Expect { message: u32, reply: bool },
    /// To a server of either kind: counts since the last time.
    Count,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The first line of each party.
    Ready,
    Ran(Outcome),
    Tried {
        errno: Option<i32>,
        error: Option<String>,
    },
    Watched(Watched),
    Done,
    Counted(Counted),
    /// Bytes that the kernel took, of each connection.
    Stalled(Vec<u64>),
    Failed(String),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Stall {
    pub target: SocketAddrV4,
    pub connections: u32,
    /// Bytes of one write.
    pub write: u32,
}

/// The first connect that reached the wanted address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Watched {
    /// `CLOCK_MONOTONIC` in nanoseconds, just before and just after its connect call.
    pub before_ns: u64,
    pub after_ns: u64,
    pub connects: u64,
    pub errors: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counted {
    pub connections: u64,
    /// Messages that came whole.
    pub requests: u64,
    /// Messages with another number than the next, or that ended before their last byte.
    pub wrong: u64,
    /// Distinct addresses dialed; 0 unless counting by address is on.
    pub addresses: u64,
}
