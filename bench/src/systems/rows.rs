//! What comes out of the rounds: the figures of each case and system, and the JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Refusal, System,
    field::Sample,
    rounds::{Measured, Report, Round, baseline},
};
use crate::{
    BenchError, Result,
    generator::Latency,
    stats::{self, Ratio},
};

/// Medians over the rounds that count.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Microseconds of CPU for one request: of all parties, of the proxies among them, of each.
    pub cpu_us: f64,
    pub proxy_us: f64,
    pub client_us: f64,
    pub server_us: f64,
    /// Microseconds.
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    /// Requests in a second.
    pub rps: f64,
    /// Bytes, the most of the rounds.
    pub memory: u64,
    /// Messages that took the shortcut, for one request.
    pub passed: f64,
    /// To `none` of the same round; `None` if one of the two did not reach the rate of an open loop.
    pub cpu: Option<Ratio>,
    pub p50: Option<Ratio>,
    pub saturated: bool,
}

/// A row of the JSON. A system without figures has its code in place of command lines.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub case: String,
    pub system: System,
    pub cpu_us_per_request: Option<f64>,
    pub proxy_cpu_us_per_request: Option<f64>,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub rps: Option<f64>,
    pub memory_bytes: Option<u64>,
    pub ratio_cpu: Option<f64>,
    pub ratio_p50: Option<f64>,
    pub ci95: Option<Intervals>,
    pub command_lines: Vec<String>,
}

/// 95 % intervals of the two ratios, low and high.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Intervals {
    pub ratio_cpu: [f64; 2],
    pub ratio_p50: [f64; 2],
}

/// True if the ratio cannot be told from 1.
pub fn no_difference(ratio: &Ratio) -> bool {
    (ratio.low..=ratio.high).contains(&1.0)
}

impl Measured {
    fn kept(&self) -> impl Iterator<Item = &Round> {
        self.rounds.iter().filter(|round| round.accepted)
    }

    /// `None` if the system has no figures.
    pub fn figures(&self, system: System) -> Option<Figures> {
        if self.refused.contains_key(&system) {
            return None;
        }
        let pairs: Vec<(&Sample, &Sample)> = self
            .kept()
            .filter_map(|r| Some((r.samples.get(&system)?, baseline(&r.samples)?)))
            .collect();
        let all = |figure: &dyn Fn(&Sample) -> f64| -> (Vec<f64>, Vec<f64>) {
            pairs
                .iter()
                .map(|(own, base)| (figure(own), figure(base)))
                .unzip()
        };
        let median = |figure: &dyn Fn(&Sample) -> f64| stats::median(&all(figure).0);
        // One round more or less is noise.
        let most = |side: fn(&(&Sample, &Sample)) -> bool| {
            2 * pairs.iter().filter(|pair| side(pair)).count() > pairs.len()
        };
        let saturated = most(|(own, _)| own.saturated);
        let compared = !saturated && !most(|(_, base)| base.saturated);
        let ratio = |figure: &dyn Fn(&Sample) -> f64| {
            let (figures, baselines) = all(figure);
            Ratio::of(&figures, &baselines).filter(|_| compared)
        };
        let each = |s: &Sample, us: f64| us / s.operations as f64;
        Some(Figures {
            cpu_us: median(&Sample::cost)?,
            proxy_us: median(&Sample::proxy_cost)?,
            client_us: median(&|s| each(s, s.cpu.client))?,
            server_us: median(&|s| each(s, s.cpu.server))?,
            p50_us: median(&Sample::p50_us)?,
            p90_us: median(&Sample::p90_us)?,
            p99_us: median(&Sample::p99_us)?,
            rps: median(&Sample::rps)?,
            memory: pairs.iter().map(|(own, _)| own.memory).max()?,
            passed: median(&|s| each(s, s.passed as f64))?,
            cpu: ratio(&Sample::cost),
            p50: ratio(&Sample::p50_us),
            saturated,
        })
    }

    /// Latencies of all rounds that count, in nanoseconds, each with the share of requests that took no
    /// longer.
    pub fn cumulative(&self, system: System) -> Vec<(u64, f64)> {
        let mut all = Latency::histogram();
        let samples = self.kept().filter_map(|round| round.samples.get(&system));
        for (value, count) in samples.flat_map(|sample| &sample.distribution) {
            all.saturating_record_n(*value, *count);
        }
        let whole = all.len().max(1) as f64;
        let mut sum = 0;
        let points = all.iter_recorded().map(|point| {
            sum += point.count_at_value();
            (point.value_iterated_to(), sum as f64 / whole)
        });
        points.collect()
    }

    fn row(&self, system: System) -> Row {
        let figures = self.figures(system);
        let of = |figure: fn(&Figures) -> f64| figures.as_ref().map(|f| round(figure(f), 3));
        let ratio = |ratio: Option<Ratio>| ratio.map(|r| round(r.median, 4));
        let (cpu, p50) = figures.as_ref().map_or((None, None), |f| (f.cpu, f.p50));
        let interval = |r: Ratio| [round(r.low, 4), round(r.high, 4)];
        Row {
            case: self.name.clone(),
            system,
            cpu_us_per_request: of(|f| f.cpu_us),
            proxy_cpu_us_per_request: of(|f| f.proxy_us),
            p50_us: of(|f| f.p50_us),
            p99_us: of(|f| f.p99_us),
            rps: of(|f| f.rps),
            memory_bytes: figures.as_ref().map(|f| f.memory),
            ratio_cpu: ratio(cpu),
            ratio_p50: ratio(p50),
            ci95: cpu.zip(p50).map(|(cpu, p50)| Intervals {
                ratio_cpu: interval(cpu),
                ratio_p50: interval(p50),
            }),
            command_lines: match self.refused.get(&system) {
                Some(refusal) => vec![refusal.line()],
                None => self.command_lines.get(&system).cloned().unwrap_or_default(),
            },
        }
    }
}

/// What a JSON reader needs beside the rows.
#[derive(Serialize)]
struct Missing<'a> {
    case: String,
    system: System,
    #[serde(flatten)]
    refusal: &'a Refusal,
}

#[derive(Serialize)]
struct Rejected<'a> {
    case: String,
    /// From 1.
    round: usize,
    samples: BTreeMap<&'static str, &'a Sample>,
}

impl Report {
    pub fn rows(&self) -> Vec<Row> {
        let row = |case| {
            self.options
                .systems
                .iter()
                .map(move |s| Measured::row(case, *s))
        };
        self.cases.iter().flat_map(row).collect()
    }

    /// Rows that this run should have measured and did not.
    pub fn failed(&self) -> usize {
        let refused = self.cases.iter().flat_map(|case| case.refused.values());
        refused.filter(|refusal| !refusal.is_expected()).count()
    }

    /// `{"environment":{…},"rows":[…]}`; how it was measured, and what was rejected, is in the environment.
    pub fn json(&self) -> Result<Value> {
        let failed = |e: serde_json::Error| BenchError::Setup(e.to_string());
        let mut environment = serde_json::to_value(&self.environment).map_err(failed)?;
        environment["peers"] = json!(self.versions);
        environment["options"] = json!(self.options);
        environment["not_measured"] = json!(self.missing());
        environment["saturated"] = json!(self.saturated());
        environment["rejected_rounds"] = json!(self.rejected());
        environment["configurations"] = json!(self.configurations());
        Ok(json!({ "environment": environment, "rows": self.rows() }))
    }

    fn missing(&self) -> Vec<Missing<'_>> {
        let mut all = Vec::new();
        for measured in &self.cases {
            for (system, refusal) in &measured.refused {
                all.push(Missing {
                    case: measured.name.clone(),
                    system: *system,
                    refusal,
                });
            }
        }
        all
    }

    /// Case and system.
    fn saturated(&self) -> Vec<[String; 2]> {
        let mut all = Vec::new();
        for measured in &self.cases {
            for system in &self.options.systems {
                if measured.figures(*system).is_some_and(|f| f.saturated) {
                    all.push([measured.name.clone(), system.name().to_owned()]);
                }
            }
        }
        all
    }

    fn rejected(&self) -> Vec<Rejected<'_>> {
        let mut all = Vec::new();
        for measured in &self.cases {
            let rounds = measured.rounds.iter().enumerate();
            for (index, round) in rounds.filter(|(_, round)| !round.accepted) {
                let samples = round.samples.iter();
                all.push(Rejected {
                    case: measured.name.clone(),
                    round: index + 1,
                    samples: samples.map(|(system, s)| (system.name(), s)).collect(),
                });
            }
        }
        all
    }

    /// By family, system and hop.
    fn configurations(&self) -> BTreeMap<String, &str> {
        let mut all = BTreeMap::new();
        for measured in &self.cases {
            for (system, configs) in &measured.configs {
                for (hop, config) in (1..).zip(configs) {
                    let family = measured.family;
                    let name = format!("{family}, {}, hop {hop}", system.name());
                    all.insert(name, config.as_str());
                }
            }
        }
        all
    }
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use underpass_abi::reason::code;

    use super::*;
    use crate::{cpu::Cpu, systems::cases::CASES};

    fn sample(us: f64, saturated: bool) -> Sample {
        Sample {
            operations: 100,
            seconds: 0.5,
            cpu: Cpu {
                client: us * 60.0,
                proxy: us * 40.0,
                ..Cpu::default()
            },
            latency: Latency {
                p50: (us * 1e3) as u64,
                p90: None,
                p99: 9_000_000,
                p999: None,
                max: 9_000_000,
            },
            memory: 7,
            passed: 200,
            saturated,
            distribution: vec![(1_000, 3), (2_000, 1)],
        }
    }

    /// Of each round: the baseline, Envoy, and whether that was saturated.
    fn measured(rounds: &[(f64, f64, bool)]) -> Measured {
        let round = |(base, envoy, saturated): &(f64, f64, bool)| Round {
            samples: [
                (System::None, sample(*base, false)),
                (System::EnvoyHop, sample(*envoy, *saturated)),
            ]
            .into(),
            accepted: *base < 15.0,
        };
        let refusal = Refusal::new(code::NO_PROGRAM, "nowhere");
        Measured {
            name: CASES[0].name(),
            family: "http1",
            about: CASES[0].describe(),
            rounds: rounds.iter().map(round).collect(),
            refused: [(System::NginxHop, refusal)].into(),
            command_lines: [(System::None, vec!["a".to_owned()])].into(),
            configs: BTreeMap::new(),
        }
    }

    #[test]
    fn each_system_is_compared_with_the_baseline_of_its_round() {
        let rounds = [
            (10.0, 20.0, false),
            (20.0, 99.0, false),
            (11.0, 22.0, false),
        ];
        let measured = measured(&rounds);
        let envoy = measured.figures(System::EnvoyHop).unwrap();
        assert_eq!(
            envoy.cpu.unwrap().median,
            2.0,
            "the rejected round does not count"
        );
        assert_eq!((envoy.cpu_us, envoy.rps, envoy.passed), (21.0, 200.0, 2.0));
        assert!((envoy.proxy_us - 8.4).abs() < 1e-9 && !no_difference(&envoy.cpu.unwrap()));
        assert!(no_difference(
            &measured.figures(System::None).unwrap().cpu.unwrap()
        ));
        assert_eq!(
            measured.cumulative(System::EnvoyHop),
            [(1_000, 0.75), (2_000, 1.0)]
        );
    }

    #[test]
    fn a_saturated_system_keeps_its_figures_and_has_no_ratio() {
        let measured = measured(&[(10.0, 20.0, true); 3]);
        let row = measured.row(System::EnvoyHop);
        assert_eq!((row.p50_us, row.ratio_cpu), (Some(20.0), None));
        assert!(row.ci95.is_none() && row.ratio_p50.is_none());
        assert_eq!(measured.row(System::None).ratio_cpu, Some(1.0));
    }

    #[test]
    fn a_system_without_figures_says_why() {
        let row = measured(&[(10.0, 20.0, false)]).row(System::NginxHop);
        assert_eq!(row.cpu_us_per_request, None);
        assert_eq!(row.command_lines, ["UP0510 NO_PROGRAM: nowhere"]);
    }
}
