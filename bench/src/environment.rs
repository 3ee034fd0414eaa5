//! Where a measurement was made, so that another can be compared with it.

use std::{fs, path::Path, process::Command};

use serde::Serialize;

use crate::agent;

#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    pub kernel: String,
    pub machine: String,
    pub cpu: String,
    pub cpus: usize,
    pub memory: String,
    pub load: String,
    pub mitigations: Vec<String>,
    pub bpf_jit: String,
    pub bpf_stats: String,
    pub bench: &'static str,
    pub agent: String,
    /// Of the checkout that this program lies in; "unknown" outside of one.
    pub commit: String,
    pub build: &'static str,
}

impl Environment {
    pub fn read() -> Self {
        let uname = rustix::system::uname();
        let cpuinfo = file("/proc/cpuinfo");
        let field = |text: &str, name: &str| {
            let line = text
                .lines()
                .find(|l| l.starts_with(name))
                .unwrap_or_default();
            line.split_once(':')
                .map_or("unknown", |(_, value)| value.trim())
                .to_owned()
        };
        Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            machine: uname.machine().to_string_lossy().into_owned(),
            cpu: field(&cpuinfo, "model name"),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            memory: field(&file("/proc/meminfo"), "MemTotal"),
            load: file("/proc/loadavg"),
            mitigations: mitigations(),
            bpf_jit: file("/proc/sys/net/core/bpf_jit_enable"),
            bpf_stats: file("/proc/sys/kernel/bpf_stats_enabled"),
            bench: env!("CARGO_PKG_VERSION"),
            agent: agent::beside("underpass-agent").map_or_else(
                |_| "missing".to_owned(),
                |path| output(Command::new(path).arg("--version")),
            ),
            commit: commit(),
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
        }
    }
}

fn file(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn output(command: &mut Command) -> String {
    match command.output() {
        Ok(done) if done.status.success() => {
            String::from_utf8_lossy(&done.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}

fn commit() -> String {
    let exe = std::env::current_exe().unwrap_or_default();
    let dir = exe.parent().unwrap_or(Path::new("."));
    let git = |args: &[&str]| output(Command::new("git").arg("-C").arg(dir).args(args));
    match git(&["status", "--porcelain", "--untracked-files=no"]).as_str() {
        "" => git(&["rev-parse", "HEAD"]),
        "unknown" => "unknown".to_owned(),
        _ => format!("{} with changes", git(&["rev-parse", "HEAD"])),
    }
}

fn mitigations() -> Vec<String> {
    let dir = "/sys/devices/system/cpu/vulnerabilities";
    let mut all: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            format!("{name}: {}", file(&entry.path().to_string_lossy()))
        })
        .filter(|line| !line.ends_with("Not affected"))
        .collect();
    all.sort();
    all
}
