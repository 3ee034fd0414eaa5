//! The kill switch: messages that take the shortcut after it was thrown, by the kernel's own counter.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData, PerCpuArray};
use serde::Serialize;
use underpass_abi::{
    VERSION,
    sock::counter,
    tables::{maps, setting},
};

use crate::{
    BenchError, Result,
    generator::{
        Exchange, Load, Order, Random, now,
        protocol::{Answer, Command},
    },
    rig::Rig,
    stats,
    way::Way,
};

const CONNECTIONS: u32 = 16;
const MESSAGE: u32 = 64;
/// How long the counter is watched after a throw, at least; longer if no message was sent meanwhile.
const WATCHED: Duration = Duration::from_millis(20);
/// After so long it rests between two looks, as the load needs the CPU too.
const CLOSELY: Duration = Duration::from_millis(2);
const REST: Duration = Duration::from_micros(50);
/// Load between two throws, at least.
const BETWEEN: Duration = Duration::from_millis(10);
/// Until a message goes the other way.
const SENT_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Serialize)]
pub struct Switched {
    pub connections: u32,
    /// Requests that were answered meanwhile; there were no errors.
    pub operations: u64,
    pub throws: Vec<Throw>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Throw {
    /// Messages that took the shortcut after the system call had returned and the counter was read
    /// for the first time; and after it had been read just before the call, which is more than true.
    pub late: u64,
    pub around: u64,
    /// From its return until the last of them was seen; 0 if none was.
    pub last_us: f64,
    /// Of the system call.
    pub call_us: f64,
    /// Messages that went by TCP while it was watched.
    pub by_tcp: u64,
}

/// The agent's pinned maps.
struct Pinned {
    settings: Array<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
}

impl Pinned {
    fn open(pin_dir: &Path) -> Result<Self> {
        let dir = pin_dir.join(format!("v{VERSION}/maps"));
        let map = |name: &str| MapData::from_pin(dir.join(name)).map_err(failed(name));
        let (settings, counters) = (map(maps::SETTINGS)?, map(maps::COUNTERS)?);
        Ok(Self {
            settings: Map::Array(settings)
                .try_into()
                .map_err(failed(maps::SETTINGS))?,
            counters: Map::PerCpuArray(counters)
                .try_into()
                .map_err(failed(maps::COUNTERS))?,
        })
    }

    fn switches(&self) -> Result<u64> {
        let get = self.settings.get(&setting::SHORTCUT, 0);
        get.map_err(failed(maps::SETTINGS))
    }

    fn set(&mut self, switches: u64) -> Result<()> {
        let set = self.settings.set(setting::SHORTCUT, &switches, 0);
        set.map_err(failed(maps::SETTINGS))
    }

    fn sum(&self, index: u32) -> Result<u64> {
        let values = self.counters.get(&index, 0);
        Ok(values.map_err(failed(maps::COUNTERS))?.iter().sum())
    }

    fn taken(&self) -> Result<u64> {
        self.sum(counter::SHORTCUT_TAKEN)
    }

    fn throw(&mut self) -> Result<Throw> {
        let by_tcp = self.sum(counter::SHORTCUT_OFF)?;
        let before = self.taken()?;
        let called = Instant::now();
        self.set(0)?;
        let returned = Instant::now();
        let first = self.taken()?;
        let (mut last, mut at) = (first, returned);
        loop {
            let (taken, now) = (self.taken()?, Instant::now());
            if taken != last {
                (last, at) = (taken, now);
            }
            let sent = self.sum(counter::SHORTCUT_OFF)? > by_tcp;
            if now - returned > if sent { WATCHED } else { SENT_WITHIN } {
                break;
            }
            if now - returned > CLOSELY {
                std::thread::sleep(REST);
            }
        }
        Ok(Throw {
            late: last - first,
            around: last - before,
            last_us: micros(at - returned),
            call_us: micros(returned - called),
            by_tcp: self.sum(counter::SHORTCUT_OFF)? - by_tcp,
        })
    }

    /// Until messages take the shortcut.
    fn wait_taken(&self) -> Result<()> {
        let (begin, before) = (Instant::now(), self.taken()?);
        while self.taken()? == before {
            if begin.elapsed() > SENT_WITHIN {
                return Err(wrong("no message takes the shortcut".into()));
            }
        }
        Ok(())
    }
}

pub fn run(rig: &mut Rig, throws: u32, progress: &mut dyn FnMut(&str)) -> Result<Switched> {
    progress("the kill switch");
    // Nothing may be known of these connections.
    rig.turn(Way::NoMesh)?;
    rig.go(Way::Shortcut)?;
    let mut pinned = Pinned::open(&rig.lab.pin_dir())?;
    let load = load(throws);
    let within = Duration::from_secs_f64(load.seconds);
    rig.on.server.order(&Command::Expect {
        message: MESSAGE,
        reply: true,
    })?;
    rig.on.server.count()?;
    rig.on.client.tell(&Command::Run(load))?;
    let begin = Instant::now();
    let throws = throw_all(&mut pinned, throws)?;
    if begin.elapsed() >= within {
        return Err(wrong("the load ended before the last throw".into()));
    }
    let outcome = match rig.on.client.answer(within * 2)? {
        Answer::Ran(outcome) => outcome,
        other => return Err(rig.on.client.unexpected(&other)),
    };
    let counted = rig.on.server.count()?;
    if let Some(why) = crate::ends::differs(&outcome, &counted).or(outcome.first_error) {
        return Err(wrong(why));
    }
    if outcome.connections != u64::from(CONNECTIONS) {
        return Err(wrong(format!("{} connections", outcome.connections)));
    }
    Ok(Switched {
        connections: CONNECTIONS,
        operations: outcome.operations,
        throws,
    })
}

fn throw_all(pinned: &mut Pinned, throws: u32) -> Result<Vec<Throw>> {
    let switches = pinned.switches()?;
    let mut random = Random::new(now().as_nanos() as u64);
    let mut done = Vec::new();
    for _ in 0..throws {
        pinned.wait_taken()?;
        // Not in step with anybody's time slice.
        std::thread::sleep(BETWEEN + Duration::from_micros(random.below(5_000).into()));
        let thrown = pinned.throw();
        pinned.set(switches)?;
        let thrown = thrown?;
        if thrown.by_tcp == 0 {
            return Err(wrong("no message went by TCP: there was no load".into()));
        }
        done.push(thrown);
    }
    Ok(done)
}

fn load(throws: u32) -> Load {
    // Twice what a quiet machine needs.
    let each = (WATCHED + BETWEEN) * 2 + Duration::from_millis(20);
    Load {
        exchange: Exchange::request(MESSAGE),
        concurrency: CONNECTIONS,
        blocking: false,
        targets: super::SIZE.services(),
        unix: None,
        order: Order::Random,
        seconds: (each * throws + 2 * SENT_WITHIN).as_secs_f64(),
        operations: u64::MAX,
    }
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

fn wrong(why: String) -> BenchError {
    BenchError::Row {
        case: "kill switch".into(),
        why,
    }
}

fn failed<E: std::fmt::Display>(map: &str) -> impl FnOnce(E) -> BenchError {
    move |e| BenchError::Setup(format!("{map}: {e}"))
}

pub fn text(switched: &Switched) -> String {
    let figures = |of: fn(&Throw) -> f64| {
        let all: Vec<f64> = switched.throws.iter().map(of).collect();
        let most = all.iter().copied().fold(0.0, f64::max);
        (stats::median(&all).unwrap_or_default(), most)
    };
    let (late, most) = figures(|t| t.late as f64);
    let (around, widest) = figures(|t| t.around as f64);
    let (last, longest) = figures(|t| t.last_us);
    let (call, slowest) = figures(|t| t.call_us);
    format!(
        "kill switch, {} throws under request and response of {MESSAGE} B on {} connections; {} \
         requests, no errors\n\
         messages past TCP after the call had returned    median {late:.0}, max {most:.0}\n\
         counted from just before the call                median {around:.0}, max {widest:.0}\n\
         from its return to the last of them              median {last:.1} µs, max {longest:.1}\n\
         the call itself                                  median {call:.1} µs, max {slowest:.1}\n",
        switched.throws.len(),
        switched.connections,
        switched.operations,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_throw_is_told_beside_the_median() {
        let throw = |late, last_us| Throw {
            late,
            around: 9,
            last_us,
            call_us: 1.0,
            by_tcp: 5,
        };
        let said = text(&Switched {
            connections: 16,
            operations: 99,
            throws: vec![throw(0, 0.0), throw(0, 0.0), throw(7, 12.5)],
        });
        assert!(said.contains("median 0, max 7"), "{said}");
        assert!(said.contains("median 0.0 µs, max 12.5"), "{said}");
    }
}
