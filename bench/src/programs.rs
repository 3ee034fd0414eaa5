//! What each BPF program costs: runs for one operation and nanoseconds for one run, by the kernel's
//! own statistics. They cost some 20-40 ns a run themselves, so nothing else is measured meanwhile.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use serde::Serialize;
use serde_json::Value;

use crate::{
    BenchError, Context as _, Result,
    cases::Case,
    lab::Wire,
    report::columns,
    rig::{Cpus, Rig},
    way::Way,
};

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    pub case: &'static str,
    pub program: String,
    pub runs_per_operation: f64,
    pub ns_per_run: f64,
}

/// Switches the statistics on, and back to what they were.
struct Statistics(String);

impl Statistics {
    fn on() -> Result<Self> {
        let before = fs::read_to_string(STATS).context(STATS)?;
        fs::write(STATS, "1").context(STATS)?;
        Ok(Self(before))
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Err(e) = fs::write(STATS, self.0.trim()) {
            eprintln!("{STATS}: {e}");
        }
    }
}

pub fn run(cases: &[Case], way: Way, wire: Wire, cpus: Cpus, seconds: f64) -> Result<Vec<Cost>> {
    let mut costs = Vec::new();
    for group in cases.chunk_by(Case::shares_mesh) {
        let mut rig = Rig::for_cases(group, wire, cpus, true)?;
        rig.warm_up(&group[0], way)?;
        let ids = pinned(&rig.lab.pin_dir())?;
        let _statistics = Statistics::on()?;
        for case in group {
            rig.warm_up(case, way)?;
            let before = statistics(&ids)?;
            let sample = rig.measure(case, way, seconds)?;
            let after = statistics(&ids)?;
            costs.extend(after.into_iter().filter_map(|(program, (runs, ns))| {
                let (runs_before, ns_before) = before.get(&program).copied().unwrap_or_default();
                let runs = (runs - runs_before) as f64;
                (runs > 0.0).then(|| Cost {
                    case: case.name,
                    program,
                    runs_per_operation: runs / sample.operations as f64,
                    ns_per_run: (ns - ns_before) as f64 / runs,
                })
            }));
        }
    }
    Ok(costs)
}

/// Ids of the programs behind the agent's pinned links.
fn pinned(pin_dir: &Path) -> Result<Vec<u64>> {
    let mut ids = Vec::new();
    let mut dirs = vec![pin_dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).context(dir.display())?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if dir.components().any(|c| c.as_os_str() == "links") {
                let link = bpftool(&["link", "show", "pinned", &path.to_string_lossy()])?;
                ids.extend(link["prog_id"].as_u64());
            }
        }
    }
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        let why = format!("no pinned links below {}", pin_dir.display());
        return Err(BenchError::Setup(why));
    }
    Ok(ids)
}

/// (runs, nanoseconds) by program and id.
fn statistics(ids: &[u64]) -> Result<BTreeMap<String, (u64, u64)>> {
    let all = bpftool(&["prog", "show"])?;
    let programs = all.as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |program: &Value| {
        let id = program["id"].as_u64()?;
        let name = program["name"].as_str().unwrap_or("?");
        let count = |field: &str| program[field].as_u64().unwrap_or_default();
        ids.contains(&id).then(|| {
            (
                format!("{name} #{id}"),
                (count("run_cnt"), count("run_time_ns")),
            )
        })
    };
    Ok(programs.iter().filter_map(of).collect())
}

fn bpftool(args: &[&str]) -> Result<Value> {
    let done = Command::new("bpftool")
        .arg("-j")
        .args(args)
        .output()
        .context("bpftool")?;
    serde_json::from_slice(&done.stdout).map_err(|e| {
        let said = String::from_utf8_lossy(&done.stderr);
        BenchError::Setup(format!("bpftool {}: {e} {said}", args.join(" ")))
    })
}

pub fn table(costs: &[Cost]) -> String {
    let mut lines = vec![["case", "program", "runs/op", "ns/run", "ns/op"].map(str::to_owned)];
    for cost in costs {
        lines.push([
            cost.case.to_owned(),
            cost.program.clone(),
            format!("{:.2}", cost.runs_per_operation),
            format!("{:.0}", cost.ns_per_run),
            format!("{:.0}", cost.runs_per_operation * cost.ns_per_run),
        ]);
    }
    columns(&lines)
}
