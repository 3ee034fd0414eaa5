//! One series over the restarts of its worker.

use std::collections::BTreeMap;

use underpass_api::report::{Histogram, Outcome, Series};

/// As it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub requests: u64,
    /// Latency and duration.
    pub responses: BTreeMap<Outcome, (Histogram, Histogram)>,
}

impl Total {
    pub(super) fn add(&mut self, sum: &Sum) {
        let requests = sum.ended.saturating_add(sum.current);
        self.requests = self.requests.saturating_add(requests);
        for (outcome, times) in &sum.responses {
            let (latency, duration) = self.responses.entry(*outcome).or_default();
            latency.add(&times.ended.0);
            latency.add(&times.current.0);
            duration.add(&times.ended.1);
            duration.add(&times.current.1);
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Sum {
    /// Requests: of workers that ended, and of the present one.
    ended: u64,
    current: u64,
    responses: BTreeMap<Outcome, Times>,
    serial: u64,
    /// When it was reported last.
    pub seen_ns: u64,
}

#[derive(Debug, Default)]
struct Times {
    ended: (Histogram, Histogram),
    current: (Histogram, Histogram),
}

/// What a report has added.
#[derive(Debug, Default)]
pub(super) struct New {
    pub delta: Delta,
    /// That were not known.
    pub outcomes: usize,
    /// That found no room.
    pub dropped: u64,
}

#[derive(Debug, Default)]
pub(super) struct Delta {
    pub failures: u64,
    /// Of all responses.
    pub latency: Histogram,
}

impl Sum {
    pub fn outcomes(&self) -> usize {
        self.responses.len().max(1)
    }

    pub fn worker_ended(&mut self) {
        self.ended = self.ended.saturating_add(std::mem::take(&mut self.current));
        self.responses.values_mut().for_each(Times::worker_ended);
    }

    /// Takes the present worker's sums. A label set without an outcome takes the room of one.
    pub fn take(&mut self, series: &Series, room: usize, now_ns: u64) -> New {
        let before = if self.seen_ns == 0 {
            0
        } else {
            self.outcomes()
        };
        self.seen_ns = now_ns.max(1);
        if series.serial != self.serial {
            self.serial = series.serial;
            self.worker_ended();
        }
        if series.requests < self.current {
            self.ended = self.ended.saturating_add(self.current);
        }
        self.current = series.requests;
        let most = before.saturating_add(room);
        let mut new = New::default();
        for reported in &series.responses {
            let known = self.responses.contains_key(&reported.outcome);
            if !known && self.responses.len() >= most {
                new.dropped += 1;
                continue;
            }
            let times = self.responses.entry(reported.outcome).or_default();
            let latency = times.take(&reported.latency, &reported.duration);
            if reported.outcome.failure {
                new.delta.failures += latency.count();
            }
            new.delta.latency.add(&latency);
        }
        new.outcomes = self.outcomes() - before;
        new
    }
}

impl Times {
    fn worker_ended(&mut self) {
        let (latency, duration) = std::mem::take(&mut self.current);
        self.ended.0.add(&latency);
        self.ended.1.add(&duration);
    }

    /// The latencies that are new. If one number has fallen all begin anew: they were of one moment.
    fn take(&mut self, latency: &Histogram, duration: &Histogram) -> Histogram {
        let risen = (
            latency.since(&self.current.0),
            duration.since(&self.current.1),
        );
        let new = match risen {
            (Some(new), Some(_)) => new,
            _ => {
                self.worker_ended();
                latency.clone()
            }
        };
        self.current = (latency.clone(), duration.clone());
        new
    }
}
