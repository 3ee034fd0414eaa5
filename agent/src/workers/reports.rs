//! What workers report, read by the vendor's thread: parsing it takes longer than the control loop may
//! stand still.

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard},
};

use rustix::time::{ClockId, clock_gettime};
use underpass_abi::reason::code;
use underpass_mesh::Str;

use super::{lock, memory::REPORT_BYTES};
use crate::{
    log,
    telemetry::reports::{Merged, Reader},
};

/// All tenants' reports, merged.
#[derive(Debug, Default)]
pub struct Reports(Mutex<Merged>);

impl Reports {
    /// Not for long: the thread waits.
    pub fn merged(&self) -> MutexGuard<'_, Merged> {
        lock(&self.0)
    }
}

/// The thread's end.
#[derive(Debug, Default)]
pub(super) struct Readers {
    /// By tenant; the file is replaced if the tenant went away and came again.
    readers: BTreeMap<Str, (Arc<OwnedFd>, Option<File>, Reader)>,
    pub bad: u64,
}

impl Readers {
    pub fn read(&mut self, files: &BTreeMap<Str, Arc<OwnedFd>>, into: &Reports) {
        self.readers.retain(|tenant, _| files.contains_key(tenant));
        let now = now_ns();
        for (tenant, file) in files {
            let new = || {
                (
                    file.clone(),
                    file.try_clone().ok().map(File::from),
                    Reader::default(),
                )
            };
            let known = self.readers.entry(tenant.clone()).or_insert_with(new);
            if !Arc::ptr_eq(&known.0, file) {
                *known = new();
            }
            let (_, Some(file), reader) = known else {
                continue;
            };
            match reader.read(file, REPORT_BYTES) {
                Ok(Some(report)) => into.merged().take(tenant, &report, now),
                Ok(None) => {}
                Err(bad) => {
                    self.bad += 1;
                    log::warn(code::VEND_PROTOCOL, &format!("worker of {tenant}: {bad}"));
                }
            }
        }
    }
}

/// `CLOCK_MONOTONIC`.
pub fn now_ns() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    (t.tv_sec * 1_000_000_000 + t.tv_nsec) as u64
}
