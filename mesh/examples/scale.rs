//! Times at the size that the mesh promises: 1,000 services, 10,000 endpoints, 10,000 workloads.
//! `cargo run --release -p underpass-mesh --example scale`

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use underpass_mesh::{Facts, Model, Tables, model::Outcome, parse::parse};

const SERVICES: usize = 1_000;
const ENDPOINTS: usize = 10;

fn main() {
    memory();
    let (yaml, json) = (files(false), files(true));
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
}

/// What a node's agent holds of it: first, because memory that was once used is not given back.
fn memory() {
    let before = resident();
    let mut model = load(&files(false));
    let mut tables = Tables::empty();
    let change = tables
        .lay_out(&model.compile(&Facts::default()))
        .expect("fits");
    let peak = resident();
    drop(change);
    println!(
        "resident: {before} KiB before, {peak} KiB after text to change (with {} KiB of text)",
        files(false).iter().map(|f| f.1.len()).sum::<usize>() / 1024
    );
}

fn one_endpoint(model: &mut Model, tables: &mut Tables) {
    let mut writes = 0;
    let mut number = 0;
    let changed = best(|| {
        number += 1;
        let text = slice(7, 10 + number % 2, false);
        let start = Instant::now();
        assert_eq!(model.set_file("slice-7.yaml", &text), Outcome::Changed);
        let plan = model.compile(&Facts::default());
        let change = tables.lay_out(&plan).expect("fits");
        writes = change.writes;
        start.elapsed()
    });
    println!("one endpoint, text to change: {changed:.1?}, {writes} writes");
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

fn files(json: bool) -> Vec<(String, String)> {
    let end = if json { "json" } else { "yaml" };
    let mut pods = String::new();
    for i in 0..SERVICES * ENDPOINTS {
        pods += &pod(i, json);
    }
    let mut files = vec![(format!("pods.{end}"), pods)];
    for i in 0..SERVICES {
        files.push((format!("service-{i}.{end}"), service(i, json)));
        files.push((format!("slice-{i}.{end}"), slice(i, ENDPOINTS, json)));
    }
    let policies: String = (0..10).map(|i| policy(i, json)).collect();
    files.push((format!("policies.{end}"), policies));
    files
}

fn address(i: usize) -> String {
    format!("10.{}.{}.{}", i / 62_500, i / 250 % 250, i % 250 + 1)
}

/// Lines of YAML as they are, or as one JSON document.
fn document(yaml: String, json: bool) -> String {
    if !json {
        return format!("---\n{yaml}");
    }
    let value: serde_json::Value = serde_yaml_ng::from_str(&yaml).expect("own YAML");
    format!("{value}\n")
}

fn pod(i: usize, json: bool) -> String {
    let (ns, ip) = (i % 10, address(i));
    document(
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: pod-{i}\n  namespace: ns-{ns}\n  labels:\n    app: app-{}\n    underpass.dev/mesh: enabled\nspec:\n  serviceAccountName: sa-{}\n  nodeName: node-1\n  containers:\n  - name: main\n    image: registry.example.com/app:1.0\nstatus:\n  phase: Running\n  podIP: {ip}\n  podIPs:\n  - ip: {ip}\n",
            i / ENDPOINTS,
            i / ENDPOINTS
        ),
        json,
    )
}

fn service(i: usize, json: bool) -> String {
    document(
        format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: svc-{i}\n  namespace: ns-{}\nspec:\n  clusterIP: 10.200.{}.{}\n  ports:\n  - name: http\n    port: 80\n    targetPort: 8080\n    protocol: TCP\n",
            i % 10,
            i / 250,
            i % 250 + 1
        ),
        json,
    )
}

fn slice(i: usize, endpoints: usize, json: bool) -> String {
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: svc-{i}-a\n  namespace: ns-{}\n  labels:\n    kubernetes.io/service-name: svc-{i}\naddressType: IPv4\nports:\n- name: http\n  port: 8080\n  protocol: TCP\nendpoints:\n",
        i % 10
    );
    for e in 0..endpoints {
        // The service's endpoints are pods of its namespace.
        let pod = (i + (e % ENDPOINTS) * SERVICES) % (SERVICES * ENDPOINTS);
        let ip = if e < ENDPOINTS {
            address(pod)
        } else {
            "10.250.0.1".into()
        };
        write!(
            text,
            "- addresses:\n  - {ip}\n  conditions:\n    ready: true\n    serving: true\n    terminating: false\n  nodeName: node-1\n  targetRef:\n    kind: Pod\n    name: pod-{pod}\n    namespace: ns-{}\n",
            i % 10
        )
        .expect("strings grow");
    }
    document(text, json)
}

fn policy(i: usize, json: bool) -> String {
    document(
        format!(
            "apiVersion: underpass.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata:\n  name: allow\n  namespace: ns-{i}\nspec:\n  rules:\n  - sources:\n    - namespaces: [ns-0, ns-1]\n    - serviceAccounts:\n      - name: sa-{i}\n    ports:\n    - port: 8080\n"
        ),
        json,
    )
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|p| p.parse::<usize>().ok());
    pages.unwrap_or(0) * 4
}
