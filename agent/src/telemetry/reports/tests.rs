use proptest::prelude::*;
use underpass_api::report::{FORMAT, Histogram, Method, Outcome, Responses, histogram::bucket};

use super::*;

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

fn labels(source: &str, service: &str) -> Labels {
    Labels {
        source: source.into(),
        service: service.into(),
        ..Labels::default()
    }
}

fn responses(status: u16, count: u64, ms: u64) -> Responses {
    let mut latency = Histogram {
        sum_ns: count * ms * MS,
        ..Histogram::default()
    };
    latency.counts[bucket(ms * MS)] = count;
    Responses {
        outcome: Outcome {
            method: Method::Get,
            status,
            failure: status >= 500,
            ..Outcome::default()
        },
        duration: latency.clone(),
        latency,
    }
}

fn series(labels: Labels, requests: u64, responses: Vec<Responses>) -> Series {
    Series {
        labels,
        serial: 1,
        requests,
        responses,
    }
}

fn report(instance: u64, series: Vec<Series>) -> Report {
    Report {
        format: FORMAT,
        instance,
        series,
        counters: BTreeMap::from([("requests".into(), instance + 10)]),
    }
}

fn web() -> Labels {
    labels("shop/web", "shop/ledger:80")
}

fn simple(instance: u64, count: u64) -> Report {
    let all = vec![series(web(), count, vec![responses(200, count, 1)])];
    report(instance, all)
}

fn shown(merged: &Merged) -> (u64, u64) {
    let series = merged.series();
    let total = &series[&web()];
    let counts = total.responses.values().map(|(l, _)| l.count());
    (total.requests, counts.sum())
}

#[test]
fn sums_go_on_when_a_worker_is_another() {
    let mut merged = Merged::default();
    merged.take("shop", &simple(1, 50), S);
    merged.take("shop", &simple(1, 60), 2 * S);
    assert_eq!(shown(&merged), (60, 60));
    merged.take("shop", &simple(2, 5), 3 * S);
    assert_eq!(shown(&merged), (65, 65));
    merged.take("shop", &simple(2, 7), 4 * S);
    assert_eq!(shown(&merged), (67, 67));
    // The worker ends, and its successor has seen nothing of this series yet.
    merged.take("shop", &report(3, Vec::new()), 5 * S);
    assert_eq!(shown(&merged), (67, 67));
    merged.take("shop", &simple(3, 1), 6 * S);
    assert_eq!(shown(&merged), (68, 68));
    let counters: Vec<_> = merged.counters().collect();
    assert_eq!(counters, [("shop", "requests", 11 + 12 + 13)]);
}

#[test]
fn a_series_that_begins_anew_within_a_worker_goes_on_too() {
    let mut merged = Merged::default();
    merged.take("shop", &simple(1, 50), S);
    merged.take("shop", &report(1, Vec::new()), 2 * S);
    merged.take("shop", &simple(1, 3), 3 * S);
    assert_eq!(shown(&merged), (53, 53));
    let mut anew = simple(1, 100);
    anew.series[0].serial = 2;
    merged.take("shop", &anew, 4 * S);
    assert_eq!(shown(&merged), (153, 153), "it has not risen from 3");
}

#[test]
fn a_worker_cannot_speak_for_others() {
    let mut merged = Merged::default();
    let mut inbound = labels("bank/web", "shop/ledger:80");
    inbound.direction = Direction::Inbound;
    inbound.destination = "shop/ledger".into();
    let mut forged = inbound.clone();
    forged.destination = "bank/vault".into();
    let all = [
        labels("bank/web", "shop/ledger:80"),
        labels("shopping/web", ""),
        labels("outside", ""),
        forged,
        inbound.clone(),
        Labels::other(Direction::Outbound),
    ];
    let all = all.map(|l| series(l, 1, Vec::new()));
    merged.take("shop", &report(1, all.into()), S);
    let taken: Vec<Labels> = merged.series().into_keys().collect();
    assert_eq!(taken, [Labels::other(Direction::Outbound), inbound]);
    assert_eq!(merged.counts.foreign, 4);
}

#[test]
fn what_finds_no_room_is_counted_and_others_keep_theirs() {
    let mut merged = Merged::default();
    let many = |from: usize| {
        let all = from..from + 2_500;
        let all = all.map(|n| series(labels("evil/w", &n.to_string()), 1, Vec::new()));
        report(1, all.collect())
    };
    merged.take("evil", &many(0), S);
    assert_eq!(merged.counts.dropped, 0);
    merged.take("evil", &many(2_500), S);
    let over = 5_000 - OUTCOMES_PER_TENANT as u64;
    assert_eq!(merged.counts.dropped, over);
    // Of a known label set too.
    let statuses = (100..200).map(|status| responses(status, 1, 1)).collect();
    let wide = report(1, vec![series(labels("evil/w", "0"), 1, statuses)]);
    merged.take("evil", &wide, S);
    assert_eq!(merged.counts.dropped, over + 99);
    merged.take("shop", &simple(1, 5), S);
    assert_eq!(shown(&merged), (5, 5));

    merged.expire(2 * S + UNUSED_NS, |_| false);
    assert!(merged.series().is_empty());
    merged.take("evil", &many(0), 3 * S + UNUSED_NS);
    assert_eq!(merged.counts.dropped, over + 99, "there is room again");
}

#[test]
fn all_tenants_together_are_bounded() {
    let mut merged = Merged::default();
    for tenant in 0..5 {
        let name = format!("t{tenant}");
        let all = (0..4_000).map(|n| {
            let labels = labels(&format!("{name}/w"), &n.to_string());
            series(labels, 1, vec![responses(200, 1, 1)])
        });
        merged.take(&name, &report(1, all.collect()), S);
    }
    assert_eq!(merged.series().len(), OUTCOMES_MAX);
    assert_eq!(merged.counts.dropped, 20_000 - OUTCOMES_MAX as u64);
}

#[test]
fn only_what_is_unused_and_gone_is_forgotten() {
    let mut merged = Merged::default();
    merged.take("shop", &simple(1, 5), S);
    merged.expire(S + UNUSED_NS - 1, |_| false);
    assert_eq!(shown(&merged), (5, 5));
    merged.expire(S + UNUSED_NS, |name| {
        matches!(name, "shop/web" | "shop/ledger")
    });
    assert_eq!(shown(&merged), (5, 5));
    merged.expire(S + UNUSED_NS, |name| name == "shop/web");
    assert!(merged.series().is_empty());
}

#[test]
fn the_last_minute_has_rate_success_and_quantiles() {
    let mut merged = Merged::default();
    merged.take("shop", &simple(1, 1_000_000), 100 * S);
    assert!(merged.stats("shop/ledger:80", 100 * S).is_empty());
    let mut routed = web();
    (routed.route, routed.rule) = ("shop/split".into(), "0".into());
    routed.backend = "shop/ledger-v2:80".into();
    for second in 1..=30 {
        let all = vec![
            series(
                web(),
                1_000_000 + 10 * second,
                vec![responses(200, 1_000_000 + 10 * second, 1)],
            ),
            series(
                routed.clone(),
                10 * second,
                vec![
                    responses(200, 5 * second, 15),
                    responses(503, 5 * second, 150),
                ],
            ),
        ];
        merged.take("shop", &report(1, all), (100 + second) * S);
    }
    let stats = merged.stats("shop/ledger:80", 130 * S);
    let own = &stats[&Key::default()];
    assert_eq!((own.responses, own.failures), (600, 150));
    assert_eq!(own.success(), Some(0.75));
    assert!((own.per_second - 20.0).abs() < 0.1, "{}", own.per_second);
    let key = Key {
        route: "shop/split".into(),
        rule: "0".into(),
        backend: "shop/ledger-v2:80".into(),
    };
    let row = &stats[&key];
    assert_eq!((row.responses, row.success()), (300, Some(0.5)));
    let ms = |q| row.latency.quantile(q).unwrap() * 1e3;
    let shown = row.to_proto();
    assert_eq!((shown.responses, shown.failures), (300, 150));
    let in_us = [
        shown.latency_p50_us,
        shown.latency_p95_us,
        shown.latency_p99_us,
    ];
    assert_eq!(
        in_us,
        [0.5, 0.95, 0.99].map(|q| (ms(q) * 1e3).round() as u64)
    );
    assert!((10.0..=20.0).contains(&ms(0.5)) && (100.0..=200.0).contains(&ms(0.95)));
    // A minute later nothing is left.
    assert!(merged.stats("shop/ledger:80", 191 * S).is_empty());
    assert!(merged.stats("shop/other:80", 130 * S).is_empty());
}

#[test]
fn a_service_that_no_source_reports_shows_what_its_destinations_saw() {
    let mut merged = Merged::default();
    let mut inbound = labels("outside", "shop/ledger:80");
    inbound.direction = Direction::Inbound;
    inbound.destination = "shop/ledger".into();
    let of = |labels: &Labels, n| series(labels.clone(), n, vec![responses(200, n, 1)]);
    merged.take("shop", &report(1, Vec::new()), S);
    merged.take("shop", &report(1, vec![of(&inbound, 4)]), 2 * S);
    let responses = |merged: &Merged| {
        let stats = merged.stats("shop/ledger:80", 3 * S);
        stats[&Key::default()].responses
    };
    assert_eq!(responses(&merged), 4);
    merged.take(
        "shop",
        &report(1, vec![of(&inbound, 4), of(&web(), 3)]),
        3 * S,
    );
    assert_eq!(responses(&merged), 3, "not counted twice");
}

#[test]
fn a_reader_takes_each_report_once() {
    use std::{fs::File, io::Write as _};
    let path = std::env::temp_dir().join(format!("up-report-{}", std::process::id()));
    let mut file = File::options();
    let mut file = file
        .read(true)
        .write(true)
        .create(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    file.write_all(&[0; 4096]).unwrap();
    let mut reader = Reader::default();
    assert!(reader.read(&file, 4096).unwrap().is_none());
    let bytes = simple(1, 5).to_bytes(1_000, &mut 0).unwrap();
    halves::write(&file, 4096, 1, &bytes).unwrap();
    let read = reader.read(&file, 4096).unwrap().unwrap();
    assert_eq!(read.series, simple(1, 5).series);
    assert!(reader.read(&file, 4096).unwrap().is_none());
    halves::write(&file, 4096, 2, b"{}").unwrap();
    assert!(matches!(
        reader.read(&file, 4096),
        Err(Bad::Report(Invalid::Form))
    ));
    assert!(reader.read(&file, 4096).unwrap().is_none(), "told once");
}

proptest! {
    /// Whatever a worker reports, and however often it is another, no shown number falls.
    #[test]
    fn no_sum_falls(
        reports in proptest::collection::vec((0..4_u64, 0..3_usize, any::<u64>(), 0..36_usize), 1..40),
    ) {
        let mut merged = Merged::default();
        let mut before = BTreeMap::new();
        for (n, (instance, service, count, bucket)) in reports.into_iter().enumerate() {
            let mut one = responses(200, 0, 0);
            (one.latency.sum_ns, one.latency.counts[bucket]) = (count, count);
            one.duration.counts[35 - bucket] = count / 2;
            let labels = labels("shop/web", &format!("shop/s{service}:80"));
            let all = vec![series(labels, count, vec![one])];
            merged.take("shop", &report(instance, all), (n as u64 + 1) * S);
            let after = merged.series();
            for (labels, total) in &before {
                let now: &Total = &after[labels];
                let total: &Total = total;
                prop_assert!(now.requests >= total.requests);
                for (outcome, (latency, duration)) in &total.responses {
                    let (l, d) = &now.responses[outcome];
                    prop_assert!(l.since(latency).is_some() && d.since(duration).is_some());
                }
            }
            before = after;
            merged.stats("shop/s0:80", (n as u64 + 1) * S);
        }
    }
}
