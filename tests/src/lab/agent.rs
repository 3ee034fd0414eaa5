//! The agent of a lab's node.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::{Failure, Lab, Place, Proc, Result, cli::Cli, until};

const READY_WITHIN: Duration = Duration::from_secs(30);

pub struct Agent {
    command: Vec<String>,
    place: Place,
    proc: Proc,
    pub cli: Cli,
}

impl Agent {
    pub fn start(lab: &Lab, flags: &[&str]) -> Result<Self> {
        let mut agent = Self::spawn(lab, flags)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts it without waiting: for agents that should fail.
    pub fn spawn(lab: &Lab, flags: &[&str]) -> Result<Self> {
        Self::spawn_under(lab, &[], flags)
    }

    /// As [`Agent::spawn`]; `wrapper` is a command that becomes the agent, as `unshare -m` does.
    pub fn spawn_under(lab: &Lab, wrapper: &[&str], flags: &[&str]) -> Result<Self> {
        let cli = Cli::new(lab);
        let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        let mut command: Vec<String> = wrapper.iter().map(|w| (*w).to_owned()).collect();
        command.extend([
            path(super::place::binary("underpass-agent")?),
            "--node".into(),
            "lab".into(),
            "--mesh".into(),
            path(lab.mesh_dir()),
            "--cgroup-root".into(),
            path(lab.cgroup_root()),
            "--pin-dir".into(),
            path(lab.pin_dir.clone()),
            "--state-dir".into(),
            path(lab.dir.join("state")),
            "--api".into(),
            path(lab.dir.join("api.sock")),
            "--vend".into(),
            path(lab.dir.join("vend.sock")),
        ]);
        command.extend(flags.iter().map(|f| (*f).to_owned()));
        let place = lab.backstage();
        let proc = start(&place, &command)?;
        Ok(Self {
            command,
            place,
            proc,
            cli,
        })
    }

    /// Waits for its end.
    pub fn finish(self, limit: Duration) -> Result<super::process::Done> {
        self.proc.finish(limit)
    }

    pub fn proc(&mut self) -> &mut Proc {
        &mut self.proc
    }

    /// Waits until `underpass status` says ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        let (cli, proc) = (&self.cli, &self.proc);
        until("agent ready", READY_WITHIN, || {
            if !super::process::alive(proc.pid()) {
                return Ok(Err(Failure(format!(
                    "the agent has ended: {}",
                    log_of(proc)
                ))));
            }
            let status = cli.status().map_err(|f| f.0)?;
            match status["state"].as_str() {
                Some("ready") => Ok(Ok(())),
                other => Err(format!("state {other:?}; {}", log_of(proc))),
            }
        })?
    }

    /// Number of plans applied since the pins were made.
    pub fn plan_version(&self) -> Result<u64> {
        self.cli.status()?["plan_version"]
            .as_u64()
            .ok_or_else(|| Failure::new("status has no plan_version"))
    }

    /// Runs `change`, then waits until a newer plan is in force.
    pub fn wait_plan(&self, change: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.plan_version()?;
        change()?;
        until("a newer plan", Duration::from_secs(10), || {
            match self.plan_version() {
                Ok(now) if now > before => Ok(()),
                Ok(_) => Err(format!("still {before}; agent: {}", self.log())),
                Err(failure) => Err(failure.0),
            }
        })
    }

    /// Waits until a status field satisfies `probe`.
    pub fn wait_status(&self, what: &str, probe: impl Fn(&Value) -> bool) -> Result<Value> {
        until(what, Duration::from_secs(10), || {
            let status = self.cli.status().map_err(|f| f.0)?;
            if probe(&status) {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        })
    }

    pub fn kill9(&mut self) -> Result<()> {
        self.proc.kill9()
    }

    /// Starts it again with the same flags and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.proc.kill9()?;
        self.proc = start(&self.place, &self.command)?;
        self.wait_ready()
    }

    /// The same with another value of the flag whose value is `from`.
    pub fn restart_with(&mut self, from: &str, to: &str) -> Result<()> {
        for word in self.command.iter_mut().filter(|w| *w == from) {
            *word = to.into();
        }
        self.restart()
    }

    /// SIGSTOP: the kernel's side goes on without it.
    pub fn stop(&self) -> Result<()> {
        self.proc.signal(Signal::STOP)
    }

    pub fn go_on(&self) -> Result<()> {
        self.proc.signal(Signal::CONT)
    }

    /// SIGTERM, and waits for its end.
    pub fn terminate(&self) -> Result<()> {
        self.proc.signal(Signal::TERM)?;
        let pid = self.proc.pid();
        until("end of the agent", Duration::from_secs(10), || {
            if super::process::alive(pid) {
                Err(self.log())
            } else {
                Ok(())
            }
        })
    }

    pub fn rss_kib(&self) -> Result<u64> {
        self.proc.rss_kib()
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        log_of(&self.proc)
    }
}

fn log_of(proc: &Proc) -> String {
    let lines = proc.stdout();
    let last = lines.iter().skip(lines.len().saturating_sub(20));
    last.map(String::as_str)
        .chain([proc.stderr().as_str()])
        .collect::<Vec<_>>()
        .join("\n")
}

fn start(place: &Place, command: &[String]) -> Result<Proc> {
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    Proc::start(place, &command)
}
