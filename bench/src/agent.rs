//! The agent under measurement, found beside this program, and what it says about itself.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::Value;

use crate::{BenchError, Context as _, Result, lab::Lab};

/// Until the agent must be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

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
    /// From its start to the first "ready".
    pub ready_after: Duration,
}

impl Agent {
    pub fn start(lab: &Lab) -> Result<Self> {
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

    /// `underpass status -o json`.
    pub fn status(&self) -> Result<Value> {
        let done = Command::new(beside("underpass")?)
            .args(["status", "-o", "json", "--api"])
            .arg(&self.api)
            .output()
            .context("underpass status")?;
        // It exits with 1 if the node has problems, and answers all the same.
        serde_json::from_slice(&done.stdout).map_err(|e| {
            let said = String::from_utf8_lossy(&done.stderr);
            BenchError::Agent(format!("underpass status: {e}: {said}"))
        })
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

fn ready(metrics: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&metrics, Duration::from_millis(100))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

/// A port that was free a moment ago.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a free port")?;
    listener.local_addr().context("a free port")
}
