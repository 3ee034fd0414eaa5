//! `underpass bench`: somebody's own service, dialed by a client in the mesh and by one outside of it, both
//! made for this and removed afterwards.

mod site;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use underpass_abi::reason::code;

use self::site::Site;
use crate::{
    BenchError, Result,
    cpu::{Clocks, Cpu},
    environment::Environment,
    generator::{
        Outcome, Random, now,
        protocol::{Answer, Command},
    },
    lab::Wire,
    party::Party,
    rig::Cpus,
    systems::{
        Refusal, System,
        field::Sample,
        judge::behind,
        rounds::{self, Measured, Report, Text, costs, judged, swings},
    },
    web::visit::{Talk, Visits},
};

/// Seconds of load before each run that counts.
const WARM_UP: f64 = 0.1;
pub const CONCURRENCY: std::ops::RangeInclusive<u32> = 1..=1_000;

#[derive(Clone, Debug)]
pub struct Options {
    /// As the user named it.
    pub service: String,
    pub target: SocketAddr,
    pub authority: String,
    pub path: String,
    pub talk: Talk,
    pub concurrency: u32,
    /// Requests in a second by a schedule; closed loop without.
    pub rate: Option<f64>,
    pub seconds: f64,
    pub rounds: usize,
    /// Of the client in the mesh.
    pub namespace: String,
    pub account: String,
    /// The agent's.
    pub mesh: PathBuf,
    pub cgroup_root: PathBuf,
    pub api: PathBuf,
    /// Both clients in this process's network namespace.
    pub shared: bool,
    /// One short round, which means nothing.
    pub quick: bool,
}

const METHOD: &str = "Two clients, each a single-threaded process with a cgroup and, unless shared, a network \
    namespace of its own, send the same requests to the address that was given. One is a workload of the mesh, \
    of the other the mesh knows nothing; what the mesh does for the server, it does for both. <b>CPU</b> is all \
    that this machine did meanwhile, divided by the requests: of a server elsewhere nothing is in it, of \
    strangers on this machine everything. Every round runs both once, in random order, and each ratio is taken \
    to <code>outside</code> of the same round. Shown are medians over the rounds, with a bootstrap interval of \
    95 %; a ratio whose interval holds 1 is called “no difference”, and a round whose baseline is more than \
    15 % off is rejected and listed below. In open loop requests begin by an absolute schedule and latency \
    counts from the scheduled time.";

/// What stopped it has a code.
pub fn run(
    options: &Options,
    progress: &mut dyn FnMut(&str),
) -> std::result::Result<Report, Refusal> {
    let failed = |e: BenchError| Refusal::new(code::NOT_MEASURED, e.to_string());
    if matches!(options.target.ip(), IpAddr::V6(_)) && !options.shared {
        let why = "IPv6: the clients' own namespaces have IPv4 only; --shared does without them";
        return Err(Refusal::new(code::BAD_ARGUMENT, why));
    }
    let environment = Environment::read();
    let mut bench = Bench::start(options).map_err(failed)?;
    progress(&format!("{}: trying", options.service));
    for system in SYSTEMS {
        bench.prove(system)?;
    }
    let samples = bench.rounds(progress).map_err(failed)?;
    let rounds_of = rounds::Options {
        systems: SYSTEMS.to_vec(),
        rounds: options.rounds,
        seconds: options.seconds,
        wire: Wire::Veth,
        cpus: Cpus::Any,
        quick: options.quick,
    };
    let rounds = judged(samples);
    let mut refused = BTreeMap::new();
    if let Some(why) = swings(&rounds, &rounds_of) {
        refused = SYSTEMS
            .map(|s| (s, Refusal::new(code::NOT_MEASURED, why.clone())))
            .into();
    }
    let lines = |system| vec![bench.command_line(system)];
    let measured = Measured {
        name: options.name(),
        family: options.talk.name(),
        about: options.describe(),
        rounds,
        refused,
        command_lines: SYSTEMS.map(|system| (system, lines(system))).into(),
        configs: BTreeMap::new(),
    };
    Ok(Report {
        text: options.text(),
        environment,
        versions: BTreeMap::new(),
        options: rounds_of,
        cases: vec![measured],
    })
}

const SYSTEMS: [System; 2] = [System::Outside, System::Inside];

struct Bench<'a> {
    options: &'a Options,
    clients: BTreeMap<System, (Party, Clocks)>,
    // Dropped last: it removes where the clients are.
    site: Site,
}

impl<'a> Bench<'a> {
    fn start(options: &'a Options) -> Result<Self> {
        let site = Site::make(options)?;
        let mut clients = BTreeMap::new();
        for system in SYSTEMS {
            let place = site.place(system);
            let cgroup = place.cgroup.clone().unwrap_or_default();
            let name = format!("client {}", system.name());
            let party = Party::start(&name, &["web-client"], &place)?;
            // There is one of these alone.
            let clocks = Clocks::new(&cgroup, &cgroup, None)?;
            clients.insert(system, (party, clocks));
        }
        // The agent looks for its processes.
        site.enlist(options)?;
        Ok(Self {
            options,
            clients,
            site,
        })
    }

    /// One request that must succeed.
    fn prove(&mut self, system: System) -> std::result::Result<(), Refusal> {
        let visits = Visits {
            concurrency: 1,
            rate: None,
            ..self.options.visits(0.001)
        };
        match self.visit(system, visits) {
            Ok((
                Outcome {
                    first_error: None, ..
                },
                _,
            )) => Ok(()),
            Ok((
                Outcome {
                    first_error: Some(why),
                    ..
                },
                _,
            )) => Err(self.unwell(system, &why)),
            Err(why) => Err(self.unwell(system, &why.to_string())),
        }
    }

    fn unwell(&self, system: System, why: &str) -> Refusal {
        let (name, service) = (system.name(), &self.options.service);
        let what = format!(
            "the client {name} of the mesh, to {service} at {}",
            self.options.target
        );
        let (number, help) = if why.contains("(os error 1)") {
            let identity = match system {
                System::Inside => format!("`underpass explain {} {service}`", self.site.workload()),
                _ => "a policy names who may come, and a client outside has no identity".to_owned(),
            };
            (code::CLIENT_REFUSED, identity)
        } else if UNREACHABLE.iter().any(|said| why.contains(said)) {
            (code::SERVICE_UNREACHABLE, self.site.route_hint())
        } else {
            (
                code::NO_SUCCESS,
                "--path, --protocol and --host say what is asked for".to_owned(),
            )
        };
        Refusal::new(number, format!("{what}: {why} ({help})"))
    }

    fn rounds(&mut self, progress: &mut dyn FnMut(&str)) -> Result<Vec<BTreeMap<System, Sample>>> {
        let mut random = Random::new(now().as_nanos() as u64);
        let mut all = Vec::new();
        let options = self.options;
        // Round 0 warms both up and is not kept.
        for round in usize::from(options.quick)..=options.rounds {
            let seconds = if round == 0 {
                options.seconds.min(0.3)
            } else {
                options.seconds
            };
            let mut order = SYSTEMS;
            random.shuffle(&mut order);
            let mut samples = BTreeMap::new();
            for system in order {
                let warm_up = Visits {
                    rate: None,
                    ..options.visits(WARM_UP)
                };
                self.visit(system, warm_up)?;
                samples.insert(system, self.sample(system, seconds)?);
            }
            let costs = costs(&samples);
            progress(&format!("round {round} of {}: {costs}", options.rounds));
            if round > 0 {
                all.push(samples);
            }
        }
        Ok(all)
    }

    fn sample(&mut self, system: System, seconds: f64) -> Result<Sample> {
        let options = self.options;
        let (outcome, cpu) = self.visit(system, options.visits(seconds))?;
        if let Some(error) = &outcome.first_error {
            let why = format!("{} errors, the first: {error}", outcome.errors);
            let case = format!("{}, {}", options.name(), system.name());
            return Err(BenchError::Row { case, why });
        }
        let saturated = behind(options.rate, options.concurrency, seconds, &outcome);
        Ok(Sample {
            operations: outcome.operations.max(1),
            seconds: outcome.seconds,
            // Whose the rest is cannot be told.
            cpu: Cpu {
                client: cpu.client,
                server: (cpu.system - cpu.client).max(0.0),
                ..Cpu::default()
            },
            latency: outcome.latency,
            memory: 0,
            passed: 0,
            saturated,
            distribution: outcome.distribution,
        })
    }

    fn visit(&mut self, system: System, visits: Visits) -> Result<(Outcome, Cpu)> {
        let none = || BenchError::Setup(format!("no client {}", system.name()));
        let (party, clocks) = self.clients.get_mut(&system).ok_or_else(none)?;
        let within = Duration::from_secs_f64(visits.seconds);
        let before = clocks.read()?;
        match party.ask(&Command::Visit(visits), within)? {
            Answer::Ran(outcome) => Ok((outcome, clocks.read()?.since(&before))),
            other => Err(party.unexpected(&other)),
        }
    }

    fn command_line(&self, system: System) -> String {
        let place = self.site.place(system);
        let netns = place.netns.unwrap_or("this one".to_owned());
        let options = self.options;
        let (what, who) = (
            options.describe(),
            match system {
                System::Inside => format!("workload {}", self.site.workload()),
                _ => "no workload".to_owned(),
            },
        );
        format!(
            "{what}; to {}, {who}, network namespace {netns}",
            options.target
        )
    }
}

/// What says that no packet came back, or that nobody listens.
const UNREACHABLE: [&str; 4] = [
    "did not stand within",
    "(os error 101)",
    "(os error 111)",
    "(os error 113)",
];

impl Options {
    fn visits(&self, seconds: f64) -> Visits {
        Visits {
            talk: self.talk,
            target: self.target,
            authority: self.authority.clone(),
            path: self.path.clone(),
            concurrency: self.concurrency,
            rate: self.rate,
            seconds,
        }
    }

    fn name(&self) -> String {
        let rate = self.rate.map_or(String::new(), |rate| format!("@{rate}"));
        format!("{}-c{}{rate}", self.talk.name(), self.concurrency)
    }

    fn describe(&self) -> String {
        let Self {
            authority, path, ..
        } = self;
        let what = match self.talk {
            Talk::Http1 => format!("GET http://{authority}{path} by HTTP/1.1"),
            Talk::Http2 => format!("GET http://{authority}{path} by HTTP/2"),
            Talk::Grpc => format!("gRPC {path} at {authority}"),
            Talk::Tcp => "connect and close".to_owned(),
        };
        match self.rate {
            Some(rate) => format!("{what}; open loop, {rate} in a second"),
            None => format!("{what}; closed loop, {} at once", self.concurrency),
        }
    }

    fn text(&self) -> Text {
        let namespaces = match self.shared {
            true => "both clients are in the machine's own network namespace",
            false => {
                "each client has a network namespace of its own, joined to this one by a veth pair"
            }
        };
        Text {
            title: "A service, from inside the mesh and from outside",
            cpu: "CPU: all of this machine, for one request; ratios: to `outside` in the same round",
            method: METHOD,
            layout: format!(
                "The service is {}, at {}; {namespaces}; rounds: {}, {} s for each run.",
                self.service, self.target, self.rounds, self.seconds
            ),
        }
    }
}
