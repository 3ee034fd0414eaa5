//! `check -f DIR`.

use std::process::Output;

use crate::{agent::underpass, stderr, stdout};

/// A directory with the given files, removed when dropped.
struct Dir(std::path::PathBuf);

impl Dir {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let name = format!("underpass-cli-{name}-{}", std::process::id());
        let dir = Self(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&dir.0).expect("create");
        for (name, text) in files {
            std::fs::write(dir.0.join(name), text).expect("write");
        }
        dir
    }

    fn check(&self, more: &[&str]) -> Output {
        let path = self.0.to_str().expect("UTF-8");
        let args = [["check", "-f", path].as_slice(), more].concat();
        underpass(&args).output().expect("the binary runs")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {underpass.dev/mesh: enabled}}
---
apiVersion: underpass.dev/v1alpha1
kind: Workload
metadata: {name: ledger, namespace: shop, labels: {app: ledger}}
spec: {serviceAccountName: ledger, cgroup: shop/ledger, addresses: [10.9.0.2]}
---
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ledger-1, namespace: shop, labels: {kubernetes.io/service-name: ledger}}
addressType: IPv4
endpoints: [{addresses: [10.9.0.2]}]
ports: [{name: http, port: 8080, protocol: TCP}]
"#;

#[test]
fn good_files_have_no_finding() {
    let dir = Dir::new(
        "good",
        &[
            ("shop.yaml", SHOP),
            (".hidden.yaml", ":"),
            ("notes.txt", ":"),
        ],
    );
    let output = dir.check(&[]);
    assert_eq!(
        stdout(&output),
        "✓ files  1 read\n\nok: 1, warnings: 0, errors: 0\n"
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn bad_files_are_told_with_file_line_code_and_hint() {
    let lonely = "apiVersion: v1\nkind: Service\nmetadata: {name: lonely, namespace: shop}\n\
        spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}\n";
    let idle = "apiVersion: underpass.dev/v1alpha1\nkind: AuthorizationPolicy\n\
        metadata: {name: idle, namespace: shop}\n\
        spec: {targetRefs: [{group: '', kind: Service, name: nothing}], rules: []}\n";
    let broken = "apiVersion: v1\nkind: Service\n  metadata: x\n";
    let files = [
        ("a.yaml", SHOP),
        ("b.yaml", lonely),
        ("c.yaml", idle),
        ("d.yaml", broken),
    ];
    let dir = Dir::new("bad", &files);
    let output = dir.check(&["-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_str(stdout(&output)).expect("JSON");
    let checks = json["checks"].as_array().expect("checks");
    let found = |file: &str| {
        let finding = checks
            .iter()
            .find(|c| c["check"].as_str().is_some_and(|s| s.starts_with(file)));
        finding
            .unwrap_or_else(|| panic!("{file}: {}", stdout(&output)))
            .clone()
    };
    assert!(
        found("b.yaml")["code"]
            .as_str()
            .expect("a code")
            .ends_with("SERVICE_WITHOUT_ENDPOINTS")
    );
    assert!(
        found("c.yaml")["code"]
            .as_str()
            .expect("a code")
            .starts_with("UP03")
    );
    assert!(
        found("d.yaml:")["code"]
            .as_str()
            .expect("a code")
            .ends_with("BAD_YAML")
    );
    assert_eq!(json["ok"], false);
    let text = dir.check(&[]);
    assert!(
        stdout(&text).contains("try: add an EndpointSlice"),
        "{}",
        stdout(&text)
    );
}

#[test]
fn an_empty_or_missing_directory_is_no_success() {
    let output = Dir::new("empty", &[]).check(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stdout(&output).contains("UP0312 UNREADABLE: no *.yaml"),
        "{}",
        stdout(&output)
    );
    let output = underpass(&["check", "-f", "/nonexistent"])
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("UP0312 UNREADABLE: /nonexistent: "),
        "{}",
        stderr(&output)
    );
    let dir = Dir::new("file", &[("shop.yaml", SHOP)]);
    let file = dir.0.join("shop.yaml");
    let output = underpass(&["check", "-f"]).arg(file).output();
    let output = output.expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("shop.yaml is a file"),
        "{}",
        stderr(&output)
    );
}
