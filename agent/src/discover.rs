//! Finds workloads on this node: from what a manifest says (cgroup, network namespace, systemd unit)
//! to cgroup ids and namespace cookies. Nothing has to exist yet: what appears later joins then, and
//! a cgroup that is made again is found under its new id.
//!
//! inotify on the nearest existing directory tells of most changes at once; a slow sweep, bounded per
//! turn, finds the rest.

mod cgroups;
mod node;
mod watches;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsString,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::inotify::{self, CreateFlags};
use underpass_abi::reason::code;
use underpass_mesh::{Place, Str};

pub use node::addresses;

use crate::{kernel::Netns, problem::Problem};

/// Workloads that one sweep looks at.
pub const SWEEP: usize = 256;

/// How a manifest says where a workload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// Relative to the cgroup root.
    Cgroup(String),
    /// A name below `/run/netns`, or a path.
    Netns(String),
    Unit(String),
}

impl std::fmt::Display for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cgroup(path) => write!(f, "cgroup {path}"),
            Self::Netns(name) => write!(f, "netns {name}"),
            Self::Unit(unit) => write!(f, "unit {unit}"),
        }
    }
}

#[derive(Debug)]
struct Entry {
    spec: Spec,
    found: Option<Found>,
    /// Watch descriptor and the name below it that matters.
    anchor: Option<(i32, OsString)>,
}

/// A workload of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub place: Place,
    /// Its cgroup directory, if it is known by one.
    pub cgroup: Option<PathBuf>,
    /// Its namespace, unless that is the node's own or not known yet.
    pub netns: Option<Netns>,
    /// Identity of the file behind `netns`.
    file: Option<(u64, u64)>,
}

pub struct Discovery {
    root: PathBuf,
    /// Levels of `root` below the hierarchy's root.
    root_level: u32,
    host: Host,
    inotify: OwnedFd,
    watches: HashMap<i32, HashMap<OsString, BTreeSet<Str>>>,
    entries: BTreeMap<Str, Entry>,
    /// Where the next sweep starts.
    cursor: Option<Str>,
}

/// The node's own namespace.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub cookie: u64,
    /// Device and inode of its `/proc/self/ns/net`.
    pub file: (u64, u64),
}

impl Host {
    pub fn current() -> Result<Self, crate::kernel::KernelError> {
        let netns = Netns::current()?;
        let meta = fs::metadata("/proc/self/ns/net").map_err(crate::kernel::KernelError::io(
            code::NETNS_UNREACHABLE,
            "/proc/self/ns/net",
        ))?;
        Ok(Self {
            cookie: netns.cookie,
            file: (meta.dev(), meta.ino()),
        })
    }
}

impl Discovery {
    pub fn new(root: &Path, root_level: u32, host: Host) -> io::Result<Self> {
        Ok(Self {
            root: root.to_owned(),
            root_level,
            host,
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            watches: HashMap::new(),
            entries: BTreeMap::new(),
            cursor: None,
        })
    }

    /// Readable when [`Discovery::changes`] has something to look at.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// What manifests ask for now. True if a place changed.
    pub fn want(&mut self, wanted: BTreeMap<Str, Spec>) -> bool {
        let gone: Vec<Str> = self
            .entries
            .iter()
            .filter(|(name, entry)| wanted.get(*name) != Some(&entry.spec))
            .map(|(name, _)| name.clone())
            .collect();
        let mut changed = false;
        for name in gone {
            self.unwatch(&name);
            changed |= self
                .entries
                .remove(&name)
                .is_some_and(|e| e.found.is_some());
        }
        for (name, spec) in wanted {
            if !self.entries.contains_key(&name) {
                self.entries.insert(
                    name.clone(),
                    Entry {
                        spec,
                        found: None,
                        anchor: None,
                    },
                );
                changed |= self.look(&name, true);
            }
        }
        changed
    }

    /// Looks where inotify says that something happened. True if a place changed.
    pub fn changes(&mut self) -> bool {
        let mut changed = false;
        for name in self.drain() {
            changed |= self.look(&name, true);
        }
        changed
    }

    /// Looks at the next [`SWEEP`] workloads. `search`: also where it costs a walk through the
    /// hierarchy. True if a place changed.
    pub fn sweep(&mut self, search: bool) -> bool {
        let after = self.cursor.take();
        let names: Vec<Str> = match &after {
            Some(last) => {
                let rest = (
                    std::ops::Bound::Excluded(last.clone()),
                    std::ops::Bound::Unbounded,
                );
                self.entries
                    .range(rest)
                    .map(|(n, _)| n.clone())
                    .take(SWEEP)
                    .collect()
            }
            None => self.entries.keys().take(SWEEP).cloned().collect(),
        };
        if names.len() == SWEEP {
            self.cursor = names.last().cloned();
        }
        let mut changed = false;
        for name in names {
            changed |= self.look(&name, search);
        }
        changed
    }

    /// A workload listens in a namespace that was not known to be its own. True if that is news.
    pub fn lives_in(&mut self, workload: &str, netns: &Netns) -> bool {
        let Some(found) = self
            .entries
            .get_mut(workload)
            .and_then(|e| e.found.as_mut())
        else {
            return false;
        };
        if found.cgroup.is_none() || found.place.netns == Some(netns.cookie) {
            return false;
        }
        found.place.netns = Some(netns.cookie);
        found.netns = (netns.cookie != self.host.cookie).then(|| netns.clone());
        true
    }

    pub fn places(&self) -> BTreeMap<Str, Place> {
        let found = |(name, entry): (&Str, &Entry)| {
            Some((name.clone(), entry.found.as_ref()?.place.clone()))
        };
        self.entries.iter().filter_map(found).collect()
    }

    /// How a workload was found, or `None` if it is missing; the outer `None` if nobody asked.
    pub fn found_by(&self, workload: &str) -> Option<Option<String>> {
        let entry = self.entries.get(workload)?;
        Some(entry.found.as_ref().map(|_| entry.spec.to_string()))
    }

    /// Workloads that are known by their namespace.
    pub fn by_netns(&self) -> impl Iterator<Item = &Str> {
        self.entries
            .iter()
            .filter(|(_, e)| matches!(e.spec, Spec::Netns(_)))
            .map(|(name, _)| name)
    }

    /// Namespaces other than the node's own in which workloads live.
    pub fn namespaces(&self) -> BTreeMap<u64, Netns> {
        let found = self
            .entries
            .values()
            .filter_map(|e| e.found.as_ref()?.netns.clone());
        found.map(|n| (n.cookie, n)).collect()
    }

    /// The namespace of a workload, unless that is the node's own or not known yet.
    pub fn namespace_of(&self, workload: &str) -> Option<&Netns> {
        self.entries.get(workload)?.found.as_ref()?.netns.as_ref()
    }

    /// Workload by cgroup id, for every cgroup at or below one of a workload.
    pub fn cgroup_owners(&self) -> HashMap<u64, Str> {
        let mut owners = HashMap::new();
        let mut by_depth: Vec<(&PathBuf, &Str)> = self
            .entries
            .iter()
            .filter_map(|(name, e)| Some((e.found.as_ref()?.cgroup.as_ref()?, name)))
            .collect();
        // Deeper workloads last: they own what is below them.
        by_depth.sort_by_key(|(path, _)| path.components().count());
        for (path, name) in by_depth {
            cgroups::walk(path, &mut |dir| {
                if let Ok(meta) = fs::metadata(dir) {
                    owners.insert(meta.ino(), name.clone());
                }
            });
        }
        owners
    }

    /// Warnings for what a manifest names and the node does not have (yet).
    pub fn problems(&self) -> Vec<Problem> {
        let missing = self.entries.iter().filter(|(_, e)| e.found.is_none());
        missing
            .map(|(name, entry)| {
                let code = match entry.spec {
                    Spec::Cgroup(_) => code::CGROUP_MISSING,
                    Spec::Netns(_) => code::NETNS_UNREACHABLE,
                    Spec::Unit(_) => code::UNIT_MISSING,
                };
                Problem::warning(code, format!("{} of {name}", entry.spec), &**name)
            })
            .collect()
    }

    fn look(&mut self, name: &Str, search: bool) -> bool {
        let Some(entry) = self.entries.get(name) else {
            return false;
        };
        let (target, found) = self.resolve(&entry.spec, entry.found.as_ref(), search);
        self.watch(name, &target);
        let Some(entry) = self.entries.get_mut(name) else {
            return false;
        };
        let place = |f: &Option<Found>| f.as_ref().map(|f| f.place.clone());
        let changed = place(&entry.found) != place(&found);
        if entry.found.is_some() != found.is_some() {
            let state = if found.is_some() { "found" } else { "missing" };
            tracing::debug!(workload = &**name, spec = %entry.spec, state, "workload");
        }
        entry.found = found;
        changed
    }

    /// The path that decides, and what is there.
    fn resolve(&self, spec: &Spec, old: Option<&Found>, search: bool) -> (PathBuf, Option<Found>) {
        match spec {
            Spec::Cgroup(path) => {
                let path = self.root.join(path.trim_matches('/'));
                let found = self.cgroup(&path, old);
                (path, found)
            }
            Spec::Unit(unit) => {
                let before = old.and_then(|f| f.cgroup.clone()).filter(|p| p.is_dir());
                let path = before.or_else(|| cgroups::unit(&self.root, unit, search));
                match path {
                    Some(path) => {
                        let found = self.cgroup(&path, old);
                        (path, found)
                    }
                    None => (self.root.join("system.slice").join(unit), None),
                }
            }
            Spec::Netns(name) => {
                let path = Path::new("/run/netns").join(name);
                let found = self.netns(&path, old);
                (path, found)
            }
        }
    }

    fn cgroup(&self, path: &Path, old: Option<&Found>) -> Option<Found> {
        let meta = fs::metadata(path).ok().filter(fs::Metadata::is_dir)?;
        let level = path.strip_prefix(&self.root).ok()?.components().count() as u32;
        let id = underpass_mesh::Cgroup {
            id: meta.ino(),
            level: self.root_level + level,
        };
        // A cgroup's namespace does not change by itself, so it is looked up only until it is known, and
        // again when the process by which it was found has ended.
        let leads = |netns: &Netns| netns.path.exists();
        if let Some(old) = old
            && old.place.cgroups == [id]
            && old.place.netns.is_some()
            && old.netns.as_ref().is_none_or(leads)
        {
            return Some(old.clone());
        }
        let mut place = Place {
            cgroups: vec![id],
            netns: None,
        };
        let mut netns = None;
        match cgroups::namespace(path, self.host) {
            cgroups::Namespace::Host => place.netns = Some(self.host.cookie),
            cgroups::Namespace::Own(own) => {
                place.netns = Some(own.cookie);
                netns = Some(own);
            }
            cgroups::Namespace::Unknown => {
                // No process is left to say otherwise.
                if let Some(old) = old.filter(|old| old.place.cgroups == [id]) {
                    return Some(old.clone());
                }
            }
        }
        Some(Found {
            place,
            cgroup: Some(path.to_owned()),
            netns,
            file: None,
        })
    }

    fn netns(&self, path: &Path, old: Option<&Found>) -> Option<Found> {
        let meta = fs::metadata(path).ok()?;
        let file = Some((meta.dev(), meta.ino()));
        if let Some(old) = old
            && old.file == file
        {
            return Some(old.clone());
        }
        // `ip netns add` makes the file before it mounts the namespace there.
        let netns = Netns::open(path).ok()?;
        let place = Place {
            cgroups: Vec::new(),
            netns: Some(netns.cookie),
        };
        let own = (netns.cookie != self.host.cookie).then_some(netns);
        Some(Found {
            place,
            cgroup: None,
            netns: own,
            file,
        })
    }
}

#[cfg(test)]
mod tests;
