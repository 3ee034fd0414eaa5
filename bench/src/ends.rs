//! The parties of one side: client, server and what counts their CPU.

use std::{path::PathBuf, time::Duration};

use crate::{
    BenchError, Result,
    cases::{Case, Work},
    cpu::{Clocks, Cpu},
    generator::{
        Exchange, Kind, Load, Order, Outcome, Targets,
        protocol::{Command, Counted},
    },
    lab::{Lab, Place, Side},
    manifests::SERVER_PORT,
    party::Party,
    redis,
    rig::Cpus,
};

/// Operations of one run at most, whatever its time.
pub const OPERATIONS: u64 = 10_000_000;
/// Commands of the first run of redis-benchmark; later ones follow its rate.
const COMMANDS: u64 = 5_000;
/// The server may still be closing connections when the client has ended.
const SETTLE: Duration = Duration::from_millis(5);

pub struct Ends {
    pub client: Party,
    pub server: Party,
    redis: Option<redis::Server>,
    clocks: Clocks,
    client_place: Place,
    server_place: Place,
    unix: PathBuf,
    redis_unix: PathBuf,
    /// What the server was last told to expect.
    expects: Option<(u32, bool)>,
}

/// Where one run goes, and how long.
pub struct Trip {
    pub targets: Targets,
    /// By the side's Unix socket instead.
    pub unix: bool,
    pub seconds: f64,
    /// Operations in a second of the last such run, for programs that end by a count.
    pub rate: Option<f64>,
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
            redis: None,
            clocks,
            client_place: place("client"),
            server_place: place("server"),
            unix,
            redis_unix: lab.unix(side, "redis"),
            expects: None,
        })
    }

    pub fn start_redis(&mut self) -> Result<()> {
        self.redis = Some(redis::Server::start(&self.server_place, &self.redis_unix)?);
        Ok(())
    }

    /// An agent that has just started knows a listener only if it sees it begin to listen.
    pub fn listen_anew(&mut self) -> Result<()> {
        self.server.order(&Command::Listen)?;
        self.redis.as_mut().map_or(Ok(()), redis::Server::restart)
    }

    /// Runs a case and checks that both ends counted the same: what the client saw, and the CPU that
    /// it took.
    pub fn run(&mut self, case: &Case, trip: &Trip) -> Result<(Outcome, Cpu)> {
        let (outcome, cpu, wrong) = match case.work {
            Work::Load(exchange) => self.load(case, exchange, trip)?,
            Work::Redis(redis) => self.redis(case, redis, trip)?,
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

    fn load(
        &mut self,
        case: &Case,
        exchange: Exchange,
        trip: &Trip,
    ) -> Result<(Outcome, Cpu, Option<String>)> {
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

    fn redis(
        &mut self,
        case: &Case,
        redis: crate::cases::Redis,
        trip: &Trip,
    ) -> Result<(Outcome, Cpu, Option<String>)> {
        let server = self
            .redis
            .as_ref()
            .ok_or_else(|| BenchError::Setup("no redis-server".into()))?;
        let wanted = trip
            .rate
            .map_or(COMMANDS, |rate| (rate * trip.seconds) as u64);
        let commands = wanted.clamp(1_000, OPERATIONS);
        let calls = server.calls(redis.command)?;
        let unix = trip.unix.then_some(self.redis_unix.as_path());
        let before = self.clocks.read()?;
        let place = &self.client_place;
        let outcome = redis::run(
            place,
            redis,
            case.concurrency,
            &trip.targets,
            unix,
            commands,
        )?;
        let cpu = self.clocks.read()?.since(&before);
        let calls = server.calls(redis.command)? - calls;
        // It ends when enough are answered, and may have asked for a few more.
        let more = u64::from(case.concurrency * redis.pipeline);
        let wrong = (!(commands..=commands + more).contains(&calls))
            .then(|| format!("redis-server ran {calls} commands of {commands}"));
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
fn differs(outcome: &Outcome, counted: &Counted) -> Option<String> {
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
