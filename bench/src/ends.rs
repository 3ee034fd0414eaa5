//! The parties of one side: client, server and what counts their CPU.

use std::{path::PathBuf, time::Duration};

use crate::{
    BenchError, Result,
    apps::{self, App, Measured},
    cases::{Case, Work},
    cpu::{Clocks, Cpu},
    generator::{
        Exchange, Kind, Load, Order, Outcome, Targets,
        protocol::{Command, Counted},
    },
    lab::{Lab, Place, Side},
    manifests::SERVER_PORT,
    party::Party,
    rig::Cpus,
};

/// Operations of one run at most, whatever its time.
pub const OPERATIONS: u64 = 10_000_000;
/// The server may still be closing connections when the client has ended.
pub const SETTLE: Duration = Duration::from_millis(5);

pub struct Ends {
    pub client: Party,
    pub server: Party,
    app: Option<App>,
    clocks: Clocks,
    client_place: Place,
    server_place: Place,
    unix: PathBuf,
    /// What the server was last told to expect.
    expects: Option<(u32, bool)>,
}

/// Where one run goes, and how long.
pub struct Trip {
    pub targets: Targets,
    /// By the side's Unix socket instead.
    pub unix: bool,
    pub seconds: f64,
    /// Operations in a second without mesh, for programs that end by a count: each way gets the same
    /// count, so that what a run costs to begin weighs alike.
    pub rate: Option<f64>,
}

impl Trip {
    /// Operations of a program that ends by a count; `first` when its rate is not known.
    pub fn count(&self, first: u64) -> u64 {
        let wanted = self.rate.map_or(first, |rate| (rate * self.seconds) as u64);
        wanted.clamp(1_000, OPERATIONS)
    }
}

impl Ends {
    pub fn start(lab: &Lab, side: Side, cpus: Cpus) -> Result<Self> {
        let place = |party: &str| lab.place(side, party, cpus.of(party == "server"));
        let port = SERVER_PORT.to_string();
        let name = |party: &str| format!("{party}, mesh {}", side.name());
        let unix = lab.unix(side, "server");
        let path = unix.display().to_string();
        let server = Party::start(
            &name("server"),
            &["--port", &port, "--unix", &path, "server"],
            &place("server"),
        )?;
        let client = Party::start(&name("client"), &["client"], &place("client"))?;
        let cgroup = |party: &str| lab.party_cgroup(side, party);
        let agent = (side == Side::On).then(|| lab.agent_cgroup());
        let clocks = Clocks::new(&cgroup("client"), &cgroup("server"), agent.as_deref())?;
        Ok(Self {
            client,
            server,
            app: None,
            clocks,
            client_place: place("client"),
            server_place: place("server"),
            unix,
            expects: None,
        })
    }

    /// Starts a program's server beside our own.
    pub fn start_app(&mut self, kind: apps::Kind, lab: &Lab, side: Side) -> Result<()> {
        let (client, server) = (&self.client_place, &self.server_place);
        self.app = Some(App::start(kind, lab, side, client, server)?);
        Ok(())
    }

    /// An agent that has just started knows a listener only if it sees it begin to listen.
    pub fn listen_anew(&mut self) -> Result<()> {
        self.server.order(&Command::Listen)?;
        self.app.as_mut().map_or(Ok(()), App::restart)
    }

    /// Runs a case and checks that both ends counted the same: what the client saw, and the CPU that
    /// it took.
    pub fn run(&mut self, case: &Case, trip: &Trip) -> Result<(Outcome, Cpu)> {
        let (outcome, cpu, wrong) = match (case.work, &mut self.app) {
            (Work::Load(exchange), _) => self.load(case, exchange, trip)?,
            (_, Some(app)) => app.run(case, trip, &self.clocks)?,
            (_, None) => {
                let why = format!("{}: its program does not run", case.name);
                return Err(BenchError::Setup(why));
            }
        };
        let why = match (&outcome.first_error, wrong) {
            (Some(error), _) => format!("{} errors, the first: {error}", outcome.errors),
            (None, Some(why)) => why,
            (None, None) => return Ok((outcome, cpu)),
        };
        Err(BenchError::Row {
            case: case.name.to_owned(),
            why,
        })
    }

    fn load(&mut self, case: &Case, exchange: Exchange, trip: &Trip) -> Result<Measured> {
        let reply = exchange.kind != Kind::Stream;
        self.expect(exchange.message, reply)?;
        let load = Load {
            exchange,
            concurrency: case.concurrency,
            blocking: case.blocking,
            targets: trip.targets,
            unix: trip.unix.then(|| self.unix.clone()),
            order: Order::Random,
            seconds: trip.seconds,
            operations: OPERATIONS,
        };
        self.server.count()?;
        let before = self.clocks.read()?;
        let outcome = self.client.run(&load)?;
        std::thread::sleep(SETTLE);
        let cpu = self.clocks.read()?.since(&before);
        let wrong = differs(&outcome, &self.server.count()?);
        Ok((outcome, cpu, wrong))
    }

    fn expect(&mut self, message: u32, reply: bool) -> Result<()> {
        if self.expects.replace((message, reply)) == Some((message, reply)) {
            return Ok(());
        }
        self.server.order(&Command::Expect { message, reply })
    }

    /// How many distinct endpoints answered so many connects.
    pub fn reached(&mut self, targets: Targets, order: Order, connects: u32) -> Result<u64> {
        self.expect(crate::generator::MESSAGE as u32, true)?;
        self.server.tally(true)?;
        self.server.count()?;
        let load = Load {
            exchange: Exchange::connect(crate::generator::MESSAGE as u32),
            concurrency: 1,
            blocking: true,
            targets,
            unix: None,
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

/// What client and server do not agree on.
pub fn differs(outcome: &Outcome, counted: &Counted) -> Option<String> {
    let client = (outcome.connections, outcome.operations);
    let server = (counted.connections, counted.requests);
    if client != server || outcome.operations == 0 || counted.wrong > 0 {
        return Some(format!(
            "(connections, messages): client {client:?}, server {server:?}, {} messages out of order \
             or cut",
            counted.wrong
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::Latency;

    #[test]
    fn a_count_that_differs_is_told() {
        let outcome = |operations| Outcome {
            operations,
            connections: 2,
            errors: 0,
            first_error: None,
            seconds: 1.0,
            latency: Latency {
                p50: 1,
                p90: None,
                p99: 1,
                p999: None,
                max: 1,
            },
            distribution: Vec::new(),
        };
        let counted = |requests, wrong| Counted {
            connections: 2,
            requests,
            wrong,
            addresses: 0,
        };
        assert_eq!(differs(&outcome(5), &counted(5, 0)), None);
        for (operations, requests, wrong) in [(5, 4, 0), (5, 5, 1), (0, 0, 0)] {
            assert!(differs(&outcome(operations), &counted(requests, wrong)).is_some());
        }
    }
}
