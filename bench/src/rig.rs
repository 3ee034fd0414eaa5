//! A running measurement: both sides' parties, and the agent on one of them.

use std::{collections::BTreeMap, net::SocketAddrV4, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    BenchError, Result,
    agent::{Agent, Passed},
    apps,
    cases::Case,
    cpu::Cpu,
    ends::{Ends, Trip},
    generator::{
        Latency, Order, Targets,
        protocol::{Answer, Command},
    },
    lab::{Lab, Side, Wire},
    manifests::{self, Size},
    party::Party,
    vendor::Vendor,
    way::{Mesh, Way, Workers},
};

/// Seconds of load before each run that counts: the way before left other code in the caches.
const WARM_UP: f64 = 0.1;
/// Until the kernel has freed the maps of a mesh that was removed.
const FREED: Duration = Duration::from_millis(100);
/// The agent's sums of bytes may be as old as this.
const SAMPLE_AGE: Duration = Duration::from_millis(210);
const EPERM: i32 = 1;

/// CPUs of client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Cpus {
    /// Both on the first CPU: no wake-up across CPUs, the steadiest and the hardest ratio
    One,
    /// Client on the first, server and proxies on the second
    Two,
    /// Wherever the scheduler puts them
    Any,
}

impl Cpus {
    /// The CPU of a party.
    pub const fn of(self, server: bool) -> Option<usize> {
        match self {
            Self::One => Some(0),
            Self::Two => Some(server as usize),
            Self::Any => None,
        }
    }
}

// Fields are dropped in this order: the agent before the vendor, the lab's guard last.
pub struct Rig {
    pub off: Ends,
    pub on: Ends,
    stranger: Party,
    agent: Option<Agent>,
    vendor: Option<Vendor>,
    /// What runs, and whose connections the manifests give to workers.
    running: Option<Mesh>,
    written: Workers,
    cpus: Cpus,
    /// False: no agent at any time.
    mesh: bool,
    /// The last case that could take the shortcut.
    learnt_from: Option<&'static str>,
    /// Operations in a second of each case when it last ran without mesh.
    rates: BTreeMap<&'static str, f64>,
    pub lab: Lab,
}

/// One run of one case on one side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub operations: u64,
    pub seconds: f64,
    /// Microseconds in all.
    pub cpu: Cpu,
    pub latency: Latency,
    /// `None` without mesh.
    pub passed: Option<Passed>,
}

impl Sample {
    /// Microseconds of CPU of all parties for one operation.
    pub fn cost(&self) -> f64 {
        self.cpu.total() / self.operations as f64
    }

    /// The same for the whole machine.
    pub fn system_cost(&self) -> f64 {
        self.cpu.system / self.operations as f64
    }

    pub fn p50_us(&self) -> f64 {
        self.latency.p50 as f64 / 1e3
    }

    pub fn p99_us(&self) -> f64 {
        self.latency.p99 as f64 / 1e3
    }
}

impl Rig {
    /// Starts the parties, then the agent on the lab's manifests; without `mesh` both sides are the
    /// same.
    pub fn start(lab: Lab, cpus: Cpus, mesh: bool) -> Result<Self> {
        let mut rig = Self {
            mesh,
            ..Self::without_agent(lab, cpus)?
        };
        rig.turn(Way::Mesh)?;
        if mesh {
            rig.agent()?.without_errors()?;
        }
        Ok(rig)
    }

    /// Everything that cases of one mesh need, proven.
    pub fn for_cases(group: &[Case], wire: Wire, cpus: Cpus, mesh: bool) -> Result<Self> {
        let mut rig = Self::of_size(group[0].size, wire, cpus, mesh)?;
        if let Some(kind) = group[0].app() {
            rig.turn(Way::NoMesh)?;
            rig.start_app(kind)?;
        }
        Ok(rig)
    }

    /// A mesh of that size with our own client and server, proven.
    pub fn of_size(size: Size, wire: Wire, cpus: Cpus, mesh: bool) -> Result<Self> {
        let lab = Lab::new(wire)?;
        manifests::write(&lab, size)?;
        let mut rig = Self::start(lab, cpus, mesh)?;
        rig.prove(size)?;
        Ok(rig)
    }

    /// Only the parties; [`Rig::turn`] starts the agent.
    pub fn without_agent(lab: Lab, cpus: Cpus) -> Result<Self> {
        let place = lab.place(Side::On, "stranger", None);
        Ok(Self {
            off: Ends::start(&lab, Side::Off, cpus)?,
            on: Ends::start(&lab, Side::On, cpus)?,
            stranger: Party::start("stranger", &["client"], &place)?,
            agent: None,
            vendor: None,
            running: None,
            written: Workers::None,
            cpus,
            mesh: true,
            learnt_from: None,
            rates: BTreeMap::new(),
            lab,
        })
    }

    /// Adds a program's server on both sides; the mesh must not run yet.
    fn start_app(&mut self, kind: apps::Kind) -> Result<()> {
        manifests::add_app(&self.lab)?;
        self.off.start_app(kind, &self.lab, Side::Off)?;
        self.on.start_app(kind, &self.lab, Side::On)
    }

    /// Starts or removes the mesh as the way wants it. True if something changed.
    pub fn turn(&mut self, way: Way) -> Result<bool> {
        self.turn_to(way.mesh())
    }

    /// Without mesh nothing of it is attached anywhere: a program on any cgroup makes the kernel look for
    /// programs at every hook of every socket.
    pub fn turn_to(&mut self, wanted: Option<Mesh>) -> Result<bool> {
        let wanted = wanted.filter(|_| self.mesh);
        if self.running == wanted {
            return Ok(false);
        }
        self.running = None;
        if let Some(agent) = self.agent.take() {
            agent.uninstall(&self.lab)?;
            self.vendor = None;
            std::thread::sleep(FREED);
        }
        if let Some(mesh) = wanted {
            if self.written != mesh.workers {
                manifests::write_http(&self.lab, &self.lab.mesh_dir(), mesh.workers)?;
                self.written = mesh.workers;
            }
            if mesh.workers != Workers::None {
                self.vendor = Some(Vendor::start(&self.lab, self.cpus.of(true))?);
            }
            self.agent = Some(Agent::start(&self.lab, mesh.shortcut)?);
        }
        self.running = wanted;
        Ok(true)
    }

    /// Of the workers, if they run.
    pub fn vendor(&self) -> Option<&Vendor> {
        self.vendor.as_ref()
    }

    pub fn agent(&self) -> Result<&Agent> {
        self.agent
            .as_ref()
            .ok_or_else(|| BenchError::Setup("there is no agent".into()))
    }

    pub fn side(&mut self, side: Side) -> &mut Ends {
        match side {
            Side::Off => &mut self.off,
            Side::On => &mut self.on,
        }
    }

    /// Before anything is measured: every endpoint answers on both sides, the service spreads over
    /// them, and the policy is in force.
    pub fn prove(&mut self, size: Size) -> Result<()> {
        let base = self.lab.wire.base();
        for side in Side::BOTH {
            let found =
                self.side(side)
                    .reached(size.endpoints(base), Order::Sequential, size.total())?;
            if found != u64::from(size.total()) {
                let why = format!(
                    "{found} of {} endpoints answer, mesh {}",
                    size.total(),
                    side.name()
                );
                return Err(BenchError::Setup(why));
            }
        }
        if self.agent.is_none() {
            return Ok(());
        }
        let dials = 2_000;
        let found = self.on.reached(size.services(), Order::Random, dials)? as f64;
        let all = f64::from(size.total());
        let expected = all * (1.0 - (-f64::from(dials) / all).exp());
        if found < 0.8 * expected {
            let why = format!("{dials} connects reached {found} endpoints, {expected:.0} expected");
            return Err(BenchError::Setup(why));
        }
        let target = size.services().at(0);
        match self.stranger_errno(target)? {
            Some(EPERM) => Ok(()),
            other => {
                let why = format!("a denied source got errno {other:?} instead of EPERM");
                Err(BenchError::Setup(why))
            }
        }
    }

    fn stranger_errno(&mut self, target: SocketAddrV4) -> Result<Option<i32>> {
        match self.stranger.ask(&Command::Try(target), Duration::ZERO)? {
            Answer::Tried { errno, error: None } => Ok(errno),
            Answer::Tried {
                errno: Some(errno), ..
            } => Ok(Some(errno)),
            other => Err(self.stranger.unexpected(&other)),
        }
    }

    /// Prepares a way: from now on connections go it.
    pub fn go(&mut self, way: Way) -> Result<()> {
        if self.turn(way)? {
            self.side(way.side()).listen_anew()?;
            if let Some(agent) = self.agent.as_ref().filter(|a| a.shortcut) {
                agent.wait_watched()?;
            }
        }
        Ok(())
    }

    /// Prepares a way and runs the case shortly.
    pub fn warm_up(&mut self, case: &Case, way: Way) -> Result<()> {
        if way == Way::Shortcut && self.learnt_from != Some(case.name) {
            // What the mesh has learnt from another case would keep this one out.
            self.turn(Way::NoMesh)?;
            self.learnt_from = Some(case.name);
        }
        self.go(way)?;
        let trip = self.trip(case, way, WARM_UP);
        let done = self.side(way.side()).run(case, &trip);
        done.map(|_| ()).map_err(|e| on_way(e, way))
    }

    /// Runs a case on a way that is warm, and checks what of it went past TCP.
    pub fn measure(&mut self, case: &Case, way: Way, seconds: f64) -> Result<Sample> {
        let trip = self.trip(case, way, seconds);
        let before = self.passed()?;
        let (outcome, cpu) = self
            .side(way.side())
            .run(case, &trip)
            .map_err(|e| on_way(e, way))?;
        if before.is_some() {
            std::thread::sleep(SAMPLE_AGE);
        }
        let passed = self.passed()?.zip(before).map(|(now, b)| now.since(&b));
        let wrong = passed.and_then(|p| wrongly_passed(&p, case, way));
        if let Some(why) = wrong {
            let case = case.name.to_owned();
            return Err(on_way(BenchError::Row { case, why }, way));
        }
        let rate = outcome.operations as f64 / outcome.seconds;
        if way == Way::NoMesh {
            self.rates.insert(case.name, rate);
        }
        Ok(Sample {
            operations: outcome.operations,
            seconds: outcome.seconds,
            cpu,
            latency: outcome.latency,
            passed,
        })
    }

    fn trip(&self, case: &Case, way: Way, seconds: f64) -> Trip {
        Trip {
            targets: self.targets(case, way),
            unix: way == Way::Unix,
            seconds,
            rate: self.rates.get(case.name).copied(),
        }
    }

    /// What the client dials: a service if the mesh runs.
    fn targets(&self, case: &Case, way: Way) -> Targets {
        let base = self.lab.wire.base();
        match (self.mesh && way.side() == Side::On, case.app()) {
            (true, None) => case.size.services(),
            (false, None) => case.size.endpoints(base),
            (true, Some(_)) => manifests::app_service(),
            (false, Some(_)) => manifests::app_endpoint(base),
        }
    }

    fn passed(&self) -> Result<Option<Passed>> {
        self.agent.as_ref().map(Agent::passed).transpose()
    }
}

/// Says on which way a row failed.
fn on_way(error: BenchError, way: Way) -> BenchError {
    match error {
        BenchError::Row { case, why } => BenchError::Row {
            case: format!("{case}, {}", way.name()),
            why,
        },
        other => other,
    }
}

/// Nothing may go past TCP without the shortcut, and with it something must, or the row does not show
/// what it says.
fn wrongly_passed(passed: &Passed, case: &Case, way: Way) -> Option<String> {
    let taken = passed.messages > 0 && passed.by_shortcut > 0;
    if way != Way::Shortcut && (passed.messages > 0 || passed.by_shortcut > 0) {
        return Some(format!("the shortcut is off and was taken: {passed:?}"));
    }
    (way == Way::Shortcut && !taken && case.must_pass_tcp())
        .then(|| format!("no message took the shortcut: {passed:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::SHORTCUT;

    #[test]
    fn a_way_that_bytes_did_not_go_is_no_result() {
        let passed = |messages| Passed {
            messages,
            bytes: 100,
            by_shortcut: messages,
        };
        let wrong = |name: &str, way, messages| {
            let case = Case::find(SHORTCUT, name).unwrap();
            wrongly_passed(&passed(messages), &case, way).is_some()
        };
        assert!(wrong("request-64-c1", Way::Shortcut, 0));
        assert!(!wrong("request-64-c1", Way::Shortcut, 9));
        assert!(wrong("request-64-c1", Way::Mesh, 1));
        assert!(!wrong("request-64-c1", Way::Mesh, 0));
        assert!(!wrong("stream-64-c1", Way::Shortcut, 0), "it may stay out");
        assert!(!wrong("stream-4k-c1", Way::Shortcut, 0), "as above");
        assert!(wrong("stream-4k-c1", Way::Mesh, 1));
    }
}
