//! What root asks for, and what becomes of it.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Instant,
};

use underpass_abi::reason::code;
use underpass_api::vend::control::{Reply, Request};

use super::{END_WITHIN, REVIVE_AFTER, SHARED, Vendor, WORKLOADS_MAX, Workload};
use crate::{
    inner::ToChild,
    life::STEADY,
    log::{self, Problem, Result},
    netns,
    state::Known,
};

impl Vendor {
    /// Takes in what an earlier vendor knew and what is still there.
    pub(super) fn load(&mut self) {
        let now = Instant::now();
        for known in self.state.load() {
            self.add_again(now, known);
        }
    }

    pub(super) fn hear_clients(&mut self, now: Instant) {
        for at in 0..self.clients.len() {
            let Some((request, fds)) = self.clients[at].ask() else {
                continue;
            };
            // The id whose end answers, or the answer.
            let outcome = match request {
                Request::Add {
                    name,
                    tenant,
                    netns,
                } => self.add(now, name, tenant, netns.into()).map(Some),
                Request::Drain { name } => self.drain(&name).map(|()| None),
                Request::Gone { name } => Ok(self.remove(now, &name)),
                Request::Listen {
                    name,
                    address,
                    port,
                } => self.listen(now, &name, address, port).map(Some),
                Request::Snapshot { tenant, version } => {
                    self.snapshot(tenant, version, fds).map(|()| None)
                }
                Request::Start { tenant } => self.start(now, &tenant).map(|()| None),
                Request::Status => {
                    for line in self.lines() {
                        self.clients[at].answer(&Reply::Line(line));
                    }
                    Ok(None)
                }
            };
            match outcome {
                Ok(Some(id)) => self.clients[at].waits_for = Some(id),
                Ok(None) => self.clients[at].answer(&Reply::Done),
                Err(problem) => self.clients[at].refuse(problem.code, problem.text),
            }
        }
    }

    fn add(&mut self, now: Instant, name: String, tenant: String, path: PathBuf) -> Result<u64> {
        if let Some(known) = self.workloads.get(&name) {
            // Told again, which an agent does that was started again; or another workload of the same name.
            let same = !known.removing && netns::at(&path).ok() == Some(known.known.which);
            let code = if same {
                code::DUPLICATE_OBJECT
            } else {
                code::NAMESAKE
            };
            return Err(Problem::new(code, name));
        }
        if self.workloads.len() == WORKLOADS_MAX {
            return Err(Problem::new(code::VEND_LIMIT, "workloads"));
        }
        let failed = |path: &Path| Problem::at(code::NETNS_UNREACHABLE, path.display().to_string());
        let (fd, which) = netns::open(&path).map_err(failed(&path))?;
        let seat = match self.options.shared {
            true => SHARED.to_owned(),
            false => tenant.clone(),
        };
        let id = self.next_id;
        self.next_id += 1;
        let told = ToChild::Add {
            id,
            name: name.clone(),
        };
        self.tenant_or_new(&seat)?.say(&told, vec![fd]);
        let known = Known {
            name: name.clone(),
            tenant,
            netns: path,
            which,
            listeners: Vec::new(),
        };
        let removing = false;
        self.workloads.insert(
            name,
            Workload {
                id,
                known,
                seat,
                removing,
            },
        );
        self.changed(now);
        Ok(id)
    }

    /// The id whose end is under way; `None` if there is nothing to end.
    pub(super) fn remove(&mut self, now: Instant, name: &str) -> Option<u64> {
        let workload = self.workloads.get_mut(name)?;
        let (id, tenant, again) = (workload.id, workload.seat.clone(), workload.removing);
        workload.removing = true;
        self.changed(now);
        if again {
            return Some(id);
        }
        match self.tenant(&tenant) {
            Some(tenant) => {
                tenant.say(&ToChild::Remove { id }, vec![]);
                Some(id)
            }
            // Its child is about to be started again, and will not hear of it.
            None => {
                self.workloads.remove(name);
                None
            }
        }
    }

    fn listen(&mut self, now: Instant, name: &str, address: IpAddr, port: u16) -> Result<u64> {
        let workload = self.workloads.get_mut(name).filter(|w| !w.removing);
        let Some(workload) = workload else {
            return Err(Problem::new(code::NOT_FOUND, name));
        };
        let (id, tenant) = (workload.id, workload.seat.clone());
        if workload.known.listeners.iter().any(|(_, p)| *p == port) {
            let text = format!("{name} has a listener on {port}");
            return Err(Problem::new(code::DUPLICATE_OBJECT, text));
        }
        // Forgotten again if it cannot be made.
        workload.known.listeners.push((address, port));
        self.tenant_or_new(&tenant)?
            .say(&ToChild::Listen { id, port, address }, vec![]);
        self.changed(now);
        Ok(id)
    }

    fn drain(&mut self, name: &str) -> Result<()> {
        let workload = self.workloads.get(name).filter(|w| !w.removing);
        let found = workload.map(|w| (w.id, w.seat.clone()));
        let (id, tenant) = found.ok_or_else(|| Problem::new(code::NOT_FOUND, name))?;
        if let Some(tenant) = self.tenant(&tenant) {
            tenant.say(&ToChild::Drain { id }, vec![]);
        }
        Ok(())
    }

    fn start(&mut self, now: Instant, tenant: &str) -> Result<()> {
        let name = if self.options.shared { SHARED } else { tenant };
        match self.tenant(name) {
            Some(tenant) => {
                tenant.need(now);
                Ok(())
            }
            None => Err(Problem::new(code::NOT_FOUND, tenant)),
        }
    }

    /// A child did what was asked for a workload.
    pub(super) fn done(&mut self, now: Instant, id: u64) {
        if let Some(client) = self.waiting_for(id) {
            client.answer(&Reply::Done);
        }
        let removed = |w: &&Workload| w.id == id && w.removing;
        let Some(workload) = self.workloads.values().find(removed) else {
            return;
        };
        let (name, seat) = (workload.known.name.clone(), workload.seat.clone());
        self.workloads.remove(&name);
        self.forget_snapshots();
        if !self.workloads.values().any(|w| w.seat == seat)
            && let Some(tenant) = self.tenant(&seat)
        {
            tenant.stop(now, END_WITHIN);
        }
    }

    pub(super) fn failed(&mut self, now: Instant, id: u64, port: u16, problem: &Problem) {
        let Problem { code, text } = problem;
        let found = self.workloads.values_mut().find(|w| w.id == id);
        if let Some(workload) = found {
            let name = workload.known.name.clone();
            log::warn(*code, &format!("workload {name}: {text}"));
            if port != 0 {
                workload.known.listeners.retain(|(_, p)| *p != port);
                self.changed(now);
            } else {
                self.remove(now, &name);
            }
        }
        if let Some(client) = self.waiting_for(id) {
            client.refuse(*code, text.clone());
        }
    }

    /// All that its worker and it held is closed; a new one is told everything again.
    pub(super) fn child_ended(&mut self, now: Instant, name: String) {
        let again = self
            .revive
            .get(&name)
            .is_some_and(|(last, _)| now < *last + STEADY);
        let at = if again { now + REVIVE_AFTER } else { now };
        self.revive.insert(name.clone(), (now, Some(at)));
        let ids: Vec<u64> = self
            .workloads
            .values()
            .filter(|w| w.seat == name)
            .map(|w| w.id)
            .collect();
        self.workloads
            .retain(|_, w| !(w.seat == name && w.removing));
        self.forget_snapshots();
        for id in ids {
            if let Some(client) = self.waiting_for(id) {
                client.refuse(code::CHILD_ENDED, name.clone());
            }
        }
    }

    pub(super) fn revive(&mut self, now: Instant) {
        self.revive
            .retain(|_, (last, at)| at.is_some() || now < *last + STEADY);
        // Its old worker holds the ports until it is gone.
        let over = |name: &String| {
            let mut old = self.tenants.iter().filter(|t| t.name == *name);
            old.all(|t| t.stopping.is_none() || t.worker.is_none())
        };
        let due = |at: &Option<Instant>| at.is_some_and(|at| at <= now);
        let all = self
            .revive
            .iter()
            .filter(|(name, (_, at))| due(at) && over(name));
        let names: Vec<String> = all.map(|(name, _)| name.clone()).collect();
        for name in names {
            if let Some((_, at)) = self.revive.get_mut(&name) {
                *at = None;
            }
            let mine = |w: &Workload| w.seat == name;
            let all: Vec<Known> = self
                .workloads
                .values()
                .filter(|w| mine(w))
                .map(|w| w.known.clone())
                .collect();
            self.workloads.retain(|_, w| !mine(w));
            for known in all {
                self.add_again(now, known);
            }
        }
    }

    fn add_again(&mut self, now: Instant, known: Known) {
        // A path that leads elsewhere by now is another workload's.
        if netns::at(&known.netns).ok() != Some(known.which) {
            return;
        }
        let name = known.name.clone();
        let mut taken = self
            .add(now, known.name, known.tenant, known.netns)
            .map(|_| ());
        for (address, port) in known.listeners {
            taken = taken.and_then(|()| self.listen(now, &name, address, port).map(|_| ()));
        }
        if let Err(problem) = taken {
            log::warn(problem.code, &format!("workload {name}: {}", problem.text));
        }
    }

    fn lines(&self) -> Vec<String> {
        let shared = if self.options.shared {
            format!("yes codes=UP{:04}", code::SHARED_WORKER)
        } else {
            "no codes=".to_owned()
        };
        let mut lines = vec![format!(
            "vendor pid={} tenants={} workloads={} missing={} cgroup={} shared={shared}",
            std::process::id(),
            self.tenants.len(),
            self.workloads.len(),
            self.missing.join(","),
            self.base.dir().display(),
        )];
        for tenant in self.tenants.iter().filter(|t| t.stopping.is_none()) {
            let mine = || self.workloads.values().filter(|w| w.seat == tenant.name);
            let listeners = mine().map(|w| w.known.listeners.len()).sum();
            let snapshot = self.snapshots.words(&tenant.name, tenant);
            lines.push(format!(
                "{} {snapshot}",
                tenant.line(mine().count(), listeners)
            ));
            if self.options.shared {
                lines.extend(self.snapshots.lines(tenant));
            }
        }
        lines
    }
}
