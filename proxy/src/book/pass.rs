//! Where a sidecar lets connections through that its snapshot says nothing of: a rule of the kernel has
//! captured them all.

use std::rc::Rc;

use underpass_mesh::snapshot::Protocol;

use super::{Arrived, Book, Own, Side};
use crate::plan::{Backend, Backends, Endpoint, Plan};

impl Book {
    /// Bytes, to where they were going. It is made for each connection, since there may be any number of
    /// destinations.
    pub(super) fn pass(&self, own: &Own, arrived: &Arrived) -> Option<Plan> {
        let at = arrived.original;
        let is_own = own.addresses.contains(&at.ip());
        // What is dialed at its own address does not come here, and what comes in goes nowhere else.
        if is_own != (arrived.side == Side::Inbound) {
            return None;
        }
        let endpoint = Endpoint {
            address: at,
            identity: 0,
            workload: None,
            inbound: None,
        };
        // Nothing of it is pooled, so no number is needed.
        let backend = Rc::new(Backend::default());
        backend.set(Protocol::Opaque, vec![(0, endpoint, 1)]);
        let name = (arrived.workload.name.clone(), at.port());
        Some(Plan {
            authority: at.to_string(),
            workload: arrived.workload.id,
            source: own.identity.1,
            protocol: Protocol::Opaque,
            backends: Rc::new(Backends::from([(name.clone(), backend)])),
            default: name,
            ..Plan::default()
        })
    }
}
