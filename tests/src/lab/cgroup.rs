//! cgroup2 directories.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Failure, Result, until};

/// Mount point of the cgroup2 hierarchy, found from mountinfo (hybrid v1/v2 machines too).
pub fn root() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    mount_point(&table, "cgroup2").ok_or_else(|| Failure::new("no cgroup2 hierarchy is mounted"))
}

/// First mount point of a file system type in a mountinfo table.
pub fn mount_point(mountinfo: &str, kind: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        (source.split(' ').next()? == kind).then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

pub fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(Failure::at(dir.display()))
}

/// Kills every process at or below `dir` and removes the directories. Kills at each attempt: a
/// program that was only just started may enter its cgroup after the first.
pub fn remove(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    until(
        &format!("removal of {}", dir.display()),
        Duration::from_secs(10),
        || {
            fs::write(dir.join("cgroup.kill"), "1").map_err(|e| e.to_string())?;
            remove_empty(dir).map_err(|failure| failure.0)
        },
    )
}

/// The process's own directory in each hierarchy of the first version.
fn old() -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let dir = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controller, path) = (parts.next()?, parts.next()?);
        let root = Path::new("/sys/fs/cgroup").join(controller);
        (!controller.is_empty()).then(|| root.join(path.trim_start_matches('/')))
    };
    own.lines().filter_map(dir).collect()
}

/// Makes a directory in each hierarchy of the first version, as systemd does for a unit.
pub fn make_old(name: &str) {
    for dir in old() {
        // Not all of them are there.
        let _ = fs::create_dir(dir.join(name));
    }
}

/// Removes what a vendor made for a lab in hierarchies of the first version. Its processes were in the
/// lab's cgroup2 directory and are gone.
pub fn remove_old(id: &str) {
    for base in old() {
        for entry in fs::read_dir(base).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("{id}-")) {
                let _ = remove_empty(&entry.path());
            }
        }
    }
}

fn remove_empty(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Failure::at(dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    fs::remove_dir(dir).map_err(Failure::at(dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_beside_v1() {
        let table = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                     41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = mount_point(table, "cgroup2");
        assert_eq!(found.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point(table, "bpf"), None);
    }
}
