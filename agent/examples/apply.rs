//! Times from parsed objects to the real kernel's maps, step by step and map by map, at the size
//! that the mesh promises. Needs root and the BPF object.
//! `cargo run --release -p underpass-agent --example apply`
#![allow(clippy::unwrap_used, reason = "a tool for developers")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use underpass_mesh::{Batch, Change, Facts, Model, Round, Tables};

use node::Node;

#[path = "../../mesh/examples/scale/files.rs"]
#[allow(dead_code, reason = "a part of it")]
mod files;
#[path = "../tests/common/node.rs"]
mod node;

const RUNS: usize = 15;

/// Wall clock and this thread's CPU time: the second is steadier where others use the machine too.
#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    cpu: Duration,
}

fn timed<T>(run: impl FnOnce() -> T) -> (T, Took) {
    let cpu = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    };
    let (start, before) = (Instant::now(), cpu());
    let result = run();
    let took = Took {
        wall: start.elapsed(),
        cpu: cpu() - before,
    };
    (result, took)
}

fn main() {
    let mut model = Model::default();
    for (file, text) in files::files() {
        model.set_file(&file, &text);
    }
    let mut steps: BTreeMap<&str, Vec<Took>> = BTreeMap::new();
    let mut writes = BTreeMap::new();
    for run in 0..RUNS {
        let mut note = |step, took| steps.entry(step).or_default().push(took);
        // A fact that differs makes everything be compiled again.
        let facts = Facts {
            host_netns: 1 + run as u64 % 2,
            ..Facts::default()
        };
        let (plan, took) = timed(|| model.compile(&facts));
        note("compile", took);
        let mut tables = Tables::empty();
        let (change, took) = timed(|| tables.lay_out(&plan).unwrap());
        note("lay out", took);
        let node = Node::new();
        let kernel = node.open();
        let (applied, took) = timed(|| kernel.apply(&change).unwrap());
        note("apply", took);
        let until_words = Took {
            wall: applied.effective_after,
            cpu: Duration::ZERO,
        };
        note("apply until words", until_words);
        let node = Node::new();
        let kernel = node.open();
        for round in &change.rounds {
            for batch in round.fresh.iter().chain(&round.words) {
                let change = alone(batch);
                note(batch.map, timed(|| kernel.apply(&change).unwrap()).1);
                writes.insert(batch.map, batch.count);
            }
        }
    }
    println!("milliseconds, least and median of {RUNS} runs: CPU time, wall clock");
    for (step, took) in steps {
        let of = |which: fn(&Took) -> Duration| {
            let mut all: Vec<f64> = took.iter().map(|t| which(t).as_secs_f64() * 1e3).collect();
            all.sort_by(f64::total_cmp);
            format!("{:>8.2} {:>6.2}", all[0], all[RUNS / 2])
        };
        let count = writes
            .get(step)
            .map_or(String::new(), |n| format!("{n} elements"));
        println!("{step:<18} {} {}  {count}", of(|t| t.cpu), of(|t| t.wall));
    }
}

/// One batch as a change; its wall clock has a grace period.
fn alone(batch: &Batch) -> Change {
    let round = Round {
        fresh: vec![batch.clone()],
        ..Round::default()
    };
    Change {
        rounds: vec![round],
        writes: batch.count,
    }
}
