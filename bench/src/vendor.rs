//! The vendor under measurement, found beside this program: it starts the workers, each in the cgroup of
//! its tenant.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    BenchError, Context as _, Result,
    agent::beside,
    lab::{Lab, Place},
    party,
};

const READY_WITHIN: Duration = Duration::from_secs(10);
/// Until it has ended its workers and removed their cgroups.
const ENDED_WITHIN: Duration = Duration::from_secs(10);
/// Names of tenants' cgroups start with it.
const TENANT: &str = "tenant-";

pub struct Vendor {
    child: Child,
    control: PathBuf,
    log: PathBuf,
    /// Its own, and that of its tenants.
    cgroups: [PathBuf; 2],
}

impl Vendor {
    /// `cpu`: of it and its workers.
    pub fn start(lab: &Lab, cpu: Option<usize>) -> Result<Self> {
        let control = lab.vendor_control();
        let log = lab.dir.join("vendor.log");
        let output = File::create(&log).context(log.display())?;
        let cgroups = [lab.vendor_cgroup(), lab.tenants_cgroup()];
        let place = Place {
            cgroup: Some(cgroups[0].clone()),
            netns: None,
            cpu,
        };
        let child = Command::new(std::env::current_exe().context("own executable")?)
            .arg("exec")
            .args(party::arguments(&place))
            .arg("--")
            .arg(beside("underpass-vend")?)
            .arg("--worker")
            .arg(beside("underpass-proxy")?)
            .arg("--state")
            .arg(lab.dir.join("vendor"))
            .arg("--control")
            .arg(&control)
            .arg("--cgroup")
            .arg(&cgroups[1])
            // Workers end with their work otherwise; a run must not begin with the start of one.
            .args(["--idle", "0", "--drain", "200"])
            .stdin(Stdio::null())
            .stdout(output.try_clone().context(log.display())?)
            .stderr(output)
            .spawn()
            .context("underpass-vend")?;
        let mut vendor = Self {
            child,
            control,
            log,
            cgroups,
        };
        vendor.wait_ready()?;
        Ok(vendor)
    }

    /// Whose CPU is the proxies'.
    pub fn cgroups(&self) -> &[PathBuf] {
        &self.cgroups
    }

    /// Starts a tenant's worker, which else waits for the first connection.
    pub fn wake(&self, tenant: &str) -> Result<()> {
        let done = self.ctl(&["start", tenant])?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        Err(BenchError::Setup(format!(
            "underpass-vend ctl start {tenant}: {said}"
        )))
    }

    fn ctl(&self, words: &[&str]) -> Result<Output> {
        Command::new(beside("underpass-vend")?)
            .arg("--control")
            .arg(&self.control)
            .arg("ctl")
            .args(words)
            .output()
            .context("underpass-vend ctl")
    }

    /// CPU of each tenant's worker and of what makes its sockets, microseconds, by cgroup.
    pub fn tenants(&self) -> Result<BTreeMap<String, f64>> {
        let mut all = BTreeMap::new();
        for dir in below(&self.cgroups[1])? {
            let name = dir.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(TENANT) {
                all.insert(name.into_owned(), crate::cpu::usage(&dir.join("cpu.stat"))?);
            }
        }
        Ok(all)
    }

    /// Bytes of memory of it, its children and workers, pages that are shared divided among their users.
    pub fn pss(&self) -> Result<u64> {
        let mut bytes = 0;
        for dir in &self.cgroups {
            for pid in processes(dir)? {
                bytes += crate::cpu::pss(pid)?;
            }
        }
        Ok(bytes)
    }

    /// What it and its workers said last.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("; ")
    }

    fn wait_ready(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let ended = self.child.try_wait().context("underpass-vend")?;
            if ended.is_some() || begin.elapsed() > READY_WITHIN {
                let said = self.log_tail();
                let how = ended.map_or("not ready".to_owned(), |status| status.to_string());
                return Err(BenchError::Setup(format!("underpass-vend: {how}: {said}")));
            }
            if self.ctl(&["status"])?.status.success() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        // It removes what it has made; the lab's guard does the same at the end.
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let begin = Instant::now();
        while begin.elapsed() < ENDED_WITHIN {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of a cgroup and of those below it.
fn processes(dir: &Path) -> Result<Vec<u32>> {
    let path = dir.join("cgroup.procs");
    let text = fs::read_to_string(&path).context(path.display())?;
    let mut all: Vec<u32> = text.lines().filter_map(|pid| pid.parse().ok()).collect();
    for dir in below(dir)? {
        all.extend(processes(&dir)?);
    }
    Ok(all)
}

fn below(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).context(dir.display())?.flatten();
    Ok(entries.map(|e| e.path()).filter(|p| p.is_dir()).collect())
}
