//! Random sequences of models, laid out one after the other in a store that behaves like the
//! kernel's maps: what programs can read is checked after every single write.

use std::collections::BTreeMap;

use proptest::prelude::*;
use underpass_abi::tables::{NameKind, maps};

use super::{Batch, Change, Round, Tables};
use crate::{Facts, Model, Plan};
use spec::{Spec, spec};
use store::Store;
use view::View;

mod spec;
mod store;
mod verdict;
mod view;

fn plan_of(spec: &Spec) -> Plan {
    let mut model = Model::default();
    compile(&mut model, spec)
}

fn compile(model: &mut Model, spec: &Spec) -> Plan {
    for (file, text) in spec.files() {
        assert_ne!(
            model.set_file(&file, &text),
            crate::model::Outcome::Rejected,
            "{:?}\n{text}",
            model.problems()
        );
    }
    (*model.compile(&spec.facts())).clone()
}

/// Applies a change write by write; `writes_max` of them, as if the agent died then.
fn apply(store: &mut Store, change: &Change, new: &View, writes_max: usize) {
    let old = View::of(store);
    let in_use = view::in_use(store);
    let mut left = writes_max;
    for round in &change.rounds {
        for (is_fresh, batch) in batches(round) {
            for (key, value) in store::elements(&batch.keys, &batch.values, batch.count) {
                if left == 0 {
                    return;
                }
                left -= 1;
                if let Ok(index) = key.try_into().map(u32::from_ne_bytes) {
                    let reused = is_fresh && in_use.contains(&(batch.map, index));
                    assert!(!reused, "{} {index} is in use", batch.map);
                }
                store.write(batch.map, key, value, is_fresh);
                View::of(store).check_between(&old, new);
            }
        }
        store.grace();
        for deletes in &round.stale {
            for key in store::keys(&deletes.keys, deletes.count) {
                if left == 0 {
                    return;
                }
                left -= 1;
                store.delete(deletes.map, key);
                View::of(store).check_between(&old, new);
            }
        }
        store.grace();
    }
}

/// The batches of a round in their order, each with whether it is a fresh one.
fn batches(round: &Round) -> impl Iterator<Item = (bool, &Batch)> {
    let fresh = round.fresh.iter().map(|b| (true, b));
    fresh.chain(round.words.iter().map(|b| (false, b)))
}

fn fresh_store(plan: &Plan) -> Store {
    let mut store = Store::default();
    let change = Tables::empty().lay_out(plan).expect("small plans fit");
    for round in &change.rounds {
        for (is_fresh, batch) in batches(round) {
            for (key, value) in store::elements(&batch.keys, &batch.values, batch.count) {
                store.write(batch.map, key, value, is_fresh);
            }
        }
    }
    store
}

#[derive(Clone, Debug)]
struct Step {
    spec: Spec,
    /// The agent restarts after this step.
    restart: bool,
    /// The agent dies after so many writes.
    crash_after: Option<usize>,
}

fn step() -> impl Strategy<Value = Step> {
    (
        spec(),
        any::<bool>(),
        prop::option::weighted(0.3, 0..60usize),
    )
        .prop_map(|(spec, restart, crash_after)| Step {
            spec,
            restart,
            crash_after,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_write_shows_the_old_plan_or_the_new(steps in prop::collection::vec(step(), 1..6)) {
        let mut store = Store::default();
        let mut tables = Tables::empty();
        for step in &steps {
            let plan = plan_of(&step.spec);
            let fresh = fresh_store(&plan);
            let expected = View::of(&fresh);
            let all = expected.clone().with_unreachable(&fresh);
            let change = tables.lay_out(&plan).expect("small plans fit");
            apply(&mut store, &change, &all, step.crash_after.unwrap_or(usize::MAX));
            if step.crash_after.is_some() {
                store.grace();
                tables = Tables::adopt(&store.dump()).expect("a prefix of a change can be adopted");
                let change = tables.lay_out(&plan).expect("small plans fit");
                apply(&mut store, &change, &all, usize::MAX);
            }
            prop_assert_eq!(View::of(&store), expected.clone());
            let mut again = tables.clone();
            prop_assert!(again.lay_out(&plan).expect("nothing to do").is_empty());
            // Nothing of earlier plans is in use.
            let mut alone = Tables::empty();
            alone.lay_out(&plan).expect("small plans fit");
            prop_assert_eq!(again.in_use(), alone.in_use());
            if step.restart {
                tables = Tables::adopt(&store.dump()).expect("own maps can be adopted");
                let mut copy = store.clone();
                let change = tables.clone().lay_out(&plan).expect("small plans fit");
                apply(&mut copy, &change, &all, usize::MAX);
                prop_assert_eq!(View::of(&copy), expected);
            }
        }
    }

    #[test]
    fn an_incremental_model_is_as_a_fresh_one(specs in prop::collection::vec(spec(), 2..5)) {
        let mut model = Model::default();
        let mut tables = Tables::empty();
        let mut store = Store::default();
        // After each model the same with the endpoints of the next: the short way of a change.
        let next = specs.iter().cycle().skip(1);
        let both = specs.iter().zip(next).flat_map(|(s, next)| [s.clone(), s.with_endpoints_of(next)]);
        let mut last = Plan::default();
        for (i, spec) in both.enumerate() {
            let plan = compile(&mut model, &spec);
            let kept = std::sync::Arc::ptr_eq(&plan.world, &last.world);
            prop_assert!(i % 2 == 0 || kept || spec.endpoints_matter());
            last = plan.clone();
            let fresh = plan_of(&spec);
            prop_assert_eq!(&plan.services, &fresh.services);
            prop_assert_eq!(&plan.world, &fresh.world);
            let change = tables.lay_out(&plan).expect("small plans fit");
            let fresh = fresh_store(&fresh);
            let expected = View::of(&fresh);
            let all = expected.clone().with_unreachable(&fresh);
            apply(&mut store, &change, &all, usize::MAX);
            prop_assert_eq!(View::of(&store), expected);
        }
    }
}

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { underpass.dev/mesh: enabled } }
---
apiVersion: underpass.dev/v1alpha1
kind: Workload
metadata: { name: web, namespace: shop }
spec: { serviceAccountName: web, cgroup: shop/web, addresses: [10.0.0.1] }
---
apiVersion: underpass.dev/v1alpha1
kind: Workload
metadata: { name: ledger, namespace: shop }
spec: { serviceAccountName: ledger, cgroup: shop/ledger, addresses: [10.0.0.2, 'fd00::2'] }
---
apiVersion: v1
kind: Service
metadata: { name: ledger, namespace: shop }
spec: { clusterIPs: [10.96.0.1, 'fd00:96::1'], ports: [{ port: 80 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: ledger-4, namespace: shop, labels: { kubernetes.io/service-name: ledger } }
addressType: IPv4
endpoints: [{ addresses: [10.0.0.2] }]
ports: [{ port: 8080 }]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: ledger-6, namespace: shop, labels: { kubernetes.io/service-name: ledger } }
addressType: IPv6
endpoints: [{ addresses: ['fd00::2'] }]
ports: [{ port: 8080 }]
";

fn counts(change: &Change) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for round in &change.rounds {
        for batch in round.fresh.iter().chain(&round.words) {
            *counts.entry(batch.map).or_default() += batch.count;
        }
        for deletes in &round.stale {
            *counts.entry(deletes.map).or_default() += deletes.count;
        }
    }
    counts
}

#[test]
fn one_endpoint_more_writes_one_table() {
    let mut model = Model::default();
    model.set_file("shop.yaml", SHOP);
    let facts = Facts::default();
    let mut tables = Tables::empty();
    tables.lay_out(&model.compile(&facts)).unwrap();
    let more = SHOP.replacen(
        "[{ addresses: [10.0.0.2] }]",
        "[{ addresses: [10.0.0.2] }, { addresses: [10.0.0.9] }]",
        1,
    );
    model.set_file("shop.yaml", &more);
    let change = tables.lay_out(&model.compile(&facts)).unwrap();
    assert_eq!(change.rounds.len(), 1);
    let expected = [
        (maps::BACKENDS, 1),
        (maps::BACKEND_LIFE, 1),
        (maps::SLOTS, 4),
        (maps::SERVICES, 1),
        (maps::SETTINGS, 1),
    ];
    assert_eq!(counts(&change), BTreeMap::from(expected));
    assert_eq!(change.writes, 8);
}

#[test]
fn another_identity_is_another_index_and_the_old_name_stays() {
    let mut model = Model::default();
    model.set_file("shop.yaml", SHOP);
    let facts = Facts::default();
    let mut tables = Tables::empty();
    tables.lay_out(&model.compile(&facts)).unwrap();
    let name = |sa| format!("shop/web spiffe://cluster.local/ns/shop/sa/{sa}");
    let web = tables
        .names()
        .find(NameKind::Workload, &name("web"))
        .unwrap();
    model.set_file(
        "shop.yaml",
        &SHOP.replace("serviceAccountName: web", "serviceAccountName: other"),
    );
    tables.lay_out(&model.compile(&facts)).unwrap();
    let other = tables
        .names()
        .find(NameKind::Workload, &name("other"))
        .unwrap();
    assert_ne!(web, other);
    assert_eq!(
        tables.names().get(NameKind::Workload, web),
        Some(&*name("web"))
    );
}

#[test]
fn any_number_of_addresses_change_their_workload_in_one_round() {
    let workloads = |account: &str| -> String {
        let one = |i| {
            format!(
                "---\napiVersion: underpass.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: w{i}, namespace: many }}\nspec: {{ serviceAccountName: {account}, addresses: [10.9.0.{i}] }}\n"
            )
        };
        (1..=100).map(one).collect()
    };
    let mut model = Model::default();
    let mut tables = Tables::empty();
    let mut store = Store::default();
    for account in ["old", "new"] {
        model.set_file("many.yaml", &workloads(account));
        let plan = model.compile(&Facts::default());
        let change = tables.lay_out(&plan).unwrap();
        assert_eq!(change.rounds.len(), 1);
        assert_eq!(counts(&change)[maps::ADDRESSES], 100);
        let new = View::of(&fresh_store(&plan)).with_unreachable(&fresh_store(&plan));
        apply(&mut store, &change, &new, usize::MAX);
    }
}

#[test]
fn a_plan_that_does_not_fit_changes_nothing() {
    let mut model = Model::default();
    model.set_file("shop.yaml", SHOP);
    let facts = Facts::default();
    let mut tables = Tables::empty();
    tables.lay_out(&model.compile(&facts)).unwrap();
    let mut many = String::from("kind: List\napiVersion: v1\nitems:\n");
    for i in 0..underpass_abi::tables::limits::WORKLOADS {
        let (a, b) = (i / 250, i % 250 + 1);
        many += &format!(
            "- {{apiVersion: underpass.dev/v1alpha1, kind: Workload, metadata: {{name: w{i}, namespace: many}}, spec: {{addresses: [10.9.{a}.{b}]}}}}\n"
        );
    }
    model.set_file("many.yaml", &many);
    let before = tables.names().iter(NameKind::Workload).count();
    let error = tables.lay_out(&model.compile(&facts)).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("UP0309 LIMIT_EXCEEDED: WORKLOADS"),
        "{error}"
    );
    assert_eq!(tables.names().iter(NameKind::Workload).count(), before);
    model.remove_file("many.yaml");
    assert!(tables.lay_out(&model.compile(&facts)).unwrap().is_empty());
}
