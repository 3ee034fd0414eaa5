//! Envoy as a hop, as its own benchmark FAQ wants it: one worker thread, no request ids, no statistics per
//! request in the router, no access log, no time limit of the route, no limit on connections.

use super::{cases::Family, proxy::Leg};

pub const FLAGS: &[&str] = &[
    "--concurrency",
    "1",
    "--disable-hot-restart",
    "-l",
    "error",
    "-c",
];

const TYPES: &str = "type.googleapis.com/envoy.extensions";
const WINDOWS: &str =
    "{ initial_stream_window_size: 1048576, initial_connection_window_size: 1048576 }";

pub fn config(leg: &Leg) -> String {
    let (address, port) = (leg.at.ip(), leg.at.port());
    let (filter, protocol) = match leg.family {
        Family::Tcp => (tcp(), String::new()),
        Family::Http1 => (http("HTTP1"), upstream("http_protocol_options: {}")),
        Family::Http2 | Family::Grpc => (
            http("HTTP2"),
            upstream(&format!("http2_protocol_options: {WINDOWS}")),
        ),
    };
    let (to, to_port) = (leg.to.ip(), leg.to.port());
    format!(
        "static_resources:
  listeners:
  - name: hop
    address: {{ socket_address: {{ address: {address}, port_value: {port} }} }}
    filter_chains:
    - filters:
{filter}  clusters:
  - name: next
    type: STATIC
    connect_timeout: 5s
    circuit_breakers:
      thresholds:
      - {{ max_connections: 100000, max_pending_requests: 100000, max_requests: 100000 }}
    load_assignment:
      cluster_name: next
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {to}, port_value: {to_port} }} }} }}
{protocol}"
    )
}

fn tcp() -> String {
    format!(
        "      - name: envoy.filters.network.tcp_proxy
        typed_config:
          \"@type\": {TYPES}.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: hop
          cluster: next
          idle_timeout: 0s
"
    )
}

fn http(codec: &str) -> String {
    format!(
        "      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": {TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: hop
          codec_type: {codec}
          generate_request_id: false
          http2_protocol_options: {WINDOWS}
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:
              - match: {{ prefix: / }}
                route: {{ cluster: next, timeout: 0s }}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              \"@type\": {TYPES}.filters.http.router.v3.Router
              dynamic_stats: false
"
    )
}

fn upstream(options: &str) -> String {
    format!(
        "    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": {TYPES}.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          {options}
"
    )
}
