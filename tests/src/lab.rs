//! A lab is one node of its own: a network namespace with a bridge, pods and an outside host on it,
//! a cgroup2 directory that the agent takes for the node's root, a pin directory, a mesh directory.
//! Labs share nothing but the kernel, so they can run side by side, and the machine is left alone.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

pub mod agent;
pub mod cgroup;
pub mod cli;
pub mod http;
pub mod net;
pub mod place;
pub mod process;
pub mod sweep;
pub mod vend;
pub mod wait;

pub use agent::Agent;
pub use place::{Place, Pod};
pub use process::Proc;
pub use vend::Vend;
pub use wait::until;

/// Why the lab could not do what was asked, in a sentence.
#[derive(thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

pub type Result<T> = std::result::Result<T, Failure>;

// `fn test() -> Result<()>` prints the error with Debug.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Failure {
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// For `map_err`: what was tried, then the cause.
    pub fn at<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> Self {
        move |e| Self(format!("{what}: {e}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self(e.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(e: serde_json::Error) -> Self {
        Self(format!("JSON: {e}"))
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// One node with everything on it; removed on drop.
pub struct Lab {
    /// `up-<name>-<pid>-<n>`: the pid lets a later sweep tell leftovers from labs in use.
    pub id: String,
    /// cgroup2 directory of the lab; `node/` below it is the agent's root, `out/` is not.
    pub cgroup: PathBuf,
    /// Holds the mesh directory, the state directory and the API socket.
    pub dir: PathBuf,
    pub pin_dir: PathBuf,
    pods: AtomicU32,
    /// Leaves everything in place on drop (`demo --keep`).
    keep: bool,
}

impl Lab {
    /// `name`: short, of letters and digits.
    pub fn new(name: &str) -> Result<Self> {
        sweep::once()?;
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}{name}-{}-{n}", sweep::PREFIX, std::process::id());
        let lab = Self {
            cgroup: cgroup::root()?.join(&id),
            dir: std::env::temp_dir().join(&id),
            pin_dir: Path::new(net::BPFFS).join(&id),
            pods: AtomicU32::new(0),
            keep: false,
            id,
        };
        for sub in ["node/host", "out"] {
            cgroup::make(&lab.cgroup.join(sub))?;
        }
        for sub in ["mesh", "state", "drafts"] {
            let dir = lab.dir.join(sub);
            fs::create_dir_all(&dir).map_err(Failure::at(dir.display()))?;
        }
        net::mount_bpffs()?;
        net::make_node(&lab.node_netns())?;
        Ok(lab)
    }

    /// The agent's `--cgroup-root`.
    pub fn cgroup_root(&self) -> PathBuf {
        self.cgroup.join("node")
    }

    /// Name of the node's network namespace (below /run/netns).
    pub fn node_netns(&self) -> String {
        format!("{}-node", self.id)
    }

    /// A process of the node that belongs to no workload.
    pub fn host(&self) -> Place {
        Place {
            cgroup: self.cgroup_root().join("host"),
            netns: self.node_netns(),
        }
    }

    /// A cgroup below the node's root, in the node's network namespace.
    pub fn cgroup(&self, path: &str) -> Result<Place> {
        let dir = self.cgroup_root().join(path);
        cgroup::make(&dir)?;
        Ok(Place {
            cgroup: dir,
            netns: self.node_netns(),
        })
    }

    /// A pod: its own network namespace on the node's bridge, and its own cgroup `pods/<name>`.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let index = self.pods.fetch_add(1, Ordering::Relaxed) + 1;
        let netns = format!("{}-{name}", self.id);
        let (v4, v6) = net::make_pod(&self.node_netns(), &netns, index)?;
        let cgroup = self.cgroup_root().join("pods").join(name);
        cgroup::make(&cgroup)?;
        Ok(Pod {
            place: Place { cgroup, netns },
            v4,
            v6,
        })
    }

    /// A host that is not this node: routed to it, and outside the agent's cgroup root.
    pub fn outside(&self) -> Result<Pod> {
        let netns = format!("{}-outside", self.id);
        let (v4, v6) = net::make_outside(&self.node_netns(), &netns)?;
        Ok(Pod {
            place: Place {
                cgroup: self.cgroup.join("out"),
                netns,
            },
            v4,
            v6,
        })
    }

    /// Where things run that the mesh must not see: the agent itself, the tests' own tools.
    pub fn backstage(&self) -> Place {
        Place {
            cgroup: self.cgroup.join("out"),
            netns: self.node_netns(),
        }
    }

    pub fn mesh_dir(&self) -> PathBuf {
        self.dir.join("mesh")
    }

    /// Puts a manifest into the mesh directory, whole or not at all.
    pub fn mesh_file(&self, name: &str, yaml: &str) -> Result<()> {
        let draft = self.dir.join("drafts").join(name);
        let file = self.mesh_dir().join(name);
        fs::write(&draft, yaml).map_err(Failure::at(draft.display()))?;
        fs::rename(&draft, &file).map_err(Failure::at(file.display()))
    }

    pub fn remove_mesh_file(&self, name: &str) -> Result<()> {
        let file = self.mesh_dir().join(name);
        fs::remove_file(&file).map_err(Failure::at(file.display()))
    }

    /// Starts a program of this project or of the system at a place.
    pub fn run(&self, place: &Place, command: &[&str]) -> Result<Proc> {
        Proc::start(place, command)
    }

    /// Runs a program to its end and gives its standard output; fails unless it exits with 0.
    pub fn output(&self, place: &Place, command: &[&str], limit: Duration) -> Result<String> {
        let proc = self.run(place, command)?;
        let done = proc.finish(limit)?;
        if done.code != Some(0) {
            return Err(Failure(format!(
                "{}: exit {:?}: {}",
                command.join(" "),
                done.code,
                done.stderr
            )));
        }
        Ok(done.stdout)
    }

    /// As [`Lab::output`], read as one JSON value (the last line).
    pub fn json(
        &self,
        place: &Place,
        command: &[&str],
        limit: Duration,
    ) -> Result<serde_json::Value> {
        let text = self.output(place, command, limit)?;
        let line = text.lines().last().unwrap_or_default();
        serde_json::from_str(line)
            .map_err(Failure::at(format_args!("{}: {text}", command.join(" "))))
    }

    /// Starts the agent with this lab's paths and waits until it says that it is ready.
    pub fn agent(&self, flags: &[&str]) -> Result<Agent> {
        Agent::start(self, flags)
    }

    /// The lab outlives this process; `underpass-lab remove ID` ends it.
    pub fn keep(&mut self) -> Result<()> {
        let mark = self.dir.join("keep");
        fs::write(&mark, "").map_err(Failure::at(mark.display()))?;
        self.keep = true;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for problem in sweep::remove(&self.id) {
            eprintln!("lab {}: {problem}", self.id);
        }
    }
}
