//! What it costs to count a request: `cargo run --release -p underpass-proxy --example metrics_cost`.
//! Rounds of counting and of an empty loop take turns; the median of the differences is printed.
#![forbid(unsafe_code)]

use std::{hint::black_box, sync::Arc, time::Instant};

use underpass_api::report::{Direction, Method};
use underpass_mesh::Str;
use underpass_proxy::metrics::{Key, Metrics, Scope, Way, reporter::Reporter};

const REQUESTS: u64 = 1_000_000;
const ROUNDS: usize = 21;
/// Endpoints that requests go to in turn.
const ENDPOINTS: u64 = 8;

fn main() {
    let mut reporter = Reporter::default();
    let counters = Arc::default();
    let metrics = Metrics::new(Arc::clone(&counters), reporter.shard(counters));
    let source = Str::from("shop/web");
    let scope = Scope::new(metrics, Direction::Outbound, source, "shop/api:80".into());
    let start = Instant::now();
    let clock = || start.elapsed().as_nanos() as u64;
    let count = |n: u64, now: [u64; 3]| {
        let key = Key {
            endpoint: n % ENDPOINTS,
            ..Key::default()
        };
        let mut seen = scope.begin(key, Method::Get, now[0], Way::default);
        seen.answered(if n.is_multiple_of(50) { 503 } else { 200 }, now[1]);
        seen.end(now[2]);
    };
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let empty = per_request(|n| {
            black_box(n);
        });
        let counted = per_request(|n| count(black_box(n), [n, n + 30_000, n + 90_000]));
        let with_clock = per_request(|n| count(black_box(n), [clock(), clock(), clock()]));
        rounds.push([counted - empty, with_clock - empty]);
    }
    for (i, what) in ["numbers", "numbers and three looks at the clock"]
        .iter()
        .enumerate()
    {
        let mut ns: Vec<_> = rounds.iter().map(|r| r[i]).collect();
        ns.sort_by(f64::total_cmp);
        let (low, high) = (ns[ROUNDS / 4], ns[ROUNDS * 3 / 4]);
        println!(
            "{what}: {:.1} ns a request (quartiles {low:.1} to {high:.1})",
            ns[ROUNDS / 2]
        );
    }
    let began = Instant::now();
    let report = reporter.report(None);
    println!(
        "a report of {} series: {:?}",
        report.series.len(),
        began.elapsed()
    );
    let requests: u64 = report.series.iter().map(|s| s.requests).sum();
    assert_eq!(requests, 2 * REQUESTS * ROUNDS as u64, "all were counted");
}

/// Nanoseconds.
fn per_request(mut request: impl FnMut(u64)) -> f64 {
    let began = Instant::now();
    (0..REQUESTS).for_each(&mut request);
    began.elapsed().as_nanos() as f64 / REQUESTS as f64
}
