//! Numbers that one shard writes and another thread reads. Since there is one writer, adding is a load
//! and a store: no locked instruction, and no line of memory that two shards write.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use underpass_api::report::{
    Histogram, Labels, Outcome,
    histogram::{BUCKETS, bucket},
};

/// New cells, as the thread that sums up learns of them.
#[derive(Debug)]
pub enum Item {
    Requests(Arc<Requests>),
    Times(Arc<Times>),
}

/// Requests of one label set that began.
#[derive(Debug)]
pub struct Requests {
    pub labels: Labels,
    count: AtomicU64,
}

/// How long those took that ended alike.
#[derive(Debug)]
pub struct Times {
    pub of: Arc<Requests>,
    pub outcome: Outcome,
    latency: Cells,
    duration: Cells,
}

#[derive(Debug)]
struct Cells {
    sum_ns: AtomicU64,
    counts: [AtomicU64; BUCKETS],
}

/// Only its own shard may call this.
pub fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Requests {
    pub fn new(labels: Labels) -> Self {
        let count = AtomicU64::new(0);
        Self { labels, count }
    }

    pub fn add(&self) {
        add(&self.count, 1);
    }

    pub fn get(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

impl Times {
    pub fn new(of: Arc<Requests>, outcome: Outcome) -> Self {
        let cells = || Cells {
            sum_ns: AtomicU64::new(0),
            counts: [const { AtomicU64::new(0) }; BUCKETS],
        };
        Self {
            of,
            outcome,
            latency: cells(),
            duration: cells(),
        }
    }

    pub fn add(&self, latency_ns: u64, duration_ns: u64) {
        self.latency.add(latency_ns);
        self.duration.add(duration_ns);
    }

    /// Latency and duration so far. A time that is added meanwhile may be in a count and not in a sum.
    pub fn get(&self) -> (Histogram, Histogram) {
        (self.latency.get(), self.duration.get())
    }
}

impl Cells {
    fn add(&self, ns: u64) {
        add(&self.sum_ns, ns);
        add(&self.counts[bucket(ns)], 1);
    }

    fn get(&self) -> Histogram {
        Histogram {
            sum_ns: self.sum_ns.load(Relaxed),
            counts: std::array::from_fn(|i| self.counts[i].load(Relaxed)),
        }
    }
}
