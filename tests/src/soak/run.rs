//! The soak's controller: a lab, the runner in it, an agent that is killed and comes back, totals.

use std::time::{Duration, Instant};

use clap::Args;

use super::{burst::Outcome, plan};
use crate::{
    Failure, Result,
    bytes::Random,
    equivalence::{
        Path,
        fixture::{Fixture, PROGRAM},
    },
    lab::{process::alive, wait::patience},
};

/// The slowest that a soak may be, idle machines and debug builds included.
const BYTES_PER_SECOND_MIN: u64 = 2 << 20;
const AGENT_LIVES: (u64, u64) = (2_000, 15_000);

#[derive(Args)]
pub struct SoakArgs {
    /// Bytes to check; K, M and G are understood.
    #[arg(long, default_value = "1G", value_parser = bytes)]
    bytes: u64,
    /// Seed of the first burst; a random one by default.
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value = "shortcut")]
    path: Path,
    /// Lets the agent live.
    #[arg(long)]
    no_agent_kills: bool,
}

#[derive(Default)]
struct Totals {
    bursts: u64,
    connections: usize,
    bytes: u64,
    redirected: u64,
    stayed: u64,
    flips: u64,
    /// Milliseconds and seed.
    slowest: (u64, u64),
}

impl Totals {
    fn add(&mut self, o: &Outcome) {
        self.bursts += 1;
        self.connections += o.connections;
        self.bytes += o.bytes;
        self.redirected += o.counters.redirected;
        self.stayed += o.counters.stayed;
        self.flips += o.flips;
        self.slowest = self.slowest.max((o.ms, o.seed));
    }

    fn read(&mut self, lines: &[String]) -> Result<()> {
        for line in lines {
            let outcome: Outcome = serde_json::from_str(line)?;
            self.add(&outcome);
            if !outcome.problems.is_empty() {
                return Err(Failure(format!(
                    "{}\nTo replay: cargo xtask test --soak 1 --seed {}",
                    outcome.problems.join("\n"),
                    outcome.seed
                )));
            }
        }
        Ok(())
    }

    fn print(&self, kills: u64, since: Instant) {
        println!(
            "{} bursts, {} connections, {:.2} GB right; {} messages redirected, {} stayed on TCP, {} mixes, \
             {kills} agent kills; slowest burst {} ms (seed {}); {:.0} s",
            self.bursts,
            self.connections,
            self.bytes as f64 / 1e9,
            self.redirected,
            self.stayed,
            self.flips,
            self.slowest.0,
            self.slowest.1,
            since.elapsed().as_secs_f64(),
        );
    }
}

pub fn run(args: &SoakArgs) -> Result<()> {
    let start = Instant::now();
    let seed = args.seed.unwrap_or_else(random_seed);
    println!("seed {seed}");
    let mut fixture = Fixture::new(args.path)?;
    let runner = start_runner(&fixture, seed, args.bytes)?;
    let limit = Duration::from_secs(120 + args.bytes / BYTES_PER_SECOND_MIN) * patience();
    let mut life = Random(seed);
    let mut kill_at = next_kill(&mut life);
    let (mut totals, mut seen, mut kills) = (Totals::default(), 0, 0);
    let mut told = Instant::now();
    loop {
        let running = alive(runner.pid());
        let lines = runner.stdout();
        if let Err(failure) = totals.read(&lines[seen..]) {
            totals.print(kills, start);
            return Err(failure);
        }
        seen = lines.len();
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            totals.print(kills, start);
        }
        if !running {
            break;
        }
        if start.elapsed() > limit {
            return Err(Failure(format!("not done within {limit:?}, seed {seed}")));
        }
        if !args.no_agent_kills && Instant::now() > kill_at && fixture.kill_agent()? {
            kills += 1;
            kill_at = next_kill(&mut life);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let ended = runner.finish(Duration::from_secs(10))?;
    let lines: Vec<String> = ended.stdout.lines().map(str::to_owned).collect();
    totals.read(&lines[seen..])?;
    totals.print(kills, start);
    if ended.code != Some(0) || totals.bytes < args.bytes {
        return Err(Failure(format!("the runner ended early: {}", ended.stderr)));
    }
    let idle = args.path == Path::Shortcut && (totals.redirected == 0 || totals.flips == 0);
    if idle && totals.bursts > 3 {
        return Err(Failure::new("nothing was redirected or nothing mixed"));
    }
    Ok(())
}

fn start_runner(fixture: &Fixture, seed: u64, bytes: u64) -> Result<crate::lab::Proc> {
    let mut command = vec![PROGRAM.to_owned(), "bursts".into()];
    command.extend(["--seed".into(), seed.to_string()]);
    command.extend(["--bytes".into(), bytes.to_string()]);
    command.extend(fixture.flags());
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    fixture.run(&command)
}

fn next_kill(random: &mut Random) -> Instant {
    let ms = AGENT_LIVES.0 + random.below(AGENT_LIVES.1 - AGENT_LIVES.0);
    Instant::now() + Duration::from_millis(ms)
}

fn random_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    plan::next(now.map_or(1, |t| t.as_nanos() as u64))
}

fn bytes(text: &str) -> std::result::Result<u64, String> {
    let (number, unit) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let number: u64 = number.parse().map_err(|e| format!("{e}"))?;
    number.checked_mul(unit).ok_or_else(|| "too many".into())
}
