//! A port of a workload that the worker serves, and what protects it.

use std::cell::RefCell;

use underpass_l7::{
    head::{Fields, Request},
    inbound::{Denied, Guard, Peer},
    limit::Accepted,
};
use underpass_mesh::snapshot::Inbound;

/// Of one shard.
#[derive(Debug)]
pub struct Port {
    pub inbound: Inbound,
    guard: RefCell<Guard>,
}

impl Port {
    /// `before` is the same port as an older snapshot had it. `shards` share its rate.
    pub fn new(inbound: Inbound, shards: u32, before: Option<&Port>) -> Self {
        let before = before.map(|port| port.guard.borrow());
        let guard = Guard::new(&inbound, shards, before.as_deref());
        Self {
            inbound,
            guard: RefCell::new(guard),
        }
    }

    /// Nothing is asked of a request: bytes that are none may pass too.
    pub fn is_open(&self) -> bool {
        self.guard.borrow().is_open()
    }

    /// # Errors
    /// If the request is denied.
    pub fn judge<F: Fields + ?Sized>(
        &self,
        head: &Request<'_, F>,
        accepted: &Accepted<'_>,
        peer: Peer<'_>,
        now_ns: u64,
    ) -> Result<(), Denied> {
        let guard = &mut *self.guard.borrow_mut();
        guard.judge(head, accepted, peer, now_ns)
    }
}
