//! What a worker said to the snapshots that it was handed, for the status.

use std::collections::BTreeMap;

use crate::log;

/// By tenant; of the worker that runs.
#[derive(Debug, Default)]
pub struct Answers(BTreeMap<String, Answer>);

#[derive(Debug, Default)]
struct Answer {
    /// The version by which requests go; 0 is none.
    applied: u64,
    /// Why the last one was not taken; 0 if it was.
    rejected: u16,
}

impl Answers {
    /// `worker`: of which tenant it is; the same, unless it is shared. `code` 0: taken.
    pub fn add(&mut self, worker: &str, tenant: String, version: u64, code: u16) {
        if code != 0 {
            let text =
                format!("tenant {worker}: the worker rejects snapshot {version} of {tenant}");
            log::warn(code, &text);
        }
        let answer = self.0.entry(tenant).or_default();
        answer.rejected = code;
        if code == 0 {
            answer.applied = version;
        }
    }

    /// True if there was an answer.
    pub fn forget(&mut self, tenant: &str) -> bool {
        self.0.remove(tenant).is_some()
    }

    /// The worker is gone.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// `key=value` words.
    pub fn words(&self, tenant: &str) -> String {
        let answer = self.0.get(tenant);
        let rejected = match answer.map_or(0, |a| a.rejected) {
            0 => String::new(),
            code => format!("UP{code:04}"),
        };
        let applied = answer.map_or(0, |a| a.applied);
        format!("applied={applied} rejected={rejected}")
    }
}
