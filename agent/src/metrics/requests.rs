//! Families of requests: Linkerd's names, so that its dashboards work, and OpenTelemetry's in seconds.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, exemplar::Exemplar},
};
use underpass_abi::reason;
use underpass_api::report::{Direction, Histogram, Labels, Outcome, histogram::bucket};

use crate::telemetry::reports::Total;

/// What one scrape shows of requests.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    pub series: BTreeMap<Labels, Total>,
    /// Of workers: tenant, name, value.
    pub counters: Vec<(String, String, u64)>,
}

/// Linkerd's buckets, in milliseconds.
const LINKERD_MS: [u64; 25] = [
    1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 100, 200, 300, 400, 500, 1_000, 2_000, 3_000, 4_000, 5_000,
    10_000, 20_000, 30_000, 40_000, 50_000,
];
/// OpenTelemetry's, and finer ones below them, in microseconds.
const OTEL_US: [u64; 19] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000,
    750_000, 1_000_000, 2_500_000, 5_000_000, 7_500_000, 10_000_000,
];

const NO_EXEMPLARS: Option<&HashMap<usize, Exemplar<NoLabelSet, f64>>> = None;

type Set<'a> = Vec<(&'static str, &'a str)>;

/// All families; nothing without a request.
pub fn encode(encoder: &mut DescriptorEncoder<'_>, requests: &Requests) -> fmt::Result {
    workers(encoder, &requests.counters)?;
    if requests.series.is_empty() {
        return Ok(());
    }
    let series = &requests.series;
    let help = "Requests, at the source once for each of the application's.";
    let mut family = encoder.encode_descriptor("request", help, None, MetricType::Counter)?;
    for (labels, total) in series {
        ConstCounter::new(total.requests).encode(family.encode_family(&set(labels))?)?;
    }
    let help = "Requests that are over, classified.";
    let mut family = encoder.encode_descriptor("response", help, None, MetricType::Counter)?;
    for (labels, total) in series {
        for (outcome, (latency, _)) in &total.responses {
            let texts = Texts::of(outcome);
            let mut set = set(labels);
            set.extend(texts.linkerd());
            ConstCounter::new(latency.count()).encode(family.encode_family(&set)?)?;
        }
    }
    latency(encoder, series)?;
    let name = "http_client_request_duration_seconds";
    duration(encoder, name, series, Direction::Outbound)?;
    let name = "http_server_request_duration_seconds";
    duration(encoder, name, series, Direction::Inbound)
}

fn latency(encoder: &mut DescriptorEncoder<'_>, all: &BTreeMap<Labels, Total>) -> fmt::Result {
    let name = "response_latency_ms";
    let help = "Milliseconds from a request's head to its response's head.";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (labels, total) in all {
        let mut sum = Histogram::default();
        let latencies = total.responses.values();
        latencies.for_each(|(latency, _)| sum.add(latency));
        let bounds = LINKERD_MS.map(|ms| (ms as f64, ms * 1_000_000));
        let buckets = buckets(&sum, &bounds);
        let ms = sum.sum_ns as f64 / 1e6;
        family.encode_family(&set(labels))?.encode_histogram(
            ms,
            sum.count(),
            &buckets,
            NO_EXEMPLARS,
        )?;
    }
    Ok(())
}

fn duration(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    all: &BTreeMap<Labels, Total>,
    direction: Direction,
) -> fmt::Result {
    let help = "Seconds from a request's head to the end of its response.";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (labels, total) in all.iter().filter(|(l, _)| l.direction == direction) {
        for (outcome, (_, duration)) in &total.responses {
            let texts = Texts::of(outcome);
            let mut set = set(labels);
            set.extend(texts.opentelemetry(outcome, direction));
            let bounds = OTEL_US.map(|us| (us as f64 / 1e6, us * 1_000));
            let buckets = buckets(duration, &bounds);
            let seconds = duration.sum_ns as f64 / 1e9;
            family.encode_family(&set)?.encode_histogram(
                seconds,
                duration.count(),
                &buckets,
                NO_EXEMPLARS,
            )?;
        }
    }
    Ok(())
}

fn workers(encoder: &mut DescriptorEncoder<'_>, counters: &[(String, String, u64)]) -> fmt::Result {
    if counters.is_empty() {
        return Ok(());
    }
    let name = "underpass_worker_events";
    let help = "What workers count, see docs/reference/metrics.md.";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (tenant, event, value) in counters {
        let set = [("tenant", &**tenant), ("event", &**event)];
        ConstCounter::new(*value).encode(family.encode_family(&set)?)?;
    }
    Ok(())
}

fn set(labels: &Labels) -> Set<'_> {
    let mut set = vec![("direction", labels.direction.name())];
    set.extend(labels.texts());
    set
}

/// A family's buckets out of the finer ones, each bound of which is one of those.
fn buckets<const N: usize>(histogram: &Histogram, bounds: &[(f64, u64); N]) -> Vec<(f64, u64)> {
    let mut next = 0;
    let mut found: Vec<(f64, u64)> = Vec::with_capacity(N + 1);
    for (shown, ns) in bounds {
        let end = bucket(*ns) + 1;
        found.push((*shown, histogram.counts[next..end].iter().sum()));
        next = end;
    }
    found.push((f64::INFINITY, histogram.counts[next..].iter().sum()));
    found
}

/// Labels of an outcome as text.
struct Texts {
    status: String,
    grpc: String,
    code: &'static str,
    failure: bool,
}

impl Texts {
    fn of(outcome: &Outcome) -> Self {
        let status = outcome.status;
        Self {
            status: if status == 0 {
                String::new()
            } else {
                status.to_string()
            },
            grpc: outcome
                .grpc
                .map(|code| code.to_string())
                .unwrap_or_default(),
            code: reason::name(outcome.code),
            failure: outcome.failure,
        }
    }

    fn linkerd(&self) -> [(&'static str, &str); 4] {
        let class = if self.failure { "failure" } else { "success" };
        [
            ("classification", class),
            ("status_code", &self.status),
            ("grpc_status", &self.grpc),
            ("error", self.code),
        ]
    }

    /// Semantic conventions 1.x for HTTP: a client takes 4xx for an error, a server does not.
    fn opentelemetry(&self, outcome: &Outcome, at: Direction) -> [(&'static str, &str); 3] {
        let least = if at == Direction::Outbound { 400 } else { 500 };
        let error = match outcome.code {
            0 if outcome.status >= least => &*self.status,
            0 if outcome.failure => "grpc",
            0 => "",
            _ => self.code,
        };
        [
            ("http_request_method", outcome.method.name()),
            ("http_response_status_code", &self.status),
            ("error_type", error),
        ]
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{collector::Collector, encoding::text, registry::Registry};
    use underpass_api::report::{Method, histogram::BOUNDS_NS};

    use super::*;

    #[derive(Debug)]
    struct One(Requests);

    impl Collector for One {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            encode(&mut encoder, &self.0)
        }
    }

    fn render(requests: Requests) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(One(requests)));
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        text
    }

    fn times(list: &[u64]) -> Histogram {
        let mut times = Histogram::default();
        for us in list {
            times.counts[bucket(us * 1_000)] += 1;
            times.sum_ns += us * 1_000;
        }
        times
    }

    fn outcome(status: u16, grpc: Option<u8>, code: u16, failure: bool) -> Outcome {
        Outcome {
            method: Method::Get,
            status,
            grpc,
            code,
            failure,
        }
    }

    fn requests(direction: Direction) -> Requests {
        let labels = Labels {
            direction,
            source: "shop/web".into(),
            destination: "shop/ledger".into(),
            service: "shop/ledger:80".into(),
            route: "shop/split".into(),
            rule: "0".into(),
            backend: "shop/ledger-v2:80".into(),
        };
        let total = Total {
            requests: 9,
            responses: BTreeMap::from([
                (
                    outcome(200, None, 0, false),
                    (
                        times(&[90, 1_000, 1_001]),
                        times(&[1_500, 2_500, 60_000_000]),
                    ),
                ),
                (outcome(200, Some(14), 0, true), (times(&[1]), times(&[1]))),
                (outcome(404, None, 0, false), (times(&[1]), times(&[1]))),
                (outcome(503, None, 665, true), (times(&[1]), times(&[1]))),
            ]),
        };
        Requests {
            series: BTreeMap::from([(labels, total)]),
            counters: vec![("shop".into(), "requests".into(), 9)],
        }
    }

    const LABELS: &str = "source=\"shop/web\",destination=\"shop/ledger\",service=\"shop/ledger:80\",\
                          route=\"shop/split\",rule=\"0\",backend=\"shop/ledger-v2:80\"";

    #[test]
    fn every_bound_is_one_that_is_counted_by() {
        let ms = LINKERD_MS.iter().map(|ms| ms * 1_000_000);
        for ns in ms.chain(OTEL_US.iter().map(|us| us * 1_000)) {
            assert!(BOUNDS_NS.contains(&ns), "{ns}");
        }
    }

    #[test]
    fn linkerds_families_have_its_names_labels_and_buckets() {
        let text = render(requests(Direction::Outbound));
        let all = format!("direction=\"outbound\",{LABELS}");
        let class = |class, status, grpc, error| {
            format!(
                "{{{all},classification=\"{class}\",status_code=\"{status}\",grpc_status=\"{grpc}\",error=\"{error}\"}}"
            )
        };
        for line in [
            format!("request_total{{{all}}} 9\n"),
            format!("response_total{} 3\n", class("success", "200", "", "")),
            format!("response_total{} 1\n", class("failure", "200", "14", "")),
            format!(
                "response_total{} 1\n",
                class("failure", "503", "", "NO_CONNECTION")
            ),
            format!("response_latency_ms_bucket{{le=\"1.0\",{all}}} 5\n"),
            format!("response_latency_ms_bucket{{le=\"2.0\",{all}}} 6\n"),
            format!("response_latency_ms_bucket{{le=\"+Inf\",{all}}} 6\n"),
            format!("response_latency_ms_count{{{all}}} 6\n"),
            "underpass_worker_events_total{tenant=\"shop\",event=\"requests\"} 9\n".into(),
        ] {
            assert!(text.contains(&line), "{line} in {text}");
        }
        let buckets = text.matches("response_latency_ms_bucket").count();
        assert_eq!(buckets, LINKERD_MS.len() + 1);
    }

    #[test]
    fn ours_are_in_seconds_and_named_after_the_end_that_saw_them() {
        for (direction, name, of_404) in [
            (Direction::Outbound, "client", "404"),
            (Direction::Inbound, "server", ""),
        ] {
            let text = render(requests(direction));
            let all = format!("direction=\"{}\",{LABELS}", direction.name());
            let of = |status, error| {
                format!(
                    "{all},http_request_method=\"GET\",http_response_status_code=\"{status}\",error_type=\"{error}\""
                )
            };
            let name = format!("http_{name}_request_duration_seconds");
            for line in [
                format!("{name}_bucket{{le=\"0.001\",{}}} 0\n", of("200", "")),
                format!("{name}_bucket{{le=\"0.0025\",{}}} 2\n", of("200", "")),
                format!("{name}_bucket{{le=\"10.0\",{}}} 2\n", of("200", "")),
                format!("{name}_bucket{{le=\"+Inf\",{}}} 3\n", of("200", "")),
                format!("{name}_sum{{{}}} 60.004\n", of("200", "")),
                format!("{name}_count{{{}}} 1\n", of("404", of_404)),
                format!("{name}_count{{{}}} 1\n", of("503", "NO_CONNECTION")),
                format!("{name}_count{{{}}} 1\n", of("200", "grpc")),
            ] {
                assert!(text.contains(&line), "{line} in {text}");
            }
        }
    }

    #[test]
    fn without_a_request_nothing_is_shown() {
        assert_eq!(render(Requests::default()), "# EOF\n");
    }
}
