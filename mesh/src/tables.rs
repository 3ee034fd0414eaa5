//! The layout of a plan in the kernel's maps.
pub use change::{Batch, Change, Deletes, Dump, Round};
pub use names::Names;
use crate::plan::Plan;
mod change;
mod indexes;
mod names;

/// Why a plan cannot be laid out; the tables stay as they were.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TablesError {
    #[error("UP0309 LIMIT_EXCEEDED: {what} needs {need}, its limit is {limit}")]
    Limit { what: &'static str, need: usize, limit: usize },
    #[error("UP0408 PINS_INCOMPATIBLE: {map}: {why}")]
    Corrupt { map: &'static str, why: String },
}

/// What is installed in the kernel, and which indexes are free.
#[derive(Clone, Debug)]
pub struct Tables {
    names: Names,
}

impl Tables {
    /// Of fresh maps.
    pub fn empty() -> Self {
        todo!()
    }
    /// After a restart, from the pinned maps alone; also from those that a crash left half written.
    pub fn adopt(_dump: &Dump) -> Result<Self, TablesError> {
        todo!()
    }
    /// The smallest change from what is installed to `plan`. The caller must apply it before it asks
    /// for the next (or adopt again, if that failed). On an error nothing changes.
    pub fn lay_out(&mut self, _plan: &Plan) -> Result<Change, TablesError> {
        todo!()
    }
    /// Names of indexes, also of recently removed objects.
    pub fn names(&self) -> &Names {
        &self.names
    }
}
