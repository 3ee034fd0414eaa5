//! Runs cases in this process, one after the other, each on a thread of its own with a limit.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    CORE, Case, Path, Stage, cases,
    engine::{Counters, Engine},
    stage::Peer,
    transcript::{Log, errno},
};

/// No case waits for long; this ends one whose call never returns.
const LIMIT: Duration = Duration::from_secs(60);

/// What one case gave, printed as one JSON line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub case: String,
    pub lines: Vec<String>,
    pub counters: Counters,
    /// Changes of path that the script made.
    pub mixes: u64,
    pub ms: u64,
}

#[derive(Clone)]
pub struct Place {
    pub path: Path,
    /// Pin directory of the agent.
    pub pins: Option<PathBuf>,
    pub peers: Vec<Peer>,
}

/// Calls `each` after each case whose name contains `only`, of the core or of all.
pub fn play(place: &Place, only: &str, core: bool, mut each: impl FnMut(Outcome)) {
    let wanted = |c: &&Case| c.name.contains(only) && (!core || CORE.contains(&c.name));
    for case in cases().into_iter().filter(wanted) {
        each(one(place, case));
    }
}

fn one(place: &Place, case: &'static Case) -> Outcome {
    let (log, place) = (Log::default(), place.clone());
    let (give, take) = mpsc::channel();
    let (inner, start) = (log.clone(), Instant::now());
    thread::spawn(move || {
        let run = AssertUnwindSafe(|| on_stage(&place, case, &inner));
        let counted = catch_unwind(run).unwrap_or_else(|_| {
            inner.line("case", "panicked");
            (Counters::default(), 0)
        });
        let _ = give.send(counted);
    });
    let (counters, mixes) = take.recv_timeout(LIMIT).unwrap_or_else(|_| {
        log.line("case", "HANGS");
        (Counters::default(), 0)
    });
    Outcome {
        case: case.name.to_owned(),
        lines: log.lines(),
        counters,
        mixes,
        ms: start.elapsed().as_millis() as u64,
    }
}

fn on_stage(place: &Place, case: &Case, log: &Log) -> (Counters, u64) {
    let attempt = || -> std::io::Result<(Counters, u64)> {
        let engine = Engine::new(place.path, place.pins.clone())?;
        let before = engine.counters()?;
        let mut stage = Stage::new(log.clone(), engine, place.peers.clone());
        let result = (case.run)(&mut stage);
        if let Err(e) = result {
            log.line("case", format!("broken off: {}", errno(&e)));
        }
        let after = stage.engine.counters()?;
        Ok((after.since(before), stage.engine.mixes))
    };
    attempt().unwrap_or_else(|e| {
        log.line("case", format!("engine: {e}"));
        (Counters::default(), 0)
    })
}
