//! Allocation of indexes.

use std::collections::VecDeque;

use super::TablesError;

/// Indexes from 1 to a limit: never used ones first, then the least recently freed. What is freed
/// while a change is made can be used in the next one only, after a grace period.
#[derive(Clone, Debug, Default)]
pub(super) struct Indexes {
    what: &'static str,
    limit: u32,
    /// Highest index ever used.
    used: u32,
    free: VecDeque<u32>,
    freed_now: Vec<u32>,
}

impl Indexes {
    /// `limit` is the size of the array: the highest index is one less, and 0 is never used.
    pub(super) fn new(what: &'static str, limit: usize) -> Self {
        Self {
            what,
            limit: limit as u32,
            ..Self::default()
        }
    }

    /// A new change begins: a grace period has passed since the last.
    pub(super) fn begin(&mut self) {
        self.free.extend(self.freed_now.drain(..));
    }

    /// True if an index is within the limit.
    pub(super) fn holds(&self, index: u32) -> bool {
        index < self.limit
    }

    /// True if the last change freed something.
    pub(super) fn wants_begin(&self) -> bool {
        !self.freed_now.is_empty()
    }

    pub(super) fn in_use(&self) -> u32 {
        self.used - (self.free.len() + self.freed_now.len()) as u32
    }

    pub(super) fn take(&mut self) -> Result<u32, TablesError> {
        if self.used + 1 < self.limit {
            self.used += 1;
            return Ok(self.used);
        }
        let limit = self.limit as usize - 1;
        self.free.pop_front().ok_or(TablesError::Limit {
            what: self.what,
            need: limit + 1,
            limit,
        })
    }

    /// Takes a certain index out of the free ones; false if it is not free.
    pub(super) fn revive(&mut self, index: u32) -> bool {
        let found = self.free.iter().position(|i| *i == index);
        found.map(|at| self.free.remove(at)).is_some()
    }

    pub(super) fn free(&mut self, index: u32) {
        self.freed_now.push(index);
    }

    /// After a restart: `used` are in use; lower ones that are not, are free.
    pub(super) fn adopt(&mut self, is_used: impl Fn(u32) -> bool, highest: u32) {
        self.used = highest;
        self.free = (1..=highest).filter(|i| !is_used(*i)).collect();
    }
}
