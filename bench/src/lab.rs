//! Where the parties run: one cgroup for each, a network namespace for each side, everything under
//! one unique name. A guard process removes it all when this process ends, however it ends.

pub mod net;

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde::Serialize;

use crate::{BenchError, Context as _, Result};

const BPFFS: &str = "/sys/fs/bpf";
/// First of the addresses that are the server's in each namespace, beside all of 127/8; it listens
/// on all of them.
pub const POD_BASE: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
/// Of the client, and of who may not come, where each has a namespace of its own.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 63, 0, 1);
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 63, 1, 1);

/// Mesh off or on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Off,
    On,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Off, Self::On];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
        }
    }
}

/// How client and server are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// One namespace: the cheapest connection there is, so the hardest case
    Loopback,
    /// A namespace each, joined by a veth pair, as two pods are
    Veth,
}

impl Wire {
    /// The first endpoint.
    pub const fn base(self) -> Ipv4Addr {
        match self {
            Self::Loopback => Ipv4Addr::new(127, 64, 0, 1),
            Self::Veth => POD_BASE,
        }
    }
}

/// Where one party runs; `None`: where this process runs.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub cgroup: Option<PathBuf>,
    pub netns: Option<String>,
    pub cpu: Option<usize>,
}

pub struct Lab {
    pub id: String,
    pub wire: Wire,
    /// Manifests, the agent's state and log.
    pub dir: PathBuf,
    cgroup: PathBuf,
    guard: Child,
}

impl Lab {
    pub fn new(wire: Wire) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("up-bench-{}-{number}", std::process::id());
        let cgroup = cgroup_root()?.join(&id);
        let guard = start_guard(&id, &[])?;
        let dir = std::env::temp_dir().join(&id);
        let lab = Self {
            id,
            wire,
            dir,
            cgroup,
            guard,
        };
        for side in Side::BOTH {
            for party in ["client", "server", "stranger"] {
                make(&lab.party_cgroup(side, party))?;
            }
            net::make(&lab, side)?;
        }
        for dir in [
            lab.agent_cgroup(),
            lab.vendor_cgroup(),
            lab.tenants_cgroup(),
        ] {
            make(&dir)?;
        }
        for dir in ["mesh", "state"] {
            make(&lab.dir.join(dir))?;
        }
        Ok(lab)
    }

    /// The directory that the agent attaches to: only the `on` side is below it.
    pub fn meshed_root(&self) -> PathBuf {
        self.cgroup.join(Side::On.name())
    }

    pub fn party_cgroup(&self, side: Side, party: &str) -> PathBuf {
        self.cgroup.join(side.name()).join(party)
    }

    pub fn agent_cgroup(&self) -> PathBuf {
        self.cgroup.join("agent")
    }

    pub fn vendor_cgroup(&self) -> PathBuf {
        self.cgroup.join("vendor")
    }

    /// Where the vendor is spoken to.
    pub fn vendor_control(&self) -> PathBuf {
        self.dir.join("vend.sock")
    }

    /// Below it the vendor makes those of its tenants: the mesh's programs must see what workers do.
    pub fn tenants_cgroup(&self) -> PathBuf {
        self.meshed_root().join("tenants")
    }

    pub fn pin_dir(&self) -> PathBuf {
        Path::new(BPFFS).join(&self.id)
    }

    pub fn mesh_dir(&self) -> PathBuf {
        self.dir.join("mesh")
    }

    /// Unix socket of a side's server.
    pub fn unix(&self, side: Side, server: &str) -> PathBuf {
        self.dir.join(format!("{}-{server}.sock", side.name()))
    }

    pub fn server_netns(&self, side: Side) -> String {
        format!("{}-{}", self.id, side.name())
    }

    pub fn client_netns(&self, side: Side) -> String {
        match self.wire {
            Wire::Loopback => self.server_netns(side),
            Wire::Veth => format!("{}-{}-client", self.id, side.name()),
        }
    }

    /// A workload is not alone in a namespace that another one has too.
    pub fn stranger_netns(&self, side: Side) -> String {
        match self.wire {
            Wire::Loopback => self.server_netns(side),
            Wire::Veth => format!("{}-{}-stranger", self.id, side.name()),
        }
    }

    pub fn place(&self, side: Side, party: &str, cpu: Option<usize>) -> Place {
        let netns = match party {
            "server" => self.server_netns(side),
            "stranger" => self.stranger_netns(side),
            _ => self.client_netns(side),
        };
        Place {
            cgroup: Some(self.party_cgroup(side, party)),
            netns: Some(netns),
            cpu,
        }
    }

    /// Of a proxy without mesh, in the namespace of the client or of the server; makes its cgroup.
    pub fn proxy_place(&self, beside: &str, name: &str, cpu: Option<usize>) -> Result<Place> {
        let cgroup = self.party_cgroup(Side::Off, name);
        make(&cgroup)?;
        let place = self.place(Side::Off, beside, cpu);
        Ok(Place {
            cgroup: Some(cgroup),
            ..place
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The guard removes the lab when its input ends.
        drop(self.guard.stdin.take());
        if let Err(e) = self.guard.wait() {
            eprintln!("guard of {}: {e}", self.id);
        }
    }
}

/// What the guard process does: waits until its input ends, then removes the lab, and what else is named.
pub fn guard(id: &str, cgroup: Option<&Path>, file: Option<&Path>) -> Result<()> {
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).context("guard's input")?;
    let mut problems = Vec::new();
    if let Some(file) = file.filter(|file| file.exists()) {
        let gone = fs::remove_file(file).context(file.display());
        problems.extend(gone.err().map(|e| e.to_string()));
    }
    if let Some(cgroup) = cgroup {
        problems.extend(remove_cgroup(cgroup).err().map(|e| e.to_string()));
    }
    problems.extend(remove(id));
    if problems.is_empty() {
        Ok(())
    } else {
        Err(BenchError::Setup(problems.join("; ")))
    }
}

/// `more`: its other arguments.
pub fn start_guard(id: &str, more: &[&OsStr]) -> Result<Child> {
    use std::os::unix::process::CommandExt as _;
    let program = std::env::current_exe().context("own executable")?;
    Command::new(program)
        .args(["guard", id])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // Ctrl-C at a terminal must not reach it.
        .process_group(0)
        .spawn()
        .context("guard")
}

/// Removes one lab, goes on after a failure and tells each.
fn remove(id: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut note = |result: Result<()>| problems.extend(result.err().map(|e| e.to_string()));
    note(cgroup_root().and_then(|root| remove_cgroup(&root.join(id))));
    remove_old(id);
    let all = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in all.filter_map(|entry| entry.file_name().into_string().ok()) {
        if name
            .strip_prefix(id)
            .is_some_and(|rest| rest.starts_with('-'))
        {
            note(net::ip(&["netns", "del", &name], ""));
        }
    }
    for dir in [Path::new(BPFFS).join(id), std::env::temp_dir().join(id)] {
        if dir.exists() {
            note(fs::remove_dir_all(&dir).context(dir.display()));
        }
    }
    problems
}

/// Kills at each attempt: a party that was only just started may enter its cgroup after the first.
fn remove_cgroup(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        fs::write(dir.join("cgroup.kill"), "1").context(dir.display())?;
        match remove_empty(dir) {
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            done => return done,
        }
    }
}

/// What a vendor that was killed left in hierarchies of the first version, below this process's own place
/// there.
fn remove_old(id: &str) {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controller), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        if controller.is_empty() {
            continue;
        }
        let place = Path::new("/sys/fs/cgroup").join(controller);
        let all = fs::read_dir(place.join(path.trim_start_matches('/')));
        for entry in all.into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with(&format!("{id}-")) {
                let _ = remove_empty(&entry.path());
            }
        }
    }
}

fn remove_empty(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).context(dir.display())?.flatten() {
        if entry.path().is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    fs::remove_dir(dir).context(dir.display())
}

/// Moves the calling process, which has one thread, to its place.
pub fn enter(place: &Place) -> Result<()> {
    if let Some(cgroup) = &place.cgroup {
        fs::write(cgroup.join("cgroup.procs"), "0").context(cgroup.display())?;
    }
    if let Some(netns) = &place.netns {
        let path = Path::new("/run/netns").join(netns);
        let file = File::open(&path).context(path.display())?;
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(kind))
            .context(path.display())?;
    }
    if let Some(cpu) = place.cpu {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        rustix::thread::sched_setaffinity(None, &set).context(format!("CPU {cpu}"))?;
    }
    Ok(())
}

/// Mount point of the cgroup2 hierarchy.
pub fn cgroup_root() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let found = table.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        source
            .starts_with("cgroup2 ")
            .then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    });
    found.ok_or_else(|| BenchError::Setup("no cgroup2 hierarchy is mounted".into()))
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).context(dir.display())
}
