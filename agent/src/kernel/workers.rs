//! The workers' part: below which cgroup they are, and the program that tells them what was dialed,
//! attached there alone.

use std::{fs::File, path::Path};

use underpass_abi::{
    plain,
    reason::code,
    tables::{maps, setting},
};

use super::{
    CgroupRoot, KernelError,
    apply::{self, Maps},
    load,
    loader::{self, Source},
    pins,
    program::GETSOCKOPT,
};
use crate::sys::{
    bpf::{Attach, link_update, obj_get},
    info::{LinkTarget, link_info},
};

/// Moves the pinned link of an earlier agent to this object's program. A link whose cgroup is gone is
/// dropped. Returns the link's id.
pub(super) fn adopt(source: &Source, ebpf: &mut aya::Ebpf) -> Result<Option<u32>, KernelError> {
    // Loaded also where there is no vendor yet, so that `status` can say whether it could be.
    let program = loader::load_plain(ebpf, GETSOCKOPT)?;
    let path = source.pins.link(GETSOCKOPT);
    let Ok(link) = obj_get(&path) else {
        return Ok(None);
    };
    let failed = |what| KernelError::io(code::PROGRAM_REFUSED, format!("{GETSOCKOPT}: {what}"));
    let info = link_info(&link).map_err(failed("link info"))?;
    let alive = matches!(info.target, LinkTarget::Cgroup(id, _) if id != 0);
    if !alive || link_update(&link, &program).is_err() {
        pins::unlink_link(&path)?;
        return Ok(None);
    }
    Ok(Some(info.id))
}

/// Makes everything below `cgroup` workers, and answers what they ask their sockets. The link first: a
/// worker that accepts can ask.
pub(super) fn set_vendor(
    cgroup: &Path,
    root: &CgroupRoot,
    source: &Source,
    maps: &Maps,
) -> Result<(), KernelError> {
    let path = cgroup.canonicalize();
    let path = path.map_err(KernelError::io(code::CGROUP_MISSING, cgroup.display()))?;
    let missing = || KernelError::io(code::CGROUP_MISSING, path.display());
    let (id, dir) = (root.id_of(&path), File::open(&path));
    let (id, dir) = (id.map_err(missing())?, dir.map_err(missing())?);
    let Some(level) = root.level_of(&path).filter(|level| *level > 0) else {
        let text = format!("{} is not below the cgroup2 root", path.display());
        return Err(KernelError::new(code::NO_CGROUP2, text));
    };
    let program = loader::load_plain(&mut source.parse(0)?, GETSOCKOPT)?;
    load::attach_at(
        GETSOCKOPT,
        Attach::GETSOCKOPT,
        &program,
        &source.pins,
        (id, &dir),
    )?;
    let level = u64::from(level);
    // An agent that was started again finds both as they are, and workers that go on.
    if apply::get(maps, setting::VENDOR_LEVEL)? != level {
        // Two words: between them nobody is a worker.
        apply::set(maps, setting::VENDOR_CGROUP, 0)?;
        apply::set(maps, setting::VENDOR_LEVEL, level)?;
    }
    apply::set(maps, setting::VENDOR_CGROUP, id)
}

/// Cookies of the namespaces in which a worker listens for steered ports, as far as the programs saw it
/// begin: a listener that is older than these maps is not known, and must be made anew.
pub(super) fn doors(maps: &Maps) -> Result<Vec<u64>, KernelError> {
    let mut cookies = Vec::new();
    let map = apply::map(maps, maps::DOORS)?;
    map.each_key(|key| {
        cookies.extend(plain::from_bytes::<u64>(key));
        Ok(())
    })
    .map_err(apply::failed(maps::DOORS))?;
    Ok(cookies)
}

/// Nobody is a worker any more.
pub(super) fn forget_vendor(source: &Source, maps: &Maps) -> Result<(), KernelError> {
    apply::set(maps, setting::VENDOR_CGROUP, 0)?;
    let path = source.pins.link(GETSOCKOPT);
    if path.exists() {
        pins::unlink_link(&path)?;
    }
    Ok(())
}

/// Says whose processes probe the health of workloads; `None`: nobody's.
pub(super) fn set_probes(
    cgroup: Option<&Path>,
    root: &CgroupRoot,
    maps: &Maps,
) -> Result<(), KernelError> {
    // Two words: between them nobody probes.
    apply::set(maps, setting::PROBE_CGROUP, 0)?;
    match cgroup {
        None => Ok(()),
        Some(path) => {
            let missing = KernelError::io(code::CGROUP_MISSING, path.display());
            let path = path.canonicalize();
            let path = path.map_err(missing)?;
            let missing = KernelError::io(code::CGROUP_MISSING, path.display());
            let id = root.id_of(&path).map_err(missing)?;
            let level = root.level_of(&path).unwrap_or(0);
            apply::set(maps, setting::PROBE_LEVEL, level.into())?;
            apply::set(maps, setting::PROBE_CGROUP, id)
        }
    }
}
