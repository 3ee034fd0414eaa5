//! Rows of connections that ended, failed or were refused: the newest 20,000, for one hour.
//! Open ones are not kept here, the kernel lists them.

use std::collections::{HashMap, HashSet, VecDeque};

use underpass_abi::{
    reason::code,
    sock::{Event, EventKind, SockState, flag},
};
use underpass_api::v1alpha1 as api;

use super::{
    Names, Node,
    histogram::Histogram,
    labels::LabelCache,
    row::{self, Destroyed, Labels, Seen},
};

/// Rows kept at most.
pub const MAX_ROWS: usize = 20_000;
/// How long a row is kept, in nanoseconds.
pub const KEEP_NS: u64 = 3_600_000_000_000;
/// Connections that the agent destroyed and that have not told their end yet, at most.
const MAX_DESTROYED: usize = 8_192;

#[derive(Debug)]
struct Row {
    state: SockState,
    seen: Seen,
    labels: Labels,
    destroyed: Option<Destroyed>,
    /// When the row last changed, as a count of changes of the table.
    changed: u64,
}

#[derive(Debug, Default)]
pub struct Table {
    rows: VecDeque<Row>,
    /// Number of rows that ever left the front: position + `left` never changes for a row.
    left: u64,
    by_cookie: HashMap<u64, u64>,
    destroyed: HashMap<u64, Destroyed>,
    labels: LabelCache,
    /// Round-trip times by service (`-` for none), of connections that ended.
    srtt: HashMap<std::sync::Arc<str>, Histogram>,
    changes: u64,
    refusals: u64,
    dropped: u64,
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
        let mut state = event.sock;
        let seen = match EventKind::from_u32(event.kind) {
            Some(EventKind::Refused) => {
                state.closed_ns = event.at_ns;
                self.refusals += 1;
                Seen::Refused(self.refusals)
            }
            Some(EventKind::Released | EventKind::Closed | EventKind::Failed) => Seen::Ended,
            // A connection that is open (the kernel lists it), or news for the control loop.
            Some(EventKind::Audited | EventKind::Unguarded) | None => return,
        };
        let labels = self.labels.of(&state, names, node);
        if state.tcp.srtt_us != 0 && event.kind == EventKind::Closed as u32 {
            self.measured(&labels, event.at_ns, state.tcp.srtt_us);
        }
        self.changes += 1;
        let changed = self.changes;
        let destroyed = self
            .destroyed
            .remove(&state.cookie)
            .filter(|_| state.cookie != 0);
        if seen == Seen::Ended
            && let Some(old) = self.find(state.cookie)
            && old.state.opened_ns == state.opened_ns
        {
            merge(&mut old.state, &state);
            old.destroyed = destroyed.or(old.destroyed.take());
            old.changed = changed;
            return;
        }
        self.push(Row {
            state,
            seen,
            labels,
            destroyed,
            changed,
        });
        self.expire(event.at_ns);
    }

    /// The agent is about to destroy this socket because of `policy`.
    pub fn destroying(&mut self, cookie: u64, policy: &str) {
        if self.destroyed.len() >= MAX_DESTROYED {
            self.destroyed.clear();
        }
        let policy = self.labels.string(policy);
        self.destroyed.insert(cookie, Destroyed { policy });
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
        let still_open: HashSet<u64> = open.iter().map(|s| s.cookie).collect();
        let mut rows = Vec::new();
        for row in self.rows.iter().filter(|r| r.changed > since) {
            // TCP is done and the application is not: what the kernel says now is newer.
            let open = row.seen == Seen::Ended
                && row.state.flags & (flag::RELEASED | flag::FAILED) == 0
                && still_open.contains(&row.state.cookie);
            if !open {
                let destroyed = row.destroyed.as_ref();
                rows.push(row::to_api(
                    &row.state,
                    row.seen,
                    &row.labels,
                    destroyed,
                    node,
                    now_ns,
                ));
            }
        }
        for state in open {
            if self.is_finished(state) {
                continue;
            }
            let labels = self.labels.of(state, names, node);
            let destroyed = self
                .destroyed
                .get(&state.cookie)
                .filter(|_| state.closed_ns != 0);
            rows.push(row::to_api(
                state,
                Seen::Open,
                &labels,
                destroyed,
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

    /// Whether the final row of this socket is here already (it ended after the kernel was asked).
    fn is_finished(&self, state: &SockState) -> bool {
        let row = self
            .by_cookie
            .get(&state.cookie)
            .and_then(|n| self.rows.get((n - self.left) as usize));
        row.is_some_and(|row| {
            row.state.opened_ns == state.opened_ns
                && row.state.flags & (flag::RELEASED | flag::FAILED) != 0
        })
    }

    fn find(&mut self, cookie: u64) -> Option<&mut Row> {
        let number = *self.by_cookie.get(&cookie)?;
        self.rows.get_mut((number - self.left) as usize)
    }

    fn push(&mut self, row: Row) {
        if self.rows.len() == MAX_ROWS {
            self.pop();
            self.dropped += 1;
        }
        if row.seen == Seen::Ended {
            self.by_cookie
                .insert(row.state.cookie, self.left + self.rows.len() as u64);
        }
        self.rows.push_back(row);
    }

    fn pop(&mut self) {
        let Some(row) = self.rows.pop_front() else {
            return;
        };
        if self.by_cookie.get(&row.state.cookie) == Some(&self.left) {
            self.by_cookie.remove(&row.state.cookie);
        }
        self.left += 1;
    }

    fn expire(&mut self, now_ns: u64) {
        while let Some(row) = self.rows.front()
            && row.state.closed_ns.saturating_add(KEEP_NS) < now_ns
        {
            self.pop();
        }
    }

    fn measured(&mut self, labels: &Labels, at_ns: u64, srtt_us: u32) {
        /// Services with a histogram, at most.
        const MAX: usize = 4_096;
        let service = if labels.service.is_empty() {
            self.labels.string("-")
        } else {
            labels.service.clone()
        };
        if self.srtt.len() < MAX || self.srtt.contains_key(&service) {
            self.srtt.entry(service).or_default().record(at_ns, srtt_us);
        }
    }
}

/// Joins what the last close and TCP's end said about one connection, in either order.
fn merge(old: &mut SockState, new: &SockState) {
    let (mut sent, mut received) = (new.tcp.sent, new.tcp.received);
    if old.flags & flag::RELEASED != 0 {
        // Final at the last close.
        (sent, received) = (old.tcp.sent, old.tcp.received);
    }
    let flags = old.flags | new.flags;
    let closed = if old.flags & flag::CLOSED != 0 {
        *old
    } else {
        *new
    };
    let reason = match closed.reason {
        0 | code::STILL_CLOSING => new.reason,
        reason => reason,
    };
    *old = SockState {
        flags,
        reason,
        ..closed
    };
    old.tcp.sent = sent;
    old.tcp.received = received;
}

#[cfg(test)]
mod tests;
