//! Rows of connections that ended, failed or were refused: the newest 20,000, for one hour.
//! Open ones are not kept here, the kernel lists them.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use underpass_abi::sock::{Event, EventKind, SockState, flag};
use underpass_api::v1alpha1 as api;

use super::{
    Names, Node,
    ended::{Destroyed, Ended},
    hash::FastMap,
    histogram::Histogram,
    labels::LabelCache,
    row::{self, Seen},
};

/// Rows kept at most.
pub const MAX_ROWS: usize = 20_000;
/// How long a row is kept, in nanoseconds.
pub const KEEP_NS: u64 = 3_600_000_000_000;
/// Connections that the agent destroyed and that have not told their end yet, at most.
const MAX_DESTROYED: usize = 8_192;
/// Newest rows among which a connection is looked for that two CPUs may have told of.
const LOOK_BACK: usize = 1_024;

#[derive(Debug)]
pub struct Table {
    rows: VecDeque<Ended>,
    /// Number of rows that ever left the front: position + `left` never changes for a row.
    left: u64,
    /// Numbers of rows that another event may still add to, by cookie. Most connections are told of
    /// once, so this is small.
    open_ended: FastMap<u64, u64>,
    /// Why the agent destroyed a socket.
    destroyed: FastMap<u64, Destroyed>,
    labels: LabelCache,
    /// Round-trip times by service (`-` for none), of connections that ended.
    srtt: FastMap<Arc<str>, Histogram>,
    changes: u64,
    refusals: u64,
    dropped: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            // Address space only, until rows come; growing by doubling would copy them all, and end
            // with room for many more.
            rows: VecDeque::with_capacity(MAX_ROWS),
            left: 0,
            open_ended: FastMap::default(),
            destroyed: FastMap::default(),
            labels: LabelCache::default(),
            srtt: FastMap::default(),
            changes: 0,
            refusals: 0,
            dropped: 0,
        }
    }
}

/// What one look at the connections gives.
#[derive(Debug, Default)]
pub struct Listing {
    pub rows: Vec<api::Connection>,
    /// Pass it to the next look to get only what changed.
    pub changes: u64,
}

impl Table {
    /// Rows that were removed because there were too many, not because they were old.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The register of names changed: indexes may mean other objects from now on.
    pub fn names_changed(&mut self) {
        self.labels.names_changed();
    }

    /// Takes one event of the ring in.
    pub fn take(&mut self, event: &Event, names: &dyn Names, node: &Node) {
        let s = &event.sock;
        let seen = match EventKind::from_u32(event.kind) {
            Some(EventKind::Refused) => {
                self.refusals += 1;
                Seen::Refused(self.refusals)
            }
            Some(EventKind::Released | EventKind::Closed | EventKind::Failed) => Seen::Ended,
            // A connection that is open (the kernel lists it), or news for the control loop.
            Some(EventKind::Audited | EventKind::Unguarded) | None => return,
        };
        let labels = self.labels.of(s, names, node);
        if s.tcp.srtt_us != 0 && event.kind == EventKind::Closed as u32 {
            self.measured(&labels.service, event.at_ns, s.tcp.srtt_us);
        }
        self.changes += 1;
        let mut row = Ended::new(s, seen, labels);
        row.changed = self.changes;
        if seen != Seen::Ended {
            row.closed_ns = event.at_ns;
        }
        if let Some(why) = self.take_destroyed(s.cookie) {
            row.destroyed_by(why);
        }
        let last_close = event.kind == EventKind::Released as u32;
        let half = if seen == Seen::Ended {
            self.first_half(s, last_close)
        } else {
            None
        };
        match half {
            Some(position) => self.join(position, s, row),
            None => {
                row.open_ended = last_close || (seen == Seen::Ended && !row.is_final());
                self.push(row);
            }
        }
        self.expire(event.at_ns);
    }

    /// The agent is about to destroy this socket; `code` is the close reason.
    pub fn destroying(&mut self, cookie: u64, code: u16, policy: Option<&str>) {
        if self.destroyed.len() >= MAX_DESTROYED {
            self.destroyed.clear();
        }
        let policy = policy.map(|p| self.labels.string(p));
        self.destroyed.insert(cookie, Destroyed { code, policy });
    }

    fn take_destroyed(&mut self, cookie: u64) -> Option<Destroyed> {
        // Almost always.
        if self.destroyed.is_empty() {
            return None;
        }
        self.destroyed.remove(&cookie).filter(|_| cookie != 0)
    }

    /// Ended rows that changed after `since`, then `open` ones (a row of both is listed once).
    pub fn list(
        &mut self,
        open: &[SockState],
        since: u64,
        names: &dyn Names,
        node: &Node,
        now_ns: u64,
    ) -> Listing {
        self.expire(now_ns);
        let still_open: FastMap<u64, u64> = open.iter().map(|s| (s.cookie, s.opened_ns)).collect();
        // They ended after the kernel was asked.
        let mut finished = HashSet::new();
        let mut rows = Vec::new();
        for row in &self.rows {
            let same = row.cookie().and_then(|c| Some((c, still_open.get(&c)?)));
            // Else TCP is done and the application is not: what the kernel says now is newer.
            let newer = row.is_final() || same.is_none();
            if let Some((cookie, opened_ns)) = same
                && newer
                && *opened_ns == row.opened_ns
            {
                finished.insert(cookie);
            }
            if newer && row.changed > since {
                rows.push(row::to_api(
                    &row.state(),
                    row.seen(),
                    &row.labels,
                    row.destroyed,
                    node,
                    now_ns,
                ));
            }
        }
        for state in open.iter().filter(|s| !finished.contains(&s.cookie)) {
            let mut labels = self.labels.of(state, names, node);
            let why = self
                .destroyed
                .get(&state.cookie)
                .filter(|_| state.closed_ns != 0);
            if let Some(policy) = why.and_then(|w| w.policy.clone()) {
                labels = labels.because_of(policy);
            }
            rows.push(row::to_api(
                state,
                Seen::Open,
                &labels,
                why.map_or(0, |w| w.code),
                node,
                now_ns,
            ));
        }
        Listing {
            rows,
            changes: self.changes,
        }
    }

    /// Round-trip times of a service's ended connections.
    pub fn srtt(&self, service: &str) -> Option<&Histogram> {
        self.srtt.get(service)
    }

    /// Position of the row that an earlier event made of the same connection.
    fn first_half(&self, s: &SockState, last_close: bool) -> Option<usize> {
        let same = |row: &Ended| row.cookie() == Some(s.cookie) && row.opened_ns == s.opened_ns;
        if let Some(number) = self.open_ended.get(&s.cookie) {
            let position = (number - self.left) as usize;
            let row = self.rows.get(position);
            return row.is_some_and(same).then_some(position);
        }
        if !last_close || s.flags & flag::CLOSED == 0 {
            return None;
        }
        // Two CPUs may have seen both ends at once, and each told the whole.
        let start = self.rows.len().saturating_sub(LOOK_BACK);
        let found = self.rows.range(start..).rposition(same)?;
        Some(start + found)
    }

    fn join(&mut self, position: usize, s: &SockState, newer: Ended) {
        let row = &mut self.rows[position];
        row.join(s, newer);
        if !row.open_ended {
            self.open_ended.remove(&s.cookie);
        }
    }

    fn push(&mut self, row: Ended) {
        if self.rows.len() == MAX_ROWS {
            self.pop();
            self.dropped += 1;
        }
        if let Some(cookie) = row.cookie().filter(|_| row.open_ended) {
            let number = self.left + self.rows.len() as u64;
            self.open_ended.insert(cookie, number);
        }
        self.rows.push_back(row);
    }

    fn pop(&mut self) {
        let Some(row) = self.rows.pop_front() else {
            return;
        };
        if let Some(cookie) = row.cookie().filter(|_| row.open_ended)
            && self.open_ended.get(&cookie) == Some(&self.left)
        {
            self.open_ended.remove(&cookie);
        }
        self.left += 1;
    }

    fn expire(&mut self, now_ns: u64) {
        while let Some(row) = self.rows.front()
            && row.closed_ns.saturating_add(KEEP_NS) < now_ns
        {
            self.pop();
        }
    }

    fn measured(&mut self, service: &str, at_ns: u64, srtt_us: u32) {
        /// Services with a histogram, at most.
        const MAX: usize = 4_096;
        let service = if service.is_empty() { "-" } else { service };
        if let Some(histogram) = self.srtt.get_mut(service) {
            histogram.record(at_ns, srtt_us);
        } else if self.srtt.len() < MAX {
            let mut histogram = Histogram::default();
            histogram.record(at_ns, srtt_us);
            self.srtt.insert(service.into(), histogram);
        }
    }
}

#[cfg(test)]
mod tests;
