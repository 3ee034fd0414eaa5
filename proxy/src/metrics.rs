//! What a shard counts of requests, by source, destination, service, route, rule and backend. A request
//! adds to numbers that only its shard writes ([`cells`]); another thread sums them up ([`reporter`]).

pub mod cells;
pub mod reporter;

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    rc::{Rc, Weak},
    sync::{Arc, mpsc::Sender},
};

use underpass_api::report::{Direction, Labels, Method, Outcome, is_failure};
use underpass_l7::{Refusal, balance::EndpointId};
use underpass_mesh::Str;

use crate::counters::{Count, Counters};
use cells::{Item, Requests, Times};

/// Label sets and outcomes of one shard. What finds no room goes to the series `other` of its direction,
/// and is counted by `series_overflow`.
pub const SERIES: usize = 2_000;
/// Outcomes of one label set, likewise: methods, statuses and codes.
pub const OUTCOMES: usize = 128;

/// All series of a shard.
#[derive(Debug, Default)]
pub struct Metrics {
    inner: RefCell<Inner>,
    counters: Arc<Counters>,
    /// To the thread that sums up. `None`: nobody does.
    to: Option<Sender<Item>>,
}

#[derive(Debug, Default)]
struct Inner {
    all: HashMap<Labels, Rc<Series>>,
    /// Label sets and outcomes that are in `all`.
    count: usize,
    /// By direction.
    other: [Option<Rc<Series>>; 2],
}

/// What has the same labels.
#[derive(Debug)]
pub struct Series {
    requests: Arc<Requests>,
    /// Most have one or two.
    outcomes: RefCell<Vec<(Outcome, Arc<Times>)>>,
    metrics: Weak<Metrics>,
    is_other: bool,
}

impl Metrics {
    pub fn new(counters: Arc<Counters>, to: Sender<Item>) -> Rc<Self> {
        Rc::new(Self {
            inner: RefCell::default(),
            counters,
            to: Some(to),
        })
    }

    /// Forgets what no plan and no request has any more. The thread that sums up keeps its sums.
    pub fn sweep(&self) {
        let inner = &mut *self.inner.borrow_mut();
        inner.all.retain(|_, series| Rc::strong_count(series) > 1);
        let outcomes = inner.all.values().map(|s| s.outcomes.borrow().len());
        inner.count = inner.all.len() + outcomes.sum::<usize>();
    }

    /// Label sets and outcomes.
    pub fn len(&self) -> usize {
        self.inner.borrow().count
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn series(self: &Rc<Self>, labels: Labels) -> Rc<Series> {
        let inner = &mut *self.inner.borrow_mut();
        if let Some(known) = inner.all.get(&labels) {
            return known.clone();
        }
        if inner.count < SERIES {
            inner.count += 1;
            let new = self.make(labels.clone(), false);
            inner.all.insert(labels, new.clone());
            return new;
        }
        self.other(inner, labels.direction)
    }

    fn other(self: &Rc<Self>, inner: &mut Inner, direction: Direction) -> Rc<Series> {
        let other = &mut inner.other[direction as usize];
        other
            .get_or_insert_with(|| self.make(Labels::other(direction), true))
            .clone()
    }

    fn make(self: &Rc<Self>, labels: Labels, is_other: bool) -> Rc<Series> {
        let requests = Arc::new(Requests::new(labels));
        self.tell(Item::Requests(requests.clone()));
        Rc::new(Series {
            requests,
            outcomes: RefCell::default(),
            metrics: Rc::downgrade(self),
            is_other,
        })
    }

    /// The thread may have ended: then nobody looks at the numbers.
    fn tell(&self, item: Item) {
        let _ = self.to.as_ref().map(|to| to.send(item));
    }

    /// For an outcome that `series` has not had yet.
    fn outcome(self: &Rc<Self>, series: &Series, outcome: Outcome) -> Arc<Times> {
        let inner = &mut *self.inner.borrow_mut();
        let is_full = inner.count >= SERIES || series.outcomes.borrow().len() >= OUTCOMES;
        if !series.is_other && is_full {
            let direction = series.requests.labels.direction;
            return self.other(inner, direction).times(outcome);
        }
        if !series.is_other {
            inner.count += 1;
        }
        series.new_times(outcome, self)
    }
}

impl Series {
    fn add(&self, outcome: Outcome, latency_ns: u64, duration_ns: u64) {
        let found = {
            let outcomes = self.outcomes.borrow();
            let known = outcomes.iter().find(|(known, _)| *known == outcome);
            if let Some((_, times)) = known {
                times.add(latency_ns, duration_ns);
            }
            known.is_some()
        };
        if !found {
            self.times(outcome).add(latency_ns, duration_ns);
        }
    }

    fn times(&self, outcome: Outcome) -> Arc<Times> {
        let Some(metrics) = self.metrics.upgrade() else {
            return Arc::new(Times::new(self.requests.clone(), outcome));
        };
        if !self.is_other {
            return metrics.outcome(self, outcome);
        }
        metrics.counters.add(Count::SeriesOverflow);
        // Of the rest only this is told.
        let outcome = Outcome {
            failure: outcome.failure,
            ..Outcome::default()
        };
        let outcomes = self.outcomes.borrow();
        let known = outcomes.iter().find(|(known, _)| *known == outcome);
        if let Some((_, times)) = known {
            return times.clone();
        }
        drop(outcomes);
        self.new_times(outcome, &metrics)
    }

    fn new_times(&self, outcome: Outcome, metrics: &Metrics) -> Arc<Times> {
        let times = Arc::new(Times::new(self.requests.clone(), outcome));
        metrics.tell(Item::Times(times.clone()));
        self.outcomes.borrow_mut().push((outcome, times.clone()));
        times
    }
}

/// What all requests of one plan have in common, and the series that they have needed so far.
#[derive(Debug, Default)]
pub struct Scope {
    metrics: Rc<Metrics>,
    direction: Direction,
    source: Str,
    /// Where each goes, if that is known before; also of what is refused.
    destination: Str,
    /// `namespace/name:port`.
    service: String,
    known: RefCell<HashMap<Key, Rc<Series>, BuildHasherDefault<Mixer>>>,
}

/// Where a request went. Rule and backend by their places in memory, where they are as long as the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key {
    pub rule: usize,
    pub backend: usize,
    pub endpoint: EndpointId,
    /// The destination's side of a request that this worker serves in the same hop.
    pub inbound: bool,
}

/// The names of what a [`Key`] is.
#[derive(Clone, Debug, Default)]
pub struct Way {
    pub destination: Str,
    pub route: Str,
    pub rule: String,
    /// `namespace/name:port`.
    pub backend: String,
}

impl Scope {
    pub fn new(metrics: Rc<Metrics>, direction: Direction, source: Str, service: String) -> Self {
        Self {
            metrics,
            direction,
            source,
            destination: Str::default(),
            service,
            known: RefCell::default(),
        }
    }

    /// All requests are for this workload (`namespace/name`).
    pub fn to(self, destination: Str) -> Self {
        Self {
            destination,
            ..self
        }
    }

    /// A request begins. Without a `way` it is refused before it has one.
    pub fn begin(&self, key: Key, method: Method, now_ns: u64, way: impl FnOnce() -> Way) -> Seen {
        let known = self.known.borrow().get(&key).cloned();
        let series = known.unwrap_or_else(|| {
            let series = self.metrics.series(self.labels(key, way()));
            self.known.borrow_mut().insert(key, series.clone());
            series
        });
        series.requests.add();
        Seen {
            series,
            started_ns: now_ns,
            answered_ns: None,
            method,
            status: 0,
            grpc: None,
            code: 0,
        }
    }

    fn labels(&self, key: Key, way: Way) -> Labels {
        let direction = match key.inbound {
            true => Direction::Inbound,
            false => self.direction,
        };
        let destination = match &*way.destination {
            "" => &self.destination,
            _ => &way.destination,
        };
        Labels {
            direction,
            source: self.source.to_string(),
            destination: destination.to_string(),
            service: self.service.clone(),
            route: way.route.to_string(),
            rule: way.rule,
            backend: way.backend,
        }
    }
}

/// A request under way, as it will be counted: [`Seen::end`] says when.
#[derive(Debug)]
#[must_use = "its end is counted"]
pub struct Seen {
    series: Rc<Series>,
    started_ns: u64,
    answered_ns: Option<u64>,
    method: Method,
    status: u16,
    grpc: Option<u8>,
    code: u16,
}

impl Seen {
    /// The response's head is here.
    pub fn answered(&mut self, status: u16, now_ns: u64) {
        self.status = if (100..600).contains(&status) {
            status
        } else {
            0
        };
        self.answered_ns.get_or_insert(now_ns);
    }

    /// What `grpc-status` says; what is no code of gRPC is UNKNOWN.
    pub fn grpc(&mut self, code: u32) {
        self.grpc = Some(u8::try_from(code).ok().filter(|c| *c <= 16).unwrap_or(2));
    }

    /// This worker ends it: with an answer of this status, if none has come, else it is cut off.
    pub fn cut(&mut self, why: Refusal, status: u16, now_ns: u64) {
        self.code = why.code();
        if self.answered_ns.is_none() {
            self.answered(status, now_ns);
        }
    }

    /// It was refused at once; `grpc`: by a response whose status is 200.
    pub fn refuse(mut self, why: Refusal, grpc: bool, now_ns: u64) {
        match grpc {
            true => {
                self.cut(why, 200, now_ns);
                self.grpc(why.grpc_status().into());
            }
            false => self.cut(why, why.status(), now_ns),
        }
        self.end(now_ns);
    }

    /// This one has failed, and another begins.
    pub fn again(self, now_ns: u64) -> Self {
        let next = Self {
            series: self.series.clone(),
            started_ns: now_ns,
            answered_ns: None,
            method: self.method,
            status: 0,
            grpc: None,
            code: 0,
        };
        self.end(now_ns);
        next.series.requests.add();
        next
    }

    /// Request and response are over, or one of them never will be.
    pub fn end(self, now_ns: u64) {
        let answered = self.answered_ns.unwrap_or(now_ns);
        // A response that was cut off is none that anybody can use.
        let whole = self.grpc.is_some_and(|code| code != 0) || self.status >= 400;
        let cut = self.code != 0 && self.status != 0 && !whole;
        let outcome = Outcome {
            method: self.method,
            status: self.status,
            grpc: self.grpc,
            code: self.code,
            failure: cut || is_failure(self.status, self.grpc),
        };
        let since = |at: u64| at.saturating_sub(self.started_ns);
        self.series.add(outcome, since(answered), since(now_ns));
    }
}

/// Mixes numbers that nobody chooses to collide: places in memory and numbers of endpoints.
#[derive(Debug, Default)]
pub struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }
}

#[cfg(test)]
mod tests;
