//! Manifests of 1,000 services, 10,000 endpoints and 10,000 workloads.

use std::fmt::Write;

pub const SERVICES: usize = 1_000;
pub const ENDPOINTS: usize = 10;

pub fn files() -> Vec<(String, String)> {
    let mut pods = String::new();
    for i in 0..SERVICES * ENDPOINTS {
        pods += &pod(i);
    }
    let mut files = vec![("pods.yaml".to_owned(), pods)];
    for i in 0..SERVICES {
        files.push((format!("service-{i}.yaml"), service(i)));
        files.push((format!("slice-{i}.yaml"), slice(i, ENDPOINTS)));
    }
    let policies: String = (0..10).map(policy).collect();
    files.push(("policies.yaml".to_owned(), policies));
    files
}

fn address(i: usize) -> String {
    format!("10.{}.{}.{}", i / 62_500, i / 250 % 250, i % 250 + 1)
}

fn pod(i: usize) -> String {
    let (ns, ip) = (i % 10, address(i));
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: pod-{i}\n  namespace: ns-{ns}\n  labels:\n    app: app-{}\n    underpass.dev/mesh: enabled\nspec:\n  serviceAccountName: sa-{}\n  nodeName: node-1\n  containers:\n  - name: main\n    image: registry.example.com/app:1.0\nstatus:\n  phase: Running\n  podIP: {ip}\n  podIPs:\n  - ip: {ip}\n",
        i / ENDPOINTS,
        i / ENDPOINTS
    )
}

fn service(i: usize) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: svc-{i}\n  namespace: ns-{}\nspec:\n  clusterIP: 10.200.{}.{}\n  ports:\n  - name: http\n    port: 80\n    targetPort: 8080\n    protocol: TCP\n",
        i % 10,
        i / 250,
        i % 250 + 1
    )
}

pub fn slice(i: usize, endpoints: usize) -> String {
    let mut text = format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: svc-{i}-a\n  namespace: ns-{}\n  labels:\n    kubernetes.io/service-name: svc-{i}\naddressType: IPv4\nports:\n- name: http\n  port: 8080\n  protocol: TCP\nendpoints:\n",
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
    text
}

pub fn route(i: usize, seconds: usize) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: route-{i}\n  namespace: ns-{}\nspec:\n  parentRefs:\n  - group: ''\n    kind: Service\n    name: svc-{i}\n  rules:\n  - backendRefs:\n    - name: svc-{i}\n      port: 80\n    timeouts:\n      request: {seconds}s\n",
        i % 10
    )
}

fn policy(i: usize) -> String {
    format!(
        "---\napiVersion: underpass.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata:\n  name: allow\n  namespace: ns-{i}\nspec:\n  rules:\n  - sources:\n    - namespaces: [ns-0, ns-1]\n    - serviceAccounts:\n      - name: sa-{i}\n    ports:\n    - port: 8080\n"
    )
}
