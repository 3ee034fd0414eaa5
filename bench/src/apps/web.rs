//! Our own HTTP and gRPC parties on one side.

use std::{path::PathBuf, time::Duration};

use super::Measured;
use crate::{
    Result,
    cpu::Clocks,
    ends::{SETTLE, Trip, differs},
    generator::{
        Outcome,
        protocol::{Answer, Command},
    },
    lab::{Lab, Place, Side},
    manifests::APP_PORT,
    party::Party,
    web::{MESSAGE, Protocol, WebLoad},
};

pub struct Parties {
    client: Party,
    server: Party,
    unix: PathBuf,
    /// What the server was last told.
    speaks: Option<Protocol>,
}

impl Parties {
    pub fn start(lab: &Lab, side: Side, client: &Place, server: &Place) -> Result<Self> {
        let unix = lab.unix(side, "web");
        let (port, path) = (APP_PORT.to_string(), unix.display().to_string());
        let name = |party: &str| format!("web {party}, mesh {}", side.name());
        let role = ["--port", &port, "--unix", &path, "web-server"];
        Ok(Self {
            server: Party::start(&name("server"), &role, server)?,
            client: Party::start(&name("client"), &["web-client"], client)?,
            unix,
            speaks: None,
        })
    }

    pub fn restart(&mut self) -> Result<()> {
        self.server.order(&Command::Listen)
    }

    pub fn run(
        &mut self,
        protocol: Protocol,
        concurrency: u32,
        trip: &Trip,
        clocks: &Clocks,
    ) -> Result<Measured> {
        if self.speaks.replace(protocol) != Some(protocol) {
            self.server
                .order(&Command::Speak(protocol, MESSAGE as u32))?;
        }
        let load = WebLoad {
            protocol,
            bytes: MESSAGE as u32,
            connections: protocol.connections(concurrency),
            concurrency,
            rate: None,
            target: trip.targets.at(0),
            unix: trip.unix.then(|| self.unix.clone()),
            seconds: trip.seconds,
        };
        self.server.count()?;
        let before = clocks.read()?;
        let outcome = self.ask(load)?;
        std::thread::sleep(SETTLE);
        let cpu = clocks.read()?.since(&before);
        let wrong = differs(&outcome, &self.server.count()?);
        Ok((outcome, cpu, wrong))
    }

    fn ask(&mut self, load: WebLoad) -> Result<Outcome> {
        let within = Duration::from_secs_f64(load.seconds);
        match self.client.ask(&Command::RunWeb(load), within)? {
            Answer::Ran(outcome) => Ok(outcome),
            other => Err(self.client.unexpected(&other)),
        }
    }
}
