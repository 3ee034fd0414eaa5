//! Rounds: every system once in each, in random order, so that a noisy machine hits them alike.

use std::{collections::BTreeMap, time::Instant};

use serde::Serialize;
use underpass_abi::reason::code;

use super::{
    Peer, Refusal, System,
    cases::Case,
    field::{Field, Sample, refusal},
    proxy,
};
use crate::{
    BenchError, Result,
    environment::Environment,
    generator::{Random, now},
    lab::Wire,
    rig::Cpus,
    stats,
};

#[derive(Clone, Debug, Serialize)]
pub struct Options {
    /// The first is `none`.
    pub systems: Vec<System>,
    pub rounds: usize,
    /// Of each run.
    pub seconds: f64,
    pub wire: Wire,
    pub cpus: Cpus,
    /// Smoke test: too short to mean anything, so noise does not fail it.
    pub quick: bool,
}

pub struct Report {
    pub text: Text,
    pub environment: Environment,
    /// Of the peers.
    pub versions: BTreeMap<&'static str, String>,
    pub options: Options,
    pub cases: Vec<Measured>,
}

/// What a person reads about all of it.
pub struct Text {
    pub title: &'static str,
    /// What CPU means, and what ratios are taken to.
    pub cpu: &'static str,
    /// How it was measured, as HTML.
    pub method: &'static str,
    /// Where.
    pub layout: String,
}

/// One case.
pub struct Measured {
    pub name: String,
    pub family: &'static str,
    pub about: String,
    pub rounds: Vec<Round>,
    /// The systems without figures, and why.
    pub refused: BTreeMap<System, Refusal>,
    pub command_lines: BTreeMap<System, Vec<String>>,
    /// Of the proxies.
    pub configs: BTreeMap<System, Vec<String>>,
}

#[derive(Clone, Debug)]
pub struct Round {
    pub samples: BTreeMap<System, Sample>,
    /// False: its baseline is too far from the others'.
    pub accepted: bool,
}

type Progress<'a> = &'a mut dyn FnMut(&str);

pub fn run(cases: &[Case], options: &Options, progress: Progress) -> Result<Report> {
    let environment = Environment::read();
    let peers = [Peer::Envoy, Peer::Haproxy, Peer::Nginx];
    let versions = peers.map(|peer| (peer.name(), proxy::version(peer)));
    let begin = Instant::now();
    let mut measured: Vec<Measured> = Vec::new();
    let mut field: Option<Field> = None;
    for (number, case) in cases.iter().enumerate() {
        let mut here = match field.take().filter(|f| f.family == case.family) {
            Some(here) => here,
            None => {
                progress(&format!("{}: starting", case.family.name()));
                Field::start(case.family, &options.systems, options.wire, options.cpus)?
            }
        };
        let left = left(begin, number, cases.len());
        let of = format!("case {} of {}{left}", number + 1, cases.len());
        let mut tell = |line: &str| progress(&format!("{of}: {line}"));
        let (case, broken) = one_case(&mut here, case, options, &mut tell);
        measured.push(case);
        // What one party said late must not answer the next question.
        field = (!broken).then_some(here);
    }
    Ok(Report {
        text: super::text_of(options),
        environment,
        versions: versions.into_iter().collect(),
        options: options.clone(),
        cases: measured,
    })
}

/// How long it may still take, once a case has shown it.
fn left(begin: Instant, done: usize, all: usize) -> String {
    if done == 0 {
        return String::new();
    }
    let seconds = begin.elapsed().as_secs_f64() * (all - done) as f64 / done as f64;
    format!(", about {:.0} min left", (seconds / 60.0).ceil())
}

/// True beside it if the field is of no use any more.
fn one_case(
    field: &mut Field,
    case: &Case,
    options: &Options,
    progress: Progress,
) -> (Measured, bool) {
    let mut random = Random::new(now().as_nanos() as u64);
    let mut refused = field.refused.clone();
    let (mut rounds, mut broken) = (Vec::new(), false);
    // Why no system has figures.
    let mut ended: Option<String> = None;
    // Round 0 warms every system up and is not kept.
    for round in usize::from(options.quick)..=options.rounds {
        let seconds = if round == 0 {
            options.seconds.min(0.3)
        } else {
            options.seconds
        };
        let mut order = options.systems.clone();
        random.shuffle(&mut order);
        let mut samples = BTreeMap::new();
        for system in order {
            if ended.is_some() || refused.contains_key(&system) {
                continue;
            }
            match field.measure(case, system, seconds) {
                Ok(sample) => drop(samples.insert(system, sample)),
                Err(why) => {
                    progress(&why.to_string());
                    broken = !matches!(why, BenchError::Row { .. });
                    if broken || system == System::None {
                        ended = Some(why.to_string());
                    }
                    refused.insert(system, refusal(&why));
                }
            }
        }
        if ended.is_some() {
            break;
        }
        if round > 0 {
            let costs = costs(&samples);
            let (name, all) = (case.name(), options.rounds);
            progress(&format!("{name}: round {round} of {all}: {costs}"));
            rounds.push(samples);
        }
    }
    let rounds = judged(rounds);
    if let Some(why) = ended.or_else(|| swings(&rounds, options)) {
        for system in &options.systems {
            let same = || Refusal::new(code::NOT_MEASURED, why.clone());
            refused.entry(*system).or_insert_with(same);
        }
    }
    let measured = Measured {
        name: case.name(),
        family: case.family.name(),
        about: case.describe(),
        rounds,
        refused,
        command_lines: of_each(options, |system| field.command_lines(system)),
        configs: of_each(options, |system| field.configs(system)),
    };
    (measured, broken)
}

fn of_each(options: &Options, of: impl Fn(System) -> Vec<String>) -> BTreeMap<System, Vec<String>> {
    let all = options.systems.iter();
    all.map(|system| (*system, of(*system))).collect()
}

/// Of all systems of a round.
pub fn costs(samples: &BTreeMap<System, Sample>) -> String {
    let base = baseline(samples).map_or(f64::NAN, Sample::cost);
    let all = samples.iter().map(|(system, sample)| {
        let cost = sample.cost();
        format!("{} {cost:.1} µs ({:.2})", system.name(), cost / base)
    });
    all.collect::<Vec<_>>().join(", ")
}

pub fn baseline(samples: &BTreeMap<System, Sample>) -> Option<&Sample> {
    let mut all = samples.iter();
    all.find_map(|(system, sample)| system.is_baseline().then_some(sample))
}

pub fn judged(rounds: Vec<BTreeMap<System, Sample>>) -> Vec<Round> {
    let cost = |samples| baseline(samples).map_or(f64::NAN, Sample::cost);
    let accepted = stats::accepted(&rounds.iter().map(cost).collect::<Vec<_>>());
    let rounds = rounds.into_iter().zip(accepted);
    rounds
        .map(|(samples, accepted)| Round { samples, accepted })
        .collect()
}

/// Says so if too few rounds count.
pub fn swings(rounds: &[Round], options: &Options) -> Option<String> {
    let kept = rounds.iter().filter(|round| round.accepted).count();
    let enough = if options.quick {
        1
    } else {
        options.rounds.div_ceil(2).max(3)
    };
    (kept < enough).then(|| {
        format!(
            "the baseline swings: {kept} of {} rounds are within {:.0} % of its median, {enough} are \
             needed",
            options.rounds,
            stats::TOLERANCE * 100.0
        )
    })
}
