//! What this node can do, for `--check`: every line is tried, none is guessed.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use aya::{Ebpf, EbpfLoader};
use rustix::{
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
    system::uname,
};
use underpass_abi::{VERSION, reason::code, sock::Offsets, tables::maps};
use underpass_api::check::Mark;

use super::{
    CgroupRoot, KernelError, KernelOptions, btf, caps, diag,
    feature::SPLICE_GUARD,
    loader, object,
    pins::{self, Pins},
    program::{self, ITER_SOCKS, SK_LOOKUP},
    shortcut, splice_guard,
};
use crate::sys::{
    bpf::{Attach, attached},
    info::{ProgInfo, prog_by_id, prog_info},
};

/// One line. `code` names the hint; 0 if all is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: String,
    pub mark: Mark,
    pub code: u16,
    pub detail: String,
}

impl Check {
    fn ok(name: &str, detail: impl Into<String>) -> Self {
        Self::marked(Mark::Ok, name, 0, detail)
    }

    fn marked(mark: Mark, name: &str, code: u16, detail: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            mark,
            code,
            detail: detail.into(),
        }
    }

    fn new(name: &str, result: Result<String, KernelError>) -> Self {
        match result {
            Ok(detail) => Self::ok(name, detail),
            Err(e) => Self::marked(Mark::Error, name, e.code, e.detail),
        }
    }
}

/// Runs every check. Attaches nothing and leaves nothing behind.
pub fn checks(options: &KernelOptions) -> Vec<Check> {
    let kernel = btf::Btf::read(Path::new(btf::VMLINUX));
    let offsets = kernel.as_ref().map_err(copy).and_then(btf::offsets);
    let cgroup = CgroupRoot::find(options.cgroup_root.as_deref());
    let path = |c: &CgroupRoot| c.path().display().to_string();
    let capable = caps::require();
    let able = capable.is_ok();
    let types = offsets.as_ref().map(|_| btf::VMLINUX.to_owned());
    let mut out = vec![
        Check::new("kernel", version()),
        Check::new("btf", types.map_err(copy)),
        bpffs(options, able),
        Check::new("cgroup2", cgroup.as_ref().map(path).map_err(copy)),
        Check::new(
            "capabilities",
            capable.map(|()| caps::NEEDED.map(|n| n.name).join(" ")),
        ),
        other_agents(options, cgroup.as_ref().ok()),
    ];
    // Without these each program would fail for the same reason.
    let (Ok(kernel), Ok(offsets), Ok(cgroup), true) = (&kernel, &offsets, &cgroup, able) else {
        let text = "nothing can be loaded and attached without what is missing above";
        out.push(Check::marked(
            Mark::Warning,
            "programs",
            code::NOT_TRIED,
            text,
        ));
        return out;
    };
    out.extend(programs(options, kernel, offsets, cgroup));
    let destroy = diag::destroy_feature();
    out.push(if destroy.on {
        Check::ok(destroy.name, "on")
    } else {
        Check::marked(Mark::Warning, destroy.name, destroy.code, destroy.detail)
    });
    out.push(splice_guard(options, kernel));
    out.push(conflicts(cgroup));
    out
}

/// Tried on sockets of its own, with the guard in place for that long.
fn splice_guard(options: &KernelOptions, kernel: &btf::Btf) -> Check {
    match capable(kernel).and_then(|()| splice_guard::trial(options, kernel)) {
        Ok(()) => Check::ok(SPLICE_GUARD, "splice from a socket in the map gives EINVAL"),
        Err(e) => Check::marked(Mark::Warning, SPLICE_GUARD, e.code, e.detail),
    }
}

/// Whether the kernel has what the shortcut needs; the error names what it lacks.
fn capable(kernel: &btf::Btf) -> Result<(), KernelError> {
    shortcut::complete(&btf::offsets(kernel)?, &btf::shortcut_offsets(kernel)?)
}

fn copy(e: &KernelError) -> KernelError {
    KernelError::new(e.code, e.detail.clone())
}

/// Oldest kernel that has everything we attach to.
const OLDEST: (u32, u32) = (6, 1);

fn version() -> Result<String, KernelError> {
    let release = uname().release().to_string_lossy().into_owned();
    match parse_release(&release) {
        Some(version) if version >= OLDEST => Ok(release),
        _ => Err(KernelError::new(code::KERNEL_TOO_OLD, release)),
    }
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn bpffs(options: &KernelOptions, able: bool) -> Check {
    let dir = options.pin_dir.display();
    if pins::on_bpffs(&options.pin_dir) {
        return Check::ok("bpffs", format!("{dir}/v{VERSION}"));
    }
    let missing = |mark, why: &str| {
        let text = format!("{dir} is on no bpffs; {why}");
        Check::marked(mark, "bpffs", code::NO_BPFFS, text)
    };
    if !options.pin_dir.starts_with(pins::BPFFS) {
        return missing(Mark::Error, "only /sys/fs/bpf is mounted by the agent");
    }
    if !options.mount_bpffs {
        return missing(Mark::Error, "the agent may not mount one (--no-mount)");
    }
    if able && let Err(e) = mountable() {
        return missing(Mark::Error, &format!("none can be mounted: {e}"));
    }
    missing(Mark::Warning, "the agent will mount one at /sys/fs/bpf")
}

/// Makes a bpffs that is mounted nowhere, and lets it go.
fn mountable() -> io::Result<()> {
    let context = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    fsmount(&context, flags, MountAttrFlags::empty())?;
    Ok(())
}

/// Who serves this node. A warning only, so that a new version can be tried beside the old one.
fn other_agents(options: &KernelOptions, cgroup: Option<&CgroupRoot>) -> Check {
    let holder = |path: &Path| {
        let pid = pins::holder(&File::open(path).ok()?)?;
        Some(format!("process {pid} holds {}", path.display()))
    };
    let found = holder(&options.pin_dir).or_else(|| cgroup.and_then(|c| holder(c.path())));
    match found {
        None => Check::ok("other agents", "none"),
        Some(text) => Check::marked(Mark::Warning, "other agents", code::NODE_BUSY, text),
    }
}

/// Each program is loaded, and its hook asked for at the place where it would be attached.
fn programs(
    options: &KernelOptions,
    kernel: &btf::Btf,
    offsets: &Offsets,
    cgroup: &CgroupRoot,
) -> Vec<Check> {
    let pins = Pins::of(options);
    let shortcut = btf::shortcut_offsets(kernel).unwrap_or_default();
    let parsed = object::bytes(options).and_then(|object| {
        let object = object::with_kernel_function(&object, offsets.rdonly_cast);
        let mut loader = EbpfLoader::new();
        // What is pinned must fit; other maps live as long as this check.
        for name in maps::ALL.into_iter().filter(|m| pins.map(m).exists()) {
            loader.map_pin_path(name, pins.map(name));
        }
        loader.override_global("OFFSETS", offsets, true);
        loader.override_global("SHORTCUT_OFFSETS", &shortcut, true);
        loader.load(&object).map_err(loader::object_error)
    });
    let netns = File::open(NETNS).map_err(KernelError::io(code::NETNS_UNREACHABLE, NETNS));
    let (mut ebpf, netns) = match (parsed, netns) {
        (Ok(ebpf), Ok(netns)) => (ebpf, netns),
        (Err(e), _) | (_, Err(e)) => return vec![Check::new("programs", Err(e))],
    };
    let root = cgroup.dir().as_fd();
    let hooks = program::hooks().map(|(name, attach)| (name, Some((root, attach))));
    let lookup = (SK_LOOKUP, Some((netns.as_fd(), Attach::SK_LOOKUP)));
    let check = |(name, hook)| {
        let line = format!("program {}", hook_name(name));
        let lacks = match name {
            program::SK_MSG | program::SPLICE_GUARD => capable(kernel),
            _ => Ok(()),
        };
        let loaded = lacks.and_then(|()| program(&mut ebpf, name, hook, kernel));
        match (loaded, program::feature(name)) {
            (Err(e), Some(feature)) => {
                let text = format!("{}; `{feature}` will be off", e.detail.trim_end());
                Check::marked(Mark::Warning, &line, e.code, text)
            }
            (result, _) => Check::new(&line, result),
        }
    };
    let others = program::OF_SHORTCUT.into_iter().chain([ITER_SOCKS]);
    hooks
        .chain([lookup])
        .chain(others.map(|name| (name, None)))
        .map(check)
        .collect()
}

/// `up_connect4` → `connect4`
fn hook_name(program: &str) -> &str {
    program.trim_start_matches("up_")
}

const NETNS: &str = "/proc/self/ns/net";

fn program(
    ebpf: &mut Ebpf,
    name: &'static str,
    hook: Option<(BorrowedFd<'_>, Attach)>,
    kernel: &btf::Btf,
) -> Result<String, KernelError> {
    let failed = |code, what: &str| KernelError::io(code, format!("{name}: {what}"));
    let fd = loader::load(ebpf, name, kernel)?;
    let info: ProgInfo = prog_info(fd).map_err(failed(code::PROGRAM_REFUSED, "info"))?;
    if let Some((place, attach)) = hook {
        attached(place, attach).map_err(failed(code::KERNEL_TOO_OLD, "its hook"))?;
    }
    let (verified, bytes) = (info.verified_instructions, info.jited_len);
    Ok(format!("{verified} instructions verified, {bytes} B"))
}

fn conflicts(cgroup: &CgroupRoot) -> Check {
    match foreign(cgroup) {
        found if found.is_empty() => Check::ok("conflicts", "no other program at our hooks"),
        found => Check::marked(Mark::Warning, "conflicts", code::CONFLICT, found.join(", ")),
    }
}

/// Other programs at our hooks: two that rewrite destinations (such as Cilium's socket load balancer)
/// may work against each other, and one that sets callback flags may cost rows their last details.
pub fn foreign(cgroup: &CgroupRoot) -> Vec<String> {
    let netns = File::open(NETNS).ok();
    let lookup = netns
        .iter()
        .map(|ns| (SK_LOOKUP, ns.as_fd(), Attach::SK_LOOKUP));
    let hooks = program::hooks().map(|(name, attach)| (name, cgroup.dir().as_fd(), attach));
    let mut found = Vec::new();
    for (ours, place, attach) in hooks.chain(lookup) {
        // A hook that cannot be asked for has a line of its own.
        for id in attached(place, attach).unwrap_or_default() {
            let Ok(info) = prog_by_id(id).and_then(prog_info) else {
                continue;
            };
            if !program::is_ours(&info.name) {
                found.push(format!("{} (id {id}) at {}", info.name, hook_name(ours)));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_releases() {
        assert_eq!(parse_release("6.18.44-cloud"), Some((6, 18)));
        assert_eq!(parse_release("6.1.0+"), Some((6, 1)));
        assert_eq!(parse_release("weird"), None);
        assert!(parse_release("5.9.1") < Some(OLDEST));
    }
}
