//! Sums up what the shards have counted and writes it where the agent reads it. Runs on a thread that
//! serves no connection.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher as _, RandomState},
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
};

use underpass_api::report::{
    Direction, FORMAT, Histogram, Labels, Outcome, RESPONSES_MAX, RESPONSES_TOTAL, Report,
    Responses, SERIES_MAX, Series, halves,
};

use super::cells::{Item, Requests, Times};
use crate::counters::Counters;

/// Of one worker.
#[derive(Debug)]
pub struct Reporter {
    instance: u64,
    from: Receiver<Item>,
    to: Sender<Item>,
    shards: Vec<Arc<Counters>>,
    requests: Vec<Arc<Requests>>,
    times: Vec<Arc<Times>>,
    /// Of cells that their shards have given up.
    ended: HashMap<Labels, Sum>,
    next_serial: u64,
    /// Series that did not fit into a report, over all reports.
    left_out: u64,
}

#[derive(Clone, Debug, Default)]
struct Sum {
    serial: u64,
    requests: u64,
    responses: BTreeMap<Outcome, (Histogram, Histogram)>,
}

impl Default for Reporter {
    fn default() -> Self {
        let (to, from) = channel();
        Self {
            instance: RandomState::new().hash_one(0),
            from,
            to,
            shards: Vec::new(),
            requests: Vec::new(),
            times: Vec::new(),
            ended: HashMap::new(),
            next_serial: 1,
            left_out: 0,
        }
    }
}

impl Reporter {
    /// Where a shard tells of its cells; its counters are read from now on.
    pub fn shard(&mut self, counters: Arc<Counters>) -> Sender<Item> {
        self.shards.push(counters);
        self.to.clone()
    }

    /// All sums since this worker began. `owner` is the tenant whose they are, where a worker is shared.
    pub fn report(&mut self, owner: Option<&str>) -> Report {
        self.listen();
        let mut sums = self.sum_up();
        sums.retain(|labels, _| owner.is_none_or(|owner| is_of(owner, labels)));
        // The reader takes no more.
        let mut room = RESPONSES_TOTAL;
        let series = sums.into_iter().take(SERIES_MAX).map(|(labels, sum)| {
            let most = room.min(RESPONSES_MAX);
            room -= sum.responses.len().min(most);
            let responses = sum.responses.into_iter().take(most);
            let responses = responses.map(|(outcome, (latency, duration))| Responses {
                outcome,
                latency,
                duration,
            });
            Series {
                labels,
                serial: sum.serial,
                requests: sum.requests,
                responses: responses.collect(),
            }
        });
        Report {
            format: FORMAT,
            instance: self.instance,
            series: series.collect(),
            counters: self.counters(),
        }
    }

    /// Writes a report. `sequence` is the file's, from [`halves::next_sequence`] at first.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(
        &mut self,
        file: &impl FileExt,
        size: u64,
        sequence: &mut u64,
        owner: Option<&str>,
    ) -> io::Result<()> {
        let report = self.report(owner);
        let Some(body) = report.to_bytes(halves::room(size) as usize, &mut self.left_out) else {
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        halves::write(file, size, *sequence, &body)?;
        *sequence = sequence.wrapping_add(1);
        Ok(())
    }

    fn listen(&mut self) {
        for item in self.from.try_iter() {
            match item {
                Item::Requests(requests) => self.requests.push(requests),
                Item::Times(times) => self.times.push(times),
            }
        }
    }

    fn sum_up(&mut self) -> BTreeMap<Labels, Sum> {
        // Nobody writes to a cell that only this has; its number is final before it is looked at.
        for times in self.times.extract_if(.., |t| Arc::get_mut(t).is_some()) {
            let sum = self.ended.entry(times.of.labels.clone()).or_default();
            sum.times(&times);
        }
        let requests = &mut self.requests;
        for requests in requests.extract_if(.., |r| Arc::get_mut(r).is_some()) {
            let sum = self.ended.entry(requests.labels.clone()).or_default();
            sum.requests += requests.get();
        }
        let mut live = BTreeMap::<Labels, Sum>::new();
        // Outcomes first: no response is shown before its request.
        for times in &self.times {
            let sum = live.entry(times.of.labels.clone()).or_default();
            sum.times(times);
        }
        for requests in &self.requests {
            let sum = live.entry(requests.labels.clone()).or_default();
            sum.requests += requests.get();
        }
        self.forget(&live);
        for labels in live.keys() {
            // Also of those that are not over: their serial must stay.
            let ended = self.ended.entry(labels.clone()).or_default();
            if ended.serial == 0 {
                ended.serial = self.next_serial;
                self.next_serial += 1;
            }
        }
        for (labels, ended) in &self.ended {
            live.entry(labels.clone()).or_default().add(ended);
        }
        live
    }

    /// Makes room by what is over, if there must be.
    fn forget(&mut self, live: &BTreeMap<Labels, Sum>) {
        let new = live.keys().filter(|l| !self.ended.contains_key(l)).count();
        let mut over = (self.ended.len() + new).saturating_sub(SERIES_MAX);
        self.ended.retain(|labels, _| {
            let goes = over > 0 && !live.contains_key(labels);
            over -= usize::from(goes);
            !goes
        });
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (name, value) in self.shards.iter().flat_map(|counters| counters.all()) {
            *all.entry(name).or_default() += value;
        }
        all
    }
}

impl Sum {
    fn times(&mut self, times: &Times) {
        let (latency, duration) = times.get();
        let sum = self.responses.entry(times.outcome).or_default();
        sum.0.add(&latency);
        sum.1.add(&duration);
    }

    fn add(&mut self, ended: &Self) {
        self.serial = ended.serial;
        self.requests += ended.requests;
        for (outcome, (latency, duration)) in &ended.responses {
            let sum = self.responses.entry(*outcome).or_default();
            sum.0.add(latency);
            sum.1.add(duration);
        }
    }
}

fn is_of(owner: &str, labels: &Labels) -> bool {
    let own = match labels.direction {
        Direction::Outbound => &labels.source,
        Direction::Inbound => &labels.destination,
    };
    own.split_once('/')
        .is_some_and(|(namespace, _)| namespace == owner)
}

#[cfg(test)]
mod tests;
