//! Walks through the cgroup hierarchy, each bounded.

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::Host;
use crate::kernel::Netns;

/// Directories that one walk visits, at most.
const MAX_DIRS: usize = 4_096;
/// Processes of a workload whose namespace is looked at, at most.
const MAX_PROCESSES: usize = 16;

/// Calls `f` for `top` and every cgroup below it, wider before deeper.
pub fn walk(top: &Path, f: &mut dyn FnMut(&Path)) {
    find(top, &mut |dir| {
        f(dir);
        false
    });
}

/// The first cgroup at or below `top` that `is` says yes to.
fn find(top: &Path, is: &mut dyn FnMut(&Path) -> bool) -> Option<PathBuf> {
    let mut queue = VecDeque::from([top.to_owned()]);
    let mut visited = 0;
    while let Some(dir) = queue.pop_front() {
        if is(&dir) {
            return Some(dir);
        }
        visited += 1;
        if visited == MAX_DIRS {
            break;
        }
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                queue.push_back(entry.path());
            }
        }
    }
    None
}

/// The cgroup of a systemd unit: in `system.slice`, else (templates, user units, nested slices)
/// wherever a cgroup has its name.
pub fn unit(root: &Path, unit: &str, search: bool) -> Option<PathBuf> {
    let usual = root.join("system.slice").join(unit);
    if usual.is_dir() {
        return Some(usual);
    }
    if !search {
        return None;
    }
    find(root, &mut |dir| dir.file_name().is_some_and(|n| n == unit))
}

#[derive(Debug)]
pub enum Namespace {
    Host,
    Own(Netns),
    /// No process to ask, yet.
    Unknown,
}

/// The network namespace in which the processes of a cgroup live. If they live in several, the first
/// that is not the node's own.
pub fn namespace(cgroup: &Path, host: Host) -> Namespace {
    let mut asked = 0;
    let mut answer = Namespace::Unknown;
    find(cgroup, &mut |dir| {
        let processes = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines().filter_map(|l| l.parse::<u32>().ok()) {
            asked += 1;
            let path = format!("/proc/{pid}/ns/net");
            match fs::metadata(&path) {
                Ok(meta) if (meta.dev(), meta.ino()) == host.file => answer = Namespace::Host,
                Ok(_) => {
                    if let Ok(netns) = Netns::of_process(pid) {
                        answer = Namespace::Own(netns);
                    }
                }
                Err(_) => {}
            }
            if asked >= MAX_PROCESSES || matches!(answer, Namespace::Own(_)) {
                return true;
            }
        }
        false
    });
    answer
}
