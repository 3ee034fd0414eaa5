//! Runs one burst: every end on a thread of its own.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::net::{getpeername, getsockname};
use serde::{Deserialize, Serialize};

use super::{
    end::{self, Finish},
    plan::{BurstPlan, Leaves, Plan},
};
use crate::{
    bytes::Random,
    equivalence::{
        Stage,
        engine::{Counters, Engine},
        play::Place,
        script::End,
        stage::{Listener, NONBLOCKING, in_netns},
        transcript::Log,
    },
};

/// What a burst gave, printed as one JSON line.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub seed: u64,
    pub connections: usize,
    /// Received and right.
    pub bytes: u64,
    pub counters: Counters,
    pub flips: u64,
    pub ms: u64,
    pub problems: Vec<String>,
}

pub fn run(place: &Place, plan: BurstPlan) -> Outcome {
    let start = Instant::now();
    let mut outcome = Outcome {
        seed: plan.seed,
        connections: plan.pairs.len(),
        ..Outcome::default()
    };
    if let Err(e) = attempt(place, plan, &mut outcome) {
        outcome.problems.push(format!("burst: {e}"));
    }
    outcome.ms = start.elapsed().as_millis() as u64;
    outcome
}

fn attempt(place: &Place, plan: BurstPlan, outcome: &mut Outcome) -> io::Result<()> {
    let engine = Engine::new(place.path, place.pins.clone())?;
    let before = engine.counters()?;
    let stage = Stage::new(Log::default(), engine, place.peers.clone());
    let listener = listen(&stage, plan.veth)?;
    let (give, finishes) = mpsc::channel();
    let mut servers = HashMap::new();
    let mut ends = 0;
    // Clients begin at once: their first bytes come before, while and after the server accepts.
    for (i, [client, server]) in plan.pairs.into_iter().enumerate() {
        let socket = stage.dial(NONBLOCKING, listener.at)?;
        let port = SocketAddr::try_from(getsockname(&socket)?)?.port();
        let breaks = server.leaves.0 != Leaves::No;
        let server_breaks = client.leaves.0 != Leaves::No;
        let names = ["client", "server"].map(|who| {
            let veth = if plan.veth { " over veth" } else { "" };
            format!(
                "connection {i}{veth}, {who}\n  client: {}\n  server: {}\n  ",
                client.brief(),
                server.brief()
            )
        });
        let [name, server_name] = names;
        start_end(&give, socket, client, breaks, name);
        servers.insert(port, (server, server_breaks, server_name));
        ends += 2;
    }
    let flipper = plan
        .flips
        .map(|most| Flipper::start(stage.engine, most, plan.seed));
    for _ in 0..servers.len() {
        let socket = listener.accept("server")?;
        // A client that has reset is gone with its port.
        let peer = getpeername(&socket).ok().flatten();
        let port = peer
            .and_then(|a| SocketAddr::try_from(a).ok())
            .map(|a| a.port());
        let Some((plan, breaks, name)) = port.and_then(|p| servers.remove(&p)) else {
            ends -= 1;
            continue;
        };
        start_end(&give, socket, plan, breaks, name);
    }
    drop(give);
    collect(&finishes, ends, outcome);
    let engine = match flipper {
        Some(flipper) => {
            let (engine, flips) = flipper.stop()?;
            outcome.flips = flips;
            engine
        }
        None => Engine::new(place.path, place.pins.clone())?,
    };
    outcome.counters = engine.counters()?.since(before);
    Ok(())
}

fn listen(stage: &Stage, veth: bool) -> io::Result<Listener> {
    match stage.peers.first() {
        Some(peer) if veth => in_netns(peer, || {
            Listener::new(&stage.log, NONBLOCKING, peer.v4.into(), 128)
        }),
        _ => stage.listener(NONBLOCKING),
    }
}

type Named = (String, Finish);

fn start_end(give: &mpsc::Sender<Named>, socket: End, plan: Plan, breaks: bool, name: String) {
    let give = give.clone();
    thread::spawn(move || {
        let finish = end::run(socket, &plan, breaks);
        let _ = give.send((name, finish));
    });
}

fn collect(finishes: &mpsc::Receiver<Named>, ends: usize, outcome: &mut Outcome) {
    let deadline = end::deadline();
    for done in 0..ends {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok((name, finish)) = finishes.recv_timeout(left) else {
            let text = format!("{} of {ends} ends never finish", ends - done);
            outcome.problems.push(text);
            return;
        };
        outcome.bytes += finish.received;
        if let Some(problem) = finish.problem {
            outcome.problems.push(format!("{name}: {problem}"));
        }
    }
}

/// Turns redirection off and on while the burst runs.
struct Flipper {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<io::Result<(Engine, u64)>>,
}

impl Flipper {
    fn start(mut engine: Engine, most: Duration, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut random, mut on) = (Random(seed), true);
            while !stopped.load(Ordering::Relaxed) {
                let us = random.below(1 + most.as_micros() as u64);
                thread::sleep(Duration::from_micros(us));
                on = !on;
                engine.redirect(on)?;
            }
            let flips = engine.mixes;
            engine.redirect(true)?;
            Ok((engine, flips))
        });
        Self { stop, thread }
    }

    fn stop(self) -> io::Result<(Engine, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the flipper panicked")))
    }
}
