//! A workload whose connections this shard serves: which they are, and whether it goes on.

use std::cell::{Cell, RefCell};

use tokio::{sync::Notify, task::AbortHandle};
use underpass_mesh::Str;

/// Of one shard; the same workload is another object in another shard.
#[derive(Debug, Default)]
pub struct Workload {
    /// The vendor's number of it, which is never used again. 0 where no vendor is.
    pub id: u64,
    /// `namespace/name`.
    pub name: Str,
    draining: Cell<bool>,
    /// Tells connections of HTTP/2.
    pub(crate) drains: Notify,
    connections: RefCell<Slots>,
}

/// A slot for each connection; a free one names the next.
#[derive(Debug, Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Debug, Default)]
struct Slot {
    task: Option<AbortHandle>,
    /// It waits for a request, of which nothing has come.
    parked: bool,
}

impl Workload {
    pub fn new(id: u64, name: Str) -> Self {
        Self {
            id,
            name,
            ..Self::default()
        }
    }

    /// It is about to end: connections close after the request that is under way.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Closes what waits, and the rest when its request is over.
    pub fn drain(&self) {
        self.draining.set(true);
        self.drains.notify_waiters();
        let slots = self.connections.borrow();
        let parked = slots.all.iter().filter(|slot| slot.parked);
        parked
            .filter_map(|s| s.task.as_ref())
            .for_each(AbortHandle::abort);
    }

    /// Closes all, whatever they do. It is done when [`Self::open`] is 0.
    pub fn close(&self) {
        self.draining.set(true);
        let slots = self.connections.borrow();
        let tasks = slots.all.iter().filter_map(|slot| slot.task.as_ref());
        tasks.for_each(AbortHandle::abort);
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        let slots = self.connections.borrow();
        slots.all.len() - slots.free.len()
    }

    /// A place for a connection, until [`Self::leave`].
    pub(crate) fn enter(&self) -> usize {
        let slots = &mut *self.connections.borrow_mut();
        slots.free.pop().unwrap_or_else(|| {
            slots.all.push(Slot::default());
            slots.all.len() - 1
        })
    }

    pub(crate) fn leave(&self, at: usize) {
        let slots = &mut *self.connections.borrow_mut();
        slots.all[at] = Slot::default();
        slots.free.push(at);
    }

    pub(crate) fn started(&self, at: usize, task: AbortHandle) {
        self.connections.borrow_mut().all[at].task = Some(task);
    }

    pub(crate) fn park(&self, at: usize, parked: bool) {
        self.connections.borrow_mut().all[at].parked = parked;
    }
}
