//! Random models: what a plan says of the layer Http, and what it hands to workers.

use std::collections::BTreeSet;

use proptest::prelude::*;
use underpass_abi::{sock::Layer, verdict::Verdict};

use super::*;
use crate::{Model, snapshot::Snapshot};
use spec::{PORT, Requests, load, model, spec};

mod spec;

fn names<'a>(all: impl Iterator<Item = &'a Str>) -> BTreeSet<&'a str> {
    all.map(|name| &**name).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_services_lead_to_is_compiled_again_with_them(a in spec(), b in spec()) {
        let mut changed = model(&a.files(Requests::AsTheyAre));
        changed.compile(&a.facts());
        let files = a.with_services_of(&b).files(Requests::AsTheyAre);
        load(&mut changed, &files);
        let (plan, fresh) = (changed.compile(&a.facts()), model(&files).compile(&a.facts()));
        prop_assert_eq!(&plan.world, &fresh.world);
        prop_assert_eq!(&plan.services, &fresh.services);
    }

    #[test]
    fn what_is_compiled_after_a_change_is_what_is_compiled_afresh(a in spec(), b in spec()) {
        let mut changed = model(&a.files(Requests::AsTheyAre));
        // The facts stay, so that only what the files change is compiled again.
        changed.compile(&b.facts());
        for file in b.files(Requests::AsTheyAre) {
            load(&mut changed, std::slice::from_ref(&file));
            let plan = changed.compile(&b.facts());
            let mut fresh = Model::default();
            let now = a.files(Requests::AsTheyAre).into_iter().zip(b.files(Requests::AsTheyAre));
            for (old, new) in now {
                load(&mut fresh, &[if new.0 <= file.0 { new } else { old }]);
            }
            let fresh = fresh.compile(&b.facts());
            prop_assert_eq!(&plan.world, &fresh.world);
            prop_assert_eq!(&plan.services, &fresh.services);
        }
    }

    #[test]
    fn a_rule_about_requests_needs_a_door(spec in spec()) {
        let plan = |requests| model(&spec.files(requests)).compile(&spec.facts());
        let all = [Requests::AsTheyAre, Requests::AnyRequest, Requests::NoRule];
        let [plan, open, closed] = all.map(plan);
        for to in plan.workloads() {
            // Its own node judges what is not here; what has a door is judged by the worker.
            let like = if to.local && !to.door { &closed } else { &open };
            let dest = DestRef::Workload(to.full_name.clone());
            for from in plan.workloads() {
                let source = SourceRef::Workload(from.full_name.clone());
                let verdict = |plan: &Plan| plan.verdict(&source, &dest, PORT, 6).verdict;
                prop_assert_eq!(verdict(&plan), verdict(like));
                let by_requests_only = verdict(&open) == Verdict::Allowed && verdict(&closed) == Verdict::Denied;
                if verdict(&plan) == Verdict::Allowed && by_requests_only && to.local {
                    let inbound = to.inbound.iter().find(|i| i.port == PORT);
                    prop_assert!(inbound.is_some_and(|i| i.allow.is_some()), "{to:?}");
                }
            }
        }
    }

    #[test]
    fn steered_is_only_what_has_a_door_of_its_own(spec in spec()) {
        let facts = spec.facts();
        let plan = model(&spec.files(Requests::AsTheyAre)).compile(&facts);
        for w in plan.workloads() {
            let same = facts.places.values().filter(|p| p.netns == Some(w.netns()));
            let alone = same.count() == 1 && facts.places.contains_key(&w.full_name);
            prop_assert!(!w.door || (alone && w.enrolled() && w.local), "{w:?}");
            prop_assert!(w.inbound.is_empty() || w.door, "{w:?}");
            prop_assert!(w.observed.is_none() || w.enrolled(), "{w:?}");
        }
        for port in plan.services().flat_map(|s| &s.ports) {
            prop_assert!(port.http.is_none() || port.may_be_http(), "{port:?}");
        }
    }

    #[test]
    fn the_layer_is_http_where_the_kernel_sends_connections_to_the_worker(spec in spec()) {
        let plan = model(&spec.files(Requests::AsTheyAre)).compile(&spec.facts());
        for from in plan.workloads() {
            let source = SourceRef::Workload(from.full_name.clone());
            for service in plan.services() {
                for port in &service.ports {
                    let dest = DestRef::Service(service.full_name.clone());
                    let explained = plan.explain(&source, &dest, port.port, port.proto);
                    let tcp = port.proto == 6;
                    let sent = from.door && tcp && (port.http.is_some() || from.observed.is_some());
                    prop_assert_eq!(explained.outbound.layer == Layer::Http, sent);
                    for (at, e) in explained.endpoints.iter().zip(&port.endpoints) {
                        let to = at.workload.as_deref().and_then(|name| plan.workload(name));
                        let steered = to.is_some_and(|w| w.inbound.iter().any(|i| i.port == e.port));
                        prop_assert_eq!(at.inbound.layer == Layer::Http, steered && tcp);
                    }
                }
            }
        }
    }

    #[test]
    fn a_snapshot_holds_what_its_tenants_pairs_need(spec in spec()) {
        let plan = model(&spec.files(Requests::AsTheyAre)).compile(&spec.facts());
        let doors = plan.wanted_doors();
        let snapshots = plan.snapshots();
        let of = |tenant: &Str| doors.iter().filter(|d| d.tenant == *tenant).map(|d| &d.workload).collect();
        let tenants: BTreeSet<&Str> = doors.iter().map(|d| &d.tenant).collect();
        prop_assert_eq!(tenants, snapshots.iter().map(|s| &s.tenant).collect());
        for snapshot in &snapshots {
            let workloads: Vec<&Str> = snapshot.workloads.iter().map(|w| &w.name).collect();
            let wanted: Vec<&Str> = of(&snapshot.tenant);
            prop_assert_eq!(&workloads, &wanted);
            // Rules and where they hold are of the tenant alone: each policy's paths begin with its namespace.
            let other = if snapshot.tenant == "n0" { "n1" } else { "n0" };
            for inbound in snapshot.workloads.iter().flat_map(|w| &w.inbound) {
                let text = serde_json::to_string(&inbound.allow).unwrap();
                prop_assert!(!text.contains(&format!("/{other}/")) && !text.contains(&format!("\"{other}/")), "{text}");
            }
            closed(&plan, snapshot)?;
            let text = serde_json::to_string(snapshot).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
        }
    }

    #[test]
    fn snapshots_depend_on_nothing_else(spec in spec()) {
        let mut files = spec.files(Requests::AsTheyAre);
        let snapshots = model(&files).compile(&spec.facts()).snapshots();
        files.reverse();
        let mut facts = spec.facts();
        facts.doors.clear();
        prop_assert_eq!(&model(&files).compile(&facts).snapshots(), &snapshots);
    }
}

/// Every backend that a request can be sent to is there, and no other; what serves itself is known.
fn closed(plan: &Plan, snapshot: &Snapshot) -> Result<(), TestCaseError> {
    let here: BTreeSet<(&str, u16)> = snapshot
        .backends
        .iter()
        .map(|b| (&*b.service, b.port))
        .collect();
    let mut wanted: BTreeSet<(&str, u16)> = BTreeSet::new();
    let observed = snapshot
        .workloads
        .iter()
        .any(|w| plan.workload(&w.name).unwrap().observed.is_some());
    for service in &snapshot.services {
        wanted.insert((&service.name, service.port));
        let rules = service.routes.iter().flat_map(|r| &r.rules);
        wanted.extend(
            rules
                .flat_map(|r| &r.backends)
                .map(|b| (&*b.service, b.port)),
        );
    }
    let exists = |(name, port): &(&str, u16)| {
        let service = plan.services().find(|s| s.full_name == *name);
        service.is_some_and(|s| s.ports.iter().any(|p| (p.port, p.proto) == (*port, 6)))
    };
    wanted.retain(exists);
    prop_assert_eq!(here, wanted);
    let dialed = plan.services().filter(|s| {
        let mut ports = s.ports.iter();
        ports.any(|p| p.http.is_some() || (observed && p.proto == 6))
    });
    prop_assert_eq!(
        names(dialed.map(|s| &s.full_name)),
        names(snapshot.services.iter().map(|s| &s.name))
    );
    for endpoint in snapshot.backends.iter().flat_map(|b| &b.endpoints) {
        let own = snapshot
            .workloads
            .iter()
            .any(|w| Some(&w.name) == endpoint.workload.as_ref());
        prop_assert_eq!(endpoint.same_worker, own);
        prop_assert_eq!(endpoint.workload.is_some(), endpoint.identity.is_some());
    }
    Ok(())
}
