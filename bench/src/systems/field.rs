//! Where all systems of one family are measured: the lab, client and server with and without mesh, and the
//! proxies, which stay up between runs.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::Serialize;
use underpass_abi::reason::code;

use super::{
    Refusal, System,
    cases::{Case, Family},
    judge::{behind, worked},
    load::{self, Run, Web, differs},
    proxy::{self, Proxy},
    sidecar::{self, Capture},
};
use crate::{
    BenchError, Result,
    cpu::{self, Clocks, Cpu},
    generator::{Latency, Outcome, Targets, protocol::Command},
    lab::{Side, Wire},
    manifests::{self, Size},
    rig::{Cpus, Rig},
    vendor::Vendor,
    way::Workers,
};

const SIZE: Size = Size {
    services: 1,
    endpoints: 1,
};
/// Seconds of load before each run that counts.
const WARM_UP: f64 = 0.1;
/// Our own proxies must serve after so long.
const SERVES_WITHIN: Duration = Duration::from_secs(3);
/// The agent's counters may be as old as this.
const COUNTER_AGE: Duration = Duration::from_millis(210);

/// One run of one case through one system.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub operations: u64,
    pub seconds: f64,
    /// Microseconds in all.
    pub cpu: Cpu,
    pub latency: Latency,
    /// Bytes (proportional set size) of the proxies, or of the agent.
    pub memory: u64,
    /// Messages that took the shortcut.
    pub passed: u64,
    /// The rate of an open loop was not reached.
    pub saturated: bool,
    #[serde(skip)]
    pub distribution: Vec<(u64, u64)>,
}

impl Sample {
    /// Microseconds of CPU of all parties for one request.
    pub fn cost(&self) -> f64 {
        self.cpu.total() / self.operations as f64
    }

    pub fn proxy_cost(&self) -> f64 {
        self.cpu.proxy / self.operations as f64
    }

    pub fn p50_us(&self) -> f64 {
        self.latency.p50 as f64 / 1e3
    }

    pub fn p90_us(&self) -> f64 {
        self.latency.p90.unwrap_or_default() as f64 / 1e3
    }

    pub fn p99_us(&self) -> f64 {
        self.latency.p99 as f64 / 1e3
    }

    pub fn rps(&self) -> f64 {
        self.operations as f64 / self.seconds
    }
}

// Fields are dropped in this order: the rig has the lab.
pub struct Field {
    pub family: Family,
    proxies: BTreeMap<System, Vec<Proxy>>,
    /// Sends both sides' connections to the proxies beside them, while those are measured.
    capture: Option<Capture>,
    pub refused: BTreeMap<System, Refusal>,
    /// Off and on; none for TCP, whose parties the rig has.
    web: Vec<Web>,
    rig: Rig,
}

impl Field {
    /// Everything but the mesh, which comes and goes with the runs.
    pub fn start(family: Family, systems: &[System], wire: Wire, cpus: Cpus) -> Result<Self> {
        let mesh = systems.iter().any(|s| s.mesh().is_some());
        let mut rig = Rig::of_size(SIZE, wire, cpus, mesh)?;
        rig.turn_to(None)?;
        let mut web = Vec::new();
        if family.protocol().is_some() {
            manifests::add_app(&rig.lab)?;
            web.push(Web::start(&rig.lab, Side::Off, cpus)?);
            web.push(Web::start(&rig.lab, Side::On, cpus)?);
        }
        let mut field = Self {
            family,
            proxies: BTreeMap::new(),
            capture: None,
            refused: BTreeMap::new(),
            web,
            rig,
        };
        let server = field.targets(System::None).at(0);
        for &system in systems {
            let lab = &field.rig.lab;
            let started = match system.refused(wire) {
                Some(refusal) => Err(refusal),
                None if system == System::Sidecar => sidecar::start(lab, cpus),
                None => proxy::start(lab, system, family, server, cpus),
            };
            match started {
                Ok(proxies) => {
                    if system == System::Sidecar {
                        field.capture = Some(Capture::new(lab));
                    }
                    field.proxies.insert(system, proxies);
                }
                Err(refusal) => drop(field.refused.insert(system, refusal)),
            }
        }
        Ok(field)
    }

    /// What is run beside client and server, the client's side first.
    pub fn command_lines(&self, system: System) -> Vec<String> {
        let (client, server) = match self.family {
            Family::Tcp => ("client", "server"),
            _ => ("web-client", "web-server"),
        };
        let mut lines = vec![format!("underpass-bench party {client}")];
        lines.extend(self.proxies_of(system).map(|p| p.command_line.clone()));
        if let Some(mesh) = system.mesh() {
            let shortcut = if mesh.shortcut { "on" } else { "off" };
            lines.push(format!("underpass-agent --shortcut {shortcut}"));
            if mesh.workers != Workers::None {
                lines.push("underpass-vend --worker underpass-proxy --idle 0".to_owned());
            }
        }
        lines.push(format!("underpass-bench party {server}"));
        lines
    }

    pub fn configs(&self, system: System) -> Vec<String> {
        self.proxies_of(system).map(|p| p.config.clone()).collect()
    }

    fn proxies_of(&self, system: System) -> impl Iterator<Item = &Proxy> {
        self.proxies.get(&system).into_iter().flatten()
    }

    /// A short run, then one that counts, of which both ends must say the same.
    pub fn measure(&mut self, case: &Case, system: System, seconds: f64) -> Result<Sample> {
        self.prepare(system).map_err(|e| match e {
            // The next system begins with a mesh of its own.
            BenchError::Agent(why) => wrong(case, system, why),
            other => other,
        })?;
        // In closed loop always: the shortcut takes connections of few messages for short ones, and stays out.
        let warm_up = Case {
            rate: None,
            ..*case
        };
        self.warm_up(&warm_up, system)?;
        let (before, hops) = (self.passed()?, self.hops(system)?);
        let (outcome, cpu) = self.run(case, system, seconds)?;
        let worked = worked(&hops, &self.hops(system)?, outcome.operations);
        if worked != system.proxies() {
            let mut why = format!("requests passed {worked} proxies, not {}", system.proxies());
            if let Some(vendor) = self.rig.vendor() {
                let workers = self.rig.agent()?.status()?["workers"].take();
                why = format!("{why}; {workers}; {}", vendor.log_tail());
            }
            return Err(wrong(case, system, why));
        }
        let passed = self.passed_since(before)?;
        let may = system.mesh().is_some_and(|mesh| mesh.shortcut);
        // Else the row would not show what it says.
        if (passed > 0 && !may) || (passed == 0 && may && case.takes_shortcut()) {
            let why = format!("{passed} messages took the shortcut");
            return Err(wrong(case, system, why));
        }
        let saturated = behind(
            case.rate.map(f64::from),
            case.concurrency,
            seconds,
            &outcome,
        );
        Ok(Sample {
            operations: outcome.operations,
            seconds: outcome.seconds,
            cpu,
            latency: outcome.latency,
            memory: self.memory(system)?,
            passed,
            saturated,
            distribution: outcome.distribution,
        })
    }

    /// What has just been installed gets a moment until it serves.
    fn warm_up(&mut self, case: &Case, system: System) -> Result<()> {
        let begin = Instant::now();
        loop {
            match self.run(case, system, WARM_UP) {
                Err(BenchError::Row { .. })
                    if system.own_hops() > 0 && begin.elapsed() < SERVES_WITHIN => {}
                done => return done.map(drop),
            }
        }
    }

    /// Brings the mesh to what the system needs.
    fn prepare(&mut self, system: System) -> Result<()> {
        let mesh = system.mesh();
        if mesh.is_some_and(|mesh| mesh.shortcut) {
            // What the mesh has learnt from another case would keep this one out.
            self.rig.turn_to(None)?;
        }
        if let Some(capture) = &mut self.capture {
            capture.set(system == System::Sidecar)?;
        }
        let Some(mesh) = mesh else {
            self.rig.turn_to(None)?;
            return Ok(());
        };
        if !self.rig.turn_to(Some(mesh))? {
            return Ok(());
        }
        // An agent that has just started knows a listener only if it sees it begin to listen.
        match self.web.get_mut(Side::On as usize) {
            Some(web) => web.order(&Command::Listen)?,
            None => self.rig.on.listen_anew()?,
        }
        if mesh.shortcut {
            self.rig.agent()?.wait_watched()?;
        }
        if let Some(vendor) = self.rig.vendor() {
            self.rig.agent()?.wait_workers(vendor)?;
        }
        Ok(())
    }

    /// CPU of each proxy so far, microseconds, by a name of its own.
    fn hops(&self, system: System) -> Result<BTreeMap<String, f64>> {
        if let Some(vendor) = self.rig.vendor() {
            return vendor.tenants();
        }
        let of = |proxy: &Proxy| {
            let used = cpu::usage(&proxy.cgroup.join("cpu.stat"))?;
            Ok((proxy.cgroup.display().to_string(), used))
        };
        self.proxies_of(system).map(of).collect()
    }

    fn passed(&self) -> Result<Option<u64>> {
        let agent = self.rig.agent().ok();
        agent.map(|a| Ok(a.passed()?.messages)).transpose()
    }

    /// 0 without an agent.
    fn passed_since(&self, before: Option<u64>) -> Result<u64> {
        let Some(before) = before else { return Ok(0) };
        std::thread::sleep(COUNTER_AGE);
        Ok(self.passed()?.unwrap_or(before) - before)
    }

    fn memory(&self, system: System) -> Result<u64> {
        if system.mesh().is_none() {
            return self.proxies_of(system).map(Proxy::pss).sum();
        }
        let vendor = self.rig.vendor().map_or(Ok(0), Vendor::pss)?;
        Ok(self.rig.agent()?.memory()?.pss + vendor)
    }

    fn run(&mut self, case: &Case, system: System, seconds: f64) -> Result<(Outcome, Cpu)> {
        let run = Run {
            case,
            system,
            targets: self.dialed(system),
            seconds,
            clocks: &self.clocks(system)?,
        };
        let side = system.side();
        let (outcome, cpu, counted) = match self.web.get_mut(side as usize) {
            Some(web) => web.run(&run)?,
            None => {
                let ends = self.rig.side(side);
                load::tcp(&mut ends.client, &mut ends.server, &run)?
            }
        };
        match differs(&outcome, &counted, &run) {
            None => Ok((outcome, cpu)),
            Some(why) => Err(wrong(case, system, why)),
        }
    }

    fn clocks(&self, system: System) -> Result<Clocks> {
        let side = system.side();
        let lab = &self.rig.lab;
        let agent = (side == Side::On).then(|| lab.agent_cgroup());
        let cgroup = |party: &str| lab.party_cgroup(side, party);
        let clocks = Clocks::new(&cgroup("client"), &cgroup("server"), agent.as_deref())?;
        let workers = self.rig.vendor().into_iter().flat_map(Vendor::cgroups);
        let proxies = self.proxies_of(system).map(|p| &p.cgroup);
        Ok(clocks.with_proxies(proxies.chain(workers).map(PathBuf::as_path)))
    }

    /// Whom the client dials: the proxy beside it, or the server.
    fn dialed(&self, system: System) -> Targets {
        match self.proxies_of(system).next() {
            Some(proxy) if !system.dials_service() => Targets {
                base: *proxy.at.ip(),
                count: 1,
                port: proxy.at.port(),
            },
            _ => self.targets(system),
        }
    }

    /// The server, or under the mesh its service.
    fn targets(&self, system: System) -> Targets {
        let base = self.rig.lab.wire.base();
        match (system.dials_service(), self.family) {
            (false, Family::Tcp) => SIZE.endpoints(base),
            (false, _) => manifests::app_endpoint(base),
            (true, Family::Tcp) => SIZE.services(),
            (true, _) => manifests::app_service(),
        }
    }
}

fn wrong(case: &Case, system: System, why: String) -> BenchError {
    BenchError::Row {
        case: format!("{}, {}", case.name(), system.name()),
        why,
    }
}

/// The code of what stopped a row.
pub fn refusal(error: &BenchError) -> Refusal {
    Refusal::new(code::NOT_MEASURED, error.to_string())
}
