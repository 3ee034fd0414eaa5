//! Times at the size that the mesh promises: 1,000 services, 10,000 endpoints, 10,000 workloads.
//! `cargo run --release -p underpass-mesh --example scale`

use std::{
    alloc::System,
    time::{Duration, Instant},
};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use underpass_mesh::{Facts, Model, Tables, model::Outcome, parse::parse};

use files::{ENDPOINTS, SERVICES, files, slice};

mod files;

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    memory();
    let yaml = files();
    let json: Vec<_> = yaml.iter().map(json).collect();
    let kilobytes =
        |files: &[(String, String)]| files.iter().map(|f| f.1.len()).sum::<usize>() / 1024;
    println!(
        "{SERVICES} services, {} endpoints and workloads: YAML {} KiB, JSON {} KiB",
        SERVICES * ENDPOINTS,
        kilobytes(&yaml),
        kilobytes(&json)
    );
    for (form, files) in [("YAML", &yaml), ("JSON", &json)] {
        let parsed = best(|| files.iter().for_each(|(f, t)| assert!(parse(f, t).is_ok())));
        println!("{form}: parse {parsed:.1?}");
        let whole = best(|| {
            let mut model = load(files);
            let plan = model.compile(&Facts::default());
            assert!(!Tables::empty().lay_out(&plan).expect("fits").is_empty());
        });
        println!("{form}: text to change {whole:.1?}");
    }
    let compiled = best(|| {
        // A fact that differs makes everything be compiled again.
        let mut model = load(&yaml);
        model.compile(&Facts::default());
        let facts = Facts {
            host_netns: 1,
            ..Facts::default()
        };
        let start = Instant::now();
        model.compile(&facts);
        start.elapsed()
    });
    let mut model = load(&yaml);
    let plan = model.compile(&Facts::default());
    let laid = best(|| {
        let start = Instant::now();
        let change = Tables::empty().lay_out(&plan).expect("fits");
        assert!(change.writes > 30_000);
        start.elapsed()
    });
    println!("parsed objects to plan {compiled:.1?}, plan to change {laid:.1?}");
    let mut tables = Tables::empty();
    let first = tables.lay_out(&plan).expect("fits");
    println!(
        "first change: {} writes in {} round(s)",
        first.writes,
        first.rounds.len()
    );
    one_endpoint(&mut model, &mut tables);
    http(&mut model);
}

/// What a node's agent holds of it.
fn memory() {
    let region = Region::new(GLOBAL);
    let mut held = (0, 0);
    let mut show = |what| {
        let now = region.change();
        let bytes = now.bytes_allocated - now.bytes_deallocated;
        let count = now.allocations - now.deallocations;
        println!(
            "{what}: {} KiB in {} allocations",
            (bytes - held.0) / 1024,
            count - held.1
        );
        held = (bytes, count);
    };
    let mut model = load(&files());
    show("model");
    let plan = model.compile(&Facts::default());
    show("plan");
    let mut tables = Tables::empty();
    let first = tables.lay_out(&plan).expect("fits");
    drop(first);
    show("tables");
    println!("live heap: {} KiB", held.0 / 1024);
}

fn one_endpoint(model: &mut Model, tables: &mut Tables) {
    let mut writes = 0;
    let mut number = 0;
    let changed = best(|| {
        number += 1;
        let text = slice(7, 10 + number % 2);
        let start = Instant::now();
        assert_eq!(model.set_file("slice-7.yaml", &text), Outcome::Changed);
        let plan = model.compile(&Facts::default());
        let change = tables.lay_out(&plan).expect("fits");
        writes = change.writes;
        start.elapsed()
    });
    println!("one endpoint, text to change: {changed:.1?}, {writes} writes");
}

/// Every service by a worker: a namespace's annotation each, and ten workloads of each on this node.
fn http(model: &mut Model) {
    let mut facts = Facts {
        host_netns: 1,
        ..Facts::default()
    };
    for ns in 0..10 {
        let observe = "annotations: { underpass.dev/observe: http }";
        let text = format!(
            "{{ apiVersion: v1, kind: Namespace, metadata: {{ name: ns-{ns}, {observe} }} }}\n"
        );
        assert_eq!(
            model.set_file(&format!("ns-{ns}.yaml"), &text),
            Outcome::Changed
        );
        for i in 0..10 {
            let place = underpass_mesh::Place {
                cgroups: vec![],
                netns: Some(2 + ns * 10 + i),
            };
            let pod = format!("ns-{ns}/pod-{}", i * 10 + ns);
            facts.places.insert(pod.into(), place);
        }
    }
    let plan = model.compile(&facts);
    let mut bytes = 0;
    let made = best(|| {
        let start = Instant::now();
        let snapshots = plan.snapshots();
        let took = start.elapsed();
        assert_eq!(snapshots.len(), 10);
        bytes = serde_json::to_string(&snapshots[0]).expect("plain").len();
        took
    });
    println!(
        "all services by a worker: snapshots of 10 tenants {made:.1?}, {} KiB of JSON each",
        bytes / 1024
    );
    let mut number = 0;
    let routed = best(|| {
        number += 1;
        let route = files::route(7, number);
        let start = Instant::now();
        assert_eq!(model.set_file("route.yaml", &route), Outcome::Changed);
        let next = model.compile(&facts);
        let took = start.elapsed();
        let alike = plan.services().zip(next.services());
        assert_eq!(alike.filter(|(a, b)| !std::ptr::eq(*a, *b)).count(), 1);
        took
    });
    println!("one route, text to plan: {routed:.1?}");
}

/// Least of several runs: what the code costs, without what else the machine does.
fn best<T: Took>(mut run: impl FnMut() -> T) -> Duration {
    let once = |_| {
        let start = Instant::now();
        let result = run();
        result.took(start)
    };
    (0..7).map(once).min().unwrap_or_default()
}

trait Took {
    fn took(self, start: Instant) -> Duration;
}

impl Took for () {
    fn took(self, start: Instant) -> Duration {
        start.elapsed()
    }
}

impl Took for Duration {
    fn took(self, _: Instant) -> Duration {
        self
    }
}

fn load(files: &[(String, String)]) -> Model {
    let mut model = Model::default();
    for (file, text) in files {
        assert_eq!(model.set_file(file, text), Outcome::Changed);
    }
    model
}

/// The same as a JSON document for each object.
fn json((file, text): &(String, String)) -> (String, String) {
    let documents = text.split("---\n").skip(1);
    let one = |yaml| {
        let value: serde_json::Value = serde_yaml_ng::from_str(yaml).expect("own YAML");
        format!("{value}\n")
    };
    (file.replace("yaml", "json"), documents.map(one).collect())
}
