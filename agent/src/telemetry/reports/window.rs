//! The last minute of each service, route, rule and backend, in slices of ten seconds.

use std::collections::{BTreeMap, HashMap};

use underpass_api::{
    report::{Direction, Histogram, Labels},
    v1alpha1::RequestStats,
};

use super::sum::Delta;

const SLICES: usize = 6;
const SLICE_NS: u64 = 10_000_000_000;
/// What [`Stats`] are of.
pub const WINDOW_NS: u64 = SLICES as u64 * SLICE_NS;
/// Rows at most; what is new beyond them has no row until others have had no request for a minute.
pub const ROWS_MAX: usize = 1_024;

/// Which requests of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// All empty: the service's own row.
    pub route: String,
    pub rule: String,
    pub backend: String,
}

/// Of at most a minute.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    pub responses: u64,
    pub failures: u64,
    pub per_second: f64,
    /// To the response's head.
    pub latency: Histogram,
}

impl Stats {
    /// 0 to 1; `None` without a response.
    pub fn success(&self) -> Option<f64> {
        let good = self.responses.saturating_sub(self.failures);
        (self.responses > 0).then(|| good as f64 / self.responses as f64)
    }

    /// As the node API has it.
    pub fn to_proto(&self) -> RequestStats {
        let us = |q| (self.latency.quantile(q).unwrap_or_default() * 1e6).round() as u64;
        RequestStats {
            responses: self.responses,
            failures: self.failures,
            per_second: self.per_second,
            latency_p50_us: us(0.50),
            latency_p95_us: us(0.95),
            latency_p99_us: us(0.99),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Windows {
    /// By service and direction.
    rows: HashMap<(String, Direction), BTreeMap<Key, Window>>,
    count: usize,
}

#[derive(Debug, Default)]
struct Window {
    since_ns: u64,
    /// Slice number (time / SLICE_NS) and what came in it.
    slices: [(u64, Delta); SLICES],
}

impl Windows {
    pub fn add(&mut self, labels: &Labels, delta: &Delta, now_ns: u64) {
        if labels.service.is_empty() || delta.latency.count() == 0 {
            return;
        }
        let of_service = (labels.service.clone(), labels.direction);
        let mut keys = vec![Key::default()];
        if !labels.route.is_empty() || !labels.backend.is_empty() {
            keys.push(Key {
                route: labels.route.clone(),
                rule: labels.rule.clone(),
                backend: labels.backend.clone(),
            });
        }
        for key in keys {
            let full = self.count >= ROWS_MAX;
            let rows = self.rows.entry(of_service.clone()).or_default();
            if !rows.contains_key(&key) {
                if full {
                    continue;
                }
                self.count += 1;
            }
            let window = rows.entry(key).or_insert_with(|| Window {
                // Reports come about once a second; this one is of what came since the last.
                since_ns: now_ns.saturating_sub(1_000_000_000),
                ..Window::default()
            });
            window.add(delta, now_ns);
        }
    }

    pub fn expire(&mut self, now_ns: u64) {
        for rows in self.rows.values_mut() {
            rows.retain(|_, window| window.stats(now_ns).responses > 0);
        }
        self.rows.retain(|_, rows| !rows.is_empty());
        self.count = self.rows.values().map(BTreeMap::len).sum();
    }

    pub fn stats(&self, service: &str, now_ns: u64) -> BTreeMap<Key, Stats> {
        let of = |direction| {
            let rows = self.rows.get(&(service.to_owned(), direction));
            let rows = rows.into_iter().flatten();
            let stats = rows.map(|(key, window)| (key.clone(), window.stats(now_ns)));
            let stats: BTreeMap<_, _> = stats.filter(|(_, s)| s.responses > 0).collect();
            stats
        };
        let seen = of(Direction::Outbound);
        if seen.is_empty() {
            return of(Direction::Inbound);
        }
        seen
    }
}

impl Window {
    fn add(&mut self, delta: &Delta, now_ns: u64) {
        let number = now_ns / SLICE_NS;
        let (held, slice) = &mut self.slices[number as usize % SLICES];
        if *held != number {
            (*held, *slice) = (number, Delta::default());
        }
        slice.failures = slice.failures.saturating_add(delta.failures);
        slice.latency.add(&delta.latency);
    }

    fn stats(&self, now_ns: u64) -> Stats {
        let oldest = (now_ns / SLICE_NS).saturating_sub(SLICES as u64 - 1);
        let mut stats = Stats::default();
        for (_, slice) in self.slices.iter().filter(|(number, _)| *number >= oldest) {
            stats.failures = stats.failures.saturating_add(slice.failures);
            stats.latency.add(&slice.latency);
        }
        stats.responses = stats.latency.count();
        let start = self.since_ns.max(oldest * SLICE_NS);
        let seconds = now_ns.saturating_sub(start) as f64 / 1e9;
        stats.per_second = stats.responses as f64 / seconds.max(1.0);
        stats
    }
}
