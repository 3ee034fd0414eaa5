//! `underpass stat`: totals per service, from counters that no lost event can touch.

use std::time::Duration;

use serde::Serialize;
use underpass_api::v1alpha1 as api;

use crate::{
    client::Client,
    error::CliError,
    options::{Format, ServiceFilter, Stat},
    render::{self, Align, Cell, Look, Table, Tone},
    row::some,
};

const REFRESH: Duration = Duration::from_secs(2);
/// Home, then clear below: repaints without the flicker of clearing all first.
const REPAINT: &str = "\x1b[H\x1b[J";

#[derive(Debug, Serialize)]
struct ServiceList {
    items: Vec<Service>,
}

/// One service (null: traffic to addresses that are no service's) since the mesh was installed.
#[derive(Debug, Serialize)]
struct Service {
    service: Option<String>,
    protocol: String,
    endpoints: u32,
    open: u64,
    opened: u64,
    refused: u64,
    bytes_sent: u64,
    bytes_received: u64,
    srtt_p50_us: Option<u32>,
    srtt_p99_us: Option<u32>,
    retransmits: u64,
    segments_out: u64,
    /// Of the last minute; null: no worker saw a request (NOT_OBSERVED).
    requests: Option<Requests>,
    /// Why there are none: a name of docs/reference/codes.md.
    requests_reason: Option<String>,
    by_route: Vec<Route>,
    by_endpoint: Vec<Endpoint>,
}

/// HTTP requests of the last minute.
#[derive(Debug, Serialize)]
struct Requests {
    responses: u64,
    failures: u64,
    success_percent: Option<f64>,
    per_second: f64,
    latency_p50_us: u64,
    latency_p95_us: u64,
    latency_p99_us: u64,
}

#[derive(Debug, Serialize)]
struct Route {
    /// Null: no route matched.
    route: Option<String>,
    rule: Option<String>,
    backend: Option<String>,
    requests: Option<Requests>,
}

#[derive(Debug, Serialize)]
struct Endpoint {
    endpoint: String,
    workload: Option<String>,
    /// 0 for one that gets no new connections.
    weight: u32,
    /// Of new connections to an address of its family, in percent, as the weights say.
    share_percent: Option<f64>,
    /// ready, draining
    state: String,
}

pub async fn run(options: &Stat) -> Result<(), CliError> {
    options.namespace.check()?;
    let filter = ServiceFilter::parse(&options.service)?;
    let mut client = Client::connect(&options.api.path).await?;
    if !options.watch {
        let services = fetch(options, &filter, &mut client).await?;
        let empty = services.is_empty();
        render::emit(&print(options, services))?;
        if empty {
            render::note("no services match");
        }
        return Ok(());
    }
    let mut due = tokio::time::interval(REFRESH);
    let look = Look::of_stdout(true);
    loop {
        due.tick().await;
        let services = fetch(options, &filter, &mut client).await?;
        let text = match options.rows.output.output {
            Format::Json => render::json_line(&ServiceList::from(services)),
            Format::Yaml => format!("---\n{}", print(options, services)),
            Format::Table | Format::Wide if look.color => {
                REPAINT.to_owned() + &print(options, services)
            }
            Format::Table | Format::Wide => print(options, services) + "\n",
        };
        render::emit(&text)?;
    }
}

async fn fetch(
    options: &Stat,
    filter: &ServiceFilter,
    client: &mut Client,
) -> Result<Vec<api::ServiceStats>, CliError> {
    let mut services = client.stats(&filter.name).await?;
    services
        .retain(|s| options.namespace.matches([s.service.as_str()]) && filter.matches(&s.service));
    // Traffic to no service comes last.
    services.sort_by(|a, b| {
        let key = |s: &api::ServiceStats| (s.service == "-", s.service.clone(), s.protocol.clone());
        key(a).cmp(&key(b))
    });
    Ok(services)
}

fn print(options: &Stat, services: Vec<api::ServiceStats>) -> String {
    let look = Look::of_stdout(!options.rows.no_headers);
    match options.rows.output.output {
        Format::Table => table(&services, false, look) + &routes(&services, look),
        Format::Wide => {
            let tables = table(&services, true, look) + &routes(&services, look);
            tables + "\n" + &endpoints(&services, look)
        }
        Format::Json => render::json(&ServiceList::from(services)),
        Format::Yaml => render::yaml(&ServiceList::from(services)),
    }
}

fn table(services: &[api::ServiceStats], wide: bool, look: Look) -> String {
    use Align::{Left, Right};
    let mut columns = vec![
        ("SERVICE", Left),
        ("PROTO", Left),
        ("ENDPOINTS", Right),
        ("OPEN", Right),
        ("OPENED", Right),
        ("REFUSED", Right),
        ("SUCCESS", Right),
        ("RPS", Right),
        ("P50", Right),
        ("P95", Right),
        ("P99", Right),
        ("SENT", Right),
        ("RECEIVED", Right),
        ("SRTT_P50", Right),
        ("SRTT_P99", Right),
        ("RETRANS", Right),
        ("RETRANS%", Right),
    ];
    if wide {
        columns.push(("SEGS", Right));
    }
    let mut table = Table::new(&columns, look);
    for s in services {
        let missing = if wide {
            if s.opened == 0 {
                "-(NO_TRAFFIC)"
            } else {
                "-(NOT_OBSERVED)"
            }
        } else {
            "-"
        };
        let srtt = |us: Option<u32>| match us {
            Some(us) => render::micros(us.into()),
            None => missing.to_owned(),
        };
        let retrans = match s.segments_out {
            0 => missing.to_owned(),
            segments => render::percent(s.retransmits, segments),
        };
        let count =
            |n: u64, tone| Cell::toned(n.to_string(), if n == 0 { Tone::Plain } else { tone });
        let no_service = s.service == "-";
        let mut row = vec![
            if no_service && wide {
                Cell::new("-(ADDRESS_DIALED)")
            } else {
                Cell::new(&s.service)
            },
            Cell::new(&s.protocol),
            match s.endpoints {
                0 if no_service => Cell::new(if wide { "-(ADDRESS_DIALED)" } else { "-" }),
                0 => Cell::toned("0", Tone::Bad),
                n => Cell::new(n.to_string()),
            },
            Cell::new(s.open.to_string()),
            Cell::new(s.opened.to_string()),
            count(s.refused, Tone::Warn),
        ];
        let unseen = match s.requests_reason.as_str() {
            why if wide && !why.is_empty() => format!("-({why})"),
            _ => "-".to_owned(),
        };
        row.extend(requests(s.requests.as_ref(), &unseen));
        row.extend([
            Cell::new(render::bytes(s.bytes_sent)),
            Cell::new(render::bytes(s.bytes_received)),
            Cell::new(srtt(s.srtt_p50_us)),
            Cell::new(srtt(s.srtt_p99_us)),
            Cell::new(s.retransmits.to_string()),
            Cell::new(retrans),
        ]);
        if wide {
            row.push(Cell::new(s.segments_out.to_string()));
        }
        table.push(row);
    }
    table.take()
}

/// Success, rate and latency; `missing` in the place of each if nobody saw a request.
fn requests(requests: Option<&api::RequestStats>, missing: &str) -> [Cell; 5] {
    let Some(r) = requests.filter(|r| r.responses > 0) else {
        return [missing; 5].map(Cell::new);
    };
    let good = r.responses.saturating_sub(r.failures);
    let tone = if r.failures == 0 {
        Tone::Plain
    } else {
        Tone::Warn
    };
    let [p50, p95, p99] = [r.latency_p50_us, r.latency_p95_us, r.latency_p99_us];
    [
        Cell::toned(render::percent(good, r.responses), tone),
        Cell::new(format!("{:.1}", r.per_second)),
        Cell::new(render::micros(p50)),
        Cell::new(render::micros(p95)),
        Cell::new(render::micros(p99)),
    ]
}

/// Empty if no request was seen.
fn routes(services: &[api::ServiceStats], look: Look) -> String {
    use Align::{Left, Right};
    if services.iter().all(|s| s.by_route.is_empty()) {
        return String::new();
    }
    let columns = [
        ("SERVICE", Left),
        ("ROUTE", Left),
        ("RULE", Left),
        ("BACKEND", Left),
        ("RESPONSES", Right),
        ("SUCCESS", Right),
        ("RPS", Right),
        ("P50", Right),
        ("P95", Right),
        ("P99", Right),
    ];
    let mut table = Table::new(&columns, look);
    let name = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    for s in services {
        for r in &s.by_route {
            let responses = r.requests.as_ref().map_or(0, |h| h.responses);
            let mut row = vec![
                Cell::new(&s.service),
                Cell::new(name(&r.route)),
                Cell::new(name(&r.rule)),
                Cell::new(name(&r.backend)),
                Cell::new(responses.to_string()),
            ];
            row.extend(requests(r.requests.as_ref(), "-"));
            table.push(row);
        }
    }
    "\n".to_owned() + &table.take()
}

fn endpoints(services: &[api::ServiceStats], look: Look) -> String {
    use Align::{Left, Right};
    let columns = [
        ("SERVICE", Left),
        ("ENDPOINT", Left),
        ("WORKLOAD", Left),
        ("WEIGHT", Right),
        ("SHARE", Right),
        ("STATE", Left),
    ];
    let mut table = Table::new(&columns, look);
    for s in services {
        for e in &s.by_endpoint {
            let workload = if e.workload.is_empty() {
                "-(NOT_A_WORKLOAD)"
            } else {
                e.workload.as_str()
            };
            let (part, whole) = share(s, e);
            table.push(vec![
                Cell::new(&s.service),
                Cell::new(&e.endpoint),
                Cell::new(workload),
                Cell::new(e.weight.to_string()),
                Cell::new(render::percent(part, whole)),
                Cell::new(&e.state),
            ]);
        }
    }
    table.take()
}

/// Weight of an endpoint among those of its family: a client dials one family's address.
fn share(service: &api::ServiceStats, endpoint: &api::EndpointStats) -> (u64, u64) {
    let v6 = |e: &api::EndpointStats| e.endpoint.starts_with('[');
    let family = service.by_endpoint.iter().filter(|e| v6(e) == v6(endpoint));
    let whole = family.map(|e| u64::from(e.weight)).sum();
    (endpoint.weight.into(), whole)
}

impl From<Vec<api::ServiceStats>> for ServiceList {
    fn from(services: Vec<api::ServiceStats>) -> Self {
        Self {
            items: services.into_iter().map(Service::from).collect(),
        }
    }
}

impl From<api::ServiceStats> for Service {
    fn from(s: api::ServiceStats) -> Self {
        let by_endpoint: Vec<Endpoint> = s
            .by_endpoint
            .iter()
            .map(|e| {
                let (part, whole) = share(&s, e);
                Endpoint {
                    endpoint: e.endpoint.clone(),
                    workload: some(e.workload.clone()),
                    weight: e.weight,
                    share_percent: (whole > 0).then(|| part as f64 * 100.0 / whole as f64),
                    state: e.state.clone(),
                }
            })
            .collect();
        let by_route = s.by_route.into_iter().map(Route::from);
        Self {
            by_route: by_route.collect(),
            requests_reason: some(s.requests_reason),
            requests: s.requests.map(Requests::from),
            by_endpoint,
            service: some(s.service).filter(|name| name != "-"),
            protocol: s.protocol,
            endpoints: s.endpoints,
            open: s.open,
            opened: s.opened,
            refused: s.refused,
            bytes_sent: s.bytes_sent,
            bytes_received: s.bytes_received,
            srtt_p50_us: s.srtt_p50_us,
            srtt_p99_us: s.srtt_p99_us,
            retransmits: s.retransmits,
            segments_out: s.segments_out,
        }
    }
}

impl From<api::RequestStats> for Requests {
    fn from(h: api::RequestStats) -> Self {
        let good = h.responses.saturating_sub(h.failures);
        Self {
            responses: h.responses,
            failures: h.failures,
            success_percent: (h.responses > 0).then(|| good as f64 * 100.0 / h.responses as f64),
            per_second: h.per_second,
            latency_p50_us: h.latency_p50_us,
            latency_p95_us: h.latency_p95_us,
            latency_p99_us: h.latency_p99_us,
        }
    }
}

impl From<api::RouteStats> for Route {
    fn from(r: api::RouteStats) -> Self {
        Self {
            route: some(r.route),
            rule: some(r.rule),
            backend: some(r.backend),
            requests: r.requests.map(Requests::from),
        }
    }
}

#[cfg(test)]
mod tests;
