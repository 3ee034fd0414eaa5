//! What workers have counted, over all of them and over their restarts. The control loop has one
//! [`Reader`] for each report file, and one [`Merged`] that all reports go into; `/metrics` shows
//! [`Merged::series`], `stat` shows [`Merged::stats`].
//!
//! A worker is not trusted: it reports for workloads of its own tenant only, what it makes up is bounded
//! by [`OUTCOMES_PER_TENANT`], and a sum that falls is begun anew, so that no shown sum ever falls.

mod sum;
mod window;

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    os::unix::fs::FileExt,
};

use underpass_api::report::{Direction, Invalid, Labels, Report, Series, halves};

pub use sum::Total;
pub use window::{Key, Stats, WINDOW_NS};

use sum::Sum;
use window::Windows;

/// Label sets with outcomes that are kept of one tenant; more are counted in [`Counts::dropped`].
pub const OUTCOMES_PER_TENANT: usize = 4_096;
/// Of all tenants; each takes about 1.2 KB.
pub const OUTCOMES_MAX: usize = 16_384;
/// Names of counters that are kept of one tenant's workers.
pub const COUNTERS_PER_TENANT: usize = 512;
/// How long a series that no worker reports is kept, if its objects are gone too.
pub const UNUSED_NS: u64 = 600_000_000_000;

/// Reads the report file of one tenant's worker; remembers what it has read.
#[derive(Debug, Default)]
pub struct Reader {
    last: Option<u64>,
}

/// A report that was not taken.
#[derive(Debug)]
pub enum Bad {
    Read(io::Error),
    Report(Invalid),
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(why) => write!(f, "its report cannot be read: {why}"),
            Self::Report(why) => write!(f, "its report is not taken: {why}"),
        }
    }
}

impl Reader {
    /// The newest report, if there is another than the last. `size` is what the agent made the file with:
    /// the worker has no say in it.
    ///
    /// # Errors
    /// Once for each report that is malformed; the next one may be good.
    pub fn read(&mut self, file: &impl FileExt, size: u64) -> Result<Option<Report>, Bad> {
        let found = halves::read(file, size, self.last).map_err(Bad::Read)?;
        let Some((sequence, body)) = found else {
            return Ok(None);
        };
        self.last = Some(sequence);
        Report::parse(&body).map(Some).map_err(Bad::Report)
    }
}

/// What was not merged, since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Outcomes of reports that found no room; each report counts them again.
    pub dropped: u64,
    /// Series about workloads of another tenant.
    pub foreign: u64,
}

/// Sums over all workers since the agent started.
#[derive(Debug, Default)]
pub struct Merged {
    tenants: BTreeMap<String, Tenant>,
    windows: Windows,
    outcomes: usize,
    pub counts: Counts,
}

#[derive(Debug, Default)]
struct Tenant {
    /// Of the worker that reported last.
    instance: Option<u64>,
    series: HashMap<Labels, Sum>,
    /// Outcomes of them.
    outcomes: usize,
    /// By name: of ended workers, and of the present one.
    counters: BTreeMap<String, (u64, u64)>,
}

impl Merged {
    /// Takes a report of the tenant's worker; `now_ns` is of any clock that does not go back.
    ///
    /// The first report of a tenant counts for sums, not for [`Merged::stats`]: its worker may be older
    /// than the agent.
    pub fn take(&mut self, tenant: &str, report: &Report, now_ns: u64) {
        let known = self.tenants.entry(tenant.to_owned()).or_default();
        let is_first = known.instance.is_none();
        if known.instance != Some(report.instance) {
            known.instance = Some(report.instance);
            known.series.values_mut().for_each(Sum::worker_ended);
            for (ended, current) in known.counters.values_mut() {
                *ended = ended.saturating_add(std::mem::take(current));
            }
        }
        known.counters(&report.counters);
        for series in &report.series {
            if !is_own(tenant, &series.labels) {
                self.counts.foreign += 1;
                continue;
            }
            let windows = (!is_first).then_some(&mut self.windows);
            let room = OUTCOMES_MAX - self.outcomes;
            let (added, dropped) = known.take(series, room, windows, now_ns);
            self.outcomes += added;
            self.counts.dropped += dropped;
        }
    }

    /// Forgets series that nobody has reported for [`UNUSED_NS`] and of which `exists` denies the
    /// workload or service (`namespace/name`, without a port). Call it now and then.
    pub fn expire(&mut self, now_ns: u64, exists: impl Fn(&str) -> bool) {
        let is_needed = |labels: &Labels| {
            let service = labels.service.rsplit_once(':');
            let service = service.map_or(&*labels.service, |(name, _)| name);
            let named = [&*labels.source, &*labels.destination, service];
            let mut objects = named.into_iter().filter(|n| n.contains('/'));
            objects.all(&exists)
        };
        for tenant in self.tenants.values_mut() {
            tenant.series.retain(|labels, sum| {
                now_ns.saturating_sub(sum.seen_ns) < UNUSED_NS || is_needed(labels)
            });
            tenant.outcomes = tenant.series.values().map(Sum::outcomes).sum();
        }
        self.outcomes = self.tenants.values().map(|t| t.outcomes).sum();
        self.windows.expire(now_ns);
    }

    /// Every label set, of all tenants, in order.
    pub fn series(&self) -> BTreeMap<Labels, Total> {
        let mut all = BTreeMap::<Labels, Total>::new();
        for (labels, sum) in self.tenants.values().flat_map(|t| &t.series) {
            // Only `other` is of several tenants.
            all.entry(labels.clone()).or_default().add(sum);
        }
        all
    }

    /// Counters of the tenants' workers: tenant, name, value.
    pub fn counters(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        let tenants = self.tenants.iter();
        tenants.flat_map(|(tenant, known)| {
            let counters = known.counters.iter();
            counters.map(|(name, (a, b))| (&**tenant, &**name, a.saturating_add(*b)))
        })
    }

    /// Of the last minute, for one service port (`namespace/name:port`): the service itself, whose key
    /// has no route, and each route, rule and backend. Empty without a request.
    ///
    /// What applications saw, if any of them dials through a worker; else what destinations saw.
    pub fn stats(&self, service: &str, now_ns: u64) -> BTreeMap<Key, Stats> {
        self.windows.stats(service, now_ns)
    }
}

impl Tenant {
    /// How many outcomes are new, and how many found no room.
    fn take(
        &mut self,
        series: &Series,
        room: usize,
        windows: Option<&mut Windows>,
        now_ns: u64,
    ) -> (usize, u64) {
        let room = room.min(OUTCOMES_PER_TENANT - self.outcomes);
        if !self.series.contains_key(&series.labels) && room == 0 {
            return (0, series.responses.len().max(1) as u64);
        }
        let sum = self.series.entry(series.labels.clone()).or_default();
        let new = sum.take(series, room, now_ns);
        if let Some(windows) = windows {
            windows.add(&series.labels, &new.delta, now_ns);
        }
        self.outcomes += new.outcomes;
        (new.outcomes, new.dropped)
    }

    fn counters(&mut self, reported: &BTreeMap<String, u64>) {
        for (name, value) in reported {
            if !self.counters.contains_key(name) && self.counters.len() >= COUNTERS_PER_TENANT {
                continue;
            }
            let (ended, current) = self.counters.entry(name.clone()).or_default();
            if value < current {
                *ended = ended.saturating_add(*current);
            }
            *current = *value;
        }
    }
}

/// Whether the tenant's worker can know it.
fn is_own(tenant: &str, labels: &Labels) -> bool {
    let own = match labels.direction {
        Direction::Outbound => &labels.source,
        Direction::Inbound => &labels.destination,
    };
    let namespace = own.split_once('/').map(|(namespace, _)| namespace);
    namespace == Some(tenant) || *labels == Labels::other(labels.direction)
}

#[cfg(test)]
mod tests;
