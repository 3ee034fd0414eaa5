//! What the vendor has been told, and what is still to be said. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use underpass_abi::tables::door;
use underpass_mesh::{Str, snapshot::Snapshot};

use super::Wanted;
use crate::problem::Problem;

/// What was refused is tried again after so long.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Where a worker is to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    pub tenant: Str,
    /// Leads to the workload's namespace.
    pub netns: PathBuf,
    /// Of that namespace.
    pub cookie: u64,
}

/// Both in every door: a rule for a workload's own ports may come at any time, and then holds at once.
const PORTS: [u16; 2] = [door::OUTBOUND, door::INBOUND];

/// One thing to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Gone(Str),
    Add(Str),
    Snapshot(Str),
    Listen(Str, u16),
}

#[derive(Debug)]
struct Known {
    door: Door,
    /// False: it is asked for again, in case the vendor has lost it.
    sure: bool,
    ports: BTreeMap<u16, bool>,
}

/// Of a workload or a tenant: 0; of a listener: its port.
type Matter = (Str, u16);

/// Of one vendor.
#[derive(Debug, Default)]
pub struct Told {
    known: BTreeMap<Str, Known>,
    snapshots: BTreeMap<Str, Arc<Snapshot>>,
    /// Until when it is left alone.
    refused: BTreeMap<Matter, (Instant, Problem)>,
}

impl Step {
    fn matter(&self) -> Matter {
        match self {
            Self::Gone(name) | Self::Add(name) | Self::Snapshot(name) => (name.clone(), 0),
            Self::Listen(name, port) => (name.clone(), *port),
        }
    }
}

impl Told {
    /// In the order in which it is to be said: a worker knows of a workload before it is told what that
    /// may do, and that before anything can arrive.
    pub fn steps(&self, wanted: &Wanted, now: Instant) -> Vec<Step> {
        let due = |step: &Step| {
            let refused = self.refused.get(&step.matter());
            refused.is_none_or(|(until, _)| *until <= now)
        };
        let gone = self.known.iter().filter(|(name, known)| {
            // Another path to the same namespace is no reason to end what goes on there.
            let same = |d: &Door| (&d.tenant, d.cookie) == (&known.door.tenant, known.door.cookie);
            !wanted.doors.get(*name).is_some_and(same)
        });
        let gone: BTreeSet<&Str> = gone.map(|(name, _)| name).collect();
        let known = |name: &Str| self.known.get(name).filter(|_| !gone.contains(name));
        let mut steps: Vec<Step> = gone
            .iter()
            .map(|name| Step::Gone((*name).clone()))
            .collect();
        for name in wanted.doors.keys() {
            if !known(name).is_some_and(|k| k.sure) {
                steps.push(Step::Add(name.clone()));
            }
        }
        let tenants: BTreeSet<&Str> = wanted.doors.values().map(|d| &d.tenant).collect();
        for tenant in tenants {
            let newest = wanted.snapshots.get(tenant);
            if newest.is_some() && newest != self.snapshots.get(tenant) {
                steps.push(Step::Snapshot(tenant.clone()));
            }
        }
        for name in wanted.doors.keys() {
            let sure = |port| known(name).and_then(|k| k.ports.get(&port)) == Some(&true);
            let missing = PORTS.into_iter().filter(|p| !sure(*p));
            steps.extend(missing.map(|port| Step::Listen(name.clone(), port)));
        }
        steps.retain(due);
        steps
    }

    /// Whether it makes sense by now: each step needs those before it.
    pub fn may(&self, step: &Step, wanted: &Wanted) -> bool {
        let tenant_known = |tenant: &Str| self.known.values().any(|k| k.door.tenant == *tenant);
        match step {
            Step::Gone(_) | Step::Add(_) => true,
            Step::Snapshot(tenant) => tenant_known(tenant),
            Step::Listen(name, _) => {
                let door = wanted.doors.get(name);
                self.known.contains_key(name)
                    && door.is_some_and(|d| self.snapshots.contains_key(&d.tenant))
            }
        }
    }

    /// It was done.
    pub fn did(&mut self, step: &Step, wanted: &Wanted) {
        self.refused.remove(&step.matter());
        match step {
            Step::Gone(name) => {
                self.known.remove(name);
            }
            Step::Add(name) => {
                let Some(door) = wanted.doors.get(name).cloned() else {
                    return;
                };
                let known = self.known.entry(name.clone()).or_insert_with(|| Known {
                    door,
                    sure: true,
                    ports: BTreeMap::new(),
                });
                known.sure = true;
            }
            Step::Snapshot(tenant) => {
                if let Some(snapshot) = wanted.snapshots.get(tenant) {
                    self.snapshots.insert(tenant.clone(), snapshot.clone());
                }
            }
            Step::Listen(name, port) => {
                if let Some(known) = self.known.get_mut(name) {
                    known.ports.insert(*port, true);
                }
            }
        }
    }

    /// It was refused, and is tried again later.
    pub fn failed(&mut self, step: &Step, problem: Problem, now: Instant) {
        match step {
            Step::Gone(name) | Step::Add(name) => {
                self.known.remove(name);
            }
            Step::Snapshot(_) => {}
            Step::Listen(name, port) => {
                if let Some(known) = self.known.get_mut(name) {
                    known.ports.remove(port);
                }
            }
        }
        let until = now + RETRY_AFTER;
        self.refused.insert(step.matter(), (until, problem));
    }

    /// Everything is asked for again; what was open counts as open until that is answered.
    pub fn doubt(&mut self) {
        for known in self.known.values_mut() {
            known.sure = false;
            known.ports.values_mut().for_each(|sure| *sure = false);
        }
    }

    /// True if all its listeners were asked for and are there.
    pub fn has(&self, name: &Str) -> bool {
        let known = self.known.get(name);
        known.is_some_and(|k| PORTS.iter().all(|p| k.ports.contains_key(p)))
    }

    /// The vendor no longer has it, nor the snapshot of its tenant if it was the last one.
    pub fn forget(&mut self, name: &Str) {
        if let Some(known) = self.known.remove(name) {
            self.snapshots.remove(&known.door.tenant);
        }
    }

    /// Workloads whose ports all have a listener.
    pub fn open(&self, wanted: &Wanted) -> BTreeSet<Str> {
        let open = |(name, door): &(&Str, &Door)| {
            let known = self.known.get(*name);
            self.has(name) && known.is_some_and(|k| k.door.cookie == door.cookie)
        };
        let doors = wanted.doors.iter().filter(open);
        doors.map(|(name, _)| name.clone()).collect()
    }

    /// Tenants of which the vendor knows a workload.
    pub fn tenants(&self) -> BTreeSet<Str> {
        self.known.values().map(|k| k.door.tenant.clone()).collect()
    }

    /// Forgets snapshots of tenants that are gone, and refusals of what nobody wants any more.
    pub fn prune(&mut self, wanted: &Wanted) {
        let tenants = self.tenants();
        self.snapshots.retain(|tenant, _| tenants.contains(tenant));
        let wanted_by = |name: &Str| {
            wanted.doors.contains_key(name) || wanted.doors.values().any(|d| d.tenant == *name)
        };
        self.refused.retain(|(name, _), _| wanted_by(name));
    }

    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.refused.values().map(|(_, problem)| problem)
    }

    /// When something that was refused is tried again.
    pub fn retry_at(&self) -> Option<Instant> {
        self.refused.values().map(|(until, _)| *until).min()
    }
}

#[cfg(test)]
mod tests;
