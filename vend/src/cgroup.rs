//! A cgroup for each tenant, with bounds. In cgroup2, whose directory the mesh's programs see; a
//! controller that is still in version 1 (hybrid machines) gets a directory in its own hierarchy.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use underpass_abi::reason::code;

use crate::log::{Problem, Result};

/// What bounds a tenant.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub memory_mib: u32,
    pub pids: u32,
    /// Of one CPU.
    pub cpu_percent: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    Memory,
    Pids,
    Cpu,
}

pub const CONTROLLERS: [Controller; 3] = [Controller::Memory, Controller::Pids, Controller::Cpu];
const PERIOD_US: u64 = 100_000;

impl Controller {
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }

    /// Files and what is written to them, in version 2 or 1.
    fn settings(self, version: u8, bounds: Bounds) -> Vec<(&'static str, String)> {
        let bytes = (u64::from(bounds.memory_mib) << 20).to_string();
        let quota = u64::from(bounds.cpu_percent) * PERIOD_US / 100;
        match (self, version) {
            (Self::Memory, 2) => vec![("memory.max", bytes)],
            (Self::Memory, _) => vec![("memory.limit_in_bytes", bytes)],
            (Self::Pids, _) => vec![("pids.max", bounds.pids.to_string())],
            (Self::Cpu, 2) => vec![("cpu.max", format!("{quota} {PERIOD_US}"))],
            (Self::Cpu, _) => vec![
                ("cpu.cfs_period_us", PERIOD_US.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
            ],
        }
    }
}

/// Where tenants' cgroups are made.
#[derive(Debug)]
pub struct Base {
    dir: PathBuf,
    /// Controllers and the directory of the first version's hierarchy, if it is there.
    old: Vec<(Controller, PathBuf)>,
    new: Vec<Controller>,
}

/// One tenant's.
#[derive(Debug)]
pub struct Group {
    dirs: Vec<PathBuf>,
}

impl Base {
    /// Finds the hierarchies and makes the base. `dir`: a cgroup2 directory, else the process's own.
    ///
    /// # Errors
    /// `NO_CGROUP2`, or a directory that cannot be made.
    pub fn prepare(dir: Option<&Path>) -> Result<Self> {
        let read = |path| fs::read_to_string(path).map_err(Problem::at(code::NO_CGROUP2, path));
        let mounts = read("/proc/self/mountinfo")?;
        let own = read("/proc/self/cgroup")?;
        let mount = mount_of(&mounts, |kind, _| kind == "cgroup2")
            .ok_or_else(|| Problem::new(code::NO_CGROUP2, "/proc/self/mountinfo"))?;
        let mine = below(&mount, &path_of(&own, "").unwrap_or_default());
        let dir = dir.map_or_else(|| mine.clone(), Path::to_path_buf);
        let failed = |at: &Path| Problem::at(code::NO_CGROUP2, at.display().to_string());
        fs::create_dir_all(&dir).map_err(failed(&dir))?;
        // cgroup2 takes controllers for the children of an empty group only.
        if dir == mine && dir != mount {
            let leaf = dir.join("vendor");
            make(&leaf).map_err(failed(&leaf))?;
            fs::write(leaf.join("cgroup.procs"), "0").map_err(failed(&leaf))?;
        }
        let offered = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        let (mut new, mut old) = (Vec::new(), Vec::new());
        for controller in CONTROLLERS {
            let name = controller.name();
            let enable = || fs::write(dir.join("cgroup.subtree_control"), format!("+{name}"));
            if offered.split_whitespace().any(|c| c == name) && enable().is_ok() {
                new.push(controller);
            } else if let Some(root) = mount_of(&mounts, |kind, options| {
                kind == "cgroup" && options.split(',').any(|o| o == name)
            }) {
                let at = below(&root, &path_of(&own, name).unwrap_or_default());
                let inside = dir.strip_prefix(&mount).unwrap_or(&dir).to_string_lossy();
                let flat = inside.trim_matches('/').replace('/', "-");
                let flat = if flat.is_empty() {
                    "underpass-vend".to_owned()
                } else {
                    flat
                };
                let at = at.join(flat);
                if make(&at).is_ok() {
                    old.push((controller, at));
                }
            }
        }
        Ok(Self { dir, old, new })
    }

    /// In cgroup2, below which all tenants' groups are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Controllers that are in neither version.
    pub fn missing(&self) -> Vec<Controller> {
        let there = |c: &Controller| self.new.contains(c) || self.old.iter().any(|(o, _)| o == c);
        CONTROLLERS.into_iter().filter(|c| !there(c)).collect()
    }

    /// Makes a tenant's groups and sets their bounds.
    ///
    /// # Errors
    /// `BOUND_NOT_SET`: nothing runs without its bounds.
    pub fn tenant(&self, name: &str, bounds: Bounds) -> Result<Group> {
        let dir = self.dir.join(name);
        let mut group = Group {
            dirs: vec![dir.clone()],
        };
        let mut set = || -> Result<()> {
            let failed = |at: &Path| Problem::at(code::BOUND_NOT_SET, at.display().to_string());
            make(&dir).map_err(failed(&dir))?;
            let new = self.new.iter().map(|c| (*c, dir.clone(), 2));
            let old = self.old.iter().map(|(c, at)| (*c, at.join(name), 1));
            for (controller, at, version) in new.chain(old) {
                if version == 1 {
                    make(&at).map_err(failed(&at))?;
                    group.dirs.push(at.clone());
                }
                for (file, value) in controller.settings(version, bounds) {
                    let file = at.join(file);
                    fs::write(&file, value).map_err(failed(&file))?;
                }
            }
            Ok(())
        };
        match set() {
            Ok(()) => Ok(group),
            Err(problem) => {
                group.remove();
                Err(problem)
            }
        }
    }

    /// Removes groups of an earlier vendor that was killed, whose processes died with it.
    pub fn sweep(&self) {
        for base in self.old.iter().map(|(_, at)| at).chain([&self.dir]) {
            for entry in fs::read_dir(base).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }

    /// Removes the directories of the first version, which nobody else would.
    pub fn remove(&self) {
        for (_, at) in &self.old {
            let _ = fs::remove_dir(at);
        }
    }
}

/// Names of tenants' groups start with it.
pub const PREFIX: &str = "tenant-";

impl Group {
    /// Files that take a process in.
    pub fn procs(&self) -> impl Iterator<Item = PathBuf> {
        self.dirs.iter().map(|dir| dir.join("cgroup.procs"))
    }

    /// True when all are gone; false while a process is still inside.
    pub fn remove(&mut self) -> bool {
        self.dirs.retain(|dir| match fs::remove_dir(dir) {
            Ok(()) => false,
            Err(e) => e.kind() != io::ErrorKind::NotFound,
        });
        self.dirs.is_empty()
    }
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Mount point of the first file system for whose type and options `wanted` holds.
fn mount_of(mountinfo: &str, wanted: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut words = source.split(' ');
        let (kind, options) = (words.next()?, words.nth(1)?);
        wanted(kind, options).then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The process's path in the hierarchy of a controller; cgroup2's is the empty one.
fn path_of(own: &str, controller: &str) -> Option<String> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        controllers
            .split(',')
            .any(|c| c == controller)
            .then(|| path.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw\n";

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let v2 = mount_of(MOUNTS, |kind, _| kind == "cgroup2");
        assert_eq!(v2, Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let cpu = |_: &str, options: &str| options.split(',').any(|o| o == "cpu");
        assert_eq!(
            mount_of(MOUNTS, cpu),
            Some(PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"))
        );
        let own = "8:pids:/\n4:memory:/a/b\n3:cpu,cpuacct:/x\n0::/system.slice/vend\n";
        assert_eq!(path_of(own, "memory").as_deref(), Some("/a/b"));
        assert_eq!(path_of(own, "cpu").as_deref(), Some("/x"));
        assert_eq!(path_of(own, "").as_deref(), Some("/system.slice/vend"));
        assert_eq!(path_of(own, "io"), None);
    }

    #[test]
    fn bounds_are_written_as_each_version_takes_them() {
        let bounds = Bounds {
            memory_mib: 2,
            pids: 9,
            cpu_percent: 150,
        };
        let one = |c: Controller, v| c.settings(v, bounds);
        assert_eq!(
            one(Controller::Memory, 2),
            [("memory.max", "2097152".to_owned())]
        );
        assert_eq!(
            one(Controller::Cpu, 2),
            [("cpu.max", "150000 100000".to_owned())]
        );
        assert_eq!(
            one(Controller::Cpu, 1)[1],
            ("cpu.cfs_quota_us", "150000".to_owned())
        );
        assert_eq!(one(Controller::Pids, 1), [("pids.max", "9".to_owned())]);
    }
}
