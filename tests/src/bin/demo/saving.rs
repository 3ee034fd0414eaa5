//! What the shortcut saves: the same requests to Redis from a workload that may take it and from one
//! that stays on TCP, in turns.

use std::{fs, path::Path};

use serde_json::Value;
use underpass_tests::{
    Failure, Result,
    lab::{Lab, Place, cli::number, until},
    packages,
};

use super::{
    check::Check,
    shop::{LIMIT, REDIS, Shop},
};

/// May take it (both programs are on the tested list), and must not (annotated).
pub const CALLERS: [&str; 2] = ["sessions", "sessions-tcp"];
const ROUNDS: usize = 5;
/// Of each caller in each round.
const REQUESTS: u64 = 20_000;

pub struct Saving {
    /// Microseconds of CPU per request, Redis and caller together: (shortcut, TCP) of each round.
    rounds: Vec<(f64, f64)>,
    /// Why this kernel has no shortcut.
    off: Option<String>,
}

impl Saving {
    /// Runs the rounds, if this kernel lets the mesh take the shortcut at all.
    pub fn measure(shop: &Shop) -> Result<Self> {
        let off = off_because(&shop.agent.cli.status()?);
        let mut rounds = Vec::new();
        if off.is_none() {
            println!("Redis: {ROUNDS} rounds of {REQUESTS} requests over TCP and past it\n");
            for _ in 0..ROUNDS {
                rounds.push((round(shop, CALLERS[0])?, round(shop, CALLERS[1])?));
            }
        }
        Ok(Self { rounds, off })
    }

    /// That one caller's bytes went past TCP and the other's did not, and what that cost.
    pub fn check(&self, shop: &Shop) -> Result<Check> {
        let name = format!(
            "store/{} → store/redis: takes the shortcut past TCP, store/{} does not",
            CALLERS[0], CALLERS[1]
        );
        if let Some(why) = &self.off {
            return Ok(Check {
                name,
                ok: true,
                expected: format!("nothing: this kernel has no shortcut ({why})"),
                seen: "all of it on TCP".into(),
            });
        }
        let mut seen = [Share::default(), Share::default()];
        // New ones for each of the two commands.
        let expected = 2 * CONNECTIONS * self.rounds.len() as u64;
        let settled = until("rows of Redis", LIMIT / 4, || {
            for (share, caller) in seen.iter_mut().zip(CALLERS) {
                *share = Share::of(shop, caller).map_err(|f| f.0)?;
            }
            if seen.iter().all(|s| s.connections >= expected) {
                Ok(())
            } else {
                Err(format!("{} connections", seen[0].connections))
            }
        });
        let mut ratios: Vec<f64> = self.rounds.iter().map(|r| r.0 / r.1).collect();
        ratios.sort_by(f64::total_cmp);
        Ok(Check {
            name,
            ok: settled.is_ok() && seen[0].past > 0 && seen[1].past == 0,
            expected: "more than 0 B of the one, 0 B of the other".into(),
            seen: format!(
                "{} of {} B, {} of {} B; CPU per request {:.2} of TCP's (median of {ROUNDS} rounds)",
                seen[0].past,
                seen[0].all,
                seen[1].past,
                seen[1].all,
                ratios[ROUNDS / 2]
            ),
        })
    }
}

/// Connections of one run.
const CONNECTIONS: u64 = 16;

/// Bytes of one caller's connections, and what of them went past TCP.
#[derive(Default)]
struct Share {
    connections: u64,
    all: u64,
    past: u64,
}

impl Share {
    fn of(shop: &Shop, caller: &str) -> Result<Self> {
        let from = format!("store/{caller}");
        let filters = ["--from", &from, "--service", "store/redis"];
        let rows = shop.agent.cli.conns(&filters)?;
        let mut share = Self::default();
        for row in &rows {
            let bytes = |field| number(row, field).unwrap_or(0);
            share.connections += 1;
            share.all += bytes("/bytes_sent") + bytes("/bytes_received");
            share.past += bytes("/bytes_shortcut");
        }
        Ok(share)
    }
}

/// The reason in `status`, if the feature is off.
fn off_because(status: &Value) -> Option<String> {
    let features = status["features"].as_array()?;
    let shortcut = features.iter().find(|f| f["name"] == "shortcut")?;
    (shortcut["on"] != true).then(|| shortcut["reason"].as_str().unwrap_or_default().to_owned())
}

/// Microseconds of CPU per request of one run.
fn round(shop: &Shop, caller: &str) -> Result<f64> {
    let places = [place(&shop.lab, "redis")?, place(&shop.lab, caller)?];
    let before = spent(&places)?;
    let (host, port) = REDIS.rsplit_once(':').expect("a constant");
    let (requests, clients) = (REQUESTS.to_string(), CONNECTIONS.to_string());
    let args = [
        "-h", host, "-p", port, "-n", &requests, "-c", &clients, "-d", "1024", "-t", "set,get",
        "-q",
    ];
    let program = Path::new("usr/bin/redis-benchmark");
    let done = packages::run(&shop.lab, &places[1], program, &args)?.finish(LIMIT)?;
    if done.code != Some(0) {
        return Err(Failure(format!("redis-benchmark: {}", done.stderr)));
    }
    // `-n` is for each of the two commands.
    Ok((spent(&places)? - before) as f64 / (2 * REQUESTS) as f64)
}

fn place(lab: &Lab, name: &str) -> Result<Place> {
    lab.cgroup(&format!("store/{name}"))
}

/// Microseconds of CPU that the cgroups have used.
fn spent(places: &[Place]) -> Result<u64> {
    let mut sum = 0;
    for place in places {
        let file = place.cgroup.join("cpu.stat");
        let text = fs::read_to_string(&file).map_err(Failure::at(file.display()))?;
        let used = text.lines().find_map(|l| l.strip_prefix("usage_usec "));
        sum += used.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}
