//! The layout of a plan in the kernel's maps: which index everything has, what is installed, and
//! the smallest change that installs another plan. The rules are those of `abi::tables`.

use std::{collections::BTreeSet, sync::Arc};

use underpass_abi::tables::{maps, setting};

pub use change::{Batch, Change, Deletes, Dump, Round};
pub use names::Names;

use crate::plan::Plan;
use change::Writer;
use policies::Policies;
use services::{Context, Services};
use workloads::Workloads;

mod adopt;
mod alias;
mod change;
mod extents;
mod indexes;
mod names;
mod policies;
mod services;
mod workloads;

#[cfg(test)]
mod tests;

/// Why a plan cannot be laid out; the tables stay as they were.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TablesError {
    #[error(
        "UP0309 LIMIT_EXCEEDED: {what} needs {need}, its limit is {limit}. Try: split the node's objects; `underpass status` shows each map's fullness"
    )]
    Limit {
        what: &'static str,
        need: usize,
        limit: usize,
    },
    #[error(
        "UP0408 PINS_INCOMPATIBLE: {map}: {why}. Try: run `underpass-agent --uninstall`, then start again"
    )]
    Corrupt { map: &'static str, why: String },
}

/// What is installed in the kernel, and which indexes are free. Parts are shared between copies:
/// a change that fails leaves the old state, and costs a copy of the touched parts only.
#[derive(Clone, Debug)]
pub struct Tables {
    names: Arc<Names>,
    policies: Arc<Policies>,
    workloads: Arc<Workloads>,
    services: Arc<Services>,
    settings: [u64; setting::COUNT],
    /// Policy tables by position of the last world's sets.
    tables: Arc<[u32]>,
    /// What was laid out last; `None` after a restart.
    last: Option<Plan>,
}

impl Tables {
    /// Of fresh maps.
    pub fn empty() -> Self {
        Self {
            names: Arc::new(Names::empty()),
            policies: Arc::new(Policies::empty()),
            workloads: Arc::new(Workloads::default()),
            services: Arc::new(Services::empty()),
            settings: [0; setting::COUNT],
            tables: Arc::new([]),
            last: None,
        }
    }

    /// After a restart, from the pinned maps alone; also from those that a crash left half written.
    pub fn adopt(dump: &Dump) -> Result<Self, TablesError> {
        adopt::adopt(dump)
    }

    /// The smallest change from what is installed to `plan`. The caller must apply it before it
    /// asks for the next (or adopt again, if applying failed). On an error nothing changes.
    pub fn lay_out(&mut self, plan: &Plan) -> Result<Change, TablesError> {
        let mut next = self.clone();
        let mut out = Writer::default();
        next.install(plan, &mut out)?;
        *self = next;
        Ok(out.finish())
    }

    /// Names of indexes, also of recently removed objects.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The same, to keep while the next change is laid out.
    pub fn shared_names(&self) -> Arc<Names> {
        self.names.clone()
    }

    /// Elements in use of the arrays, which the kernel does not count.
    pub fn in_use(&self) -> [(&'static str, u32); 9] {
        let workloads = self.names.workloads.indexes.in_use();
        let backends = self.services.backend_indexes.in_use();
        [
            (maps::SERVICES, self.names.services.indexes.in_use()),
            (maps::SLOTS, self.services.extents.in_use()),
            (maps::BACKENDS, backends),
            (maps::BACKEND_LIFE, backends),
            (maps::WORKLOADS, workloads),
            (maps::IDENTITIES, workloads),
            (maps::HOMES, workloads),
            (maps::OWN, workloads),
            (maps::POLICIES, self.policies.indexes.in_use()),
        ]
    }

    /// How many plans were applied since the pins were made.
    pub fn plan_version(&self) -> u64 {
        self.settings[setting::PLAN_VERSION as usize]
    }

    fn install(&mut self, plan: &Plan, out: &mut Writer) -> Result<(), TablesError> {
        self.begin();
        let last = self.last.take();
        let same_world = last
            .as_ref()
            .is_some_and(|l| Arc::ptr_eq(&l.world, &plan.world));
        if !same_world {
            let names = Arc::make_mut(&mut self.names);
            let policies = Arc::make_mut(&mut self.policies);
            self.tables = policies.lay_out(&plan.world, names, out)?.into();
            let reachable = self.workloads.reachable(&self.services);
            let workloads = Arc::make_mut(&mut self.workloads);
            workloads.lay_out(&plan.world, &self.tables, &reachable, names, out)?;
        }
        let same_services = same_world
            && last
                .as_ref()
                .is_some_and(|l| Arc::ptr_eq(&l.services, &plan.services));
        if !same_services {
            let before = last.filter(|_| same_world);
            self.install_services(before.as_ref(), plan, out)?;
        }
        if self.names.wants_write() {
            Arc::make_mut(&mut self.names).write(out);
        }
        self.sweep(plan, out);
        self.settings(plan, same_world, out);
        self.last = Some(plan.clone());
        Ok(())
    }

    /// A grace period has passed since the last change: what it freed can be used.
    fn begin(&mut self) {
        if self.names.wants_begin() {
            for register in Arc::make_mut(&mut self.names).all_mut() {
                register.indexes.begin();
            }
        }
        if self.policies.indexes.wants_begin() || self.policies.set_ids.wants_begin() {
            let policies = Arc::make_mut(&mut self.policies);
            policies.indexes.begin();
            policies.set_ids.begin();
        }
    }

    fn install_services(
        &mut self,
        before: Option<&Plan>,
        plan: &Plan,
        out: &mut Writer,
    ) -> Result<(), TablesError> {
        let services = Arc::make_mut(&mut self.services);
        let names = Arc::make_mut(&mut self.names);
        services.begin();
        let context = Context {
            workloads: &self.workloads.index_of,
            tables: &self.tables,
        };
        let done = match before {
            Some(before) => services.lay_out_changed(before, plan, &context, names, out)?,
            None => false,
        };
        if done {
            Ok(())
        } else {
            services.lay_out(plan, &context, names, out)
        }
    }

    fn sweep(&mut self, plan: &Plan, out: &mut Writer) {
        // All tables of the world are in use: by its workloads, its services, or as the default.
        let used: BTreeSet<u32> = self.tables.iter().copied().collect();
        if self.policies.wants_sweep(&used, &plan.world.blocks) {
            Arc::make_mut(&mut self.policies).sweep(&used, &plan.world.blocks, out);
        }
    }

    fn settings(&mut self, plan: &Plan, same_world: bool, out: &mut Writer) {
        let mut set = |index: u32, value: u64| {
            let old = std::mem::replace(&mut self.settings[index as usize], value);
            if old != value {
                out.word(maps::SETTINGS, index, value);
            }
        };
        if !same_world {
            set(setting::CGROUP_LEVELS, Workloads::levels(&plan.world));
            set(setting::HOST_NETNS, plan.world.host_netns);
            set(
                setting::DEFAULT_POLICY,
                self.tables.first().map_or(0, |t| u64::from(*t)),
            );
        }
        if !out.is_empty() {
            let version = self.settings[setting::PLAN_VERSION as usize] + 1;
            self.settings[setting::PLAN_VERSION as usize] = version;
            out.word(maps::SETTINGS, setting::PLAN_VERSION, version);
        }
    }
}
