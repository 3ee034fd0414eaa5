//! The kernel's part alone, driven by the test in the agent's place: a plan in the maps, doors opened, a
//! cgroup that plays the vendor's, and a worker of a few lines in it.

use std::{
    cell::RefCell,
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::Value;
use underpass_abi::{
    plain,
    shortcut::Mode,
    sock::{Event, EventKind, SockState, Total, TotalKey},
    tables::{Entry, NameKind, SteerKey, maps},
};
use underpass_agent::kernel::{
    Kernel, KernelOptions, Netns,
    events::{EventRing, Told},
};
use underpass_mesh::{Batch, Cgroup, Change, Facts, Model, Place as Found, Round, Tables};

use crate::{
    Failure, Lab, Result,
    lab::{Place, Pod, Proc, until},
    manifest::{self, Endpoint},
    scene::{LIMIT, PORT, SERVICE, SERVICE_V6, service_with, sink},
};

/// Two pods of namespace `app`, service `app/server` on both families in front of the second.
pub struct Doors {
    pub kernel: Kernel,
    tables: Tables,
    model: RefCell<Model>,
    facts: Facts,
    events: RefCell<(EventRing, Vec<Event>)>,
    pub client: Pod,
    pub server: Pod,
    pub lab: Lab,
}

impl Doors {
    pub fn new(name: &str) -> Result<Self> {
        Self::with(name, Mode::Off)
    }

    pub fn with(name: &str, shortcut: Mode) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (client, server) = (lab.pod("client")?, lab.pod("server")?);
        let kernel = Kernel::open(&KernelOptions {
            pin_dir: lab.pin_dir.clone(),
            cgroup_root: Some(lab.cgroup_root()),
            shortcut,
            ..KernelOptions::default()
        })?;
        let mut facts = Facts {
            node: "node".into(),
            host_netns: Netns::open(&lab.host().netns_path())?.cookie,
            ..Facts::default()
        };
        let mut objects = vec![manifest::namespace("app")];
        for (name, pod) in [("client", &client), ("server", &server)] {
            objects.push(manifest::pod_workload("app", name, pod));
            let netns = Netns::open(&pod.place.netns_path())?;
            kernel.guard(&netns)?;
            let id = pod.place.cgroup_id()?;
            let level = kernel.cgroup().level_of(&pod.place.cgroup).unwrap_or(0);
            let found = Found {
                cgroups: vec![Cgroup { id, level }],
                netns: Some(netns.cookie),
            };
            facts
                .places
                .insert(format!("app/{name}").as_str().into(), found);
        }
        let events = RefCell::new((kernel.take_events()?, Vec::new()));
        let endpoints = [
            (PORT, Endpoint::new(server.v4.to_string())),
            (PORT, Endpoint::new(server.v6.to_string())),
        ];
        let doors = Self {
            tables: Tables::empty(),
            model: RefCell::default(),
            kernel,
            facts,
            events,
            client,
            server,
            lab,
        };
        let mut doors = doors;
        doors.install("10-workloads.yaml", &manifest::file(&objects))?;
        doors.install(
            "20-service.yaml",
            &service_with(&[SERVICE, SERVICE_V6], None, &endpoints),
        )?;
        Ok(doors)
    }

    /// Puts a manifest in force.
    pub fn install(&mut self, file: &str, yaml: &str) -> Result<()> {
        let mut model = self.model.borrow_mut();
        model.set_file(file, yaml);
        let change = self.tables.lay_out(&model.compile(&self.facts));
        let change = change.map_err(Failure::at(file))?;
        self.kernel.apply(&change)?;
        Ok(())
    }

    /// Index of a workload in the tables.
    pub fn index(&self, workload: &str) -> Result<u32> {
        let names = self.tables.names();
        let prefix = format!("app/{workload} ");
        let mut all = names.iter(NameKind::Workload);
        let found = all.find(|(_, name)| name.starts_with(&prefix));
        found
            .map(|(index, _)| index)
            .ok_or_else(|| Failure::new(format!("no workload {workload}")))
    }

    /// Sets bits of [`underpass_abi::tables::workload`] beside those of the plan.
    pub fn open_door(&self, workload: &str, bits: u64) -> Result<()> {
        let index = self.index(workload)?;
        let dump = self.kernel.dump()?;
        let words = dump.get(maps::WORKLOADS).into_iter().flatten();
        let found = words.filter(|(key, _)| **key == *plain::bytes(&index));
        let word = found
            .filter_map(|(_, word)| plain::from_bytes::<u64>(word))
            .next();
        // The three bits are the doors'; the plan's are below.
        let word = word.unwrap_or(0) & !(7 << 40) | bits;
        self.write(|round| round.words.push(batch(maps::WORKLOADS, &index, &word)))
    }

    /// Steers a port of a workload, once its `INBOUND` bit is set.
    pub fn steer(&self, workload: &str, port: u16) -> Result<()> {
        let key = SteerKey {
            workload: self.index(workload)?,
            port,
            pad: 0,
        };
        self.write(|round| round.fresh.push(batch(maps::STEERED, &key, &Entry::new(1))))
    }

    fn write(&self, put: impl FnOnce(&mut Round)) -> Result<()> {
        let mut round = Round::default();
        put(&mut round);
        let rounds = vec![round];
        self.kernel.apply(&Change { rounds, writes: 1 })?;
        Ok(())
    }

    /// Where the vendor's cgroup is: below the node's root, in no workload.
    pub fn vendor(&self) -> Result<Place> {
        self.lab.cgroup("vend/app")
    }

    /// Starts a worker in the namespace of a pod and waits until it listens. `to`: where it forwards.
    pub fn worker(&self, pod: &Pod, port: u16, to: Option<SocketAddr>) -> Result<Proc> {
        self.worker_with(pod, port, to, &[])
    }

    pub fn worker_with(
        &self,
        pod: &Pod,
        port: u16,
        to: Option<SocketAddr>,
        flags: &[&str],
    ) -> Result<Proc> {
        let vendor = self.vendor()?;
        self.kernel.set_vendor(
            vendor
                .cgroup
                .parent()
                .ok_or_else(|| Failure::new("a cgroup without a parent"))?,
        )?;
        let place = vendor.in_netns(&pod.place.netns);
        let (port, to) = (port.to_string(), to.map(|t| t.to_string()));
        let mut command = vec!["underpass-peer", "door", &port];
        command.extend(to.as_deref());
        command.extend(flags);
        let mut worker = self.lab.run(&place, &command)?;
        worker.line(0, "listening", LIMIT)?;
        Ok(worker)
    }

    /// The server pod's echo server.
    pub fn echo(&self) -> Result<Proc> {
        let at = [(self.server.v4, PORT).into(), (self.server.v6, PORT).into()];
        sink(&self.lab, &self.server.place, "echo", &at)
    }

    pub fn dial(&self, from: &Place, to: SocketAddr, flags: &[&str]) -> Result<Value> {
        let to = to.to_string();
        let command = [&["underpass-peer", "dial", &to], flags].concat();
        self.lab.json(from, &command, LIMIT)
    }

    /// All events so far of one kind that satisfy `pick`, at least `least` of them.
    pub fn events(
        &self,
        kind: EventKind,
        least: usize,
        pick: impl Fn(&SockState) -> bool,
    ) -> Result<Vec<SockState>> {
        until("events", LIMIT, || {
            let (ring, seen) = &mut *self.events.borrow_mut();
            while let Some(told) = ring.next() {
                if let Told::Event(event) = told {
                    seen.push(event);
                }
            }
            let of_kind = seen.iter().filter(|e| e.kind == kind as u32);
            let found: Vec<SockState> = of_kind.map(|e| e.sock).filter(&pick).collect();
            if found.len() >= least {
                Ok(found)
            } else {
                Err(format!("{} of {least}: {seen:#?}", found.len()))
            }
        })
    }

    /// Sums of one kind, once `done` says that they are complete.
    pub fn totals(
        &self,
        pick: impl Fn(&TotalKey) -> bool,
        done: impl Fn(&Total) -> bool,
    ) -> Result<Total> {
        until("totals", LIMIT, || {
            let totals = self.kernel.totals().map_err(|e| e.to_string())?;
            let mut sum = Total::default();
            for (_, total) in totals.iter().filter(|(key, _)| pick(key)) {
                sum.add(total);
            }
            if done(&sum) {
                Ok(sum)
            } else {
                Err(format!("{sum:?} of {totals:#?}"))
            }
        })
    }

    /// Elements of a map.
    pub fn used(&self, map: &str) -> u32 {
        let all = self.kernel.map_use();
        all.iter()
            .find(|m| m.name == map)
            .map_or(u32::MAX, |m| m.used as u32)
    }

    /// Waits until a map has no element.
    pub fn wait_empty(&self, map: &str, limit: Duration) -> Result<()> {
        let start = Instant::now();
        while self.used(map) != 0 {
            if start.elapsed() > limit {
                return Err(Failure(format!("{map} has {} elements", self.used(map))));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn batch<K: plain::Plain, V: plain::Plain>(map: &'static str, key: &K, value: &V) -> Batch {
    Batch {
        map,
        keys: plain::bytes(key).to_vec(),
        values: plain::bytes(value).to_vec(),
        count: 1,
    }
}

impl From<underpass_agent::kernel::KernelError> for Failure {
    fn from(e: underpass_agent::kernel::KernelError) -> Self {
        Self(e.to_string())
    }
}
