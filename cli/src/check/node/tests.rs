//! A node made of files, and an agent's words.

use std::path::PathBuf;

use super::*;

/// A root directory with the given files, removed when dropped.
struct Root(PathBuf);

impl Root {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let dir = format!("underpass-check-{name}-{}", std::process::id());
        let root = Self(std::env::temp_dir().join(dir));
        for (path, text) in files {
            let path = root.0.join(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("create");
            fs::write(path, text).expect("write");
        }
        root
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
31 25 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu
32 24 0:28 / /sys/fs/bpf\\040dir rw - bpf bpf rw
";

fn marks(findings: &[Finding]) -> Vec<(Mark, &str)> {
    findings
        .iter()
        .map(|f| (f.result, f.check.as_str()))
        .collect()
}

#[test]
fn a_good_node_has_no_finding() {
    let root = Root::new(
        "good",
        &[
            ("proc/self/mountinfo", HYBRID),
            ("proc/sys/kernel/osrelease", "6.18.0-test\n"),
            ("sys/kernel/btf/vmlinux", ""),
        ],
    );
    let findings = environment(&root.0);
    assert!(
        findings.iter().all(|f| f.result == Mark::Ok),
        "{findings:?}"
    );
    assert_eq!(findings[2].detail, "/sys/fs/bpf dir");
    assert_eq!(
        findings[3].detail,
        "/sys/fs/cgroup/unified (hybrid, beside cgroup v1)"
    );
}

#[test]
fn what_is_missing_is_named_with_its_code() {
    let v1_only = "31 25 0:27 / /sys/fs/cgroup rw - cgroup cgroup rw\n";
    let root = Root::new(
        "bad",
        &[
            ("proc/self/mountinfo", v1_only),
            ("proc/sys/kernel/osrelease", "5.10.0-28-amd64\n"),
            ("proc/self/status", "Name:\tx\nCapEff:\t0000000000201000\n"),
        ],
    );
    let mut findings = environment(&root.0);
    findings.push(capabilities(&root.0));
    let codes: Vec<&str> = findings.iter().filter_map(|f| f.code.as_deref()).collect();
    let expected = [
        "UP0406 KERNEL_TOO_OLD",
        "UP0402 NO_BTF",
        "UP0403 NO_BPFFS",
        "UP0404 NO_CGROUP2",
        "UP0401 NO_BPF_CAPABILITY",
    ];
    assert_eq!(codes, expected);
    assert_eq!(findings[3].detail, "only cgroup v1 is mounted");
    assert_eq!(findings[4].detail, "this user lacks CAP_SYS_PTRACE");
    assert!(findings.iter().all(|f| f.hint.is_some()));
}

#[test]
fn a_kernel_below_the_minimum_is_an_error() {
    for (release, mark) in [
        ("6.0.19", Mark::Error),
        ("6.1", Mark::Ok),
        ("?", Mark::Error),
    ] {
        let root = Root::new("kernel", &[("proc/sys/kernel/osrelease", release)]);
        assert_eq!(kernel(&root.0).result, mark, "{release}");
    }
}

#[test]
fn the_agents_words_become_lines() {
    let feature = |name: &str, on, reason: &str| api::Feature {
        name: name.into(),
        on,
        reason: reason.into(),
    };
    let status = api::Status {
        state: "UP0405 NODE_BUSY: pid 7 holds the pins".into(),
        features: vec![
            feature("connect4", true, ""),
            feature("sock_destroy", false, "NO_SOCK_DESTROY"),
            feature("iterator", false, "kernel 5.15"),
        ],
        ..Default::default()
    };
    let findings = of_agent(status, Path::new("/s"));
    let expected = [
        (Mark::Error, "agent"),
        (Mark::Ok, "feature connect4"),
        (Mark::Warning, "feature sock_destroy"),
        (Mark::Warning, "feature iterator"),
    ];
    assert_eq!(marks(&findings), expected);
    assert_eq!(findings[0].code.as_deref(), Some("UP0405 NODE_BUSY"));
    assert_eq!(findings[2].code.as_deref(), Some("UP0412 NO_SOCK_DESTROY"));
    assert_eq!(findings[3].code.as_deref(), Some("UP0413 FEATURE_OFF"));
}
