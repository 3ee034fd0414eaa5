//! The node: what can be seen from here without privilege, and what the agent says. Without an
//! agent, what one that is started here would meet.

use std::{fs, io, path::Path};

use underpass_abi::reason::{CODES, code};
use underpass_api::{
    check::{Finding, Mark, Report},
    v1alpha1 as api,
};

use super::{agent, coded, print};
use crate::{
    client::Client,
    error::CliError,
    options::Check,
    render::{self, Look},
    row::some,
    status::Problem,
};

/// Older kernels lack what the programs need.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// Bits of `CapEff` (linux/capability.h) that the agent needs (`docs/reference/capabilities.md`).
const CAPABILITIES: [(u32, &str); 3] = [
    (12, "CAP_NET_ADMIN"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
];
/// A map this full is told, in percent.
const NEARLY_FULL: u64 = 80;

/// True if nothing is wrong.
pub async fn run(options: &Check) -> Result<bool, CliError> {
    let checks = match ask(&options.api.path).await {
        Ok(status) => {
            let mut seen = environment(Path::new("/"));
            seen.extend(of_agent(status, &options.api.path));
            seen
        }
        Err(error) => {
            let mut seen = without_agent(options).await;
            seen.push(no_agent(&options.api.path, &error));
            seen
        }
    };
    let ok = !checks.iter().any(|f| f.result == Mark::Error);
    let report = Report { ok, checks };
    let look = Look::of_stdout(true);
    render::emit(&print(&report, options.output.output, look))?;
    Ok(ok)
}

/// What an agent would meet here: tried by its own binary, else what can be seen from here.
async fn without_agent(options: &Check) -> Vec<Finding> {
    match agent::try_node(options.agent.as_deref()).await {
        Ok(tried) => tried,
        Err(why) => {
            let root = Path::new("/");
            let mut seen = environment(root);
            seen.push(capabilities(root));
            seen.push(coded(Mark::Warning, "programs", code::NOT_TRIED, why));
            seen
        }
    }
}

async fn ask(path: &Path) -> Result<api::Status, CliError> {
    Client::connect(path).await?.status().await
}

/// Kernel, BTF and mounts, read below `root`.
fn environment(root: &Path) -> Vec<Finding> {
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo"));
    vec![kernel(root), btf(root), bpffs(&mounts), cgroup2(&mounts)]
}

fn kernel(root: &Path) -> Finding {
    let release = match fs::read_to_string(root.join("proc/sys/kernel/osrelease")) {
        Ok(text) => text.trim().to_owned(),
        Err(e) => return unreadable("kernel", "/proc/sys/kernel/osrelease", &e),
    };
    match version(&release) {
        Some(v) if v >= KERNEL_MIN => Finding::ok("kernel", release),
        _ => coded(Mark::Error, "kernel", code::KERNEL_TOO_OLD, release),
    }
}

/// `6.18.0-rc1` → (6, 18)
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn btf(root: &Path) -> Finding {
    let path = "/sys/kernel/btf/vmlinux";
    if root.join(&path[1..]).exists() {
        return Finding::ok("btf", path);
    }
    coded(
        Mark::Error,
        "btf",
        code::NO_BTF,
        format!("{path} does not exist"),
    )
}

fn bpffs(mounts: &io::Result<String>) -> Finding {
    match mount_points(mounts, "bpf") {
        Err(e) => unreadable("bpffs", "/proc/self/mountinfo", e),
        Ok(points) => match points.first() {
            Some(point) => Finding::ok("bpffs", point.clone()),
            // No error: the agent mounts it, where that is allowed.
            None => {
                let detail = "none is mounted; the agent mounts one if it may";
                coded(Mark::Warning, "bpffs", code::NO_BPFFS, detail)
            }
        },
    }
}

fn cgroup2(mounts: &io::Result<String>) -> Finding {
    let (v2, v1) = match (
        mount_points(mounts, "cgroup2"),
        mount_points(mounts, "cgroup"),
    ) {
        (Ok(v2), Ok(v1)) => (v2, v1),
        (Err(e), _) | (_, Err(e)) => return unreadable("cgroup2", "/proc/self/mountinfo", e),
    };
    match v2.first() {
        Some(point) if v1.is_empty() => Finding::ok("cgroup2", point.clone()),
        Some(point) => Finding::ok("cgroup2", format!("{point} (hybrid, beside cgroup v1)")),
        None => {
            let detail = if v1.is_empty() {
                "none is mounted"
            } else {
                "only cgroup v1 is mounted"
            };
            coded(Mark::Error, "cgroup2", code::NO_CGROUP2, detail)
        }
    }
}

/// Mount points of one file system type (proc_pid_mountinfo(5)).
fn mount_points<'a>(
    mounts: &'a io::Result<String>,
    kind: &str,
) -> Result<Vec<String>, &'a io::Error> {
    let text = mounts.as_ref()?;
    let of_line = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        (source.split(' ').next()? == kind).then(|| point.replace("\\040", " "))
    };
    Ok(text.lines().filter_map(of_line).collect())
}

/// Of this process, as an agent started by the same user would have them.
fn capabilities(root: &Path) -> Finding {
    let check = "capabilities";
    let status = match fs::read_to_string(root.join("proc/self/status")) {
        Ok(text) => text,
        Err(e) => return unreadable(check, "/proc/self/status", &e),
    };
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective & 1 << bit == 0)
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        return Finding::ok(check, "this user may load BPF programs");
    }
    let detail = format!("this user lacks {}", missing.join(", "));
    coded(Mark::Error, check, code::NO_BPF_CAPABILITY, detail)
}

/// A missing socket is a node where the mesh was not started yet: a warning.
fn no_agent(path: &Path, error: &CliError) -> Finding {
    let shown = path.display();
    if fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        let detail = format!("{shown} does not exist: no agent has started");
        return coded(Mark::Warning, "agent", code::API_UNREACHABLE, detail);
    }
    match error {
        CliError::Failed { code, message } => coded(Mark::Error, "agent", *code, message.clone()),
        other => coded(
            Mark::Error,
            "agent",
            code::API_UNREACHABLE,
            format!("{shown}: {other}"),
        ),
    }
}

/// What a running agent says: its state, features, fullness and problems.
fn of_agent(status: api::Status, path: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let about = format!(
        "{}, version {}, at {}",
        status.node,
        status.version,
        path.display()
    );
    if status.state == "ready" {
        findings.push(Finding::ok("agent", about));
    } else {
        findings.push(of_text(Mark::Error, "agent", &status.state, None));
    }
    for f in &status.features {
        let check = format!("feature {}", f.name);
        findings.push(if f.on {
            Finding::ok(&check, if f.reason.is_empty() { "on" } else { &f.reason })
        } else {
            of_text(Mark::Warning, &check, &f.reason, Some(code::FEATURE_OFF))
        });
    }
    for m in &status.maps {
        let percent = m
            .used
            .saturating_mul(100)
            .checked_div(m.capacity)
            .unwrap_or(0);
        if percent > NEARLY_FULL {
            let detail = format!("{} of {} entries", m.used, m.capacity);
            let check = format!("map {}", m.name);
            findings.push(coded(Mark::Warning, &check, code::LIMIT_EXCEEDED, detail));
        }
    }
    let problems: Vec<Problem> = status.problems.into_iter().map(Problem::from).collect();
    findings.extend(problems.into_iter().map(of_problem));
    findings
}

pub fn of_problem(problem: Problem) -> Finding {
    Finding {
        result: if problem.is_error() {
            Mark::Error
        } else {
            Mark::Warning
        },
        check: problem.place.clone().unwrap_or_else(|| "node".to_owned()),
        detail: problem.message,
        code: Some(format!("{} {}", problem.code, problem.name)),
        hint: problem.hint,
    }
}

/// From a text that may start with its own code (`UP0412 NO_SOCK_DESTROY: …`, or only the name).
fn of_text(result: Mark, check: &str, text: &str, otherwise: Option<u16>) -> Finding {
    let named = |word: &str| {
        CODES
            .iter()
            .find(|c| c.name == word || format!("UP{:04}", c.number) == word)
    };
    let entry = text.split([' ', ':']).find_map(named);
    match entry.map(|c| c.number).or(otherwise) {
        Some(number) => coded(result, check, number, text),
        None => Finding {
            result,
            check: check.to_owned(),
            detail: text.to_owned(),
            code: None,
            hint: some(String::new()),
        },
    }
}

fn unreadable(check: &str, path: &str, error: &io::Error) -> Finding {
    coded(
        Mark::Error,
        check,
        code::UNREADABLE,
        format!("{path}: {error}"),
    )
}

#[cfg(test)]
mod tests;
