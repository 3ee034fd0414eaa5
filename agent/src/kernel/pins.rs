//! The pinned home of maps and links: `<pin dir>/v<abi version>/{maps,links}`, one agent at a time.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock, major, minor, statfs},
    mount::{MountFlags, mount},
};
use underpass_abi::{VERSION, reason::code};

use super::{CgroupRoot, KernelError, KernelOptions, program};
use crate::sys::{
    bpf::{link_detach, obj_get, obj_pin},
    info::{LinkTarget, link_by_id, link_ids, link_info, map_info, prog_by_id, prog_info},
};

/// The only place where the agent mounts one.
pub const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`
const BPFFS_MAGIC: u64 = 0xcafe_4a11;

/// Paths below a pin directory.
#[derive(Clone, Debug)]
pub struct Pins {
    dir: PathBuf,
}

impl Pins {
    /// The paths alone.
    pub fn of(options: &KernelOptions) -> Self {
        Self {
            dir: options.pin_dir.join(format!("v{VERSION}")),
        }
    }

    /// Makes the directories; mounts a bpffs if there is none and that is allowed.
    pub fn make(options: &KernelOptions) -> Result<Self, KernelError> {
        ensure_bpffs(&options.pin_dir, options.mount_bpffs)?;
        let pins = Self::of(options);
        for dir in [pins.dir.join("maps"), pins.dir.join("links")] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(KernelError::io(code::NO_BPFFS, dir.display()))?;
        }
        Ok(pins)
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.dir.join("maps").join(name)
    }

    pub fn link(&self, name: &str) -> PathBuf {
        self.dir.join("links").join(name)
    }

    /// Ids of the pinned maps.
    pub fn map_ids(&self) -> BTreeSet<u32> {
        map_ids(&self.dir.join("maps"))
    }

    /// Names of the pinned links.
    pub fn links(&self) -> Vec<String> {
        names(&self.dir.join("links"))
    }
}

/// True if `path`, or the deepest part of it that exists, is on a bpffs.
pub fn on_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find(|p| p.exists())
        .and_then(|p| statfs(p).ok())
        .is_some_and(|s| s.f_type as u64 == BPFFS_MAGIC)
}

fn ensure_bpffs(pin_dir: &Path, may_mount: bool) -> Result<(), KernelError> {
    if on_bpffs(pin_dir) {
        return Ok(());
    }
    let refuse = |why: &str| {
        let text = format!("{} is on no bpffs, and {why}", pin_dir.display());
        Err(KernelError::new(code::NO_BPFFS, text))
    };
    if !pin_dir.starts_with(BPFFS) {
        return refuse("only /sys/fs/bpf is mounted by the agent");
    }
    if !may_mount {
        return refuse("the agent may not mount one");
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match mount("bpf", BPFFS, "bpf", flags, Some(c"mode=0700")) {
        Ok(()) => Ok(()),
        Err(e) => refuse(&format!("mounting {BPFFS} failed: {e}")),
    }
}

/// Held as long as the agent lives; the kernel lets go of it however the agent ends.
#[derive(Debug)]
pub struct NodeLock {
    _cgroup: OwnedFd,
    _pins: Option<OwnedFd>,
}

impl NodeLock {
    /// Locks the cgroup root and the pins (if there are any), so that neither is served by two agents.
    pub fn take(pin_dir: &Path, cgroup: &CgroupRoot) -> Result<Self, KernelError> {
        let cgroup = lock(cgroup.path())?;
        let pins = if pin_dir.exists() {
            Some(lock(pin_dir)?)
        } else {
            None
        };
        Ok(Self {
            _cgroup: cgroup,
            _pins: pins,
        })
    }
}

fn lock(dir: &Path) -> Result<OwnedFd, KernelError> {
    let file = File::open(dir).map_err(KernelError::io(code::NODE_BUSY, dir.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(e) => {
            let who = match holder(&file) {
                Some(pid) => format!("process {pid} holds {}", dir.display()),
                None => format!("{}: {e}", dir.display()),
            };
            Err(KernelError::new(code::NODE_BUSY, who))
        }
    }
}

pub fn holder(file: &File) -> Option<u32> {
    let meta = file.metadata().ok()?;
    let id = format!(
        "{:02x}:{:02x}:{}",
        major(meta.dev()),
        minor(meta.dev()),
        meta.ino()
    );
    lock_holder(&fs::read_to_string("/proc/locks").ok()?, &id)
}

/// `1: FLOCK  ADVISORY  WRITE 708 00:2a:12345 0 EOF`
fn lock_holder(locks: &str, id: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next()? == "FLOCK").then_some(())?;
        let pid = words.nth(2)?;
        (words.next()? == id).then(|| pid.parse().ok())?
    })
}

/// Detaches and unpins one link.
pub fn unlink_link(path: &Path) -> Result<(), KernelError> {
    if let Ok(link) = obj_get(path) {
        // A severed link has nothing to detach; removing the pin is what counts.
        let _ = link_detach(&link);
    }
    fs::remove_file(path).map_err(KernelError::io(code::NO_BPFFS, path.display()))
}

/// Pins `link` at `path`, in place of an older link there, which is detached.
pub fn replace_pin(link: &OwnedFd, path: &Path, old: bool) -> Result<(), KernelError> {
    if old {
        unlink_link(path)?;
    } else {
        // A leftover that is no link.
        let _ = fs::remove_file(path);
    }
    obj_pin(link, path).map_err(KernelError::io(code::NO_BPFFS, path.display()))
}

/// Detaches links of our programs that are none of `keep`: at our cgroup, or using one of `maps`.
/// They are left behind when a pin is deleted while a process holds the link, or when a bpffs was
/// mounted over ours.
pub fn detach_strays(
    cgroup: Option<&CgroupRoot>,
    maps: &BTreeSet<u32>,
    keep: &BTreeSet<u32>,
    removed: &mut Vec<String>,
) {
    for id in link_ids().collect::<Vec<_>>() {
        let Ok(link) = link_by_id(id) else { continue };
        let Ok(info) = link_info(&link) else { continue };
        let Ok(prog) = prog_by_id(info.prog).and_then(prog_info) else {
            continue;
        };
        if keep.contains(&id) || !program::is_ours(&prog.name) {
            continue;
        }
        let here = match info.target {
            LinkTarget::Cgroup(at, _) => cgroup.is_some_and(|c| c.id() == at),
            LinkTarget::Netns(..) | LinkTarget::Sockmap(..) | LinkTarget::Other(_) => false,
        };
        if (here || prog.maps.iter().any(|m| maps.contains(m))) && link_detach(&link).is_ok() {
            removed.push(format!("unpinned link {id} of program {}", prog.name));
        }
    }
}

/// Ids of the maps pinned in a directory.
pub fn map_ids(dir: &Path) -> BTreeSet<u32> {
    let id = |name: &String| {
        let fd = obj_get(&dir.join(name)).ok()?;
        map_info(fd.as_fd()).ok().map(|i| i.id)
    };
    names(dir).iter().filter_map(id).collect()
}

pub(super) fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_holder_of_a_lock() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:2a:7 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 12 00:2a:7 0 EOF\n\
            3: FLOCK  ADVISORY  WRITE 13 00:2a:7 0 EOF\n";
        assert_eq!(lock_holder(locks, "00:2a:7"), Some(13));
        assert_eq!(lock_holder(locks, "00:2a:8"), None);
    }
}
