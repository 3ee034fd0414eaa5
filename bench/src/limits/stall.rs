//! Readers that accept a connection and never read: what their senders can hand over, and what the
//! kernel holds for it.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{
    Options,
    memory::{Held, ss},
};
use crate::{
    BenchError, Result,
    generator::{
        Random, now,
        protocol::{Answer, Command, Stall},
    },
    lab::Wire,
    report::columns,
    rig::Rig,
    stats,
    way::Way,
};

const WAYS: [Way; 3] = [Way::NoMesh, Way::Mesh, Way::Shortcut];
/// Until the sockets of the round before are gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// What was closed is freed by other tasks of the kernel.
const FREED: Duration = Duration::from_millis(200);
const STALLED_WITHIN: Duration = Duration::from_secs(60);

/// One way and size of writes.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub way: Way,
    pub write: u32,
    pub rounds: Vec<Round>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    /// Bytes that the kernel took of all senders, and of the one of which it took most.
    pub taken: u64,
    pub most: u64,
    /// Messages that took the shortcut.
    pub messages: u64,
    /// While all are stalled, and when all are closed.
    pub held: Held,
    pub left: Held,
}

pub fn run(rig: &mut Rig, options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Vec<Row>> {
    let &Options {
        readers, rounds, ..
    } = options;
    let mut rows: Vec<Row> = Vec::new();
    for &write in &options.writes {
        let rounds = Vec::new();
        rows.extend(WAYS.map(|way| Row {
            way,
            write,
            rounds: rounds.clone(),
        }));
    }
    let mut random = Random::new(now().as_nanos() as u64);
    for number in 1..=rounds {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        random.shuffle(&mut order);
        for index in order {
            let Row { way, write, .. } = rows[index];
            let round = one(rig, way, readers, write)?;
            let name = way.name();
            progress(&format!(
                "round {number} of {rounds}: writes of {write} B, {name}: {} KiB taken, {} KiB held",
                round.taken >> 10,
                round.held.sockets >> 10
            ));
            rows[index].rounds.push(round);
        }
    }
    Ok(rows)
}

fn one(rig: &mut Rig, way: Way, readers: u32, write: u32) -> Result<Round> {
    if way == Way::Shortcut {
        // What the mesh has learnt from the last such round would keep this one out.
        rig.turn(Way::NoMesh)?;
    }
    rig.go(way)?;
    let (side, base) = (way.side(), rig.lab.wire.base());
    let targets = match way {
        Way::Mesh | Way::Shortcut => super::SIZE.services(),
        Way::NoMesh | Way::Unix => super::SIZE.endpoints(base),
    };
    let mut namespaces = vec![rig.lab.server_netns(side)];
    if rig.lab.wire == Wire::Veth {
        namespaces.push(rig.lab.client_netns(side));
    }
    wait_gone(&namespaces)?;
    rig.side(side).server.order(&Command::Ignore(true))?;
    let messages = messages(rig)?;
    let before = Held::read(&namespaces)?;
    let bytes = hand_over(
        rig,
        way,
        Stall {
            target: targets.at(0),
            connections: readers,
            write,
        },
    )?;
    let held = Held::read(&namespaces)?.since(&before);
    let messages = self::messages(rig)? - messages;
    rig.side(side).client.order(&Command::Release)?;
    rig.side(side).server.order(&Command::Ignore(false))?;
    wait_gone(&namespaces)?;
    std::thread::sleep(FREED);
    let left = Held::read(&namespaces)?.since(&before);
    if (messages > 0) != (way == Way::Shortcut) {
        let why = format!("{messages} messages took the shortcut");
        return Err(failed(way, why));
    }
    Ok(Round {
        taken: bytes.iter().sum(),
        most: bytes.iter().copied().max().unwrap_or_default(),
        messages,
        held,
        left,
    })
}

/// Bytes that each sender could hand over; all of them must have been accepted.
fn hand_over(rig: &mut Rig, way: Way, wanted: Stall) -> Result<Vec<u64>> {
    let ends = rig.side(way.side());
    ends.server.count()?;
    let bytes = match ends.client.ask(&Command::Stall(wanted), STALLED_WITHIN)? {
        Answer::Stalled(bytes) => bytes,
        other => return Err(ends.client.unexpected(&other)),
    };
    let accepted = ends.server.count()?.connections;
    if accepted != u64::from(wanted.connections) || bytes.contains(&0) {
        let why = format!("{accepted} of {} connections came", wanted.connections);
        return Err(failed(way, why));
    }
    Ok(bytes)
}

fn messages(rig: &Rig) -> Result<u64> {
    // There is no agent without mesh.
    rig.agent()
        .map_or(Ok(0), |agent| agent.passed().map(|p| p.messages))
}

/// Until no socket holds anything.
fn wait_gone(namespaces: &[String]) -> Result<()> {
    let begin = Instant::now();
    loop {
        let mut open = 0;
        for netns in namespaces {
            open += ss(netns)?
                .lines()
                .filter(|l| l.starts_with("ESTAB"))
                .count();
        }
        if open == 0 {
            return Ok(());
        }
        if begin.elapsed() > GONE_WITHIN {
            let why = format!("{open} sockets are open {GONE_WITHIN:?} after their end");
            return Err(BenchError::Setup(why));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn failed(way: Way, why: String) -> BenchError {
    BenchError::Row {
        case: format!("stalled readers, {}", way.name()),
        why,
    }
}

const HEAD: [&str; 10] = [
    "writes of",
    "way",
    "past TCP",
    "taken",
    "each",
    "most",
    "sockets",
    "TCP pages",
    "slab",
    "left after",
];

pub fn table(rows: &[Row], readers: u32) -> String {
    let mut lines = vec![HEAD.map(str::to_owned)];
    for row in rows {
        let median = |of: fn(&Round) -> f64| {
            let figures: Vec<f64> = row.rounds.iter().map(of).collect();
            stats::median(&figures).unwrap_or_default()
        };
        let kib = |bytes: f64| format!("{:.0}", bytes / 1024.0);
        let taken = median(|r| r.taken as f64);
        lines.push([
            format!("{} B", row.write),
            row.way.name().to_owned(),
            format!("{:.0}", median(|r| r.messages as f64)),
            kib(taken),
            kib(taken / f64::from(readers)),
            kib(median(|r| r.most as f64)),
            kib(median(|r| r.held.sockets as f64)),
            kib(median(|r| r.held.tcp as f64)),
            kib(median(|r| r.held.slab as f64)),
            kib(median(|r| (r.left.tcp + r.left.slab) as f64)),
        ]);
    }
    columns(&lines)
}
