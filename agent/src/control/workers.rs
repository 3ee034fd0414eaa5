//! HTTP workers: from the plan to what the vendor is to have, and from what it has to the facts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use underpass_abi::{
    plain::from_bytes,
    reason::code,
    tables::{NameKind, maps, workload},
};
use underpass_mesh::{Dump, Plan, Str, Tables, plan::Resting, snapshot::Peer, split_name};

use super::{Control, of_kernel};
use crate::{
    log,
    problem::Problem,
    workers::{Door, Standing, Wanted},
};

/// Workloads whose doors are open in the kernel, as an earlier agent left them.
pub(super) fn doors_in(dump: &Dump, tables: &Tables) -> BTreeSet<Str> {
    let words = dump.get(maps::WORKLOADS).into_iter().flatten();
    let open = words.filter_map(|(key, word)| {
        let (index, word) = (from_bytes::<u32>(key)?, from_bytes::<u64>(word)?);
        (word & workload::DOOR != 0).then_some(index)
    });
    let named = open.filter_map(|index| tables.names().get(NameKind::Workload, index));
    named
        .map(|name| crate::telemetry::row::workload_name(name).0.into())
        .collect()
}

impl Control {
    pub(super) fn start_workers(&mut self) {
        if let Err(e) = self.workers.start() {
            let text = format!("thread for the vendor: {e}");
            let problem = Problem::error(code::FEATURE_OFF, text, "vendor");
            log::warn(problem.code, &problem.to_string());
            self.failures.insert("workers", problem);
        }
    }

    /// Tells the vendor what this plan needs.
    pub(super) fn want(&mut self, plan: &Plan) {
        let doors = self.doors(plan);
        let before = self.workers.wanted().snapshots.values();
        let services = before.flat_map(|s| &s.services);
        // Connections that came for them earlier may be open for hours.
        let resting = Resting {
            workloads: doors.keys().cloned().collect(),
            services: services.map(|s| (s.name.clone(), s.port)).collect(),
        };
        let snapshots = plan.snapshots_with(&resting).into_iter();
        let mut peers = None;
        let snapshots = snapshots.map(|mut s| {
            if s.asks_who() {
                s.peers = peers.get_or_insert_with(|| self.peers(plan)).clone();
            }
            (s.tenant.clone(), Arc::new(s))
        });
        let snapshots = snapshots.collect();
        self.workers.want(Wanted { snapshots, doors });
    }

    /// The plan's workloads by their index. Names of removed ones stay in the register.
    fn peers(&self, plan: &Plan) -> Vec<Peer> {
        let all = self.tables.names().iter(NameKind::Workload);
        let known = all.filter_map(|(index, name)| {
            let (name, identity) = crate::telemetry::row::workload_name(name);
            let workload = plan.workload(name).filter(|w| w.identity == identity)?;
            Some(Peer {
                index,
                identity: workload.identity.clone(),
                namespace: split_name(name).0.into(),
            })
        });
        known.collect()
    }

    /// The same plan; its workloads may be found in another way by now.
    pub(super) fn want_doors(&mut self) {
        let doors = self.doors(&self.plan);
        let snapshots = self.workers.wanted().snapshots.clone();
        self.workers.want(Wanted { doors, snapshots });
    }

    /// Where workers are to listen. A door that nothing leads to any more stays as long as its workload:
    /// connections that came through it may be open for hours.
    fn doors(&self, plan: &Plan) -> BTreeMap<Str, Door> {
        let before = &self.workers.wanted().doors;
        let mut names: BTreeSet<Str> = plan
            .wanted_doors()
            .into_iter()
            .map(|d| d.workload)
            .collect();
        let enrolled = |name: &&Str| plan.workload(name).is_some_and(|w| w.enrolled());
        names.extend(before.keys().filter(enrolled).cloned());
        let door = |name: Str| {
            let netns = self.discovery.namespace_of(&name)?;
            let (tenant, _) = name.split_once('/')?;
            let door = Door {
                tenant: tenant.into(),
                netns: netns.path.clone(),
                cookie: netns.cookie,
            };
            Some((name, door))
        };
        names.into_iter().filter_map(door).collect()
    }

    /// The vendor's thread has news.
    pub(super) fn hear_workers(&mut self) {
        let standing = self.workers.news();
        let doors = match self.know_vendor(&standing) {
            Ok(()) => {
                self.failures.remove("vendor");
                if standing.vendor.is_some() {
                    self.workers.listen_anew(self.unheard(&standing.doors));
                }
                standing.doors.clone()
            }
            Err(problem) => {
                if self.failures.get("vendor") != Some(&problem) {
                    log::warn(problem.code, &problem.to_string());
                }
                self.failures.insert("vendor", problem);
                BTreeSet::new()
            }
        };
        if doors != self.facts.doors {
            tracing::info!(open = doors.len(), before = self.facts.doors.len(), "doors");
            self.facts.doors = doors;
            self.update();
        }
    }

    /// Doors whose listeners the programs do not know.
    fn unheard(&self, doors: &BTreeSet<Str>) -> BTreeSet<Str> {
        if doors.is_empty() {
            return BTreeSet::new();
        }
        let Ok(heard) = self.kernel.doors() else {
            return BTreeSet::new();
        };
        let wanted = &self.workers.wanted().doors;
        let unheard = |name: &&Str| {
            wanted
                .get(*name)
                .is_some_and(|d| !heard.contains(&d.cookie))
        };
        doors.iter().filter(unheard).cloned().collect()
    }

    /// Whose sockets are a worker's. Before a door is open.
    fn know_vendor(&mut self, standing: &Standing) -> Result<(), Problem> {
        let cgroup = standing.vendor.as_ref().map(|v| v.cgroup.clone());
        let Some(cgroup) = cgroup.filter(|c| !self.workers.is_known(c)) else {
            return Ok(());
        };
        self.kernel.set_vendor(&cgroup).map_err(|e| of_kernel(&e))?;
        self.workers.knows(cgroup);
        Ok(())
    }
}
