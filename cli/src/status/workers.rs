//! The vendor and HTTP workers in `underpass status`.

use serde::Serialize;
use underpass_api::v1alpha1 as api;

use crate::{
    render::{Align, Cell, Look, Table, Tone},
    row::some,
};

/// The vendor and its HTTP workers.
#[derive(Debug, Default, Serialize)]
pub struct Workers {
    /// answers, away, unused
    vendor: String,
    reason: Option<String>,
    pid: Option<u32>,
    shared: bool,
    doors: u32,
    doors_wanted: u32,
    tenants: Vec<Tenant>,
}

#[derive(Debug, Serialize)]
struct Tenant {
    name: String,
    state: String,
    worker: Option<u32>,
    workloads: u32,
    snapshot_sent: u64,
    snapshot_applied: u64,
    rejected: Option<String>,
    starts: u32,
    crashes: u32,
    codes: Vec<String>,
}

/// A line for each tenant.
pub fn table(workers: &Workers, look: Look) -> String {
    use Align::{Left, Right};
    let tenants = &workers.tenants;
    if tenants.is_empty() {
        return String::new();
    }
    let columns = [
        ("TENANT", Left),
        ("WORKER", Left),
        ("PID", Right),
        ("WORKLOADS", Right),
        ("SNAPSHOT", Right),
        ("APPLIED", Right),
        ("STARTS", Right),
        ("CRASHES", Right),
        ("REJECTED", Left),
        ("CODES", Left),
    ];
    let mut table = Table::new(&columns, look);
    for t in tenants {
        let crashes = if t.crashes > 0 {
            Tone::Warn
        } else {
            Tone::Plain
        };
        table.push(vec![
            Cell::new(&t.name),
            Cell::new(&t.state),
            Cell::new(t.worker.map_or("-".to_owned(), |pid| pid.to_string())),
            Cell::new(t.workloads.to_string()),
            Cell::new(t.snapshot_sent.to_string()),
            Cell::new(match t.worker {
                Some(_) => t.snapshot_applied.to_string(),
                None => "-".to_owned(),
            }),
            Cell::new(t.starts.to_string()),
            Cell::toned(t.crashes.to_string(), crashes),
            Cell::toned(t.rejected.as_deref().unwrap_or("-"), Tone::Plain),
            Cell::new(if t.codes.is_empty() {
                "-".to_owned()
            } else {
                t.codes.join(",")
            }),
        ]);
    }
    table.take()
}

impl Workers {
    pub fn text(&self) -> String {
        if self.vendor != "answers" {
            return match &self.reason {
                Some(reason) => format!("vendor {}: {reason}", self.vendor),
                None => "none needed".to_owned(),
            };
        }
        let pid = self.pid.unwrap_or_default();
        let shared = if self.shared {
            ", one worker for all tenants"
        } else {
            ""
        };
        format!(
            "vendor {pid} answers, {} of {} workloads have a door{shared}",
            self.doors, self.doors_wanted
        )
    }
}

impl From<api::WorkersStatus> for Workers {
    fn from(w: api::WorkersStatus) -> Self {
        let process = |pid: u32| (pid != 0).then_some(pid);
        let tenants = w.tenants.into_iter().map(|t| Tenant {
            name: t.name,
            state: t.state,
            worker: process(t.worker),
            workloads: t.workloads,
            snapshot_sent: t.sent,
            snapshot_applied: t.applied,
            rejected: some(t.rejected),
            starts: t.starts,
            crashes: t.crashes,
            codes: t.codes,
        });
        Self {
            vendor: w.vendor,
            reason: some(w.reason),
            pid: process(w.pid),
            shared: w.shared,
            doors: w.doors,
            doors_wanted: w.doors_wanted,
            tenants: tenants.collect(),
        }
    }
}
