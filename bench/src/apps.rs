//! The programs whose cases do not run on our own client and server: each takes their places.

pub mod packaged;
pub mod postgres;
pub mod redis;
pub mod web;

use crate::{
    BenchError, Result,
    cases::{Case, Work},
    cpu::{Clocks, Cpu},
    ends::Trip,
    generator::Outcome,
    lab::{Lab, Place, Side},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Redis,
    Web,
    Postgres,
}

/// What the client saw, the CPU that it took, and what is wrong with it.
pub type Measured = (Outcome, Cpu, Option<String>);

/// A program's server on one side; it ends with this.
pub enum App {
    Redis(redis::Server),
    Web(web::Parties),
    Postgres(postgres::Server),
}

impl App {
    pub fn start(
        kind: Kind,
        lab: &Lab,
        side: Side,
        client: &Place,
        server: &Place,
    ) -> Result<Self> {
        Ok(match kind {
            Kind::Redis => {
                let unix = lab.unix(side, "redis");
                Self::Redis(redis::Server::start(client, server, &unix)?)
            }
            Kind::Web => Self::Web(web::Parties::start(lab, side, client, server)?),
            Kind::Postgres => {
                let dir = lab.dir.join(format!("postgres-{}", side.name()));
                Self::Postgres(postgres::Server::start(client, server, &dir)?)
            }
        })
    }

    /// Listens anew, so that whoever watches sees it.
    pub fn restart(&mut self) -> Result<()> {
        match self {
            Self::Redis(server) => server.restart(),
            Self::Web(parties) => parties.restart(),
            Self::Postgres(server) => server.restart(),
        }
    }

    pub fn run(&mut self, case: &Case, trip: &Trip, clocks: &Clocks) -> Result<Measured> {
        let many = case.concurrency;
        match (self, case.work) {
            (Self::Redis(server), Work::Redis(redis)) => server.run(redis, many, trip, clocks),
            (Self::Web(parties), Work::Web(protocol)) => parties.run(protocol, many, trip, clocks),
            (Self::Postgres(server), Work::Pgbench) => server.run(many, trip, clocks),
            _ => Err(BenchError::Setup(format!(
                "{}: another program's server runs",
                case.name
            ))),
        }
    }
}
