//! A running measurement: both sides' parties, and the agent on one of them.

use std::{net::SocketAddrV4, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    BenchError, Result,
    agent::Agent,
    cases::Case,
    cpu::{Clocks, Cpu},
    generator::{
        Kind, Latency, Load, Order, Targets,
        protocol::{Answer, Command},
    },
    lab::{Lab, Side},
    manifests::{SERVER_PORT, Size},
    party::Party,
};

/// Operations of one run at most, whatever its time.
pub const OPERATIONS: u64 = 10_000_000;
/// The server may still be closing connections when the client has ended.
const SETTLE: Duration = Duration::from_millis(5);
/// Seconds of load after the mesh was switched on or off.
const WARM_UP: f64 = 0.1;
const EPERM: i32 = 1;

/// CPUs of client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Cpus {
    /// Both on the first CPU: no wake-up across CPUs, the steadiest and the hardest ratio
    One,
    /// Client on the first, server on the second
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

// Fields are dropped in this order: the lab's guard comes last.
pub struct Rig {
    pub off: Ends,
    pub on: Ends,
    stranger: Party,
    agent: Option<Agent>,
    /// False: no agent at any time.
    mesh: bool,
    pub lab: Lab,
}

pub struct Ends {
    pub client: Party,
    pub server: Party,
    clocks: Clocks,
}

/// One run of one case on one side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub operations: u64,
    pub seconds: f64,
    /// Microseconds in all.
    pub cpu: Cpu,
    pub latency: Latency,
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
}

impl Rig {
    /// Starts the parties, then the agent on the lab's manifests; without `mesh` both sides are the
    /// same.
    pub fn start(lab: Lab, cpus: Cpus, mesh: bool) -> Result<Self> {
        let mut rig = Self {
            mesh,
            ..Self::without_agent(lab, cpus)?
        };
        rig.set_mesh(mesh)?;
        if mesh {
            rig.agent()?.without_errors()?;
        }
        Ok(rig)
    }

    /// Only the parties; [`Rig::set_mesh`] starts the agent.
    pub fn without_agent(lab: Lab, cpus: Cpus) -> Result<Self> {
        let place = lab.place(Side::On, "stranger", None);
        Ok(Self {
            off: Ends::start(&lab, Side::Off, cpus)?,
            on: Ends::start(&lab, Side::On, cpus)?,
            stranger: Party::start("stranger", &["client"], &place)?,
            agent: None,
            mesh: true,
            lab,
        })
    }

    /// Without mesh nothing of it is attached anywhere: a program on any cgroup makes the kernel look
    /// for programs at every hook of every socket. True if something changed.
    pub fn set_mesh(&mut self, on: bool) -> Result<bool> {
        match self.agent.take() {
            None if on && self.mesh => self.agent = Some(Agent::start(&self.lab)?),
            Some(agent) if !on => agent.uninstall(&self.lab)?,
            unchanged => {
                self.agent = unchanged;
                return Ok(false);
            }
        }
        Ok(true)
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

    /// Runs a case on one side and checks that client and server counted the same.
    pub fn measure(&mut self, case: &Case, side: Side, seconds: f64) -> Result<Sample> {
        let changed = self.set_mesh(side == Side::On)?;
        let targets = if side == Side::On && self.mesh {
            case.size.services()
        } else {
            case.size.endpoints(self.lab.wire.base())
        };
        let load = Load {
            kind: case.kind,
            concurrency: case.concurrency,
            targets,
            order: Order::Random,
            seconds,
            operations: OPERATIONS,
        };
        let row = |why: String| BenchError::Row {
            case: format!("{}, mesh {}", case.name, side.name()),
            why,
        };
        let ends = self.side(side);
        if changed {
            ends.client.run(&Load {
                seconds: WARM_UP,
                ..load.clone()
            })?;
        }
        ends.server.count()?;
        let before = ends.clocks.read()?;
        let outcome = ends.client.run(&load)?;
        std::thread::sleep(SETTLE);
        let cpu = ends.clocks.read()?.since(&before);
        let counted = ends.server.count()?;
        if let Some(error) = outcome.first_error {
            return Err(row(format!(
                "{} errors, the first: {error}",
                outcome.errors
            )));
        }
        let client = (outcome.connections, outcome.operations);
        if client != (counted.connections, counted.requests) || outcome.operations == 0 {
            let server = (counted.connections, counted.requests);
            return Err(row(format!(
                "(connections, requests): client {client:?}, server {server:?}"
            )));
        }
        Ok(Sample {
            operations: outcome.operations,
            seconds: outcome.seconds,
            cpu,
            latency: outcome.latency,
        })
    }
}

impl Ends {
    fn start(lab: &Lab, side: Side, cpus: Cpus) -> Result<Self> {
        let place = |party: &str| lab.place(side, party, cpus.of(party == "server"));
        let port = SERVER_PORT.to_string();
        let name = |party: &str| format!("{party}, mesh {}", side.name());
        let server = Party::start(
            &name("server"),
            &["--port", &port, "server"],
            &place("server"),
        )?;
        let client = Party::start(&name("client"), &["client"], &place("client"))?;
        let cgroup = |party: &str| lab.party_cgroup(side, party);
        let agent = (side == Side::On).then(|| lab.agent_cgroup());
        let clocks = Clocks::new(&cgroup("client"), &cgroup("server"), agent.as_deref())?;
        Ok(Self {
            client,
            server,
            clocks,
        })
    }

    /// How many distinct endpoints answered so many connects.
    pub fn reached(&mut self, targets: Targets, order: Order, connects: u32) -> Result<u64> {
        self.server.tally(true)?;
        self.server.count()?;
        let load = Load {
            kind: Kind::Connect,
            concurrency: 1,
            targets,
            order,
            seconds: 60.0,
            operations: connects.into(),
        };
        let outcome = self.client.run(&load)?;
        let found = self.server.count()?.addresses;
        self.server.tally(false)?;
        match outcome.first_error {
            None => Ok(found),
            Some(error) => {
                let why = format!("{} of {connects} connects failed: {error}", outcome.errors);
                Err(BenchError::Setup(why))
            }
        }
    }
}
