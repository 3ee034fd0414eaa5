//! One run of a load between client and server, whatever stands between them.

use std::time::Duration;

use super::{Peer, System, cases::Case};
use crate::{
    Result,
    cpu::{Clocks, Cpu},
    ends::{OPERATIONS, SETTLE},
    generator::{
        Exchange, Load, Order, Outcome, Targets,
        protocol::{Answer, Command, Counted},
    },
    lab::{Lab, Side},
    manifests::APP_PORT,
    party::Party,
    rig::Cpus,
    web::{Protocol, WebLoad},
};

pub struct Run<'a> {
    pub case: &'a Case,
    pub system: System,
    /// What the client dials.
    pub targets: Targets,
    pub seconds: f64,
    pub clocks: &'a Clocks,
}

/// What the client saw, the CPU that it took, and what the server saw.
pub type Ran = (Outcome, Cpu, Counted);

/// Client and server of the web families, on one side.
pub struct Web {
    client: Party,
    server: Party,
    speaks: Option<(Protocol, u32)>,
}

impl Web {
    pub fn start(lab: &Lab, side: Side, cpus: Cpus) -> Result<Self> {
        let place = |party: &str| lab.place(side, party, cpus.of(party == "server"));
        let name = |party: &str| format!("web {party}, mesh {}", side.name());
        let (port, unix) = (APP_PORT.to_string(), lab.unix(side, "web"));
        let unix = unix.display().to_string();
        let role = ["--port", &port, "--unix", &unix, "web-server"];
        Ok(Self {
            server: Party::start(&name("server"), &role, &place("server"))?,
            client: Party::start(&name("client"), &["web-client"], &place("client"))?,
            speaks: None,
        })
    }

    /// To the server.
    pub fn order(&mut self, command: &Command) -> Result<()> {
        self.server.order(command)
    }

    pub fn run(&mut self, run: &Run) -> Result<Ran> {
        let case = run.case;
        let protocol = case.family.protocol().unwrap_or(Protocol::Http1);
        let speaks = (arrives(protocol, run.system), case.bytes);
        if self.speaks.replace(speaks) != Some(speaks) {
            self.order(&Command::Speak(speaks.0, speaks.1))?;
        }
        let load = WebLoad {
            protocol,
            bytes: case.bytes,
            connections: case.connections,
            concurrency: case.concurrency,
            rate: case.rate.map(f64::from),
            target: run.targets.at(0),
            unix: None,
            seconds: run.seconds,
        };
        let command = Command::RunWeb(load);
        timed(&mut self.client, &mut self.server, &command, run)
    }
}

/// What reaches the server: nginx has no HTTP/2 to a server but for gRPC.
pub const fn arrives(sent: Protocol, system: System) -> Protocol {
    match (sent, system.hops()) {
        (Protocol::Http2, Some((Peer::Nginx, _))) => Protocol::Http1,
        _ => sent,
    }
}

/// By our own client and server of numbered messages.
pub fn tcp(client: &mut Party, server: &mut Party, run: &Run) -> Result<Ran> {
    let case = run.case;
    let (message, reply) = (case.bytes, true);
    server.order(&Command::Expect { message, reply })?;
    let load = Load {
        exchange: Exchange::request(case.bytes),
        concurrency: case.concurrency,
        blocking: false,
        targets: run.targets,
        unix: None,
        order: Order::Sequential,
        seconds: run.seconds,
        operations: OPERATIONS,
    };
    let command = match case.rate {
        Some(rate) => Command::RunAt(load, rate.into()),
        None => Command::Run(load),
    };
    timed(client, server, &command, run)
}

/// Reads the clocks before and after the load.
fn timed(client: &mut Party, server: &mut Party, command: &Command, run: &Run) -> Result<Ran> {
    server.count()?;
    let before = run.clocks.read()?;
    let outcome = match client.ask(command, Duration::from_secs_f64(run.seconds))? {
        Answer::Ran(outcome) => outcome,
        other => return Err(client.unexpected(&other)),
    };
    std::thread::sleep(SETTLE);
    let cpu = run.clocks.read()?.since(&before);
    Ok((outcome, cpu, server.count()?))
}

/// What client and server do not agree on. Behind proxies the server sees their connections, which they keep
/// from run to run: many more than requests at once would be new ones for requests.
pub fn differs(outcome: &Outcome, counted: &Counted, run: &Run) -> Option<String> {
    if let Some(error) = &outcome.first_error {
        return Some(format!("{} errors, the first: {error}", outcome.errors));
    }
    let connections = match run.system.proxies() {
        0 => counted.connections == outcome.connections,
        _ => counted.connections <= 2 * u64::from(run.case.concurrency),
    };
    let same = counted.requests == outcome.operations && outcome.operations > 0;
    (!connections || !same || counted.wrong > 0).then(|| {
        format!(
            "(connections, requests): client {:?}, server {:?}, {} wrong",
            (outcome.connections, outcome.operations),
            (counted.connections, counted.requests),
            counted.wrong
        )
    })
}
