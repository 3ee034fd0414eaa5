//! A sparse log-linear histogram over the last hour: eight buckets per doubling (within 6 %), in six
//! slices of ten minutes.

use std::collections::BTreeMap;

const SLICES: usize = 6;
/// Nanoseconds of one slice.
const SLICE_NS: u64 = 600_000_000_000;

#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Slice number (time / SLICE_NS) and its counts.
    slices: [(u64, BTreeMap<u16, u32>); SLICES],
}

impl Histogram {
    pub fn record(&mut self, now_ns: u64, value: u32) {
        let number = now_ns / SLICE_NS;
        let (held, counts) = &mut self.slices[number as usize % SLICES];
        if *held != number {
            *held = number;
            counts.clear();
        }
        let count = counts.entry(bucket(value)).or_default();
        *count = count.saturating_add(1);
    }

    /// What was recorded within the last hour, as (bucket, count).
    pub fn recent(&self, now_ns: u64) -> BTreeMap<u16, u64> {
        let oldest = (now_ns / SLICE_NS).saturating_sub(SLICES as u64 - 1);
        let mut sum = BTreeMap::new();
        for (_, counts) in self.slices.iter().filter(|(number, _)| *number >= oldest) {
            for (bucket, count) in counts {
                *sum.entry(*bucket).or_default() += u64::from(*count);
            }
        }
        sum
    }
}

/// Adds one value to counts of [`Histogram::recent`].
pub fn add(counts: &mut BTreeMap<u16, u64>, value: u32) {
    *counts.entry(bucket(value)).or_default() += 1;
}

/// The value below which `percent` of the counts lie; `None` without counts.
pub fn percentile(counts: &BTreeMap<u16, u64>, percent: u64) -> Option<u32> {
    let total: u64 = counts.values().sum();
    let rank = (total * percent).div_ceil(100).max(1);
    let mut seen = 0;
    for (bucket, count) in counts {
        seen += count;
        if seen >= rank {
            return Some(middle(*bucket));
        }
    }
    None
}

fn bucket(value: u32) -> u16 {
    if value < 8 {
        return value as u16;
    }
    let exponent = 31 - value.leading_zeros();
    let eighth = value >> (exponent - 3) & 7;
    (exponent as u16 - 2) * 8 + eighth as u16
}

fn middle(bucket: u16) -> u32 {
    if bucket < 8 {
        return u32::from(bucket);
    }
    let exponent = u32::from(bucket / 8 + 2);
    let low = (8 + u64::from(bucket % 8)) << (exponent - 3);
    (low + (1 << (exponent - 3)) / 2).min(u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_close() {
        let mut histogram = Histogram::default();
        for value in 1..=1000 {
            histogram.record(0, value * 10);
        }
        let counts = histogram.recent(0);
        for (percent, exact) in [(50, 5_000_f64), (99, 9_900.)] {
            let got = f64::from(percentile(&counts, percent).unwrap());
            assert!((got / exact - 1.).abs() < 0.07, "{percent}: {got}");
        }
        assert_eq!(percentile(&BTreeMap::new(), 50), None);
    }

    #[test]
    fn every_value_is_near_the_middle_of_its_bucket() {
        for value in (0..32).map(|s| 1_u32 << s).chain([u32::MAX, 7, 9, 1234]) {
            let error = (f64::from(middle(bucket(value))) / f64::from(value) - 1.).abs();
            assert!(error < 0.07, "{value}: {}", middle(bucket(value)));
        }
    }

    #[test]
    fn forgets_after_an_hour() {
        let mut histogram = Histogram::default();
        histogram.record(0, 5);
        histogram.record(3 * SLICE_NS, 6);
        assert_eq!(histogram.recent(5 * SLICE_NS).len(), 2);
        assert_eq!(histogram.recent(6 * SLICE_NS).len(), 1);
        assert_eq!(histogram.recent(9 * SLICE_NS).len(), 0);
        histogram.record(12 * SLICE_NS, 7);
        assert_eq!(histogram.recent(12 * SLICE_NS), BTreeMap::from([(7, 1)]));
    }
}
