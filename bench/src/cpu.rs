//! CPU time of the parties: each has a cgroup, whose `cpu.stat` counts all of its tasks in the
//! kernel and outside. Softirq work is charged to the task that it interrupts; what is pushed to
//! `ksoftirqd` is read from its schedstat.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{BenchError, Context as _, Result};

/// Microseconds of CPU, of each party.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    pub client: f64,
    pub server: f64,
    pub agent: f64,
    /// Of the proxies between client and server.
    pub proxy: f64,
    pub ksoftirqd: f64,
    /// Everything on the machine that was not idle, in ticks: coarse, and includes strangers.
    pub system: f64,
}

impl Cpu {
    /// All parties and the kernel's threads for them.
    pub fn total(&self) -> f64 {
        self.client + self.server + self.agent + self.proxy + self.ksoftirqd
    }

    pub fn since(&self, before: &Self) -> Self {
        self.map(before, |now, before| now - before)
    }

    fn map(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            client: f(self.client, other.client),
            server: f(self.server, other.server),
            agent: f(self.agent, other.agent),
            proxy: f(self.proxy, other.proxy),
            ksoftirqd: f(self.ksoftirqd, other.ksoftirqd),
            system: f(self.system, other.system),
        }
    }
}

/// Reads the clocks of one side.
#[derive(Debug)]
pub struct Clocks {
    client: PathBuf,
    server: PathBuf,
    agent: Option<PathBuf>,
    proxies: Vec<PathBuf>,
    ksoftirqd: Vec<PathBuf>,
}

impl Clocks {
    /// Cgroup directories of the parties.
    pub fn new(client: &Path, server: &Path, agent: Option<&Path>) -> Result<Self> {
        let stat = |dir: &Path| dir.join("cpu.stat");
        Ok(Self {
            client: stat(client),
            server: stat(server),
            agent: agent.map(stat),
            proxies: Vec::new(),
            ksoftirqd: ksoftirqd()?,
        })
    }

    /// Cgroup directories of the proxies.
    pub fn with_proxies<'a>(mut self, proxies: impl IntoIterator<Item = &'a Path>) -> Self {
        let stats = proxies.into_iter().map(|dir| dir.join("cpu.stat"));
        self.proxies = stats.collect();
        self
    }

    pub fn read(&self) -> Result<Cpu> {
        let mut softirq = 0.0;
        for path in &self.ksoftirqd {
            softirq += schedstat(path)?;
        }
        let mut proxy = 0.0;
        for path in &self.proxies {
            proxy += usage(path)?;
        }
        Ok(Cpu {
            client: usage(&self.client)?,
            server: usage(&self.server)?,
            agent: self.agent.as_deref().map_or(Ok(0.0), usage)?,
            proxy,
            ksoftirqd: softirq,
            system: system()?,
        })
    }
}

/// Of a `cpu.stat`, microseconds.
pub fn usage(path: &Path) -> Result<f64> {
    let text = fs::read_to_string(path).context(path.display())?;
    field(&text, "usage_usec").ok_or_else(|| unreadable(path, "no usage_usec"))
}

/// Bytes of a process's memory, pages that are shared divided among their users.
pub fn pss(pid: u32) -> Result<u64> {
    let path = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
    let text = fs::read_to_string(&path).context(path.display())?;
    kib(&text)
        .map(|kib| kib * 1024)
        .ok_or_else(|| unreadable(&path, "no Pss"))
}

fn kib(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

fn field(text: &str, name: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// First number: nanoseconds on a CPU.
fn schedstat(path: &Path) -> Result<f64> {
    let text = fs::read_to_string(path).context(path.display())?;
    let ns: Option<f64> = text.split(' ').next().and_then(|n| n.parse().ok());
    ns.map(|ns| ns / 1e3).ok_or_else(|| unreadable(path, &text))
}

fn ksoftirqd() -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir("/proc").context("/proc")?.flatten() {
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.starts_with("ksoftirqd/") {
            paths.push(entry.path().join("schedstat"));
        }
    }
    // In a container without the kernel's threads the figure would be silently too small.
    if paths.is_empty() {
        return Err(BenchError::Setup(
            "no ksoftirqd in /proc: run on the machine itself".into(),
        ));
    }
    Ok(paths)
}

/// user + nice + system + irq + softirq + steal-free ticks, in microseconds.
fn system() -> Result<f64> {
    let path = Path::new("/proc/stat");
    let text = fs::read_to_string(path).context(path.display())?;
    busy(&text).ok_or_else(|| unreadable(path, "first line"))
}

fn busy(stat: &str) -> Option<f64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .map_while(|n| n.parse().ok())
        .collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else {
        return None;
    };
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Some((user + nice + system + irq + softirq) * 1e6 / per_second)
}

fn unreadable(path: &Path, what: &str) -> BenchError {
    BenchError::Setup(format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cgroup_and_system_time() {
        assert_eq!(
            field("usage_usec 123\nuser_usec 100\n", "usage_usec"),
            Some(123.0)
        );
        assert_eq!(field("user_usec 100\n", "usage_usec"), None);
        let tick = 1e6 / rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(
            busy("cpu  1 2 3 100 100 4 5 6 0 0\ncpu0 9\n"),
            Some(15.0 * tick)
        );
        assert_eq!(busy("intr 1\n"), None);
    }

    #[test]
    fn memory_is_the_proportional_share() {
        let text = "5581 r--p [rollup]\nRss:    9000 kB\nPss:    1234 kB\nPss_Anon: 5 kB\n";
        assert_eq!(kib(text), Some(1234));
        assert_eq!(kib("Rss: 1 kB\n"), None);
    }

    #[test]
    fn a_delta_is_taken_of_each_party() {
        let before = Cpu {
            client: 1.0,
            server: 2.0,
            agent: 0.5,
            proxy: 4.0,
            ksoftirqd: 0.0,
            system: 9.0,
        };
        let now = Cpu {
            client: 3.0,
            server: 5.0,
            agent: 1.0,
            proxy: 10.0,
            ksoftirqd: 0.25,
            system: 20.0,
        };
        let delta = now.since(&before);
        assert_eq!(delta.total(), 2.0 + 3.0 + 0.5 + 6.0 + 0.25);
        assert_eq!(delta.system, 11.0);
    }
}
