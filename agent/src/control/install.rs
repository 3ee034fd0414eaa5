//! From the model to the kernel: compile, lay out, apply. On an error the last good plan stays.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use underpass_abi::{
    plain::from_bytes,
    reason::code,
    tables::{maps, setting},
};
use underpass_mesh::{Change, Dump, Plan, Tables};

use super::{AppliedPlan, Control, ControlError, of_kernel};
use crate::{log, problem::Problem};

/// Map writes of one change after which memory is given back.
const LARGE_CHANGE: usize = 1_024;

impl Control {
    /// Brings the kernel to what files and facts say now.
    pub(crate) fn update(&mut self) {
        let places = self.discovery.places();
        let moved = places != self.facts.places;
        self.facts.places = places;
        self.node.by_netns = self.discovery.by_netns().map(ToString::to_string).collect();
        let plan = self.model.compile(&self.facts);
        let first = self.applied.is_none();
        if !first && !self.retry && !moved && Arc::ptr_eq(&plan, &self.plan) {
            return;
        }
        match self.install(plan, first || moved) {
            Ok(()) => {
                self.retry = false;
                self.failures.remove("plan");
            }
            Err(problem) => {
                self.retry = true;
                self.counts.plans_failed += 1;
                log::warn(
                    problem.code,
                    &format!("{problem}; the last good plan stays in force"),
                );
                self.failures.insert("plan", problem);
            }
        }
    }

    fn install(&mut self, plan: Arc<Plan>, places_changed: bool) -> Result<(), Problem> {
        let start = Instant::now();
        let change = self
            .tables
            .lay_out(&plan)
            .map_err(|e| Problem::error(code::LIMIT_EXCEEDED, e.to_string(), ""))?;
        // Indexes may have been given to other objects.
        self.table.names_changed();
        if places_changed {
            // Owners of ports are known before the rules that ask for them are in force.
            self.secure_namespaces(&plan);
        }
        // What arrives at a worker that does not know of it yet has to wait.
        self.want(&plan);
        let before = start.elapsed();
        let applied = self.kernel.apply(&change);
        if let Err(error) = &applied {
            // The maps hold a part of the change: start from what is there.
            self.tables = self
                .kernel
                .dump()
                .map_err(ControlError::from)
                .and_then(|d| adopt(&d))
                .map_err(|e| e.0)?;
            return Err(of_kernel(error));
        }
        let (writes, took) = (change.writes, start.elapsed());
        if !change.is_empty() || self.applied.is_none() {
            self.version = version_of(&change).unwrap_or(self.version);
            let version = self.version;
            self.applied = Some(AppliedPlan {
                version,
                at: Instant::now(),
                took,
            });
            self.give_back |= writes > LARGE_CHANGE;
            let effective = before + applied.map_or(Duration::ZERO, |a| a.effective_after);
            tracing::info!(
                version,
                writes,
                effective_us = effective.as_micros() as u64,
                took_us = took.as_micros() as u64,
                "plan in force"
            );
        }
        self.plan = plan;
        self.sample = None;
        if places_changed {
            let plan = self.plan.clone();
            self.secure_namespaces(&plan);
            self.find_older_connections();
        }
        self.recheck();
        // Modes of workloads may have changed.
        self.kernel.watch_splice();
        Ok(())
    }
}

pub(super) fn adopt(dump: &Dump) -> Result<Tables, ControlError> {
    Tables::adopt(dump)
        .map_err(|e| ControlError(Problem::error(code::PINS_INCOMPATIBLE, e.to_string(), "")))
}

/// The plan's version among pairs of `SETTINGS`: it is counted there, so it rises over restarts.
pub(super) fn version_in<'a>(pairs: impl Iterator<Item = &'a (Vec<u8>, Vec<u8>)>) -> Option<u64> {
    let mut pairs = pairs.filter(|(key, _)| from_bytes(key) == Some(setting::PLAN_VERSION));
    pairs.next().and_then(|(_, value)| from_bytes(value))
}

/// The version that a change writes.
fn version_of(change: &Change) -> Option<u64> {
    let batches = change
        .rounds
        .iter()
        .flat_map(|r| r.fresh.iter().chain(&r.words));
    let settings = batches.filter(|b| b.map == maps::SETTINGS);
    let pairs: Vec<(Vec<u8>, Vec<u8>)> = settings
        .flat_map(|b| b.keys.chunks(4).zip(b.values.chunks(8)))
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect();
    version_in(pairs.iter())
}
