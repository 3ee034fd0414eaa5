//! The node API: messages, client and server of `proto/underpass/v1alpha1/node.proto`, served by the
//! agent over a Unix socket.
#![forbid(unsafe_code)]

use std::path::Path;

use tonic::transport::{Channel, Endpoint};

pub use tonic;

pub mod check;

/// The API's only version so far.
pub mod v1alpha1 {
    tonic::include_proto!("underpass.v1alpha1");
}

/// Encoded `FileDescriptorSet` of every message and service.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Where the agent's socket is unless `--api` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/underpass/agent.sock";

/// Connects to an agent's Unix socket.
///
/// # Errors
/// If nothing accepts at `socket`; the error's sources have the cause.
pub async fn connect(
    socket: &Path,
) -> Result<v1alpha1::node_client::NodeClient<Channel>, tonic::transport::Error> {
    let channel = Endpoint::from_shared(format!("unix:{}", socket.display()))?
        .connect()
        .await?;
    Ok(v1alpha1::node_client::NodeClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
}

/// Largest answer that the agent gives and a client accepts: 20,000 connections are about 12 MB, the
/// status of 10,000 workloads is about 1 MB.
pub const MAX_MESSAGE: usize = 64 << 20;

/// Largest question that the agent reads: a filter or two names. It refuses longer ones with a status,
/// where a limit of the client would break the stream.
pub const MAX_REQUEST: usize = 64 << 10;
