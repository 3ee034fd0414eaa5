//! The node API: messages, client and server.

use std::path::Path;

use tonic::transport::{Channel, Endpoint};

use crate::MAX_MESSAGE;

pub use tonic;

/// The API's only version so far.
pub mod v1alpha1 {
    tonic::include_proto!("underpass.v1alpha1");
}

/// Encoded `FileDescriptorSet` of every message and service.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

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
