//! Statistics over rounds: medians, a bootstrap interval, and the rule by which a round is rejected.

use serde::Serialize;

use crate::generator::Random;

/// A round counts only if its baseline is within this share of the baselines' median.
pub const TOLERANCE: f64 = 0.15;
const RESAMPLES: usize = 10_000;
/// The interval is part of a report that others recompute, so its seed is fixed.
const SEED: u64 = 0x5eed_0f1a_57c0_ffee;

/// Ratio of a figure to its baseline, over the rounds that count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Median of the rounds' ratios.
    pub median: f64,
    /// 95 % bootstrap interval of that median.
    pub low: f64,
    pub high: f64,
    /// Smallest figure over smallest baseline: what contention distorts least.
    pub of_minima: f64,
}

impl Ratio {
    /// `None` without rounds.
    pub fn of(figures: &[f64], baselines: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> = figures.iter().zip(baselines).map(|(f, b)| f / b).collect();
        let (low, high) = interval(&ratios)?;
        Some(Self {
            median: median(&ratios)?,
            low,
            high,
            of_minima: minimum(figures)? / minimum(baselines)?,
        })
    }
}

pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

pub fn minimum(values: &[f64]) -> Option<f64> {
    values.iter().copied().min_by(f64::total_cmp)
}

/// True for each baseline that is near enough to their median.
pub fn accepted(baselines: &[f64]) -> Vec<bool> {
    let middle = median(baselines).unwrap_or_default();
    baselines
        .iter()
        .map(|b| (b / middle - 1.0).abs() <= TOLERANCE)
        .collect()
}

/// 95 % percentile bootstrap of the median.
fn interval(values: &[f64]) -> Option<(f64, f64)> {
    let mut random = Random::new(SEED);
    let mut medians = Vec::with_capacity(RESAMPLES);
    let mut sample = vec![0.0; values.len()];
    for _ in 0..RESAMPLES {
        for place in &mut sample {
            *place = values[random.below(values.len() as u32) as usize];
        }
        medians.push(median(&sample)?);
    }
    medians.sort_by(f64::total_cmp);
    Some((quantile(&medians, 0.025)?, quantile(&medians, 0.975)?))
}

/// Of sorted values, interpolated.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = q * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(below + (above - below) * at.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(quantile(&[0.0, 10.0], 0.25), Some(2.5));
    }

    #[test]
    fn a_noisy_baseline_rejects_its_round() {
        assert_eq!(
            accepted(&[10.0, 11.0, 10.5, 12.5, 8.0]),
            [true, true, true, false, false]
        );
    }

    #[test]
    fn the_interval_holds_the_median_and_narrows_with_agreement() {
        let baselines = [10.0; 9];
        let figures = [10.4, 10.5, 10.5, 10.6, 10.5, 10.4, 10.6, 10.5, 12.0];
        let ratio = Ratio::of(&figures, &baselines).unwrap();
        assert!((ratio.median - 1.05).abs() < 1e-9);
        assert!(ratio.low <= ratio.median && ratio.median <= ratio.high);
        assert!(ratio.high - ratio.low < 0.03, "{ratio:?}");
        assert!((ratio.of_minima - 1.04).abs() < 1e-9);
        let same = Ratio::of(&baselines, &baselines).unwrap();
        assert_eq!((same.low, same.high), (1.0, 1.0));
        assert!(Ratio::of(&[], &[]).is_none());
    }
}
