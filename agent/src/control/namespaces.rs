//! Guards of namespaces, and owners of ports that are older than the mesh.

use std::collections::{BTreeMap, HashMap};

use underpass_abi::{reason::code, tables::NameKind};
use underpass_mesh::{Plan, Str};

use super::{Control, of_kernel};
use crate::{
    kernel::{Kernel, Netns, diag},
    log,
};

/// Namespaces that are known, by cookie.
#[derive(Debug, Default)]
pub struct Namespaces {
    known: BTreeMap<u64, Netns>,
}

impl Namespaces {
    pub fn get(&self, cookie: u64) -> Option<&Netns> {
        self.known.get(&cookie)
    }

    pub fn all(&self) -> impl Iterator<Item = &Netns> {
        self.known.values()
    }

    pub fn add(&mut self, netns: Netns) {
        self.known.insert(netns.cookie, netns);
    }

    /// Forgets namespaces that are gone.
    pub fn prune(&mut self, kernel: &Kernel) {
        for cookie in kernel.prune_guards() {
            self.known.remove(&cookie);
        }
    }
}

impl Control {
    /// Guards every namespace in which workloads live and registers who listens there already.
    pub(super) fn secure_namespaces(&mut self, plan: &Plan) {
        match Netns::current() {
            Ok(host) => self.namespaces.add(host),
            Err(error) => log::warn(error.code, &error.to_string()),
        }
        for netns in self.discovery.namespaces().into_values() {
            self.namespaces.add(netns);
        }
        let owners = self.discovery.cgroup_owners();
        let all: Vec<Netns> = self.namespaces.all().cloned().collect();
        for netns in &all {
            self.guard(netns);
            self.seed_listeners(netns, &owners, plan);
        }
        self.forget_listeners(plan);
    }

    /// A workload began to listen in a namespace without a guard.
    pub(super) fn guard_listener(&mut self, pid: u32, cookie: u64, workload: u32) {
        if self.namespaces.get(cookie).is_some() && self.kernel.guarded().contains(&cookie) {
            return;
        }
        let netns = match Netns::of_process(pid) {
            Ok(netns) if netns.cookie == cookie => netns,
            // The process has ended or moved on; a sweep finds the namespace by another one.
            Ok(_) | Err(_) => return,
        };
        self.guard(&netns);
        self.namespaces.add(netns.clone());
        let name = self.tables.names().get(NameKind::Workload, workload);
        let name = name.map(|n| crate::telemetry::row::workload_name(n).0.to_owned());
        if name.is_some_and(|n| self.discovery.lives_in(&n, &netns)) {
            self.update();
        }
    }

    fn guard(&mut self, netns: &Netns) {
        if let Err(error) = self.kernel.guard(netns) {
            log::warn(error.code, &error.to_string());
            self.failures.insert("guard", of_kernel(&error));
        } else {
            self.failures.remove("guard");
        }
    }

    fn seed_listeners(&mut self, netns: &Netns, owners: &HashMap<u64, Str>, plan: &Plan) {
        let mut seeds = Vec::new();
        for which in [diag::Which::Listening, diag::Which::UdpBound] {
            let sockets = match diag::sockets(netns, which) {
                Ok(sockets) => sockets,
                Err(error) => {
                    log::warn(error.code, &error.to_string());
                    return;
                }
            };
            for socket in sockets {
                let Some(index) = owners
                    .get(&socket.cgroup)
                    .and_then(|n| self.index_of(n, plan))
                else {
                    continue;
                };
                let unspecified = std::net::IpAddr::from(socket.local).is_unspecified();
                let ip = if unspecified {
                    underpass_abi::Ip::ANY
                } else {
                    socket.local
                };
                seeds.push((ip, socket.local_port, socket.proto, index));
            }
        }
        if let Err(error) = self.kernel.seed_listeners(netns.cookie, &seeds) {
            log::warn(error.code, &error.to_string());
        }
    }

    /// Ports of workloads that left the mesh belong to nobody.
    fn forget_listeners(&self, plan: &Plan) {
        let Ok(listeners) = self.kernel.listeners() else {
            return;
        };
        let stays = |index: u32| {
            let name = self.tables.names().get(NameKind::Workload, index)?;
            plan.workload(crate::telemetry::row::workload_name(name).0)
        };
        let gone: Vec<_> = listeners
            .iter()
            .filter(|(_, w)| stays(*w).is_none())
            .map(|(key, _)| *key)
            .collect();
        if !gone.is_empty()
            && let Err(error) = self.kernel.forget_listeners(&gone)
        {
            log::warn(code::FEATURE_OFF, &error.to_string());
        }
    }

    /// Index of a workload by its full name.
    fn index_of(&self, name: &str, plan: &Plan) -> Option<u32> {
        let workload = plan.workload(name)?;
        let registered = format!("{} {}", workload.full_name, workload.identity);
        self.tables.names().find(NameKind::Workload, &registered)
    }
}
