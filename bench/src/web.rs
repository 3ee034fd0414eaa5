//! HTTP/1.1, HTTP/2 and gRPC: a client and a server on hyper and tonic, each a process of one thread.
//! The server gives each body back, and the client compares all of it.

pub mod client;
mod pace;
pub mod server;
pub mod visit;

use std::{net::SocketAddrV4, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Bytes of each body unless another size is asked for, without what the protocols put around it.
pub const MESSAGE: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A connection for each request that is under way.
    Http1,
    /// All requests on one connection.
    Http2,
    /// Unary calls, all on one connection.
    Grpc,
}

impl Protocol {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Grpc => "gRPC",
        }
    }

    pub const fn connections(self, concurrency: u32) -> u32 {
        match self {
            Self::Http1 => concurrency,
            Self::Http2 | Self::Grpc => 1,
        }
    }
}

/// One run of the client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WebLoad {
    pub protocol: Protocol,
    /// Bytes of each body.
    pub bytes: u32,
    pub connections: u32,
    /// Requests under way, the same number on each connection; one with HTTP/1.1.
    pub concurrency: u32,
    /// Requests in a second by a schedule; closed loop without.
    pub rate: Option<f64>,
    pub target: SocketAddrV4,
    /// Dialed instead of the target.
    pub unix: Option<PathBuf>,
    pub seconds: f64,
}

mod echo {
    tonic::include_proto!("underpass.bench");
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}
