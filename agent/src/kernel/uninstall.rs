//! The way out: everything of ours leaves the kernel.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use underpass_abi::reason::code;

use super::{
    CgroupRoot, KernelError, KernelOptions, caps,
    pins::{NodeLock, detach_strays, map_ids, names, unlink_link},
    shortcut,
};

/// What [`uninstall`] did.
#[derive(Debug, Default)]
pub struct Uninstalled {
    pub removed: Vec<String>,
    /// Sockets that are still in the shortcut's map.
    pub mapped: u64,
}

/// Removes everything of ours, of every version: ends redirection and waits at most `drain` for the
/// connections of the shortcut, detaches links, unpins maps, removes directories, and detaches links of
/// our programs that have lost their pin.
pub fn uninstall(options: &KernelOptions, drain: Duration) -> Result<Uninstalled, KernelError> {
    // A user who may not look into the bpffs would be told that there is nothing.
    caps::require()?;
    let cgroup = CgroupRoot::find(options.cgroup_root.as_deref())?;
    let _lock = NodeLock::take(&options.pin_dir, &cgroup)?;
    let until = Instant::now() + drain;
    // A version without the shortcut's maps has nothing to wait for.
    let mapped = names(&options.pin_dir)
        .iter()
        .filter_map(|v| shortcut::drain(&options.pin_dir.join(v).join("maps"), until).ok())
        .sum();
    let mut removed = Vec::new();
    let mut maps = BTreeSet::new();
    for version in names(&options.pin_dir) {
        let dir = options.pin_dir.join(version);
        maps.extend(map_ids(&dir.join("maps")));
        for link in names(&dir.join("links")) {
            let path = dir.join("links").join(link);
            unlink_link(&path)?;
            removed.push(format!("link {}", path.display()));
        }
    }
    detach_strays(Some(&cgroup), &maps, &BTreeSet::new(), &mut removed);
    for version in names(&options.pin_dir) {
        let dir = options.pin_dir.join(version);
        for map in names(&dir.join("maps")) {
            let path = dir.join("maps").join(map);
            fs::remove_file(&path).map_err(KernelError::io(code::NO_BPFFS, path.display()))?;
            removed.push(format!("map {}", path.display()));
        }
        for dir in [dir.join("maps"), dir.join("links"), dir] {
            remove_dir(&dir, &mut removed)?;
        }
    }
    remove_dir(&options.pin_dir, &mut removed)?;
    Ok(Uninstalled { removed, mapped })
}

fn remove_dir(dir: &Path, removed: &mut Vec<String>) -> Result<(), KernelError> {
    match fs::remove_dir(dir) {
        Ok(()) => removed.push(format!("directory {}", dir.display())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(KernelError::io(code::NO_BPFFS, dir.display())(e)),
    }
    Ok(())
}
