//! Which room may use which, and what the agent may link.

use std::{collections::BTreeSet, process::Stdio};

use super::Repository;
use crate::process;

/// DESIGN 2, "may use".
const MAY_USE: &[(&str, &[&str])] = &[
    ("abi", &[]),
    ("ebpf", &["abi"]),
    ("mesh", &["abi"]),
    ("l7", &["mesh"]),
    ("api", &[]),
    ("agent", &["abi", "mesh", "api"]),
    ("vend", &["abi", "api"]),
    ("proxy", &["mesh", "l7", "api"]),
    ("control", &["mesh", "api"]),
    ("bench", &["abi"]),
    ("cli", &["abi", "mesh", "api", "bench"]),
    ("xtask", &[]),
    (
        "tests",
        &[
            "abi", "mesh", "l7", "api", "agent", "vend", "proxy", "control", "bench", "cli",
        ],
    ),
];

/// HTTP servers and clients, TLS, Kubernetes: not in the process that holds privilege.
const BANNED: &[&str] = &[
    "actix-web",
    "aws-lc-rs",
    "axum",
    "kube",
    "kube-client",
    "native-tls",
    "openssl",
    "openssl-sys",
    "reqwest",
    "ring",
    "rustls",
    "tiny_http",
    "ureq",
    "warp",
];

/// The vendor has not even those.
const BANNED_IN_VEND: &[&str] = &["aya", "h2", "http", "httparse", "hyper", "tokio", "tonic"];

/// The only crates through which the agent may come to hyper: tonic's transport.
const HYPER_USERS: &[&str] = &["hyper", "hyper-timeout", "hyper-util", "tonic"];

pub fn arrows(repository: &Repository) -> Vec<String> {
    let mut problems = Vec::new();
    for manifest in repository.ending(&["/Cargo.toml"]) {
        let room = manifest.split('/').next().unwrap_or_default();
        problems.extend(arrows_of(room, &repository.text(manifest)));
    }
    problems
}

fn arrows_of(room: &str, manifest: &str) -> Vec<String> {
    let Some((_, may)) = MAY_USE.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{room}/ is no room of the design")];
    };
    let mut problems = Vec::new();
    for name in dependencies(manifest) {
        match name.strip_prefix("underpass-") {
            Some(used) if !may.contains(&used) => {
                problems.push(format!("{room}/ must not use {used}/"));
            }
            None if room == "xtask" => {
                problems.push(format!(
                    "xtask/ has the dependency {name}; it has none, to start fast"
                ));
            }
            _ => {}
        }
    }
    problems
}

/// Names of all kinds of dependencies in a manifest.
fn dependencies(manifest: &str) -> BTreeSet<&str> {
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            inside = section.ends_with("dependencies");
            if let Some((_, name)) = section.rsplit_once("dependencies.") {
                names.insert(name);
            }
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            names.extend(line.split(['.', '=', ' ']).next());
        }
    }
    names
}

pub fn agent_links(repository: &Repository) -> Vec<String> {
    if !repository.files.iter().any(|f| f == "agent/Cargo.toml") {
        return Vec::new();
    }
    let Some(linked) = tree("underpass-agent", &[]) else {
        return vec!["`cargo tree` failed".to_owned()];
    };
    let mut problems: Vec<String> = BANNED
        .iter()
        .filter(|name| linked.contains(**name))
        .map(|name| format!("it links {name}"))
        .collect();
    if linked.contains("hyper") {
        let users: BTreeSet<String> =
            tree("underpass-agent", &["--invert", "hyper", "--depth", "1"]).unwrap_or_default();
        let others = users
            .iter()
            .filter(|name| !HYPER_USERS.contains(&name.as_str()));
        problems.extend(others.map(|name| format!("hyper comes through {name}")));
    }
    problems
}

/// The vendor holds privilege beside the agent: it links nothing that parses traffic and no BPF.
pub fn vend_links(repository: &Repository) -> Vec<String> {
    if !repository.files.iter().any(|f| f == "vend/Cargo.toml") {
        return Vec::new();
    }
    let Some(linked) = tree("underpass-vend", &[]) else {
        return vec!["`cargo tree` failed".to_owned()];
    };
    let banned = BANNED.iter().chain(BANNED_IN_VEND);
    banned
        .filter(|name| linked.contains(**name))
        .map(|name| format!("it links {name}"))
        .collect()
}

/// Names of what a package links.
fn tree(package: &str, args: &[&str]) -> Option<BTreeSet<String>> {
    let mut cargo = process::cargo(&["tree", "--package", package, "--edges", "normal"]);
    let out = cargo
        .args(["--prefix", "none", "--format", "{p}"])
        .args(args)
        .stdin(Stdio::null());
    let out = out.output().ok().filter(|o| o.status.success())?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let names = text
        .lines()
        .filter_map(|l| Some(l.split(' ').next()?.to_owned()));
    Some(names.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_arrow_is_found_in_every_form() {
        for form in [
            "[dependencies]\nunderpass-agent.workspace = true\n",
            "[dev-dependencies]\nunderpass-agent = { workspace = true }\n",
            "[dependencies.underpass-agent]\nworkspace = true\n",
            "[target.'cfg(unix)'.dependencies]\nunderpass-agent = { path = \"../agent\" }\n",
        ] {
            assert_eq!(
                arrows_of("mesh", form),
                ["mesh/ must not use agent/"],
                "{form}"
            );
        }
        assert!(arrows_of("mesh", "[dependencies]\nunderpass-abi.workspace = true\n").is_empty());
        assert_eq!(arrows_of("common", "").len(), 1);
        assert_eq!(
            arrows_of("xtask", "[dependencies]\nclap = \"4\"\n").len(),
            1
        );
    }
}
