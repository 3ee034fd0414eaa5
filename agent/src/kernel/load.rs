//! Loads every program, then puts each behind its pinned link: an existing link is moved to the new
//! program in one step, so that an upgrade has no gap; nothing is attached until all have loaded.

use std::{
    collections::BTreeSet,
    fs::File,
    os::fd::{AsFd, OwnedFd},
};

use underpass_abi::{reason::code, tables::maps};

use super::{
    CgroupRoot, KernelError, KernelOptions,
    apply::Maps,
    btf,
    feature::{Feature, Features, INBOUND, OPEN_SOCKETS, SHORTCUT, WORKERS},
    loader::{self, Source},
    pins::{self, Pins},
    program::{HOOKS, ITER_SOCKS, SK_LOOKUP},
    shortcut, splice_watch, workers,
};
use crate::sys::{
    bpf::{Attach, link_create, link_update, obj_get},
    info::{LinkTarget, link_info, prog_info},
    maps::Map,
};

/// What stays of a load.
pub struct Loaded {
    pub features: Vec<Feature>,
    /// The iterator's program; its links are made when it is used.
    pub iter: Option<OwnedFd>,
    /// Tag of the `sk_lookup` program of this object.
    pub lookup_tag: Option<[u8; 8]>,
    /// `None`: the shortcut is off.
    pub watch: Option<splice_watch::Programs>,
}

/// Loads and attaches everything that hangs on the cgroup root, and the shortcut if it is wanted.
pub fn load(
    source: &Source,
    cgroup: &CgroupRoot,
    btf: &btf::Btf,
    options: &KernelOptions,
) -> Result<Loaded, KernelError> {
    let mut ebpf = source.parse(0)?;
    let mut features = Features::default();
    let mut ready = Vec::new();
    for hook in &HOOKS {
        match (loader::load(&mut ebpf, hook.program, btf), hook.feature) {
            (Ok(program), _) => ready.push((hook, program)),
            (Err(e), Some(feature)) => features.off(feature, e),
            (Err(e), None) => return Err(e),
        }
    }
    let lookup_tag = match loader::load(&mut ebpf, SK_LOOKUP, btf) {
        Ok(fd) => prog_info(fd.as_fd()).ok().map(|i| i.tag),
        Err(e) => {
            features.off(INBOUND, e);
            None
        }
    };
    let iter = match loader::load(&mut ebpf, ITER_SOCKS, btf) {
        Ok(fd) => Some(fd),
        Err(e) => {
            features.off(OPEN_SOCKETS, e);
            None
        }
    };
    // Before sock_ops: what enters the map must find its programs there.
    let watch = match shortcut::prepare(&mut ebpf, options, source, btf) {
        Ok(watch) => Some(watch),
        Err(e) => {
            features.off(SHORTCUT, e);
            None
        }
    };
    let mut ours = BTreeSet::new();
    match workers::adopt(source, &mut ebpf) {
        Ok(link) => ours.extend(link),
        Err(e) => features.off(WORKERS, e),
    }
    for (hook, program) in ready {
        // A feature works with all its programs or is off with all of them.
        if hook.feature.is_some_and(|f| features.is_off(f)) {
            continue;
        }
        let at = (cgroup.id(), cgroup.dir());
        let attached = attach_at(hook.program, hook.attach, &program, &source.pins, at);
        match (attached, hook.feature) {
            (Ok(id), _) => {
                ours.insert(id);
            }
            (Err(e), Some(feature)) => features.off(feature, e),
            (Err(e), None) => return Err(e),
        }
    }
    for hook in HOOKS
        .iter()
        .filter(|h| h.feature.is_some_and(|f| features.is_off(f)))
    {
        let path = source.pins.link(hook.program);
        if path.exists() {
            pins::unlink_link(&path)?;
        }
    }
    pins::detach_strays(Some(cgroup), &BTreeSet::new(), &ours, &mut Vec::new());
    Ok(Loaded {
        features: features.list(),
        iter,
        lookup_tag,
        watch,
    })
}

/// Opens all pinned maps.
pub fn open_maps(pins: &Pins) -> Result<Maps, KernelError> {
    let failed = |name| KernelError::io(code::PINS_INCOMPATIBLE, format!("map {name}"));
    let cpus = aya::util::nr_cpus()
        .map_err(|(what, e)| failed(what)(e))?
        .get() as usize;
    let open = |name: &'static str| {
        let map = obj_get(&pins.map(name)).and_then(|fd| Map::new(fd, cpus));
        map.map(|m| (name, m)).map_err(failed(name))
    };
    maps::ALL.into_iter().map(open).collect()
}

/// Moves the pinned link of the program `name` to `program`, or makes and pins a new one. `cgroup`: id
/// and directory. Returns the link's id.
pub(super) fn attach_at(
    name: &str,
    attach: Attach,
    program: &OwnedFd,
    pins: &Pins,
    cgroup: (u64, &File),
) -> Result<u32, KernelError> {
    let path = pins.link(name);
    let here = LinkTarget::Cgroup(cgroup.0, attach.0);
    let failed = |what| KernelError::io(code::PROGRAM_REFUSED, format!("{name}: {what}"));
    let old = obj_get(&path).ok();
    if let Some(link) = &old
        && let Ok(info) = link_info(link)
        && info.target == here
        && link_update(link, program).is_ok()
    {
        return Ok(info.id);
    }
    // None, severed, or of another cgroup: attach first, then take the old one away.
    let link = link_create(program, cgroup.1, attach).map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM) if crate::sys::bpf::attached(cgroup.1, attach).is_ok() => {
            let text = format!("{name}: the cgroup above allows one program only");
            KernelError::new(code::CONFLICT, text)
        }
        _ => failed("attach")(e),
    })?;
    pins::replace_pin(&link, &path, old.is_some())?;
    link_info(&link).map(|i| i.id).map_err(failed("link info"))
}
