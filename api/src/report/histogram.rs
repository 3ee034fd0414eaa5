//! Times in fixed buckets: those of Linkerd's `response_latency_ms` and those of ours in seconds, so that
//! both families are exact.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
    ser::SerializeSeq as _,
};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// Upper bounds in nanoseconds, each within its bucket; one more bucket is above all of them.
pub const BOUNDS_NS: [u64; 35] = [
    100 * US,
    250 * US,
    500 * US,
    MS,
    2 * MS,
    2_500 * US,
    3 * MS,
    4 * MS,
    5 * MS,
    10 * MS,
    20 * MS,
    25 * MS,
    30 * MS,
    40 * MS,
    50 * MS,
    75 * MS,
    100 * MS,
    200 * MS,
    250 * MS,
    300 * MS,
    400 * MS,
    500 * MS,
    750 * MS,
    1_000 * MS,
    2_000 * MS,
    2_500 * MS,
    3_000 * MS,
    4_000 * MS,
    5_000 * MS,
    7_500 * MS,
    10_000 * MS,
    20_000 * MS,
    30_000 * MS,
    40_000 * MS,
    50_000 * MS,
];

pub const BUCKETS: usize = BOUNDS_NS.len() + 1;

/// The bucket of a time.
pub fn bucket(ns: u64) -> usize {
    BOUNDS_NS.partition_point(|bound| *bound < ns)
}

/// How many times fell into each bucket. In JSON: the sum, then the place and the count of each bucket
/// that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    pub sum_ns: u64,
    pub counts: [u64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            sum_ns: 0,
            counts: [0; BUCKETS],
        }
    }
}

impl Histogram {
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |a, b| a.saturating_add(*b))
    }

    pub fn add(&mut self, other: &Self) {
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        for (sum, count) in self.counts.iter_mut().zip(other.counts) {
            *sum = sum.saturating_add(count);
        }
    }

    /// What came since `before`; `None` if a value has fallen.
    pub fn since(&self, before: &Self) -> Option<Self> {
        let mut new = Self {
            sum_ns: self.sum_ns.checked_sub(before.sum_ns)?,
            ..Self::default()
        };
        let pairs = self.counts.iter().zip(before.counts);
        for (new, (now, before)) in new.counts.iter_mut().zip(pairs) {
            *new = now.checked_sub(before)?;
        }
        Some(new)
    }

    /// The time in seconds below which the part `q` (0 to 1) of them lie, evenly spread within a bucket as
    /// Prometheus has it; the last bound for what is above it. `None` if there are none.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let seconds = |i: usize| BOUNDS_NS[i] as f64 / 1e9;
        let rank = q * self.count() as f64;
        let mut below = 0.0;
        for (i, count) in self.counts.iter().enumerate() {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                if i == BOUNDS_NS.len() {
                    return Some(seconds(i - 1));
                }
                let low = if i == 0 { 0.0 } else { seconds(i - 1) };
                let part = ((rank - below) / count).clamp(0.0, 1.0);
                return Some(low + (seconds(i) - low) * part);
            }
            below += count;
        }
        None
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let filled = self.counts.iter().enumerate().filter(|(_, c)| **c > 0);
        let mut list = to.serialize_seq(None)?;
        list.serialize_element(&self.sum_ns)?;
        for (i, count) in filled {
            list.serialize_element(&(i as u64))?;
            list.serialize_element(count)?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(Numbers)
    }
}

struct Numbers;

impl<'de> Visitor<'de> for Numbers {
    type Value = Histogram;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sum, and places with their counts in ascending order")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Histogram, A::Error> {
        let mut histogram = Histogram::default();
        let malformed = || A::Error::invalid_length(0, &"a histogram");
        histogram.sum_ns = from.next_element()?.ok_or_else(malformed)?;
        let mut next = 0;
        while let Some(at) = from.next_element::<u64>()? {
            let at = usize::try_from(at).map_err(|_| malformed())?;
            if at < next || at >= BUCKETS {
                return Err(malformed());
            }
            histogram.counts[at] = from.next_element()?.ok_or_else(malformed)?;
            next = at + 1;
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_ascend_and_are_within_their_buckets() {
        assert!(BOUNDS_NS.is_sorted_by(|a, b| a < b));
        for (i, bound) in BOUNDS_NS.iter().enumerate() {
            assert_eq!((bucket(*bound), bucket(*bound + 1)), (i, i + 1));
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn quantiles_are_within_the_bucket_of_the_exact_one() {
        let mut histogram = Histogram::default();
        // 0.05 ms to 5 s, evenly on a logarithmic scale.
        let times: Vec<u64> = (0..5_000)
            .map(|i| (50e3 * 10_f64.powf(f64::from(i) / 1_000.0)) as u64)
            .collect();
        for ns in &times {
            histogram.counts[bucket(*ns)] += 1;
        }
        for q in [0.01, 0.5, 0.9, 0.95, 0.99, 1.0] {
            let exact = times[((times.len() as f64 * q).ceil() as usize).max(1) - 1];
            let got = histogram.quantile(q).unwrap_or_default() * 1e9;
            let at = bucket(exact);
            let low = if at == 0 { 0 } else { BOUNDS_NS[at - 1] };
            assert!(
                (low as f64..=BOUNDS_NS[at] as f64).contains(&got),
                "{q}: {exact} {got}"
            );
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn half_of_a_bucket_is_its_middle_and_nothing_is_above_the_last_bound() {
        let mut histogram = Histogram::default();
        histogram.counts[bucket(15 * MS)] = 10;
        assert_eq!(histogram.quantile(0.5), Some(0.015));
        histogram.counts[BUCKETS - 1] = 1_000;
        assert_eq!(histogram.quantile(0.99), Some(50.0));
    }
}
