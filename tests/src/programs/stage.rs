//! What a scenario works with: the pods, a port and a directory of its own, programs by name, and
//! the facts that must be the same over both paths.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{fixture::Fixture, tools};
use crate::{
    Failure, Result,
    lab::{Place, Pod, Proc, process::Done},
};

/// Of one step of a scenario; a step over it counts as hung.
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Stage<'a> {
    pub fixture: &'a Fixture,
    /// Every server of the scenario listens on it, each at its own pod's address.
    pub port: u16,
    pub dir: PathBuf,
    /// Files that both runs read.
    pub shared: &'a Shared,
    facts: BTreeMap<String, String>,
    /// What is worth reading, but not compared.
    pub notes: Vec<String>,
}

/// Random files, made once.
pub struct Shared {
    pub dir: PathBuf,
}

impl Shared {
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Failure::at(dir.display()))?;
        Ok(Self { dir: dir.into() })
    }

    /// A file of so many random bytes; its path.
    pub fn random(&self, bytes: u64) -> Result<String> {
        let path = self.dir.join(format!("random-{bytes}"));
        let there = fs::metadata(&path).is_ok_and(|m| m.len() == bytes);
        if !there {
            use std::io::Read as _;
            let mut from = fs::File::open("/dev/urandom")?.take(bytes);
            let mut to = fs::File::create(&path).map_err(Failure::at(path.display()))?;
            std::io::copy(&mut from, &mut to)?;
        }
        Ok(path.to_string_lossy().into_owned())
    }
}

impl<'a> Stage<'a> {
    pub fn new(fixture: &'a Fixture, shared: &'a Shared, port: u16) -> Result<Self> {
        let dir = fixture.lab.dir.join("programs").join(port.to_string());
        fs::create_dir_all(&dir).map_err(Failure::at(dir.display()))?;
        Ok(Self {
            fixture,
            port,
            dir,
            shared,
            facts: BTreeMap::new(),
            notes: Vec::new(),
        })
    }

    /// What must be the same over both paths.
    pub fn fact(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.facts.insert(name.into(), value.into());
    }

    pub fn finish(self) -> (BTreeMap<String, String>, Vec<String>) {
        (self.facts, self.notes)
    }

    /// A path in the scenario's directory.
    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }

    pub fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.path(name);
        fs::write(&path, text).map_err(Failure::at(&path))?;
        Ok(path)
    }

    pub fn server_at(&self) -> SocketAddr {
        (self.fixture.server.v4, self.port).into()
    }

    pub fn proxy_at(&self) -> SocketAddr {
        (self.fixture.proxy.v4, self.port).into()
    }

    /// A copy of a program under a name that no other lab of this machine has: what one agent learns of
    /// a program by watching the kernel, all agents learn.
    pub fn renamed(&self, program: &str, name: &str) -> Result<String> {
        let path = if self.fixture.shortcut { "sc" } else { "tcp" };
        let to = self.path(&format!("{name}-{path}-{}", std::process::id()));
        fs::copy(program, &to).map_err(Failure::at(program))?;
        Ok(to)
    }

    /// Where the proxy listens for [`Stage::lesson`].
    pub fn lesson_at(&self) -> SocketAddr {
        (self.fixture.proxy.v4, self.port + 1).into()
    }

    /// Where it goes: not to the scenario's own port, so that its connections are told apart.
    pub fn lesson_to(&self) -> SocketAddr {
        (self.fixture.server.v4, self.port + 1).into()
    }

    /// One download through a proxy that splices, which may fail with the shortcut: the mesh learns
    /// from it that the proxy's program splices, and lets the next ones stay on TCP.
    pub fn lesson(&mut self) -> Result<()> {
        let url = format!("http://{}/file", self.lesson_at());
        let to = self.path("lesson");
        let command = ["curl", "-sS", "--max-time", "5", "-o", &to, &url];
        let done = self.done(self.client(), &command, LIMIT)?;
        let what = format!("lesson: curl exits with {:?}: {}", done.code, done.stderr);
        self.check(self.fixture.shortcut || done.code == Some(0), || {
            what.clone()
        })?;
        self.notes.push(what);
        Ok(())
    }

    pub fn client(&self) -> &'a Place {
        &self.fixture.client.place
    }

    pub fn server(&self) -> &'a Place {
        &self.fixture.server.place
    }

    /// Starts a server in a pod and waits until it listens; `command[0]` is a program of `tools`.
    pub fn serve(&self, pod: &Pod, command: &[&str]) -> Result<Proc> {
        let server = self.start(&pod.place, command)?;
        server.wait_listening((pod.v4, self.port).into())?;
        // The agent has seen the listener when it answers, and connections may take the shortcut.
        self.fixture.agent.cli.status()?;
        Ok(server)
    }

    pub fn start(&self, place: &Place, command: &[&str]) -> Result<Proc> {
        let command = tools::resolve(command)?;
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        self.fixture.lab.run(place, &command)
    }

    /// Runs a program to its end, whatever that is.
    pub fn done(&self, place: &Place, command: &[&str], limit: Duration) -> Result<Done> {
        let hung = |f: Failure| {
            let from = f.0.len().saturating_sub(400);
            let tail = f.0.get(from..).unwrap_or(&f.0);
            Failure(format!("{}: hangs: {tail}", command[0]))
        };
        self.start(place, command)?.finish(limit).map_err(hung)
    }

    /// The same; fails unless it exits with 0. Gives its standard output.
    pub fn output(&self, place: &Place, command: &[&str]) -> Result<String> {
        let done = self.done(place, command, LIMIT)?;
        if done.code == Some(0) {
            return Ok(done.stdout);
        }
        let short = |text: &str, max| text.chars().take(max).collect::<String>();
        Err(Failure(format!(
            "{} {}: exit {:?}: {}; {}",
            command[0],
            short(command.last().unwrap_or(&""), 200),
            done.code,
            short(&done.stderr, 1_000),
            short(&done.stdout, 1_000),
        )))
    }

    /// A shell script in the client's pod that must succeed; `$0` is the scenario's directory.
    /// Programs of `tools` are called by their names.
    pub fn script(&self, place: &Place, script: &str, args: &[&str]) -> Result<String> {
        let script = format!("set -eu; export PATH={}\n{script}", tools::path()?);
        let dir = self.dir.to_string_lossy().into_owned();
        let command = [&["packaged", "bash", "-c", &script, &dir], args].concat();
        self.output(place, &command)
    }

    /// Fails with `why` unless `good`.
    pub fn check(&self, good: bool, why: impl FnOnce() -> String) -> Result<()> {
        if good { Ok(()) } else { Err(Failure(why())) }
    }
}

/// The value behind `label` in a program's report: `label value`, or `label: value`.
pub fn after(text: &str, label: &str) -> Result<String> {
    let found = text.lines().find_map(|l| l.trim().strip_prefix(label));
    found
        .map(|rest| rest.trim_start_matches(':').trim().to_owned())
        .ok_or_else(|| Failure(format!("no `{label}` in: {text}")))
}
