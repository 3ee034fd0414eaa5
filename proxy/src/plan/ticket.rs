//! A request under way.

use std::rc::Rc;

use tokio::time::Instant;
use underpass_l7::{
    Refusal,
    balance::{Outcome, Pending},
};

use super::Backend;
use crate::metrics::Seen;

/// A request under way, as the balancer and the metrics count it: over when this is dropped, however that
/// comes.
#[derive(Debug)]
pub struct Ticket {
    pub(super) backend: Rc<Backend>,
    /// `Some` until it is dropped.
    pub(super) pending: Option<Pending>,
    pub(super) outcome: Outcome,
    pub(super) start: Instant,
    /// `Some` until it is dropped.
    pub(super) seen: Option<Seen>,
    /// The same at the destination, if it is served in this hop: of a request that is sent again, each.
    pub(super) attempt: Option<Seen>,
}

impl Ticket {
    /// The response's head is here.
    pub fn answered(&mut self, status: u16) {
        if status >= 500 {
            self.failed();
        }
        let now_ns = self.now_ns();
        for seen in [&mut self.seen, &mut self.attempt].into_iter().flatten() {
            seen.answered(status, now_ns);
        }
        if let Some(pending) = &mut self.pending {
            let inner = &mut *self.backend.inner.borrow_mut();
            inner.balancer.answered(pending, now_ns);
        }
    }

    /// What the response's trailers, or its head if there is no more, say in `grpc-status`.
    pub fn grpc(&mut self, code: u32) {
        for seen in [&mut self.seen, &mut self.attempt].into_iter().flatten() {
            seen.grpc(code);
        }
    }

    /// This worker ends it: `status` is what the client is told, if it can still be told anything.
    pub fn refused(&mut self, why: Refusal, status: u16) {
        let now_ns = self.now_ns();
        if let Some(seen) = &mut self.seen {
            seen.cut(why, status, now_ns);
        }
    }

    /// What was seen of the request, for [`Plan::pick_again`]; this attempt is over.
    pub fn take_seen(&mut self) -> Option<Seen> {
        self.seen.take()
    }

    /// This worker ends a call of gRPC, by a response whose status is 200.
    pub fn refused_grpc(&mut self, why: Refusal) {
        self.refused(why, 200);
        if let Some(seen) = &mut self.seen {
            seen.grpc(why.grpc_status().into());
        }
    }

    /// What protects the destination refuses it, which its own worker would have counted.
    pub(super) fn denied(mut self, why: Refusal, grpc: bool) {
        let now_ns = self.now_ns();
        for seen in [self.seen.take(), self.attempt.take()]
            .into_iter()
            .flatten()
        {
            seen.refuse(why, grpc, now_ns);
        }
    }

    /// The request goes out once more.
    pub fn again(&mut self) {
        let now_ns = self.now_ns();
        if let Some(attempt) = self.attempt.take() {
            self.attempt = Some(attempt.again(now_ns));
        }
    }

    /// The endpoint did not do its part.
    pub fn failed(&mut self) {
        self.outcome = Outcome::Failed;
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let now_ns = self.now_ns();
        for seen in [&mut self.seen, &mut self.attempt] {
            if let Some(seen) = seen.take() {
                seen.end(now_ns);
            }
        }
        if let Some(pending) = self.pending.take() {
            let inner = &mut *self.backend.inner.borrow_mut();
            inner.balancer.end(pending, now_ns, self.outcome);
        }
    }
}
