//! Rounds: each case on each way in one loop, in random order, and what comes out of it.

use serde::Serialize;

use crate::{
    BenchError, Result,
    cases::{Case, Goal},
    environment::Environment,
    generator::Random,
    lab::Wire,
    rig::{Cpus, Rig, Sample},
    stats::{self, Ratio},
    way::Way,
};

#[derive(Clone, Debug, Serialize)]
pub struct Options {
    pub rounds: usize,
    pub seconds: f64,
    pub wire: Wire,
    pub cpus: Cpus,
    /// The first is what the others are compared with.
    pub ways: &'static [Way],
    /// Smoke test: too short to mean anything, so noise does not fail it.
    pub quick: bool,
    /// No mesh on either side: what the method itself shows.
    pub null: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub format: &'static str,
    pub environment: Environment,
    pub options: Options,
    pub rows: Vec<Row>,
    /// Why other cases have no row.
    pub failed: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub case: Case,
    /// What is aimed at on the shortcut's way.
    pub goal: Goal,
    /// Medians of the baseline over the rounds that count: microseconds of CPU for one operation of all
    /// parties, and of latency.
    pub base_us: f64,
    pub base_p50_us: f64,
    pub ways: Vec<Compared>,
    pub rounds: Vec<Round>,
}

/// One way of a case, compared with the first.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    pub way: Way,
    /// Medians, as those of the baseline.
    pub us: f64,
    pub p50_us: f64,
    /// Of total CPU, of the CPU of the whole machine, of the median latency, of its 99th percentile.
    pub cpu: Ratio,
    pub system: Ratio,
    pub p50: Ratio,
    pub p99: Ratio,
    /// Of the bytes, what went past TCP; `None` without mesh.
    pub shortcut_share: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// One of each way.
    pub samples: Vec<Sample>,
    /// False: its baseline is too far from the others'.
    pub accepted: bool,
}

/// Runs the cases; `progress` gets a line now and then. A case that cannot be measured is in `failed`.
pub fn run(cases: &[Case], options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report> {
    let environment = Environment::read();
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for group in cases.chunk_by(Case::shares_mesh) {
        let size = group[0].size;
        progress(&format!(
            "{} services, {} endpoints: starting",
            size.services,
            size.total()
        ));
        let mut rig = Rig::for_cases(group, options.wire, options.cpus, !options.null)?;
        let (measured, ended) = rounds(&mut rig, group, options, progress);
        failed.extend(ended.map(|why| why.to_string()));
        for (case, samples) in group.iter().zip(measured) {
            match samples.and_then(|samples| row(case, samples, options)) {
                Ok(row) => rows.push(row),
                Err(why) => failed.push(why.to_string()),
            }
        }
    }
    Ok(Report {
        format: "underpass-bench/2",
        environment,
        options: options.clone(),
        rows,
        failed,
    })
}

/// Of each round the samples of all ways.
type Samples = Vec<Vec<Sample>>;

/// For each case its samples, or why it has none; and what ended all of them early.
fn rounds(
    rig: &mut Rig,
    cases: &[Case],
    options: &Options,
    progress: &mut dyn FnMut(&str),
) -> (Vec<Result<Samples>>, Option<BenchError>) {
    let mut random = Random::new(crate::generator::now().as_nanos() as u64);
    let mut all: Vec<Result<Samples>> = cases.iter().map(|_| Ok(Vec::new())).collect();
    // Round 0 warms every way up and is not kept.
    for round in 0..=options.rounds {
        let seconds = if round == 0 {
            options.seconds.min(0.3)
        } else {
            options.seconds
        };
        let mut order: Vec<usize> = (0..cases.len()).collect();
        random.shuffle(&mut order);
        for index in order {
            let Ok(kept) = &mut all[index] else { continue };
            let case = &cases[index];
            match one_round(rig, case, options.ways, seconds, &mut random) {
                Ok(samples) if round > 0 => {
                    let costs = costs(options.ways, &samples);
                    progress(&format!(
                        "round {round} of {}: {}: {costs}",
                        options.rounds, case.name
                    ));
                    kept.push(samples);
                }
                Ok(_) => progress(&format!("warm-up: {}", case.name)),
                Err(why @ BenchError::Row { .. }) => {
                    progress(&why.to_string());
                    all[index] = Err(why);
                }
                Err(other) => return (all, Some(other)),
            }
        }
    }
    (all, None)
}

fn one_round(
    rig: &mut Rig,
    case: &Case,
    ways: &[Way],
    seconds: f64,
    random: &mut Random,
) -> Result<Vec<Sample>> {
    let mut order: Vec<usize> = (0..ways.len()).collect();
    random.shuffle(&mut order);
    let mut samples = Vec::new();
    for index in order {
        rig.warm_up(case, ways[index])?;
        samples.push((index, rig.measure(case, ways[index], seconds)?));
    }
    samples.sort_by_key(|(index, _)| *index);
    Ok(samples.into_iter().map(|(_, sample)| sample).collect())
}

fn costs(ways: &[Way], samples: &[Sample]) -> String {
    let base = samples[0].cost();
    let all = ways.iter().zip(samples).map(|(way, sample)| {
        let cost = sample.cost();
        format!("{} {cost:.2} µs ({:.3})", way.name(), cost / base)
    });
    all.collect::<Vec<_>>().join(", ")
}

fn row(case: &Case, samples: Samples, options: &Options) -> Result<Row> {
    let baselines: Vec<f64> = samples.iter().map(|ways| ways[0].cost()).collect();
    let accepted = stats::accepted(&baselines);
    let kept: Vec<&[Sample]> = samples
        .iter()
        .zip(&accepted)
        .filter(|(_, kept)| **kept)
        .map(|(ways, _)| ways.as_slice())
        .collect();
    let enough = if options.quick {
        1
    } else {
        options.rounds.div_ceil(2).max(3)
    };
    if kept.len() < enough {
        let why = format!(
            "the baseline swings: {} of {} rounds are within {:.0} % of its median, {enough} are \
             needed; measure on a quieter machine, or with more rounds",
            kept.len(),
            options.rounds,
            stats::TOLERANCE * 100.0
        );
        return Err(BenchError::Row {
            case: case.name.to_owned(),
            why,
        });
    }
    let base_of = |figure: fn(&Sample) -> f64| median(&kept, 0, figure);
    Ok(Row {
        case: *case,
        goal: case.goal(),
        base_us: base_of(Sample::cost),
        base_p50_us: base_of(Sample::p50_us),
        ways: (1..options.ways.len())
            .map(|index| compared(options.ways[index], index, &kept))
            .collect(),
        rounds: samples
            .into_iter()
            .zip(accepted)
            .map(|(samples, accepted)| Round { samples, accepted })
            .collect(),
    })
}

/// `rounds`: those that count, at least one.
fn compared(way: Way, index: usize, rounds: &[&[Sample]]) -> Compared {
    let ratio = |figure: fn(&Sample) -> f64| {
        let (figures, baselines): (Vec<f64>, Vec<f64>) = rounds
            .iter()
            .map(|samples| (figure(&samples[index]), figure(&samples[0])))
            .unzip();
        Ratio::of(&figures, &baselines).expect("at least one round is kept")
    };
    Compared {
        way,
        us: median(rounds, index, Sample::cost),
        p50_us: median(rounds, index, Sample::p50_us),
        cpu: ratio(Sample::cost),
        system: ratio(Sample::system_cost),
        p50: ratio(Sample::p50_us),
        p99: ratio(Sample::p99_us),
        shortcut_share: rounds[0][index]
            .passed
            .map(|_| median(rounds, index, |s| s.passed.unwrap_or_default().share())),
    }
}

fn median(rounds: &[&[Sample]], index: usize, figure: fn(&Sample) -> f64) -> f64 {
    let figures: Vec<f64> = rounds
        .iter()
        .map(|samples| figure(&samples[index]))
        .collect();
    stats::median(&figures).expect("at least one round is kept")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cases, cpu::Cpu, generator::Latency};

    fn sample(us: f64) -> Sample {
        let latency = Latency {
            p50: 1_000,
            p90: None,
            p99: 1_000,
            p999: None,
            max: 1_000,
        };
        let cpu = Cpu {
            client: us * 100.0,
            system: us * 200.0,
            ..Cpu::default()
        };
        Sample {
            operations: 100,
            seconds: 1.0,
            cpu,
            latency,
            passed: None,
        }
    }

    fn row_of(rounds: &[[f64; 4]]) -> Result<Row> {
        let options = Options {
            rounds: rounds.len(),
            seconds: 1.0,
            wire: Wire::Loopback,
            cpus: Cpus::One,
            ways: Way::ALL,
            quick: false,
            null: false,
        };
        let samples = rounds.iter().map(|r| r.map(sample).into()).collect();
        row(
            &Case::find(cases::SHORTCUT, "connect-c1").unwrap(),
            samples,
            &options,
        )
    }

    #[test]
    fn each_way_is_compared_with_the_first_of_its_round() {
        let row = row_of(&[[10.0, 11.0, 5.0, 6.0]; 3]).unwrap();
        let medians: Vec<_> = row.ways.iter().map(|w| (w.way, w.cpu.median)).collect();
        assert_eq!(
            medians,
            [(Way::Mesh, 1.1), (Way::Shortcut, 0.5), (Way::Unix, 0.6)]
        );
        assert_eq!((row.base_us, row.ways[1].us), (10.0, 5.0));
        assert_eq!(row.ways[0].shortcut_share, None);
    }

    #[test]
    fn a_round_with_a_noisy_baseline_does_not_count_but_is_listed() {
        let rounds = [(10.0, 11.0), (10.0, 11.0), (20.0, 80.0), (10.1, 11.0)];
        let row = row_of(&rounds.map(|(off, on)| [off, on, on, on])).unwrap();
        let cpu = row.ways[0].cpu.median;
        assert!((cpu - 1.1).abs() < 1e-9, "{cpu}");
        assert_eq!(row.rounds.iter().filter(|r| !r.accepted).count(), 1);
        assert_eq!(row.rounds.len(), 4);
        assert_eq!(row.ways[0].us, 11.0);
    }

    #[test]
    fn a_row_without_enough_rounds_fails() {
        let error = row_of(&[10.0, 20.0, 40.0].map(|us| [us; 4]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("swings"), "{error}");
    }
}
