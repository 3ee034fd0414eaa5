//! Answers about connections: rows, sums, and what a scrape needs.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use underpass_abi::{
    sock::{Event, SockState, Total, TotalKey, counter, flag},
    tables::NameKind,
};
use underpass_api::v1alpha1 as api;
use underpass_mesh::plan::Endpoint;

use super::{Control, RegisteredNames, of_kernel};
use crate::{
    kernel::KernelError,
    metrics::Scrape,
    problem::Problem,
    telemetry::{
        Interner, Names, Node,
        filter::{self, Filter},
        histogram,
        row::{self, Kind, Labels, Seen},
        sums::{self, TCP, UDP},
        table::Listing,
    },
};

/// How long one look at the kernel serves everybody who asks.
const SAMPLE_AGE: Duration = Duration::from_millis(200);
/// Rows of a listing if the client names no limit.
pub const DEFAULT_LIMIT: usize = 10_000;

/// Rows of a listing after which memory is given back.
const LARGE_LISTING: usize = 2_000;

/// What the kernel said at one moment.
#[derive(Debug, Default)]
pub struct Sample {
    /// Read before `open`, see [`sums`].
    pub totals: Vec<(TotalKey, Total)>,
    pub open: Vec<SockState>,
}

/// Logs a refusal as an operator reads it.
pub(super) fn log_refusal(event: &Event, names: &dyn Names, node: &Node) {
    let labels = Labels::of(
        &Kind::of(&event.sock, node),
        names,
        &mut Interner::default(),
    );
    let row = row::to_api(&event.sock, Seen::Refused(0), &labels, 0, node, event.at_ns);
    tracing::info!(
        source = row.source.map(|p| p.workload),
        destination = row.destination.map(|p| p.workload),
        service = row.service,
        dialed = row.original_destination,
        policy = row.policy,
        reason = row.reason,
        pid = event.pid,
        "refused"
    );
}

impl Control {
    fn sample(&mut self) -> Result<Arc<Sample>, KernelError> {
        if let Some((at, sample)) = &self.sample
            && at.elapsed() < SAMPLE_AGE
        {
            return Ok(sample.clone());
        }
        let totals = self.kernel.totals()?;
        let mut open = self.kernel.sockets()?;
        open.extend(self.older_connections());
        let sample = Arc::new(Sample { totals, open });
        self.sample = Some((Instant::now(), sample.clone()));
        Ok(sample)
    }

    /// Rows that match, in order of their opening. `since`: only ended rows that changed after that
    /// look, and all open ones.
    pub fn list(&mut self, filter: &Filter, since: u64) -> Result<Listing, Problem> {
        let sample = self.sample().map_err(|e| of_kernel(&e))?;
        // After the sample: what ended meanwhile has its final row.
        self.take_events();
        let now = self.now();
        let names = RegisteredNames(self.tables.names());
        let mut listing = self
            .table
            .list(&sample.open, since, &names, &self.node, now);
        self.give_back |= listing.rows.len() > LARGE_LISTING;
        listing.rows.retain(|row| filter.matches(row));
        listing
            .rows
            .sort_by(|a, b| (a.opened_at_ms, &a.id).cmp(&(b.opened_at_ms, &b.id)));
        Ok(listing)
    }

    pub fn list_connections(
        &mut self,
        request: &api::ListConnectionsRequest,
    ) -> Result<api::ListConnectionsResponse, Problem> {
        let filter = Filter::parse(&request.filter.clone().unwrap_or_default())?;
        let mut items = self.list(&filter, 0)?.rows;
        let limit = match request.limit {
            0 => DEFAULT_LIMIT,
            limit => limit as usize,
        };
        let truncated = items.len() > limit;
        items.drain(..items.len().saturating_sub(limit));
        let counters = self.kernel.counters().map_err(|e| of_kernel(&e))?;
        let events_lost = counters[counter::EVENTS_LOST as usize];
        Ok(api::ListConnectionsResponse {
            items,
            truncated,
            events_lost,
        })
    }

    pub fn service_stats(
        &mut self,
        request: &api::ListServiceStatsRequest,
    ) -> Result<api::ListServiceStatsResponse, Problem> {
        filter::is_service("", &request.service)?;
        let sample = self.sample().map_err(|e| of_kernel(&e))?;
        self.take_events();
        let now = self.now();
        let sums = self.sums(&sample);
        let mut rows: BTreeMap<(String, u8), api::ServiceStats> = self.planned_services();
        let mut by_service: BTreeMap<(String, u8), Total> = BTreeMap::new();
        // What workers dialed is the same traffic again.
        for (series, sum) in sums.iter().filter(|(series, _)| !series.leg) {
            let name = if series.service.is_empty() {
                "-"
            } else {
                &series.service
            };
            by_service
                .entry((name.to_owned(), series.proto))
                .or_default()
                .add(sum);
        }
        for ((name, proto), sum) in by_service {
            let row = rows
                .entry((name.clone(), proto))
                .or_insert_with(|| new_row(&name, proto));
            row.open = sum.open();
            row.opened = sum.opened;
            row.refused = sum.refused;
            row.bytes_sent = sum.sent;
            row.bytes_received = sum.received;
            row.retransmits = sum.retransmits;
            row.segments_out = sum.segments_out;
        }
        self.add_round_trips(&mut rows, &sample, now);
        self.give_back = true;
        let mut items = Vec::new();
        let observed = self.observed_ports();
        for ((name, _), mut row) in rows {
            if filter::is_service(&name, &request.service)? {
                self.add_requests(&mut row, observed.contains(&name));
                items.push(row);
            }
        }
        Ok(api::ListServiceStatsResponse { items })
    }

    /// Everything that one scrape shows.
    pub fn scrape(&mut self) -> Result<Scrape, Problem> {
        let sample = self.sample().map_err(|e| of_kernel(&e))?;
        self.take_events();
        let counters = self.kernel.counters().map_err(|e| of_kernel(&e))?;
        let mut own = vec![
            (
                "underpass_rows_dropped",
                "Rows of ended connections removed before their hour, because there were too many.",
                self.table.dropped(),
            ),
            (
                "underpass_older_connections_left_out",
                "Connections older than the mesh that are not followed, because there were too many.",
                self.counts.older_left_out,
            ),
            (
                "underpass_log_lines_dropped",
                "Log lines lost to a slow reader.",
                crate::log::dropped(),
            ),
            (
                "underpass_plans_failed",
                "Plans that could not be put in force.",
                self.counts.plans_failed,
            ),
            (
                "underpass_connections_destroyed",
                "Connections ended because a policy change denies them.",
                self.counts.destroyed,
            ),
            (
                "underpass_connections_not_destroyed",
                "Connections that a policy change denies and that could not be ended.",
                self.counts.not_destroyed,
            ),
            (
                "underpass_shortcut_resets",
                "Connections reset because a program spliced from a socket in the shortcut.",
                self.counts.shortcut_resets,
            ),
            (
                "underpass_shortcut_resets_failed",
                "Those that could not be reset.",
                self.counts.shortcut_resets_failed,
            ),
            (
                "underpass_shortcut_unread_resets",
                "Connections of the shortcut closed with unread bytes, and reset as TCP does.",
                self.counts.unread_resets,
            ),
            (
                "underpass_shortcut_unread_lost",
                "Those whose other end saw the end of the stream in place of a reset.",
                self.counts.unread_lost,
            ),
        ];
        own.extend(crate::api_server::own_counters());
        own.extend(self.worker_counters());
        self.give_back = true;
        Ok(Scrape {
            requests: self.requests(),
            sums: self.sums(&sample),
            maps: self.map_use(),
            counters: counter::NAMES.iter().copied().zip(counters).collect(),
            own,
            plan_version: self.applied.map_or(0, |a| a.version),
            plan_age: self.applied.map_or(Duration::ZERO, |a| a.at.elapsed()),
            node: self.node.name.clone(),
        })
    }

    /// Sums without older connections, which the programs never counted.
    fn sums(&self, sample: &Sample) -> sums::Sums {
        let mine: Vec<SockState> = sample
            .open
            .iter()
            .filter(|s| s.opened_ns != 0)
            .copied()
            .collect();
        sums::by_name(&sample.totals, &mine, &RegisteredNames(self.tables.names()))
    }

    fn planned_services(&self) -> BTreeMap<(String, u8), api::ServiceStats> {
        let mut rows = BTreeMap::new();
        for service in self.plan.services() {
            for port in &service.ports {
                let name = row::service_name(&service.port_name(port)).to_owned();
                let row = rows
                    .entry((name.clone(), port.proto))
                    .or_insert_with(|| new_row(&name, port.proto));
                // If none is ready, new connections go to those that end.
                let first = port.endpoints.first();
                let none_ready = first.is_some_and(|e| port.draining.contains(e));
                let state = if none_ready { "draining" } else { "ready" };
                for endpoint in &port.endpoints {
                    let stats = self.endpoint_stats(endpoint, endpoint.weight, state);
                    row.by_endpoint.push(stats);
                }
                for endpoint in port.draining.iter().filter(|_| !none_ready) {
                    row.by_endpoint
                        .push(self.endpoint_stats(endpoint, 0, "draining"));
                }
                row.endpoints += port.endpoints.len() as u32;
            }
        }
        rows
    }

    fn endpoint_stats(&self, endpoint: &Endpoint, weight: u32, state: &str) -> api::EndpointStats {
        let workload = endpoint
            .workload
            .map(|i| &self.plan.workloads()[i as usize]);
        let at = std::net::SocketAddr::new(endpoint.ip.into(), endpoint.port);
        api::EndpointStats {
            endpoint: at.to_string(),
            workload: workload.map_or_else(String::new, |w| w.full_name.to_string()),
            weight,
            state: state.into(),
        }
    }

    fn add_round_trips(
        &mut self,
        rows: &mut BTreeMap<(String, u8), api::ServiceStats>,
        sample: &Sample,
        now: u64,
    ) {
        let mut open: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for s in &sample.open {
            if s.tcp.srtt_us == 0 || s.opened_ns == 0 || s.flags & flag::CLOSED != 0 {
                continue;
            }
            let name = self.tables.names().get(NameKind::Service, s.service);
            let name = name
                .filter(|_| s.service != 0)
                .map_or("-", row::service_name);
            open.entry(name).or_default().push(s.tcp.srtt_us);
        }
        for ((name, proto), row) in rows {
            if *proto != TCP {
                continue;
            }
            let mut counts = self
                .table
                .srtt(name)
                .map(|h| h.recent(now))
                .unwrap_or_default();
            for value in open.remove(name.as_str()).unwrap_or_default() {
                histogram::add(&mut counts, value);
            }
            row.srtt_p50_us = histogram::percentile(&counts, 50);
            row.srtt_p99_us = histogram::percentile(&counts, 99);
        }
    }
}

fn new_row(service: &str, proto: u8) -> api::ServiceStats {
    api::ServiceStats {
        service: service.to_owned(),
        protocol: if proto == UDP { "udp" } else { "tcp" }.into(),
        ..api::ServiceStats::default()
    }
}
