//! The agent under measurement, found beside this program, and what it says about itself.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{BenchError, Context as _, Result, lab::Lab, vendor::Vendor};

/// Until the agent must be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

const WATCHED_WITHIN: Duration = Duration::from_secs(10);
const DOORS_WITHIN: Duration = Duration::from_secs(15);

/// What went past TCP, of all connections so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// Messages that took the shortcut.
    pub messages: u64,
    /// Bytes that both ends sent and read, and those of them that took it.
    pub bytes: u64,
    pub by_shortcut: u64,
}

impl Passed {
    pub fn since(&self, before: &Self) -> Self {
        Self {
            messages: self.messages - before.messages,
            bytes: self.bytes - before.bytes,
            by_shortcut: self.by_shortcut - before.by_shortcut,
        }
    }

    /// Of the bytes; 0 without any.
    pub fn share(&self) -> f64 {
        self.by_shortcut as f64 / self.bytes.max(1) as f64
    }
}

/// Bytes of the agent's memory.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// With the mapped event ring, which the kernel's maps count too, and the program itself.
    pub rss: u64,
    /// Shared pages divided among their users.
    pub pss: u64,
    /// Heap and stacks.
    pub anonymous: u64,
}

#[derive(Debug)]
pub struct Agent {
    child: Child,
    log: PathBuf,
    api: PathBuf,
    metrics: SocketAddr,
    /// `--shortcut on`, not `off`.
    pub shortcut: bool,
    /// From its start to the first "ready".
    pub ready_after: Duration,
}

impl Agent {
    pub fn start(lab: &Lab, shortcut: bool) -> Result<Self> {
        let log = lab.dir.join("agent.log");
        let api = lab.dir.join("api.sock");
        let metrics = free_address()?;
        let output = File::create(&log).context(log.display())?;
        let begin = Instant::now();
        let child = Command::new(std::env::current_exe().context("own executable")?)
            .args(["exec", "--cgroup"])
            .arg(lab.agent_cgroup())
            .arg("--")
            .arg(beside("underpass-agent")?)
            .args(["--node", "bench", "--mesh"])
            .arg(lab.mesh_dir())
            .arg("--cgroup-root")
            .arg(lab.meshed_root())
            .arg("--pin-dir")
            .arg(lab.pin_dir())
            .arg("--state-dir")
            .arg(lab.dir.join("state"))
            .arg("--api")
            .arg(&api)
            .args(["--metrics", &metrics.to_string()])
            // Without a vendor there is nothing at it.
            .arg("--vend")
            .arg(lab.vendor_control())
            .args(["--shortcut", if shortcut { "on" } else { "off" }])
            // The first lines of a panic say more than its last ones.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(output.try_clone().context(log.display())?)
            .stderr(output)
            .spawn()
            .context("underpass-agent")?;
        let mut agent = Self {
            child,
            log,
            api,
            metrics,
            shortcut,
            ready_after: Duration::ZERO,
        };
        agent.wait_ready(begin)?;
        Ok(agent)
    }

    /// Ends it and removes everything that it left in the kernel.
    pub fn uninstall(self, lab: &Lab) -> Result<()> {
        drop(self);
        let done = Command::new(beside("underpass-agent")?)
            .args(["--uninstall", "--pin-dir"])
            .arg(lab.pin_dir())
            // Else it would wait for an agent of the whole tree.
            .arg("--cgroup-root")
            .arg(lab.meshed_root())
            .arg("--state-dir")
            .arg(lab.dir.join("state"))
            .output()
            .context("underpass-agent --uninstall")?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        Err(BenchError::Agent(format!(
            "--uninstall: {}: {said}",
            done.status
        )))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn status(&self) -> Result<Value> {
        status(&self.api)
    }

    /// Fails if the agent reports an error: what it did not take in would not be measured.
    pub fn without_errors(&self) -> Result<Value> {
        let status = self.status()?;
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        match problems.iter().find(|p| p["severity"] == "error") {
            None => Ok(status),
            Some(problem) => Err(BenchError::Agent(problem.to_string())),
        }
    }

    /// Until connections may take the shortcut: the agent attaches the watch for splice once it has seen
    /// a listener that qualifies.
    pub fn wait_watched(&self) -> Result<()> {
        let begin = Instant::now();
        let mut said = Value::Null;
        while begin.elapsed() < WATCHED_WITHIN {
            said = self.status()?["features"].take();
            let features = said.as_array().map(Vec::as_slice).unwrap_or_default();
            let watch = features.iter().find(|f| f["name"] == "splice-watch");
            if watch.is_some_and(|f| f["on"] == true) {
                return Ok(());
            }
        }
        let why = format!("the watch for splice is not attached: {said}");
        Err(BenchError::Agent(why))
    }

    /// Until all workers that are wanted run, with what they must know.
    pub fn wait_workers(&self, vendor: &Vendor) -> Result<()> {
        let (begin, mut woken) = (Instant::now(), false);
        let mut said = Value::Null;
        while begin.elapsed() < DOORS_WITHIN {
            said = self.status()?["workers"].take();
            let tenants = said["tenants"].as_array().map_or(&[][..], Vec::as_slice);
            if doors_stand(&said) {
                if tenants.iter().all(|tenant| tenant["state"] == "running") {
                    return Ok(());
                }
                for tenant in tenants.iter().filter(|_| !woken) {
                    vendor.wake(tenant["name"].as_str().unwrap_or_default())?;
                }
                woken = true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let log = vendor.log_tail();
        Err(BenchError::Agent(format!("no workers: {said}; {log}")))
    }

    /// By its metrics.
    pub fn passed(&self) -> Result<Passed> {
        let text = get(self.metrics, "/metrics").context("the agent's /metrics")?;
        let sum = |name: &str| {
            total(&text, name).ok_or_else(|| BenchError::Agent(format!("/metrics: no {name}")))
        };
        Ok(Passed {
            messages: sum("underpass_shortcut_taken_total")?,
            bytes: sum("tcp_write_bytes_total")? + sum("tcp_read_bytes_total")?,
            by_shortcut: sum("underpass_shortcut_bytes_total")?,
        })
    }

    pub fn memory(&self) -> Result<Memory> {
        let path = format!("/proc/{}/smaps_rollup", self.pid());
        let text = fs::read_to_string(&path).context(&path)?;
        let field = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name));
            let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
            kib.map(|kib| kib * 1024)
                .ok_or_else(|| BenchError::Agent(format!("{path}: no {name}")))
        };
        Ok(Memory {
            rss: field("Rss:")?,
            pss: field("Pss:")?,
            anonymous: field("Anonymous:")?,
        })
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    fn wait_ready(&mut self, begin: Instant) -> Result<()> {
        loop {
            if let Some(status) = self.child.try_wait().context("underpass-agent")? {
                let why = format!("it has ended: {status}\n{}", self.log_tail());
                return Err(BenchError::Agent(why));
            }
            if ready(self.metrics) {
                self.ready_after = begin.elapsed();
                return Ok(());
            }
            if begin.elapsed() > READY_WITHIN {
                let why = format!("not ready within {READY_WITHIN:?}\n{}", self.log_tail());
                return Err(BenchError::Agent(why));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program of the same build.
pub fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("own executable")?;
    let path = own.parent().unwrap_or(Path::new(".")).join(name);
    if path.exists() {
        return Ok(path);
    }
    let path = path.display();
    Err(BenchError::Setup(format!(
        "{path} is missing; `cargo xtask bench` builds it"
    )))
}

/// `underpass status -o json`, of the agent that serves this socket.
pub fn status(api: &Path) -> Result<Value> {
    let done = Command::new(beside("underpass")?)
        .args(["status", "-o", "json", "--api"])
        .arg(api)
        .output()
        .context("underpass status")?;
    // It exits with 1 if the node has problems, and answers all the same.
    serde_json::from_slice(&done.stdout).map_err(|e| {
        let said = String::from_utf8_lossy(&done.stderr);
        BenchError::Agent(format!("underpass status: {e}: {said}"))
    })
}

fn ready(metrics: SocketAddr) -> bool {
    get(metrics, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// The answer with its head.
fn get(from: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&from, Duration::from_millis(100))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Of all series of a family; `None` if it is not there at all.
fn total(text: &str, name: &str) -> Option<u64> {
    let unit = name.trim_end_matches("_total");
    text.contains(&format!("# TYPE {unit} ")).then(|| {
        let of = |line: &str| {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with(['{', ' ']) {
                return None;
            }
            rest.rsplit(' ').next()?.parse::<u64>().ok()
        };
        text.lines().filter_map(of).sum()
    })
}

/// Of `status`: listeners in all namespaces, and no worker that runs has an older snapshot than the newest.
pub fn doors_stand(workers: &Value) -> bool {
    let number = |of: &Value, name: &str| of[name].as_u64().unwrap_or(0);
    let wanted = number(workers, "doors_wanted");
    let tenants = workers["tenants"].as_array().map_or(&[][..], Vec::as_slice);
    let told = |t: &Value| {
        let sent = number(t, "snapshot_sent");
        sent > 0 && (number(t, "snapshot_applied") == sent || number(t, "worker") == 0)
    };
    wanted > 0 && number(workers, "doors") == wanted && tenants.iter().all(told)
}

/// A port that was free a moment ago.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a free port")?;
    listener.local_addr().context("a free port")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_family_is_summed_and_told_from_its_neighbors() {
        let text = "# TYPE a counter\na_total{x=\"1 2\"} 3\na_total{x=\"2\"} 4\na_total_more 9\n\
                    # TYPE b counter\nb_total 5\n# TYPE c counter\n";
        assert_eq!(total(text, "a_total"), Some(7));
        assert_eq!(total(text, "b_total"), Some(5));
        assert_eq!(total(text, "c_total"), Some(0), "no series yet");
        assert_eq!(total(text, "d_total"), None);
    }

    #[test]
    fn workers_stand_once_all_doors_do_and_all_know_the_newest() {
        let said = |doors, applied, worker| {
            let tenant =
                json!({ "snapshot_sent": 3, "snapshot_applied": applied, "worker": worker });
            doors_stand(&json!({ "doors": doors, "doors_wanted": 2, "tenants": [tenant] }))
        };
        assert!(said(2, 3, 77) && said(2, 0, 0));
        assert!(!said(1, 3, 77) && !said(2, 2, 77));
        assert!(!doors_stand(&Value::Null));
    }

    #[test]
    fn the_share_is_of_the_bytes() {
        let before = Passed {
            messages: 1,
            bytes: 100,
            by_shortcut: 10,
        };
        let now = Passed {
            messages: 3,
            bytes: 300,
            by_shortcut: 60,
        };
        assert_eq!(now.since(&before).share(), 0.25);
        assert_eq!(Passed::default().share(), 0.0);
    }
}
