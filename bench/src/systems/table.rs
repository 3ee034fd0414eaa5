//! The comparison for people at a terminal.

use std::fmt::Write as _;

use super::{
    System,
    rounds::{Measured, Report, baseline},
    rows::{Figures, no_difference},
};
use crate::{report::columns, stats::Ratio};

const HEAD: [&str; 11] = [
    "system",
    "CPU µs",
    "proxy µs",
    "CPU ratio",
    "95 % CI",
    "p50 µs",
    "p50 ratio",
    "p90 µs",
    "p99 µs",
    "requests/s",
    "memory",
];

/// What cannot be told from 1.
pub const SAME: &str = "no difference";

pub fn text(report: &Report) -> String {
    let e = &report.environment;
    let mut text = format!(
        "{} on {} × {}, {} build of {}; load {}\n{}\n",
        e.kernel, e.cpus, e.cpu, e.build, e.commit, e.load, report.text.cpu
    );
    for measured in &report.cases {
        text += &case(measured, &report.options.systems);
    }
    for measured in &report.cases {
        let rounds = measured.rounds.iter().enumerate();
        for (index, round) in rounds.filter(|(_, round)| !round.accepted) {
            let name = &measured.name;
            let baseline = baseline(&round.samples);
            let _ = writeln!(
                text,
                "rejected: {name} round {}: the baseline, {:.2} µs, is not within 15 % of its median",
                index + 1,
                baseline.map_or(f64::NAN, |sample| sample.cost()),
            );
        }
    }
    if report.options.quick {
        text += "--quick: a smoke test, its figures mean nothing\n";
    }
    text
}

fn case(measured: &Measured, systems: &[System]) -> String {
    let mut text = format!("\n{}: {}\n", measured.name, measured.about);
    let mut lines = vec![HEAD.map(str::to_owned)];
    let mut notes = String::new();
    for system in systems {
        if let Some(figures) = measured.figures(*system) {
            lines.push(cells(*system, &figures));
            notes += &note(*system, &figures);
        } else if let Some(refusal) = measured.refused.get(system) {
            let _ = writeln!(notes, "{}: {}", system.name(), refusal.line());
        }
    }
    if lines.len() > 1 {
        text += &columns(&lines);
    }
    text + &notes
}

fn cells(system: System, f: &Figures) -> [String; 11] {
    let interval = |ratio: Option<Ratio>| match ratio {
        Some(_) if system.is_baseline() => "-".to_owned(),
        Some(ratio) => format!("{:.3}-{:.3}", ratio.low, ratio.high),
        None => "-".to_owned(),
    };
    [
        system.name().to_owned(),
        format!("{:.2}", f.cpu_us),
        format!("{:.2}", f.proxy_us),
        told(system, f, f.cpu),
        interval(f.cpu),
        format!("{:.1}", f.p50_us),
        told(system, f, f.p50),
        format!("{:.1}", f.p90_us),
        format!("{:.1}", f.p99_us),
        format!("{:.0}", f.rps),
        mib(f.memory),
    ]
}

/// How much of it went past TCP; empty where nothing can.
pub fn note(system: System, figures: &Figures) -> String {
    if !system.mesh().is_some_and(|mesh| mesh.shortcut) {
        return String::new();
    }
    let (name, passed) = (system.name(), figures.passed);
    format!("{name}: {passed:.2} messages of a request and its response took the shortcut\n")
}

/// A ratio as a person reads it.
pub fn told(system: System, figures: &Figures, ratio: Option<Ratio>) -> String {
    match ratio {
        Some(_) if system.is_baseline() => "1".to_owned(),
        Some(ratio) if no_difference(&ratio) => SAME.to_owned(),
        Some(ratio) => format!("{:.3}", ratio.median),
        None if figures.saturated => "saturated".to_owned(),
        None => "not compared".to_owned(),
    }
}

/// Nothing but client and server has no memory of its own.
pub fn mib(bytes: u64) -> String {
    match bytes {
        0 => "-".to_owned(),
        bytes => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}
