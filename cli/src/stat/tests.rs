//! Golden tables and documents.

use super::*;

const PLAIN: Look = Look {
    headers: true,
    color: false,
};

fn fixed() -> Vec<api::ServiceStats> {
    let endpoint = |address: &str, workload: &str, weight, state: &str| api::EndpointStats {
        endpoint: address.into(),
        workload: workload.into(),
        weight,
        state: state.into(),
    };
    let rates = api::ServiceStats {
        service: "shop/rates:9090".into(),
        protocol: "tcp".into(),
        endpoints: 3,
        open: 2,
        opened: 1_000,
        refused: 4,
        bytes_sent: 1_536,
        bytes_received: 52_428_800,
        srtt_p50_us: Some(80),
        srtt_p99_us: Some(1_250),
        retransmits: 3,
        segments_out: 4_000,
        by_endpoint: vec![
            endpoint("10.0.0.4:9090", "shop/rates-1", 90, "ready"),
            endpoint("10.0.0.5:9090", "", 10, "ready"),
            endpoint("10.0.0.6:9090", "shop/rates-3", 0, "draining"),
            endpoint("[fd00::4]:9090", "shop/rates-1", 90, "ready"),
        ],
        requests: Some(api::RequestStats {
            responses: 1_200,
            failures: 12,
            per_second: 20.04,
            latency_p50_us: 900,
            latency_p95_us: 4_000,
            latency_p99_us: 25_500,
        }),
        requests_reason: String::new(),
        by_route: vec![api::RouteStats {
            route: "shop/split".into(),
            rule: "0".into(),
            backend: "shop/rates-1:9090".into(),
            requests: Some(api::RequestStats {
                responses: 1_200,
                ..api::RequestStats::default()
            }),
        }],
    };
    let idle = api::ServiceStats {
        service: "shop/idle:80".into(),
        protocol: "udp".into(),
        requests_reason: "NOT_OBSERVED".into(),
        ..Default::default()
    };
    let addresses = api::ServiceStats {
        service: "-".into(),
        protocol: "tcp".into(),
        opened: 5,
        ..Default::default()
    };
    vec![idle, rates, addresses]
}

#[test]
fn table_of_services() {
    let expected = "\
SERVICE          PROTO  ENDPOINTS  OPEN  OPENED  REFUSED  SUCCESS   RPS    P50    P95     P99    SENT  RECEIVED  SRTT_P50  SRTT_P99  RETRANS  RETRANS%
shop/idle:80     udp            0     0       0        0        -     -      -      -       -      0B        0B         -         -        0         -
shop/rates:9090  tcp            3     2    1000        4    99.0%  20.0  900µs  4.0ms  25.5ms  1.5KiB   50.0MiB      80µs     1.2ms        3      0.1%
-                tcp            -     0       5        0        -     -      -      -       -      0B        0B         -         -        0         -
";
    assert_eq!(table(&fixed(), false, PLAIN), expected);
}

#[test]
fn wide_has_reasons_and_the_endpoints_with_their_shares() {
    let expected = "\
SERVICE            PROTO          ENDPOINTS  OPEN  OPENED  REFUSED          SUCCESS              RPS              P50              P95              P99    SENT  RECEIVED         SRTT_P50         SRTT_P99  RETRANS         RETRANS%  SEGS
shop/idle:80       udp                    0     0       0        0  -(NOT_OBSERVED)  -(NOT_OBSERVED)  -(NOT_OBSERVED)  -(NOT_OBSERVED)  -(NOT_OBSERVED)      0B        0B    -(NO_TRAFFIC)    -(NO_TRAFFIC)        0    -(NO_TRAFFIC)     0
shop/rates:9090    tcp                    3     2    1000        4            99.0%             20.0            900µs            4.0ms           25.5ms  1.5KiB   50.0MiB             80µs            1.2ms        3             0.1%  4000
-(ADDRESS_DIALED)  tcp    -(ADDRESS_DIALED)     0       5        0                -                -                -                -                -      0B        0B  -(NOT_OBSERVED)  -(NOT_OBSERVED)        0  -(NOT_OBSERVED)     0

SERVICE          ENDPOINT        WORKLOAD           WEIGHT   SHARE  STATE
shop/rates:9090  10.0.0.4:9090   shop/rates-1           90   90.0%  ready
shop/rates:9090  10.0.0.5:9090   -(NOT_A_WORKLOAD)      10   10.0%  ready
shop/rates:9090  10.0.0.6:9090   shop/rates-3            0    0.0%  draining
shop/rates:9090  [fd00::4]:9090  shop/rates-1           90  100.0%  ready
";
    assert_eq!(
        table(&fixed(), true, PLAIN) + "\n" + &endpoints(&fixed(), PLAIN),
        expected
    );
}

#[test]
fn yaml_of_services() {
    let expected = "\
items:
- service: shop/idle:80
  protocol: udp
  endpoints: 0
  open: 0
  opened: 0
  refused: 0
  bytes_sent: 0
  bytes_received: 0
  srtt_p50_us: null
  srtt_p99_us: null
  retransmits: 0
  segments_out: 0
  requests: null
  requests_reason: NOT_OBSERVED
  by_route: []
  by_endpoint: []
- service: shop/rates:9090
  protocol: tcp
  endpoints: 3
  open: 2
  opened: 1000
  refused: 4
  bytes_sent: 1536
  bytes_received: 52428800
  srtt_p50_us: 80
  srtt_p99_us: 1250
  retransmits: 3
  segments_out: 4000
  requests:
    responses: 1200
    failures: 12
    success_percent: 99.0
    per_second: 20.04
    latency_p50_us: 900
    latency_p95_us: 4000
    latency_p99_us: 25500
  requests_reason: null
  by_route:
  - route: shop/split
    rule: '0'
    backend: shop/rates-1:9090
    requests:
      responses: 1200
      failures: 0
      success_percent: 100.0
      per_second: 0.0
      latency_p50_us: 0
      latency_p95_us: 0
      latency_p99_us: 0
  by_endpoint:
  - endpoint: 10.0.0.4:9090
    workload: shop/rates-1
    weight: 90
    share_percent: 90.0
    state: ready
  - endpoint: 10.0.0.5:9090
    workload: null
    weight: 10
    share_percent: 10.0
    state: ready
  - endpoint: 10.0.0.6:9090
    workload: shop/rates-3
    weight: 0
    share_percent: 0.0
    state: draining
  - endpoint: '[fd00::4]:9090'
    workload: shop/rates-1
    weight: 90
    share_percent: 100.0
    state: ready
- service: null
  protocol: tcp
  endpoints: 0
  open: 0
  opened: 5
  refused: 0
  bytes_sent: 0
  bytes_received: 0
  srtt_p50_us: null
  srtt_p99_us: null
  retransmits: 0
  segments_out: 0
  requests: null
  requests_reason: null
  by_route: []
  by_endpoint: []
";
    assert_eq!(render::yaml(&ServiceList::from(fixed())), expected);
}

#[test]
fn routes_have_a_table_of_their_own_if_there_are_any() {
    let expected = "
SERVICE          ROUTE       RULE  BACKEND            RESPONSES  SUCCESS  RPS  P50  P95  P99
shop/rates:9090  shop/split  0     shop/rates-1:9090       1200   100.0%  0.0  0µs  0µs  0µs
";
    assert_eq!(routes(&fixed(), PLAIN), expected);
    assert_eq!(routes(&fixed()[..1], PLAIN), "");
}
