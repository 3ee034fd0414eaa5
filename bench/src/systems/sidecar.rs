//! Our proxy beside each workload: the client's and the server's, each in the namespace of its neighbor,
//! where nft sends it the neighbor's connections.

use underpass_abi::reason::code;

use super::{Refusal, proxy::Proxy};
use crate::{Result, lab::Lab, rig::Cpus};

/// Sends the connections of client and server to the proxies beside them.
pub struct Capture;

impl Capture {
    pub fn new(_: &Lab) -> Self {
        Self
    }

    pub fn set(&mut self, _: bool) -> Result<()> {
        Ok(())
    }
}

/// The client's first.
pub fn start(_: &Lab, _: Cpus) -> std::result::Result<Vec<Proxy>, Refusal> {
    let why = "the proxy does not run as a sidecar yet";
    Err(Refusal::new(code::NOT_IMPLEMENTED, why))
}
