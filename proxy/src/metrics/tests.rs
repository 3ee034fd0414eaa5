use underpass_api::report::Report;

use super::{reporter::Reporter, *};

fn begin() -> (Reporter, Rc<Metrics>, Arc<Counters>) {
    let mut reporter = Reporter::default();
    let counters = Arc::<Counters>::default();
    let metrics = Metrics::new(counters.clone(), reporter.shard(counters.clone()));
    (reporter, metrics, counters)
}

fn scope(metrics: &Rc<Metrics>, service: &str) -> Scope {
    let source = Str::from("shop/web");
    Scope::new(metrics.clone(), Direction::Outbound, source, service.into())
}

fn key(endpoint: u64) -> Key {
    Key {
        endpoint,
        ..Key::default()
    }
}

fn to(name: &str) -> Way {
    Way {
        destination: name.into(),
        ..Way::default()
    }
}

fn request(scope: &Scope, endpoint: u64, status: u16) {
    let mut seen = scope.begin(key(endpoint), Method::Get, 0, || {
        to(&format!("shop/e{endpoint}"))
    });
    seen.answered(status, 2_000_000);
    seen.end(30_000_000);
}

fn responses(report: &Report) -> u64 {
    let all = report.series.iter().flat_map(|s| &s.responses);
    all.map(|r| r.latency.count()).sum()
}

fn requests(report: &Report) -> u64 {
    report.series.iter().map(|s| s.requests).sum()
}

#[test]
fn a_request_is_counted_by_where_it_went_and_how_it_ended() {
    let (mut reporter, metrics, _) = begin();
    let scope = scope(&metrics, "shop/api:80");
    request(&scope, 1, 200);
    request(&scope, 1, 200);
    request(&scope, 1, 503);
    request(&scope, 2, 200);
    let open = scope.begin(key(2), Method::Post, 0, || unreachable!("it is known"));
    let report = reporter.report(None);
    let [one, two] = report.series.as_slice() else {
        panic!("{report:?}");
    };
    assert_eq!(one.labels.destination, "shop/e1");
    assert_eq!(one.labels.source, "shop/web");
    assert_eq!(one.labels.service, "shop/api:80");
    assert_eq!((one.requests, two.requests), (3, 2));
    let [good, bad] = one.responses.as_slice() else {
        panic!("{one:?}");
    };
    assert_eq!((good.outcome.status, good.outcome.failure), (200, false));
    assert_eq!((bad.outcome.status, bad.outcome.failure), (503, true));
    assert_eq!(good.latency.sum_ns, 4_000_000);
    assert_eq!(good.duration.sum_ns, 60_000_000);
    assert_eq!(good.latency.quantile(1.0), Some(0.002));
    assert_eq!(good.duration.quantile(1.0), Some(0.03));
    assert_eq!(responses(&report), 4);
    open.end(1);
    assert_eq!(responses(&reporter.report(None)), 5);
}

#[test]
fn what_we_end_ourselves_has_its_code() {
    let (mut reporter, metrics, _) = begin();
    let scope = scope(&metrics, "shop/api:80");
    let start = || scope.begin(key(1), Method::Get, 0, || to("shop/e"));
    start().refuse(Refusal::RateLimited, false, 5);
    start().refuse(Refusal::NoRoute, false, 5);
    let mut cut = start();
    cut.answered(200, 1);
    cut.cut(Refusal::EndpointClosed, 502, 7);
    cut.end(7);
    let mut late = start();
    late.cut(Refusal::RequestTimeout, 504, 9);
    late.end(9);
    let report = reporter.report(None);
    let told = |r: &underpass_api::report::Responses| {
        let o = r.outcome;
        (o.status, o.code, o.failure)
    };
    let mut all: Vec<_> = report.series[0].responses.iter().map(told).collect();
    all.sort_unstable();
    let code = |why: Refusal| why.code();
    assert_eq!(
        all,
        [
            (200, code(Refusal::EndpointClosed), true),
            (404, code(Refusal::NoRoute), false),
            (429, code(Refusal::RateLimited), false),
            (504, code(Refusal::RequestTimeout), true),
        ]
    );
}

#[test]
fn grpc_is_classified_by_its_own_status() {
    let (mut reporter, metrics, _) = begin();
    let scope = scope(&metrics, "shop/api:80");
    for (code, kept, failure) in [(0, 0, false), (5, 5, false), (14, 14, true), (99, 2, true)] {
        let mut seen = scope.begin(key(1), Method::Post, 0, || to("shop/e"));
        seen.answered(200, 1);
        seen.grpc(code);
        seen.end(2);
        let report = reporter.report(None);
        let found = report.series[0].responses.iter();
        let found: Vec<_> = found.filter(|r| r.outcome.grpc == Some(kept)).collect();
        assert_eq!(found.len(), 1, "{code}");
        assert_eq!(
            (found[0].outcome.failure, found[0].outcome.status),
            (failure, 200)
        );
    }
}

#[test]
fn series_are_bounded_and_nothing_is_lost() {
    let (mut reporter, metrics, counters) = begin();
    let scope = scope(&metrics, "shop/api:80");
    // Two for each endpoint.
    for endpoint in 0..SERIES as u64 {
        request(&scope, endpoint, 200);
        request(&scope, endpoint, 500);
    }
    assert!(metrics.len() <= SERIES);
    let report = reporter.report(None);
    assert_eq!(requests(&report), 2 * SERIES as u64);
    assert_eq!(responses(&report), 2 * SERIES as u64);
    let other = Labels::other(Direction::Outbound);
    let other = report.series.iter().find(|s| s.labels == other);
    let other = other.expect("there is one");
    let all = |failure: bool| {
        let some = other
            .responses
            .iter()
            .filter(|r| r.outcome.failure == failure);
        some.map(|r| r.latency.count()).sum::<u64>()
    };
    let over = counters.get(Count::SeriesOverflow);
    assert_eq!(all(true) + all(false), over);
    assert_eq!(
        all(true),
        over.div_ceil(2),
        "failures are failures there too"
    );
    assert!(counters.get(Count::SeriesOverflow) > SERIES as u64);
    assert!(
        underpass_api::report::Report::parse(&serde_json::to_vec(&report).expect("plain")).is_ok()
    );
}

#[test]
fn outcomes_of_a_hostile_endpoint_are_bounded() {
    let (mut reporter, metrics, _) = begin();
    let scope = scope(&metrics, "shop/api:80");
    for status in 100..1_000 {
        request(&scope, 1, status);
    }
    let report = reporter.report(None);
    assert_eq!(responses(&report), 900);
    let own = report
        .series
        .iter()
        .find(|s| s.labels.destination == "shop/e1");
    let own = &own.expect("there is one").responses;
    assert_eq!(own.len(), OUTCOMES);
    assert!(own.iter().all(|r| r.outcome.status < 600));
}

#[test]
fn series_go_with_their_plan_and_sums_stay() {
    let (mut reporter, metrics, _) = begin();
    let first = scope(&metrics, "shop/api:80");
    request(&first, 1, 200);
    let open = first.begin(key(2), Method::Get, 0, || to("shop/e2"));
    assert_eq!(requests(&reporter.report(None)), 2);
    // The next snapshot's plan has the same series, as long as it needs them.
    let second = scope(&metrics, "shop/api:80");
    request(&second, 1, 200);
    drop(first);
    metrics.sweep();
    assert_eq!(metrics.len(), 3, "of the one under way too");
    drop(second);
    metrics.sweep();
    assert_eq!(metrics.len(), 1);
    let report = reporter.report(None);
    assert_eq!((requests(&report), responses(&report)), (3, 2));
    open.end(5);
    metrics.sweep();
    assert!(metrics.is_empty());
    let report = reporter.report(None);
    assert_eq!((requests(&report), responses(&report)), (3, 3));

    let third = scope(&metrics, "shop/api:80");
    request(&third, 1, 200);
    let again = reporter.report(None);
    assert_eq!((requests(&again), responses(&again)), (4, 4));
    let serials = |r: &Report| r.series.iter().map(|s| s.serial).collect::<Vec<_>>();
    assert_eq!(serials(&again), serials(&report), "it has never fallen");
}
