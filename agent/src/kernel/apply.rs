//! Puts a change into the maps so that no hook run sees half of it: what is new, then the words that
//! refer to it, then (after a grace period) away with what nothing refers to any more.

use std::{
    collections::HashMap,
    io,
    time::{Duration, Instant},
};

use rustix::thread::{MembarrierCommand, membarrier};
use underpass_abi::{plain, reason::code, tables::maps};
use underpass_mesh::{Batch, Change, Dump};

use super::KernelError;
use crate::sys::maps::{Map, Put};

/// How a change went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Elements written and deleted.
    pub writes: usize,
    pub took: Duration,
    /// From the start until every hook run that begins sees the new plan.
    pub effective_after: Duration,
}

pub type Maps = HashMap<&'static str, Map>;

/// Maps that only user space writes: together they are the plan.
pub const PLAN: [&str; 18] = [
    maps::SETTINGS,
    maps::SERVICE_IDS,
    maps::SERVICES,
    maps::SLOTS,
    maps::BACKENDS,
    maps::BACKEND_LIFE,
    maps::CGROUPS,
    maps::NETNS,
    maps::ADDRESSES,
    maps::WORKLOADS,
    maps::IDENTITIES,
    maps::HOMES,
    maps::OWN,
    maps::STEERED,
    maps::POLICIES,
    maps::RULES,
    maps::BLOCKS,
    maps::NAMES,
];

/// Returns once every index that the change freed may be used again. After an error the maps hold a
/// part of the change: adopt the dump before the next one.
pub fn apply(maps: &Maps, change: &Change) -> Result<Applied, KernelError> {
    let start = Instant::now();
    let mut applied = Applied::default();
    for round in &change.rounds {
        applied.writes += put(maps, &round.fresh, Put::Any)?;
        applied.writes += put(maps, &round.words, Put::InPlace)?;
        applied.effective_after = start.elapsed();
        grace()?;
        for d in &round.stale {
            applied.writes += map(maps, d.map)?
                .delete_all(&d.keys)
                .map_err(failed(d.map))?;
        }
        if !round.stale.is_empty() {
            grace()?;
        }
    }
    applied.took = start.elapsed();
    Ok(applied)
}

fn put(maps: &Maps, batches: &[Batch], how: Put) -> Result<usize, KernelError> {
    let mut writes = 0;
    for b in batches {
        let map = map(maps, b.map)?;
        // Array elements are always written in place.
        let how = if map.is_array() { Put::Any } else { how };
        map.put_all(&b.keys, &b.values, how)
            .map_err(failed(b.map))?;
        writes += b.count;
    }
    Ok(writes)
}

/// Waits until every hook run that was under way has ended (`synchronize_rcu`).
pub fn grace() -> Result<(), KernelError> {
    membarrier(MembarrierCommand::Global)
        .map_err(|e| KernelError::io(code::KERNEL_TOO_OLD, "membarrier(GLOBAL)")(e.into()))
}

/// Everything of the plan that is in the maps; of arrays, what is not zero.
pub fn dump(maps: &Maps) -> Result<Dump, KernelError> {
    let mut dump = Dump::new();
    for name in PLAN {
        let map = map(maps, name)?;
        let mut pairs = Vec::new();
        map.each(|key, value| {
            if !map.is_array() || value.iter().any(|b| *b != 0) {
                pairs.push((key.to_vec(), value.to_vec()));
            }
        })
        .map_err(failed(name))?;
        dump.insert(name, pairs);
    }
    Ok(dump)
}

pub fn map<'a>(maps: &'a Maps, name: &str) -> Result<&'a Map, KernelError> {
    maps.get(name)
        .ok_or_else(|| KernelError::new(code::PINS_INCOMPATIBLE, format!("no map {name}")))
}

/// Says which map, and that it is full if it is.
pub fn failed(name: &str) -> impl FnOnce(io::Error) -> KernelError {
    move |e| {
        let full = matches!(e.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC));
        let code = if full {
            code::LIMIT_EXCEEDED
        } else {
            code::FEATURE_OFF
        };
        KernelError::new(code, format!("map {name}: {e}"))
    }
}

/// One element of `SETTINGS`.
pub(super) fn get(maps: &Maps, index: u32) -> Result<u64, KernelError> {
    let value = map(maps, maps::SETTINGS)?.get(plain::bytes(&index));
    let value = value.map_err(failed(maps::SETTINGS))?;
    Ok(value.and_then(|v| plain::from_bytes(&v)).unwrap_or(0))
}

/// One element of `SETTINGS`.
pub(super) fn set(maps: &Maps, index: u32, value: u64) -> Result<(), KernelError> {
    map(maps, maps::SETTINGS)?
        .put(plain::bytes(&index), plain::bytes(&value), Put::Any)
        .map_err(failed(maps::SETTINGS))
}
