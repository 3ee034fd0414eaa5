//! What the agent says of the vendor and of workers.

use std::collections::BTreeSet;

use underpass_abi::reason::{self, code};
use underpass_api::v1alpha1::{self as api, RouteStats};

use super::Control;
use crate::{
    metrics::requests::Requests,
    problem::Problem,
    telemetry::{reports::Key, row},
    workers::{Tenant, now_ns},
};

impl Control {
    pub(crate) fn workers_status(&self) -> api::WorkersStatus {
        let standing = self.workers.standing();
        let wanted = self.workers.wanted();
        let vendor = standing.vendor.as_ref();
        let state = match (vendor, wanted.doors.is_empty()) {
            (Some(_), _) => "answers",
            (None, true) => "unused",
            (None, false) => "away",
        };
        let reason = standing.away.as_ref().filter(|_| state == "away");
        api::WorkersStatus {
            vendor: state.into(),
            reason: reason.map(ToString::to_string).unwrap_or_default(),
            pid: vendor.map_or(0, |v| v.pid),
            shared: vendor.is_some_and(|v| v.shared),
            doors: self.facts.doors.len() as u32,
            doors_wanted: wanted.doors.len() as u32,
            tenants: standing.tenants.iter().map(|(n, t)| tenant(n, t)).collect(),
        }
    }

    /// What keeps connections from their worker.
    pub(crate) fn worker_problems(&self) -> Vec<Problem> {
        let standing = self.workers.standing();
        let mut problems = standing.problems.clone();
        if !self.workers.wanted().doors.is_empty() {
            problems.extend(standing.away.clone());
        }
        for (name, tenant) in &standing.tenants {
            if let Some(code) = rejected(tenant) {
                let version = tenant.sent;
                let text = format!("snapshot {version}; the last good one stays in force");
                problems.push(Problem::error(code, text, format!("worker of {name}")));
            }
        }
        problems
    }

    /// Name, help, value.
    pub(crate) fn worker_counters(
        &self,
    ) -> impl Iterator<Item = (&'static str, &'static str, u64)> + use<> {
        let counts = self.workers.standing().counts;
        [
            (
                "underpass_vendor_connected",
                "Times that a vendor was found.",
                counts.connected,
            ),
            (
                "underpass_vendor_lost",
                "Times that the vendor was lost.",
                counts.lost,
            ),
            (
                "underpass_vendor_refusals",
                "Refusals of the vendor.",
                counts.refused,
            ),
            (
                "underpass_snapshots_sent",
                "Snapshots sent to the vendor.",
                counts.snapshots_sent,
            ),
            (
                "underpass_worker_reports_bad",
                "Reports of workers that were not taken.",
                counts.bad_reports,
            ),
        ]
        .into_iter()
    }

    /// Adds what HTTP workers saw.
    pub(super) fn add_requests(&self, row: &mut api::ServiceStats, observed: bool) {
        let merged = self.workers.reports().merged();
        for (key, stats) in merged.stats(&row.service, now_ns()) {
            if stats.responses == 0 {
                continue;
            }
            let requests = Some(stats.to_proto());
            if key == Key::default() {
                row.requests = requests;
                continue;
            }
            row.by_route.push(RouteStats {
                route: key.route,
                rule: key.rule,
                backend: key.backend,
                requests,
            });
        }
        if row.requests.is_none() {
            let why = if observed {
                code::NO_TRAFFIC
            } else {
                code::NOT_OBSERVED
            };
            row.requests_reason = reason::name(why).into();
        }
    }

    /// Service ports that workers see, as `stat` names them.
    pub(super) fn observed_ports(&self) -> BTreeSet<String> {
        let services = self.plan.services();
        let ports = services.flat_map(|s| s.ports.iter().map(move |p| (s, p)));
        let seen = ports.filter(|(_, port)| port.http.is_some());
        seen.map(|(service, port)| row::service_name(&service.port_name(port)).to_owned())
            .collect()
    }

    /// What a scrape shows of requests.
    pub(super) fn requests(&self) -> Requests {
        let merged = self.workers.reports().merged();
        let counters = merged.counters();
        Requests {
            series: merged.series(),
            counters: counters.map(|(t, n, v)| (t.into(), n.into(), v)).collect(),
        }
    }

    /// Forgets what workers reported of objects that are gone.
    pub(super) fn expire_reports(&self) {
        let services: BTreeSet<&str> = self.plan.services().map(|s| &*s.full_name).collect();
        let known = |name: &str| services.contains(name) || self.plan.workload(name).is_some();
        self.workers.reports().merged().expire(now_ns(), known);
    }
}

fn tenant(name: &str, tenant: &Tenant) -> api::TenantStatus {
    let word = |key: &str| tenant.line.get(key).map_or("", String::as_str);
    let number = |key: &str| word(key).parse().unwrap_or(0);
    api::TenantStatus {
        name: name.into(),
        state: word("state").into(),
        worker: number("worker"),
        workloads: number("workloads"),
        sent: tenant.sent,
        applied: word("applied").parse().unwrap_or(0),
        rejected: rejected(tenant)
            .map(|c| reason::name(c).to_owned())
            .unwrap_or_default(),
        starts: number("starts"),
        crashes: number("crashes"),
        codes: word("codes")
            .split(',')
            .filter(|c| !c.is_empty())
            .map(Into::into)
            .collect(),
    }
}

/// The code with which the worker refused the newest snapshot.
fn rejected(tenant: &Tenant) -> Option<u16> {
    let said = tenant.line.get("rejected")?;
    let code: u16 = said.trim_start_matches("UP").parse().ok()?;
    (code != 0).then_some(if reason::name(code).is_empty() {
        code::VEND_PROTOCOL
    } else {
        code
    })
}
