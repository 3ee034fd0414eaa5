//! What a tenant's child answers its worker. Pure: the child makes the sockets and moves the messages.
//!
//! The desk knows its own tenant's workloads and nothing else, so that no mistake here can give away
//! another's; a worker cannot even learn whether another's exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use underpass_abi::reason::code;
use underpass_api::vend::{Family, ToVendor, ToWorker};

use crate::inner::Report;

mod snapshots;

pub use snapshots::ANSWER_WITHIN;
use snapshots::Snapshots;

/// What is gone must be closed by then: one socket left open keeps a namespace alive. With the time that
/// it takes to end a worker this stays below a second.
pub const GONE_WITHIN: Duration = Duration::from_millis(800);
/// How often counts are reported while they grow.
pub const COUNTS_EVERY: Duration = Duration::from_millis(500);
/// Listeners of one workload.
pub const LISTENERS_MAX: usize = 16;
/// Workloads of one tenant.
pub const WORKLOADS_MAX: usize = 4096;

/// What the child does, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do {
    Tell(ToWorker),
    /// Make so many sockets and send them.
    Vend {
        workload: u64,
        family: Family,
        count: u16,
    },
    /// Send another descriptor of a listener.
    Give {
        workload: u64,
        port: u16,
    },
    /// Send the snapshot of a tenant, as it is now.
    Hand {
        tenant: String,
    },
    /// Close the namespace and the listeners, and what waits to be sent of them.
    Close {
        workload: u64,
    },
    Report(Report),
    /// Close the worker's socket.
    HangUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worker {
    Absent,
    /// Has not said `Hello`.
    Strange,
    Ready,
    /// Said that it leaves, or is to be ended: gets nothing, and may still hold what it got.
    Left,
}

#[derive(Debug, Default)]
struct Workload {
    name: String,
    draining: bool,
    ports: BTreeSet<u16>,
}

#[derive(Debug)]
pub struct Desk {
    tenant: String,
    idle_ms: u32,
    /// Bits of missing restrictions that a flag allows.
    allowed: u32,
    workloads: BTreeMap<u64, Workload>,
    worker: Worker,
    pid: u32,
    /// What the worker has not confirmed yet.
    gone: BTreeMap<u64, Instant>,
    snapshots: Snapshots,
    counts: Counts,
}

/// Sums since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    refused: u32,
    given: u32,
    failed: u32,
    /// The workload of the last refusal.
    last: u64,
    /// When they are reported, if they grew.
    due: Option<Instant>,
}

impl Desk {
    pub fn new(tenant: String, idle_ms: u32, allowed: u32) -> Self {
        Self {
            tenant,
            idle_ms,
            allowed,
            workloads: BTreeMap::new(),
            worker: Worker::Absent,
            pid: 0,
            gone: BTreeMap::new(),
            snapshots: Snapshots::default(),
            counts: Counts::default(),
        }
    }

    /// True if a connection that waits needs a new worker.
    pub fn unattended(&self) -> bool {
        self.worker == Worker::Absent
    }

    pub fn add(&mut self, id: u64, name: String) -> Vec<Do> {
        if self.workloads.len() == WORKLOADS_MAX {
            return vec![failed(id, 0, code::VEND_LIMIT, "workloads of one tenant")];
        }
        let told = ToWorker::Workload {
            id,
            name: name.clone(),
        };
        let workload = Workload {
            name,
            ..Workload::default()
        };
        self.workloads.insert(id, workload);
        let mut all = self.to_ready(Do::Tell(told));
        all.push(Do::Report(Report::Done { id }));
        all
    }

    /// Before a listener is made.
    ///
    /// # Errors
    /// What to do instead.
    pub fn may_listen(&self, id: u64, port: u16) -> Result<(), Do> {
        let why = match self.workloads.get(&id) {
            None => "there is no such workload",
            Some(w) if w.ports.contains(&port) => "the workload has that listener",
            Some(w) if w.ports.len() == LISTENERS_MAX => {
                return Err(failed(
                    id,
                    port,
                    code::VEND_LIMIT,
                    "listeners of one workload",
                ));
            }
            Some(_) => return Ok(()),
        };
        Err(failed(id, port, code::LISTENER_REFUSED, why))
    }

    /// A listener was made.
    pub fn listens(&mut self, id: u64, port: u16) -> Vec<Do> {
        if let Some(workload) = self.workloads.get_mut(&id) {
            workload.ports.insert(port);
        }
        let mut all = self.to_ready(Do::Give { workload: id, port });
        all.push(Do::Report(Report::Done { id }));
        all
    }

    /// The pod is about to end.
    pub fn drain(&mut self, id: u64) -> Vec<Do> {
        let Some(workload) = self.workloads.get_mut(&id) else {
            return Vec::new();
        };
        workload.draining = true;
        self.to_ready(Do::Tell(ToWorker::Drain { workload: id }))
    }

    /// The pod has ended.
    pub fn remove(&mut self, now: Instant, id: u64) -> Vec<Do> {
        let known = self.workloads.remove(&id).is_some();
        let mut all = vec![Do::Close { workload: id }];
        if known && matches!(self.worker, Worker::Ready | Worker::Left) {
            self.gone.insert(id, now + GONE_WITHIN);
            all.extend(self.to_ready(Do::Tell(ToWorker::Gone { workload: id })));
        } else {
            all.push(Do::Report(Report::Done { id }));
        }
        all
    }

    /// A new worker's socket is here.
    pub fn adopt(&mut self, pid: u32) {
        self.pid = pid;
        self.worker = Worker::Strange;
    }

    /// The worker's socket is closed; the process may live.
    pub fn closed(&mut self) -> Vec<Do> {
        self.worker = Worker::Left;
        let pid = self.pid;
        vec![Do::Report(Report::Closed { pid }), Do::HangUp]
    }

    /// The worker did what no worker does: it is ended.
    pub fn unruly(&mut self, why: String) -> Vec<Do> {
        self.worker = Worker::Left;
        let pid = self.pid;
        vec![Do::Report(Report::Unruly { pid, why }), Do::HangUp]
    }

    /// The worker's process is gone: it holds nothing any more.
    pub fn ended(&mut self) -> Vec<Do> {
        self.worker = Worker::Absent;
        self.snapshots.ended();
        let gone = std::mem::take(&mut self.gone).into_keys();
        gone.map(|id| Do::Report(Report::Done { id })).collect()
    }

    /// `proven`: what the kernel says is missing of the worker's restrictions; looked at for `Hello` only.
    pub fn hear(&mut self, now: Instant, said: &ToVendor, proven: u32) -> Vec<Do> {
        match (said.clone(), self.worker) {
            (ToVendor::Hello { missing }, Worker::Strange) => self.hello(now, missing | proven),
            (
                ToVendor::Want {
                    workload,
                    family,
                    count,
                },
                Worker::Ready,
            ) => {
                if self.workloads.contains_key(&workload) {
                    return vec![Do::Vend {
                        workload,
                        family,
                        count,
                    }];
                }
                self.refuse(now, workload)
            }
            (ToVendor::GoneDone { workload }, Worker::Ready) => {
                match self.gone.remove(&workload) {
                    Some(_) => vec![Do::Report(Report::Done { id: workload })],
                    // Of another tenant, of one that lives, or twice.
                    None => self.refuse(now, workload),
                }
            }
            (ToVendor::Leaving, Worker::Ready) => {
                self.worker = Worker::Left;
                let pid = self.pid;
                vec![Do::Report(Report::Leaving { pid }), Do::HangUp]
            }
            (ToVendor::Applied { tenant, version }, Worker::Ready) => {
                self.answered(now, tenant, version, 0)
            }
            (
                ToVendor::Rejected {
                    tenant,
                    version,
                    code,
                },
                Worker::Ready,
            ) if code != 0 => self.answered(now, tenant, version, code),
            (_, Worker::Left) => Vec::new(),
            _ => self.unruly(format!("{said:?} out of order")),
        }
    }

    fn hello(&mut self, now: Instant, missing: u32) -> Vec<Do> {
        let report = Do::Report(Report::Hello {
            pid: self.pid,
            missing: missing & !self.allowed,
            allowed: missing & self.allowed,
        });
        if missing & !self.allowed != 0 {
            self.worker = Worker::Left;
            return vec![report, Do::HangUp];
        }
        self.worker = Worker::Ready;
        let mut all = vec![
            report,
            Do::Tell(ToWorker::Welcome {
                idle_ms: self.idle_ms,
                tenant: self.tenant.clone(),
            }),
        ];
        // Before the first connection can come.
        all.extend(self.snapshots.begin(now));
        for (id, workload) in &self.workloads {
            all.push(Do::Tell(ToWorker::Workload {
                id: *id,
                name: workload.name.clone(),
            }));
            all.extend(workload.ports.iter().map(|port| Do::Give {
                workload: *id,
                port: *port,
            }));
            let drain = ToWorker::Drain { workload: *id };
            all.extend(workload.draining.then_some(Do::Tell(drain)));
        }
        all
    }

    /// A workload that is none of this tenant's; the same answer whether another has it or nobody.
    fn refuse(&mut self, now: Instant, workload: u64) -> Vec<Do> {
        self.counts.refused = self.counts.refused.saturating_add(1);
        self.counts.last = workload;
        self.due(now);
        vec![Do::Tell(ToWorker::Refused {
            workload,
            code: code::NOT_YOUR_WORKLOAD,
        })]
    }

    /// So many sockets were sent, so many were asked for and could not be.
    pub fn vended(&mut self, now: Instant, given: u32, failed: u32) {
        self.counts.given = self.counts.given.saturating_add(given);
        self.counts.failed = self.counts.failed.saturating_add(failed);
        self.due(now);
    }

    fn due(&mut self, now: Instant) {
        // The first is told at once, more at most twice a second.
        self.counts.due.get_or_insert(now);
    }

    pub fn deadline(&self) -> Option<Instant> {
        let gone = self.gone.values().copied();
        let answer = self.snapshots.deadline();
        gone.chain(self.counts.due).chain(answer).min()
    }

    pub fn tick(&mut self, now: Instant, told: &mut Instant) -> Vec<Do> {
        let mut all = Vec::new();
        if self.counts.due.is_some_and(|at| at <= now) {
            if now < *told + COUNTS_EVERY {
                self.counts.due = Some(*told + COUNTS_EVERY);
            } else {
                *told = now;
                self.counts.due = None;
                all.push(Do::Report(Report::Counts {
                    id: self.counts.last,
                    refused: self.counts.refused,
                    given: self.counts.given,
                    failed: self.counts.failed,
                }));
            }
        }
        let hangs = self.snapshots.is_late(now);
        if hangs || self.gone.values().any(|at| *at <= now) {
            // The vendor ends it; `ended` then says that all of them are closed.
            let pid = self.pid;
            all.extend([Do::Report(Report::Silent { pid }), Do::HangUp]);
            self.worker = Worker::Left;
            self.snapshots.ended();
            for at in self.gone.values_mut() {
                *at = now + GONE_WITHIN;
            }
        }
        all
    }

    fn to_ready(&self, action: Do) -> Vec<Do> {
        if self.worker == Worker::Ready {
            vec![action]
        } else {
            Vec::new()
        }
    }
}

fn failed(id: u64, port: u16, code: u16, why: &str) -> Do {
    Do::Report(Report::Failed {
        id,
        port,
        code,
        why: why.to_owned(),
    })
}

#[cfg(test)]
mod tests;
