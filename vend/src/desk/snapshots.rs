//! Which snapshots a worker has been handed, and what it said to them. It has one of a tenant at a time to
//! answer; meanwhile the newest waits, and those between are never sent.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use underpass_abi::reason::Code;

use super::{Desk, Do, Worker};
use crate::inner::Report;

/// A worker that has not answered a snapshot by then is ended.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// By tenant: one, unless the worker is shared.
#[derive(Debug, Default)]
pub struct Snapshots(BTreeMap<String, Snapshot>);

#[derive(Debug, Default)]
struct Snapshot {
    version: u64,
    /// What the worker was handed and has not answered, and when.
    handed: Option<(u64, Instant)>,
    /// A newer one waits for that answer.
    waits: bool,
}

impl Snapshot {
    fn hand(&mut self, now: Instant, tenant: &str) -> Do {
        self.handed = Some((self.version, now));
        self.waits = false;
        let tenant = tenant.to_owned();
        Do::Hand { tenant }
    }
}

impl Snapshots {
    /// `ready`: there is a worker that can be handed it.
    pub fn replace(
        &mut self,
        now: Instant,
        tenant: String,
        version: u64,
        ready: bool,
    ) -> Option<Do> {
        let snapshot = self.0.entry(tenant.clone()).or_default();
        snapshot.version = version;
        snapshot.waits = ready && snapshot.handed.is_some();
        (ready && !snapshot.waits).then(|| snapshot.hand(now, &tenant))
    }

    pub fn forget(&mut self, tenant: &str) {
        self.0.remove(tenant);
    }

    /// A new worker is ready.
    pub fn begin(&mut self, now: Instant) -> Vec<Do> {
        let all = self.0.iter_mut();
        all.map(|(tenant, snapshot)| snapshot.hand(now, tenant))
            .collect()
    }

    /// The worker is gone, or gets nothing any more.
    pub fn ended(&mut self) {
        for snapshot in self.0.values_mut() {
            (snapshot.handed, snapshot.waits) = (None, false);
        }
    }

    /// The next one to hand over, if there is one.
    ///
    /// # Errors
    /// If nobody asked for this answer.
    pub fn answered(&mut self, now: Instant, tenant: &str, version: u64) -> Result<Option<Do>, ()> {
        let snapshot = self.0.get_mut(tenant).ok_or(())?;
        match snapshot.handed.take() {
            Some((handed, _)) if handed == version => {}
            other => {
                snapshot.handed = other;
                return Err(());
            }
        }
        Ok(snapshot.waits.then(|| snapshot.hand(now, tenant)))
    }

    pub fn deadline(&self) -> Option<Instant> {
        let handed = self.0.values().filter_map(|s| s.handed);
        handed.map(|(_, at)| at + ANSWER_WITHIN).min()
    }

    pub fn is_late(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|at| at <= now)
    }
}

impl Desk {
    /// Requests of the tenant go by another snapshot from now on.
    pub fn snapshot(&mut self, now: Instant, tenant: String, version: u64) -> Vec<Do> {
        let ready = self.worker == Worker::Ready;
        let hand = self.snapshots.replace(now, tenant, version, ready);
        hand.into_iter().collect()
    }

    /// The tenant has no workload any more.
    pub fn forget(&mut self, tenant: &str) {
        self.snapshots.forget(tenant);
    }

    /// Only of what it was handed and has not answered yet.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        tenant: String,
        version: u64,
        code: u16,
    ) -> Vec<Do> {
        let known = code == 0 || Code::find(code).is_some();
        let answered = self.snapshots.answered(now, &tenant, version);
        let (Ok(next), true) = (answered, known) else {
            return self.unruly(format!(
                "an answer to snapshot {version} that it has not got"
            ));
        };
        let pid = self.pid;
        let report = Do::Report(Report::Snapshot {
            pid,
            tenant,
            version,
            code,
        });
        [report].into_iter().chain(next).collect()
    }
}
