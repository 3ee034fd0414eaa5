//! Whether a run shows what it says: the proxies were passed, the schedule was kept.

use std::collections::BTreeMap;

use crate::generator::Outcome;

/// A schedule is kept if so much of its requests were made, and it ended at most so much of its time and
/// so many seconds late: the last answers may take a moment on a busy machine.
const KEPT: f64 = 0.97;
const LATE: f64 = 0.05;
/// Microseconds of CPU that a proxy needs for a request at the very least: two reads and two writes.
const LEAST: f64 = 1.0;

/// Of what the busiest proxy does; one that only keeps its house does less.
const SHARE: f64 = 0.1;

/// How many proxies did something for the requests.
pub fn worked(before: &BTreeMap<String, f64>, now: &BTreeMap<String, f64>, requests: u64) -> usize {
    let used = |(name, now): (&String, &f64)| now - before.get(name).copied().unwrap_or_default();
    let used: Vec<f64> = now.iter().map(used).collect();
    let most = used.iter().copied().fold(0.0, f64::max);
    let least = (LEAST * requests as f64).max(SHARE * most);
    used.iter().filter(|us| **us > least).count()
}

/// True if an open loop did not keep its schedule, or half of its requests took longer than the connections
/// can carry them at that rate, so that they waited for one.
pub fn behind(rate: Option<f64>, concurrency: u32, seconds: f64, outcome: &Outcome) -> bool {
    let Some(rate) = rate else { return false };
    let carried = f64::from(concurrency) / rate;
    (outcome.operations as f64) < KEPT * rate * seconds
        || outcome.seconds > seconds / KEPT + LATE
        || outcome.latency.p50 as f64 / 1e9 > carried
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::Latency;

    #[test]
    fn a_proxy_that_did_nothing_is_not_counted() {
        let clocks = |a: f64, b: f64| [("a".to_owned(), a), ("b".to_owned(), b)].into();
        assert_eq!(worked(&clocks(5.0, 5.0), &clocks(2005.0, 2005.0), 1000), 2);
        assert_eq!(worked(&clocks(5.0, 5.0), &clocks(2005.0, 905.0), 1000), 1);
        assert_eq!(worked(&clocks(5.0, 5.0), &clocks(90005.0, 2005.0), 1000), 1);
        assert_eq!(worked(&clocks(5.0, 5.0), &clocks(905.0, 905.0), 1000), 0);
        let none = BTreeMap::new();
        assert_eq!(worked(&none, &clocks(2005.0, 2005.0), 1000), 2, "new since");
    }

    #[test]
    fn a_schedule_that_was_not_kept_is_told() {
        let outcome = |operations, seconds, p50| Outcome {
            operations,
            connections: 16,
            errors: 0,
            first_error: None,
            seconds,
            latency: Latency {
                p50,
                p90: None,
                p99: p50,
                p999: None,
                max: p50,
            },
            distribution: Vec::new(),
        };
        let is =
            |operations, took, p50| behind(Some(500.0), 16, 1.0, &outcome(operations, took, p50));
        assert!(!is(500, 1.0, 100_000) && !is(500, 1.05, 100_000));
        assert!(is(500, 1.2, 100_000), "all were made, too late");
        assert!(is(450, 1.0, 100_000));
        // 16 connections carry 500 in a second if each takes 32 ms.
        assert!(is(500, 1.0, 33_000_000) && !is(500, 1.0, 31_000_000));
        assert!(!behind(None, 16, 1.0, &outcome(9, 9.0, 1)), "closed loop");
    }
}
