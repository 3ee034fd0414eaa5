#![allow(clippy::unwrap_used, reason = "of tests, which fail there")]

use std::thread;

use underpass_api::report::Method;

use super::*;
use crate::{
    counters::Count,
    metrics::{Key, Metrics, Scope, Way},
};

fn labels(n: usize) -> Labels {
    Labels {
        source: format!("t{}/w", n % 2),
        service: format!("shop/s{n}:80"),
        ..Labels::default()
    }
}

fn cell(to: &Sender<Item>, n: usize) -> Arc<Requests> {
    let requests = Arc::new(Requests::new(labels(n)));
    to.send(Item::Requests(requests.clone())).unwrap();
    requests.add();
    requests
}

#[test]
fn shards_are_summed_up_while_they_count() {
    const EACH: u64 = 200_000;
    let mut reporter = Reporter::default();
    let shards: Vec<_> = (0..3)
        .map(|_| {
            let counters = Arc::<Counters>::default();
            let to = reporter.shard(counters.clone());
            thread::spawn(move || {
                let metrics = Metrics::new(counters.clone(), to);
                let source = "shop/web".into();
                let scope = Scope::new(metrics, Direction::Outbound, source, "shop/a:80".into());
                for n in 0..EACH {
                    counters.add(Count::Requests);
                    let mut seen = scope.begin(Key::default(), Method::Get, 0, Way::default);
                    seen.answered(200, n % 1_000);
                    seen.end(n % 1_000);
                }
            })
        })
        .collect();
    let mut before = Report::default();
    while !shards.iter().all(thread::JoinHandle::is_finished) {
        let now = reporter.report(None);
        for (before, now) in before.series.iter().zip(&now.series) {
            assert!(now.requests >= before.requests);
            for (before, now) in before.responses.iter().zip(&now.responses) {
                assert!(now.latency.since(&before.latency).is_some());
            }
            let over: u64 = now.responses.iter().map(|r| r.latency.count()).sum();
            assert!(over <= now.requests, "{over} of {}", now.requests);
        }
        before = now;
    }
    shards.into_iter().for_each(|s| s.join().unwrap());
    let report = reporter.report(None);
    assert_eq!(report.series.len(), 1);
    assert_eq!(report.series[0].requests, 3 * EACH);
    let duration = &report.series[0].responses[0].duration;
    assert_eq!(duration.count(), 3 * EACH);
    assert_eq!(duration.sum_ns, 3 * EACH / 1_000 * (999 * 1_000 / 2));
    assert_eq!(report.counters["requests"], 3 * EACH);
}

#[test]
fn what_is_over_makes_room_when_there_must_be_and_begins_anew() {
    let mut reporter = Reporter::default();
    let to = reporter.shard(Arc::default());
    let alive = cell(&to, 0);
    let find = |report: &Report, n| {
        let mut all = report.series.iter();
        let found = all.find(|s| s.labels == labels(n));
        found.map(|s| (s.serial, s.requests))
    };
    for n in 1..SERIES_MAX {
        drop(cell(&to, n));
    }
    let full = reporter.report(None);
    assert_eq!(full.series.len(), SERIES_MAX);
    let held: Vec<_> = (SERIES_MAX..SERIES_MAX + 10)
        .map(|n| cell(&to, n))
        .collect();
    let report = reporter.report(None);
    assert_eq!(report.series.len(), SERIES_MAX);
    assert!(
        held.iter()
            .all(|c| report.series.iter().any(|s| s.labels == c.labels))
    );
    assert_eq!(find(&report, 0), Some((1, alive.get())));
    let gone = (1..SERIES_MAX)
        .find(|n| find(&report, *n).is_none())
        .unwrap();
    let (serial, _) = find(&full, gone).unwrap();
    let again = cell(&to, gone);
    let report = reporter.report(None);
    let (new, count) = find(&report, gone).unwrap();
    assert!(new > serial, "the reader must know that it is not the same");
    assert_eq!(count, again.get());
}

#[test]
fn one_tenant_is_told_of_its_own_only() {
    let mut reporter = Reporter::default();
    let to = reporter.shard(Arc::default());
    let _cells: Vec<_> = (0..10).map(|n| cell(&to, n)).collect();
    let own = reporter.report(Some("t1"));
    assert_eq!(own.series.len(), 5);
    assert!(own.series.iter().all(|s| s.labels.source == "t1/w"));
    assert!(reporter.report(Some("t")).series.is_empty());
}

#[test]
fn what_is_written_is_what_the_reader_takes() {
    let mut reporter = Reporter::default();
    let to = reporter.shard(Arc::default());
    let cell = cell(&to, 1);
    let memory = rustix::fs::memfd_create("report", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = std::fs::File::from(memory);
    const SIZE: u64 = 8_192;
    file.set_len(SIZE).unwrap();
    let mut sequence = halves::next_sequence(&file, SIZE).unwrap();
    let mut last = None;
    for n in 2..5 {
        reporter.write(&file, SIZE, &mut sequence, None).unwrap();
        let (found, body) = halves::read(&file, SIZE, last).unwrap().unwrap();
        last = Some(found);
        assert_eq!(Report::parse(&body).unwrap().series[0].requests, cell.get());
        cell.add();
        assert_eq!(cell.get(), n);
    }
    // A worker that comes after it goes on with the file.
    let mut next = Reporter::default();
    let mut sequence = halves::next_sequence(&file, SIZE).unwrap();
    next.write(&file, SIZE, &mut sequence, None).unwrap();
    let (_, body) = halves::read(&file, SIZE, last).unwrap().unwrap();
    let report = Report::parse(&body).unwrap();
    assert!(report.series.is_empty() && report.instance != reporter.report(None).instance);
    // More than fits.
    let to = next.shard(Arc::default());
    let _cells: Vec<_> = (0..500).map(|n| self::cell(&to, n)).collect();
    next.write(&file, SIZE, &mut sequence, None).unwrap();
    let (_, body) = halves::read(&file, SIZE, None).unwrap().unwrap();
    let report = Report::parse(&body).unwrap();
    assert_eq!(
        report.counters["report_series_left_out"],
        500 - report.series.len() as u64
    );
}
