//! The last snapshot of each tenant, and what its worker said to it. The vendor passes the files on and
//! never reads them.

use std::{collections::BTreeMap, os::fd::OwnedFd};

use underpass_abi::reason::code;

use super::{SHARED, Vendor};
use crate::{
    inner::ToChild,
    log::{Problem, Result},
    tenant::Tenant,
};

/// By the tenant that root named, also where all have one worker.
#[derive(Debug, Default)]
pub struct Snapshots(BTreeMap<String, Snapshot>);

#[derive(Debug)]
struct Snapshot {
    version: u64,
    /// The snapshot and the report.
    files: Vec<OwnedFd>,
}

impl Snapshots {
    /// A new child has none yet.
    pub fn tell(&self, child: &mut Tenant) {
        for (tenant, Snapshot { version, files }) in &self.0 {
            if child.name != *tenant && child.name != SHARED {
                continue;
            }
            let again = files.iter().map(OwnedFd::try_clone).collect();
            if let Ok(files) = again {
                let (tenant, version) = (tenant.clone(), *version);
                child.say(&ToChild::Snapshot { tenant, version }, files);
            } else {
                child.lacks_descriptors();
            }
        }
    }

    /// `key=value` words of a status line.
    pub fn words(&self, tenant: &str, of: &Tenant) -> String {
        let version = self.0.get(tenant).map_or(0, |s| s.version);
        format!("snapshot={version} {}", of.answers.words(tenant))
    }

    /// Lines of the tenants that have one worker together.
    pub fn lines(&self, of: &Tenant) -> Vec<String> {
        let line = |tenant: &String| format!("tenant={tenant} {}", self.words(tenant, of));
        self.0.keys().map(line).collect()
    }
}

impl Vendor {
    /// # Errors
    /// `NOT_FOUND` if the tenant has no workload.
    pub(super) fn snapshot(
        &mut self,
        tenant: String,
        version: u64,
        files: Vec<OwnedFd>,
    ) -> Result<()> {
        let mut mine = self.workloads.values();
        let workload = mine.find(|w| w.known.tenant == tenant && !w.removing);
        let found = workload.map(|w| w.seat.clone());
        let seat = found.ok_or_else(|| Problem::new(code::NOT_FOUND, &tenant))?;
        let again = files.iter().map(OwnedFd::try_clone).collect();
        let again: std::io::Result<Vec<OwnedFd>> = again;
        let again = again.map_err(Problem::at(code::VEND_LIMIT, "descriptors"))?;
        let kept = Snapshot {
            version,
            files: again,
        };
        self.snapshots.0.insert(tenant.clone(), kept);
        // Without a child, which is about to be started again: it is told then.
        if let Some(child) = self.tenant(&seat) {
            child.say(&ToChild::Snapshot { tenant, version }, files);
        }
        Ok(())
    }

    /// Those of tenants that have no workload any more.
    pub(super) fn forget_snapshots(&mut self) {
        let all = self.snapshots.0.keys().cloned();
        let has = |tenant: &String| self.workloads.values().any(|w| w.known.tenant == *tenant);
        let stale: Vec<String> = all.filter(|tenant| !has(tenant)).collect();
        for tenant in stale {
            self.snapshots.0.remove(&tenant);
            for child in &mut self.tenants {
                if child.answers.forget(&tenant) || child.name == SHARED {
                    let tenant = tenant.clone();
                    child.say(&ToChild::Forget { tenant }, vec![]);
                }
            }
        }
    }
}
