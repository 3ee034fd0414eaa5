//! One `sk_lookup` program per workload namespace: the hook cannot tell its namespace, so the program
//! is loaded once for each, with the cookie in its read-only data.

use std::{
    collections::BTreeSet,
    fs::File,
    os::fd::{AsFd, OwnedFd},
};

use underpass_abi::reason::code;

use super::{
    KernelError, Netns,
    loader::{Source, load_plain},
    pins,
    program::SK_LOOKUP,
};
use crate::sys::{
    bpf::{Attach, link_create, link_update, obj_get},
    info::{LinkTarget, link_by_id, link_ids, link_info, prog_by_id, prog_info},
};

/// Cookies of the guarded namespaces.
#[derive(Default)]
pub struct Guards(BTreeSet<u64>);

fn pin_name(cookie: u64) -> String {
    format!("sk_lookup-{cookie}")
}

impl Guards {
    /// Takes over what an earlier agent pinned: drops guards of dead namespaces, and moves the others
    /// to this object's program if it differs.
    pub fn adopt(source: &Source, tag: Option<[u8; 8]>) -> Result<Self, KernelError> {
        let mut guards = Self::default();
        for name in source.pins.links() {
            let Some(cookie) = name.strip_prefix("sk_lookup-").and_then(|c| c.parse().ok()) else {
                continue;
            };
            let path = source.pins.link(&name);
            let Some((link, prog)) = alive(&path) else {
                pins::unlink_link(&path)?;
                continue;
            };
            let same = prog_by_id(prog)
                .and_then(prog_info)
                .is_ok_and(|i| Some(i.tag) == tag);
            if !same && let Ok(program) = program(source, cookie) {
                link_update(&link, &program)
                    .map_err(KernelError::io(code::PROGRAM_REFUSED, name))?;
            }
            guards.0.insert(cookie);
        }
        Ok(guards)
    }

    /// Guards a namespace. Nothing happens if it is guarded already.
    pub fn add(&mut self, netns: &Netns, source: &Source) -> Result<(), KernelError> {
        if self.0.contains(&netns.cookie) {
            return Ok(());
        }
        let name = pin_name(netns.cookie);
        let failed = |what| KernelError::io(code::FEATURE_OFF, format!("{name}: {what}"));
        let program = program(source, netns.cookie)?;
        let file = File::open(&netns.path).map_err(KernelError::io(
            code::NETNS_UNREACHABLE,
            netns.path.display(),
        ))?;
        let link = link_create(&program, &file, Attach::SK_LOOKUP).map_err(failed("attach"))?;
        // The path was resolved again for `file`: attached elsewhere, the guard would be wrong.
        if Netns::open(&netns.path)?.cookie != netns.cookie {
            let text = format!("{} leads to another namespace now", netns.path.display());
            return Err(KernelError::new(code::NETNS_UNREACHABLE, text));
        }
        detach_strays(&link, source);
        let path = source.pins.link(&name);
        pins::replace_pin(&link, &path, obj_get(&path).is_ok())?;
        self.0.insert(netns.cookie);
        Ok(())
    }

    /// Takes a namespace's guard away. False if there was none.
    pub fn remove(&mut self, cookie: u64, source: &Source) -> Result<bool, KernelError> {
        if !self.0.remove(&cookie) {
            return Ok(false);
        }
        pins::unlink_link(&source.pins.link(&pin_name(cookie)))?;
        Ok(true)
    }

    /// Drops the guards of namespaces that are gone. Returns their cookies.
    pub fn prune(&mut self, source: &Source) -> Vec<u64> {
        let dead = |c: &u64| alive(&source.pins.link(&pin_name(*c))).is_none();
        let gone: Vec<u64> = self.0.iter().copied().filter(dead).collect();
        for cookie in &gone {
            self.0.remove(cookie);
            let _ = pins::unlink_link(&source.pins.link(&pin_name(*cookie)));
        }
        gone
    }

    pub fn cookies(&self) -> Vec<u64> {
        self.0.iter().copied().collect()
    }
}

fn program(source: &Source, cookie: u64) -> Result<OwnedFd, KernelError> {
    load_plain(&mut source.parse(cookie)?, SK_LOOKUP)
}

/// The pinned link and its program, if its namespace still exists.
fn alive(path: &std::path::Path) -> Option<(OwnedFd, u32)> {
    let link = obj_get(path).ok()?;
    let info = link_info(&link).ok()?;
    match info.target {
        LinkTarget::Netns(inode, _) if inode != 0 => Some((link, info.prog)),
        _ => None,
    }
}

/// Detaches guards in the namespace of `new` that read the same pinned maps but lost their pin. A
/// mesh with other pins (another cgroup root of this machine) keeps its own guard there.
fn detach_strays(new: &OwnedFd, source: &Source) {
    let Ok(ours) = link_info(new.as_fd()) else {
        return;
    };
    let maps = source.pins.map_ids();
    for id in link_ids().filter(|id| *id != ours.id).collect::<Vec<_>>() {
        let Ok(link) = link_by_id(id) else { continue };
        let same = link_info(&link).is_ok_and(|i| {
            let shares = |p: OwnedFd| {
                prog_info(p)
                    .is_ok_and(|p| p.name == SK_LOOKUP && p.maps.iter().any(|m| maps.contains(m)))
            };
            i.target == ours.target && prog_by_id(i.prog).is_ok_and(shares)
        });
        if same {
            let _ = crate::sys::bpf::link_detach(&link);
        }
    }
}
