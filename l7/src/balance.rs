//! Which endpoint a request goes to: of two that are drawn at random the one that costs less (P2C), where
//! the cost is the peak-sensitive moving average of its latency times the requests under way there plus
//! one, as in Finagle, tower and Linkerd. A pick takes the same time whatever the number of endpoints.
//!
//! Weights are kept under load; when little is under way the lighter get somewhat more than theirs. An
//! endpoint with the part p of all weight that is slower than the rest keeps p² of the requests, since
//! it is at times drawn twice (not if all weigh the same: then two different ones are drawn). Shares that
//! must hold are a route's (`route.rs`).
//!
//! One balancer belongs to one shard. It reads no clock and draws no random numbers: both are arguments.

use std::collections::HashMap;

use crate::Refusal;

mod weights;

use weights::Weights;

/// Names one endpoint for as long as the same workload holds the address, so that a successor at the
/// same address inherits nothing.
pub type EndpointId = u64;

/// How the average forgets, and what a failure counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// After so long without an answer an endpoint's average has fallen to 1/e.
    pub decay_ns: u64,
    /// A failed request counts as one that took at least so long; else those who fail fast draw traffic.
    pub failure_ns: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            decay_ns: 10_000_000_000,
            failure_ns: 1_000_000_000,
        }
    }
}

/// The endpoints of one backend.
#[derive(Debug, Default)]
pub struct Balancer {
    settings: Settings,
    slots: Vec<Slot>,
    /// Slots of nobody.
    free: Vec<usize>,
    /// Slots of the endpoints that were set last, also of those with weight 0.
    by_id: HashMap<EndpointId, usize>,
    /// Slots that may be picked.
    ready: Vec<usize>,
    weights: Weights,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    id: EndpointId,
    /// Mean weight of those ready, by this one's: the heavier, the less a request weighs here.
    burden: f64,
    /// Requests that have not ended.
    under_way: u32,
    /// No longer set; the slot waits for the last of its requests.
    leaving: bool,
    latency: Option<Average>,
}

#[derive(Clone, Copy, Debug)]
struct Average {
    ns: f64,
    /// When it was so.
    at_ns: u64,
}

/// A request on its way to an endpoint. Each must be given back by [`Balancer::end`]: until then it
/// counts as under way.
#[must_use = "give it back by `end`"]
#[derive(Debug)]
pub struct Pending {
    pub endpoint: EndpointId,
    slot: usize,
    started_ns: u64,
    answered: bool,
}

/// How a request ended, as far as its endpoint had a part in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Whatever it said, the endpoint did its work; or the client gave up.
    Done,
    /// No connection, a reset, a 5xx.
    Failed,
}

impl Balancer {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// Sets the endpoints and their weights. Those that stay keep what is known of them; one of weight 0
    /// gets no new request; the requests of one that is gone end as ever.
    pub fn set(&mut self, endpoints: impl IntoIterator<Item = (EndpointId, u32)>) {
        let before = std::mem::take(&mut self.by_id);
        let mut weighted = Vec::new();
        for (id, weight) in endpoints {
            if self.by_id.contains_key(&id) {
                continue;
            }
            let slot = before
                .get(&id)
                .copied()
                .unwrap_or_else(|| self.new_slot(id));
            self.by_id.insert(id, slot);
            if weight > 0 {
                weighted.push((slot, weight));
            }
        }
        for (id, slot) in before {
            if !self.by_id.contains_key(&id) {
                self.slots[slot].leaving = true;
                self.release(slot);
            }
        }
        let sum: f64 = weighted.iter().map(|(_, w)| f64::from(*w)).sum();
        let mean = sum / weighted.len() as f64;
        for (slot, weight) in &weighted {
            self.slots[*slot].burden = mean / f64::from(*weight);
        }
        self.ready = weighted.iter().map(|(slot, _)| *slot).collect();
        self.weights = Weights::new(weighted.iter().map(|(_, weight)| *weight));
    }

    /// An endpoint for a request that starts now; `random` is evenly distributed over all of `u64`, and
    /// `now_ns` of any clock that does not go back.
    ///
    /// One that has not answered yet gets one request at a time, so that it is tried and not flooded.
    pub fn pick(&mut self, now_ns: u64, random: u64) -> Result<Pending, Refusal> {
        if self.ready.is_empty() {
            return Err(Refusal::NoEndpoints);
        }
        let (first, second) = self.weights.draw_two(random);
        let (first, second) = (self.ready[first], self.ready[second]);
        let cost = |slot: usize| self.slots[slot].cost(now_ns, self.settings.decay_ns);
        let slot = if cost(second) < cost(first) {
            second
        } else {
            first
        };
        self.slots[slot].under_way += 1;
        Ok(Pending {
            endpoint: self.slots[slot].id,
            slot,
            started_ns: now_ns,
            answered: false,
        })
    }

    /// The response's head is here: what took until now is the endpoint's latency. The body's length is
    /// not: a stream may last for hours.
    pub fn answered(&mut self, pending: &mut Pending, now_ns: u64) {
        if !pending.answered {
            pending.answered = true;
            let took_ns = now_ns.saturating_sub(pending.started_ns);
            self.slots[pending.slot].learn(took_ns, now_ns, self.settings.decay_ns);
        }
    }

    /// The request is over, whoever ended it.
    pub fn end(&mut self, pending: Pending, now_ns: u64, outcome: Outcome) {
        let decay_ns = self.settings.decay_ns;
        let took_ns = now_ns.saturating_sub(pending.started_ns);
        let slot = &mut self.slots[pending.slot];
        slot.under_way -= 1;
        match outcome {
            Outcome::Failed => {
                slot.learn(took_ns.max(self.settings.failure_ns), now_ns, decay_ns);
            }
            // An answer would have come later than now: it counts if even that is slow.
            Outcome::Done if !pending.answered && slot.at(now_ns, decay_ns) < took_ns as f64 => {
                slot.learn(took_ns, now_ns, decay_ns);
            }
            Outcome::Done => {}
        }
        self.release(pending.slot);
    }

    /// Requests to an endpoint that have not ended; 0 for one that is not set.
    pub fn under_way(&self, endpoint: EndpointId) -> u32 {
        let slot = self.by_id.get(&endpoint);
        slot.map_or(0, |slot| self.slots[*slot].under_way)
    }

    fn new_slot(&mut self, id: EndpointId) -> usize {
        let new = Slot {
            id,
            burden: 1.0,
            under_way: 0,
            leaving: false,
            latency: None,
        };
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = new;
                slot
            }
            None => {
                self.slots.push(new);
                self.slots.len() - 1
            }
        }
    }

    /// Frees the slot of one that is gone and has no request left.
    fn release(&mut self, slot: usize) {
        if self.slots[slot].leaving && self.slots[slot].under_way == 0 {
            self.free.push(slot);
        }
    }
}

impl Slot {
    /// What one more request is expected to wait, in ns; comparable between endpoints only.
    fn cost(&self, now_ns: u64, decay_ns: u64) -> f64 {
        let load = f64::from(self.under_way) * self.burden;
        match &self.latency {
            // Tried at once, and not again before it has answered.
            None if self.under_way == 0 => 0.0,
            None => 1e18 * load,
            Some(_) => self.at(now_ns, decay_ns) * (load + 1.0),
        }
    }

    /// The average as it has faded until now; 0 if nothing is known.
    fn at(&self, now_ns: u64, decay_ns: u64) -> f64 {
        let faded = |a: Average| a.ns * (-a.age(now_ns, decay_ns)).exp();
        self.latency.map_or(0.0, faded)
    }

    /// A latency above the average is believed at once, one below it bit by bit.
    fn learn(&mut self, took_ns: u64, now_ns: u64, decay_ns: u64) {
        let took = took_ns as f64;
        let ns = match self.latency {
            Some(a) if self.at(now_ns, decay_ns) > took => {
                let keep = (-a.age(now_ns, decay_ns)).exp();
                a.ns * keep + took * (1.0 - keep)
            }
            _ => took,
        };
        self.latency = Some(Average { ns, at_ns: now_ns });
    }
}

impl Average {
    /// In decay times.
    fn age(&self, now_ns: u64, decay_ns: u64) -> f64 {
        now_ns.saturating_sub(self.at_ns) as f64 / decay_ns as f64
    }
}

#[cfg(test)]
mod tests;
