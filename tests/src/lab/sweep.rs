//! Removal of a lab, and of what killed test processes left behind.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use super::{Failure, Result, cgroup, net, place};

/// Every name that a lab makes starts with this.
pub const PREFIX: &str = "up-";

/// The guard of this process; its standard input closes when the process ends, however it ends.
static GUARD: Mutex<Option<Child>> = Mutex::new(None);

/// Before the first lab of a process: removes leftovers and starts the guard.
pub fn once() -> Result<()> {
    let mut guard = GUARD.lock().map_err(Failure::at("guard"))?;
    if guard.is_some() {
        return Ok(());
    }
    leftovers();
    *guard = Some(start_guard()?);
    Ok(())
}

/// The guard leads its own process group, so that Ctrl-C at a terminal does not reach it.
fn start_guard() -> Result<Child> {
    use std::os::unix::process::CommandExt as _;
    Command::new(place::binary("underpass-lab")?)
        .args(["guard", &std::process::id().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(Failure::at("underpass-lab guard"))
}

/// Removes every lab whose process is gone, unless it was kept on purpose.
pub fn leftovers() {
    for id in all() {
        if owner(&id).is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists()) || kept(&id) {
            continue;
        }
        remove(&id);
    }
}

/// Removes the labs of one process.
pub fn of_process(pid: u32) {
    for id in all()
        .into_iter()
        .filter(|id| owner(id) == Some(pid) && !kept(id))
    {
        remove(&id);
    }
}

fn kept(id: &str) -> bool {
    std::env::temp_dir().join(id).join("keep").exists()
}

/// Removes one lab; what could not be removed is told.
pub fn remove(id: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut note = |result: Result<()>| problems.extend(result.err().map(|f| f.0));
    note(cgroup::root().and_then(|root| cgroup::remove(&root.join(id))));
    cgroup::remove_old(id);
    for netns in names("/run/netns").into_iter().filter(|n| belongs(n, id)) {
        note(net::delete(&netns));
    }
    for dir in [
        Path::new(net::BPFFS).join(id),
        std::env::temp_dir().join(id),
    ] {
        if dir.exists() {
            note(fs::remove_dir_all(&dir).map_err(Failure::at(dir.display())));
        }
    }
    problems
}

/// `up-name-123-0-web` belongs to the lab `up-name-123-0`.
fn belongs(netns: &str, id: &str) -> bool {
    netns
        .strip_prefix(id)
        .is_some_and(|rest| rest.starts_with('-'))
}

/// Ids of all labs of which anything is left.
fn all() -> Vec<String> {
    let root = cgroup::root().unwrap_or_default();
    let places = [
        root.to_string_lossy().into_owned(),
        net::BPFFS.into(),
        "/run/netns".into(),
    ];
    let mut ids: Vec<String> = places
        .iter()
        .flat_map(|dir| names(dir))
        .filter_map(|n| lab_id(&n))
        .collect();
    ids.extend(
        names(&std::env::temp_dir().to_string_lossy())
            .iter()
            .filter_map(|n| lab_id(n)),
    );
    ids.sort();
    ids.dedup();
    ids
}

fn names(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

/// The lab's id (`up-name-pid-n`) from a name that starts with it.
fn lab_id(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.strip_prefix(PREFIX)?.split('-').take(3).collect();
    let [_, pid, n] = parts[..] else { return None };
    (pid.parse::<u32>().is_ok() && n.parse::<u32>().is_ok())
        .then(|| format!("{PREFIX}{}", parts.join("-")))
}

fn owner(id: &str) -> Option<u32> {
    id.split('-').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_is_told_by_its_names() {
        assert_eq!(
            lab_id("up-policy-123-0-web").as_deref(),
            Some("up-policy-123-0")
        );
        assert_eq!(
            lab_id("up-policy-123-0").as_deref(),
            Some("up-policy-123-0")
        );
        assert_eq!(lab_id("up-something"), None);
        assert_eq!(lab_id("upstream-1-2"), None);
        assert_eq!(owner("up-policy-123-0"), Some(123));
        assert!(belongs("up-policy-123-0-web", "up-policy-123-0"));
        assert!(!belongs("up-policy-123-01-web", "up-policy-123-0"));
    }
}
