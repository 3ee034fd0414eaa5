//! Rounds: each case with mesh off and on in one loop, in random order, and what comes out of it.

use serde::Serialize;

use crate::{
    BenchError, Result,
    cases::Case,
    environment::Environment,
    generator::Random,
    lab::{Lab, Side, Wire},
    manifests,
    rig::{Cpus, Rig, Sample},
    stats::{self, Ratio},
};

#[derive(Clone, Debug, Serialize)]
pub struct Options {
    pub rounds: usize,
    pub seconds: f64,
    pub wire: Wire,
    pub cpus: Cpus,
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
}

#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub case: Case,
    /// Medians over the rounds that count: microseconds of CPU for one operation, all parties.
    pub off_us: f64,
    pub on_us: f64,
    /// Of total CPU, of the CPU of the whole machine, of the median latency, of its 99th percentile.
    pub cpu: Ratio,
    pub system: Ratio,
    pub p50: Ratio,
    pub p99: Ratio,
    pub rounds: Vec<Round>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Round {
    pub off: Sample,
    pub on: Sample,
    /// False: its baseline is too far from the others'.
    pub accepted: bool,
}

/// Runs the cases; `progress` gets a line now and then.
pub fn run(cases: &[Case], options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report> {
    let environment = Environment::read();
    let mut rows = Vec::new();
    for group in cases.chunk_by(|a, b| a.size == b.size) {
        let size = group[0].size;
        progress(&format!(
            "{} services, {} endpoints: starting",
            size.services,
            size.total()
        ));
        let lab = Lab::new(options.wire)?;
        manifests::write(&lab, size)?;
        let mut rig = Rig::start(lab, options.cpus, !options.null)?;
        rig.prove(size)?;
        let samples = rounds(&mut rig, group, options, progress)?;
        for (case, samples) in group.iter().zip(samples) {
            rows.push(row(case, samples, options.quick)?);
        }
    }
    Ok(Report {
        format: "underpass-bench/1",
        environment,
        options: options.clone(),
        rows,
    })
}

type Pairs = Vec<(Sample, Sample)>;

/// (off, on) of each round, for each case.
fn rounds(
    rig: &mut Rig,
    cases: &[Case],
    options: &Options,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Pairs>> {
    let mut random = Random::new(crate::generator::now().as_nanos() as u64);
    let mut pairs: Vec<Pairs> = cases.iter().map(|_| Vec::new()).collect();
    // Round 0 warms both sides up and is not kept.
    for round in 0..=options.rounds {
        let seconds = if round == 0 {
            options.seconds.min(0.3)
        } else {
            options.seconds
        };
        let mut order: Vec<usize> = (0..cases.len()).collect();
        random.shuffle(&mut order);
        for index in order {
            let mut sides = Side::BOTH;
            random.shuffle(&mut sides);
            let first = rig.measure(&cases[index], sides[0], seconds)?;
            let second = rig.measure(&cases[index], sides[1], seconds)?;
            let pair = if sides[0] == Side::Off {
                (first, second)
            } else {
                (second, first)
            };
            if round > 0 {
                let (off, on) = (pair.0.cost(), pair.1.cost());
                let name = cases[index].name;
                progress(&format!(
                    "round {round} of {}: {name}: off {off:.2} on {on:.2} µs, {:.3}",
                    options.rounds,
                    on / off
                ));
                pairs[index].push(pair);
            }
        }
    }
    Ok(pairs)
}

fn row(case: &Case, pairs: Pairs, quick: bool) -> Result<Row> {
    let baselines: Vec<f64> = pairs.iter().map(|(off, _)| off.cost()).collect();
    let accepted = stats::accepted(&baselines);
    let kept: Vec<&(Sample, Sample)> = pairs
        .iter()
        .zip(&accepted)
        .filter(|(_, kept)| **kept)
        .map(|(pair, _)| pair)
        .collect();
    let enough = if quick {
        1
    } else {
        pairs.len().div_ceil(2).max(3)
    };
    if kept.len() < enough {
        let why = format!(
            "the baseline swings: {} of {} rounds are within {:.0} % of its median, {enough} are \
             needed; measure on a quieter machine, or with more rounds",
            kept.len(),
            pairs.len(),
            stats::TOLERANCE * 100.0
        );
        return Err(BenchError::Row {
            case: case.name.to_owned(),
            why,
        });
    }
    let column = |figure: fn(&Sample) -> f64| -> (Vec<f64>, Vec<f64>) {
        kept.iter()
            .map(|(off, on)| (figure(on), figure(off)))
            .unzip()
    };
    let ratio = |figure: fn(&Sample) -> f64| {
        let (on, off) = column(figure);
        Ratio::of(&on, &off).expect("at least one round is kept")
    };
    let (on, off) = column(Sample::cost);
    Ok(Row {
        case: *case,
        off_us: stats::median(&off).expect("at least one round is kept"),
        on_us: stats::median(&on).expect("at least one round is kept"),
        cpu: ratio(Sample::cost),
        system: ratio(Sample::system_cost),
        p50: ratio(|s| s.latency.p50 as f64),
        p99: ratio(|s| s.latency.p99 as f64),
        rounds: pairs
            .into_iter()
            .zip(accepted)
            .map(|((off, on), accepted)| Round { off, on, accepted })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cpu::Cpu, generator::Latency};

    fn sample(us: f64) -> Sample {
        let latency = Latency {
            p50: 1_000,
            p90: 1_000,
            p99: 1_000,
            p999: 1_000,
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
        }
    }

    #[test]
    fn a_round_with_a_noisy_baseline_does_not_count_but_is_listed() {
        let pairs = [(10.0, 11.0), (10.0, 11.0), (20.0, 80.0), (10.1, 11.0)];
        let pairs = pairs
            .iter()
            .map(|(off, on)| (sample(*off), sample(*on)))
            .collect();
        let row = row(&Case::find("connect-10-c1").unwrap(), pairs, false).unwrap();
        assert!((row.cpu.median - 1.1).abs() < 1e-9);
        assert_eq!(row.rounds.iter().filter(|r| !r.accepted).count(), 1);
        assert_eq!(row.rounds.len(), 4);
        assert_eq!(row.on_us, 11.0);
    }

    #[test]
    fn a_row_without_enough_rounds_fails() {
        let pairs: Pairs = [10.0, 20.0, 40.0].map(|us| (sample(us), sample(us))).into();
        let case = Case::find("connect-10-c1").unwrap();
        let error = row(&case, pairs, false).unwrap_err().to_string();
        assert!(error.contains("swings"), "{error}");
    }
}
